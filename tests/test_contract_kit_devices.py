"""The contract kit finds priors that break at the ends of their noise, and priors that make the host wait for a device.

Each test has one deliberately wrong plugin.
"""

from __future__ import annotations

import inspect
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Normal, StudentT

from mpcc.core.contracts import Prior
from mpcc.core.testing import ContractViolation, Report, check_prior
from mpcc.core.testing.prior.noise import ExtremeNoise
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.logistic import LogisticMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions, LogisticOptions, StudentTOptions
from mpcc.plugins.priors.student_t import StudentTMixture

GAUSSIAN = GaussianMixtureOptions()
LOOPS = "no loop depends on the values of tensors"
STRAYS = "no tensor stays on the host"
WAITS = "nothing waits for the device"
ENDS = "the ends of its noise give finite samples with finite log-densities and gradients"


def failures(prior: type[Prior], options: Any) -> dict[str, str]:
    """The laws that a prior breaks, and the figures."""
    with pytest.raises(ContractViolation) as caught:
        check_prior(prior, options)
    return {finding.name: finding.detail for finding in caught.value.report.failures}


def report_of(prior: type[Prior], options: Any) -> Report:
    """The report on a prior, whether it passes or not."""
    try:
        return check_prior(prior, options)
    except ContractViolation as error:
        return error.report


def warnings(prior: type[Prior], options: Any) -> dict[str, str]:
    """The warnings for a prior that breaks no law, and the figures."""
    return {finding.name: finding.detail for finding in check_prior(prior, options).warnings}


# Priors that the ends of their noise break


class Infinite(LogisticMixture):
    """Pyro's logistic, whose sample is -inf where the uniform number is 0."""

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        logistic: Distribution = dist.Logistic(loc, scale, validate_args=False)
        return logistic


class Unbounded(StudentTMixture):
    """torch's Student-t, whose Gamma number may be the smallest float on CUDA if nu is below 2."""

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        student: Distribution = dist.StudentT(self.df(), loc, scale, validate_args=False)
        return student


class Rooted(Normal):
    """Takes a square root of the noise, which has no slope where the noise is 0."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + noise.sign() * (self.scale * noise).square().sqrt()


class SteepInTheMiddle(GaussianMixture):
    """Its samples are right, and have no gradient where the noise is 0."""

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Rooted(loc, scale, validate_args=False)


def test_samples_that_are_not_finite_at_the_ends_of_the_noise_are_found() -> None:
    found = failures(Infinite, LogisticOptions())
    assert set(found) == {ENDS}
    assert found[ENDS] == "at the start: uniform_ gave 0, and z is -inf"


def test_a_density_that_is_not_finite_at_the_ends_of_the_noise_is_found() -> None:
    found = failures(Unbounded, StudentTOptions(df=1.0))
    assert "_standard_gamma gave 1.18e-38, and log p(z|y) is -inf" in found[ENDS]


def test_a_gradient_of_the_samples_that_is_not_finite_at_the_ends_of_the_noise_is_found() -> None:
    found = failures(SteepInTheMiddle, GAUSSIAN)
    assert set(found) == {ENDS}
    assert "the gradient of z in raw_scale is not finite at the ends of the noise" in found[ENDS]


@pytest.mark.parametrize("make", [lambda z: z.uniform_(-3, 1), lambda z: z.uniform_(), torch.rand_like])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_uniform_number_at_its_ends_stays_in_its_interval(make: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    usual = make(torch.empty(4000, 2, dtype=dtype))
    with ExtremeNoise() as noise:
        drawn = make(torch.empty(125, 2, dtype=dtype))
    low, high = (-3, 1) if usual.min() < -1 else (0, 1)
    assert drawn.min() == low
    assert high - 1e-6 < drawn.max() < high
    assert [len(numbers) for _, numbers in noise.draws] == [125]


@pytest.mark.parametrize("concentration", [0.3, 0.5, 1.5, 40.0])
def test_a_gamma_number_at_its_ends_is_a_quantile(concentration: float) -> None:
    alpha = torch.full((25,), concentration, dtype=torch.float64)
    with ExtremeNoise():
        drawn = torch._standard_gamma(alpha)
    assert stats.gamma.sf(float(drawn.max()), concentration) == pytest.approx(2.0**-33, rel=1e-6)
    share = stats.gamma.cdf(float(drawn.min()), concentration)
    assert share < 2.0**-33 if concentration < 1 else share == pytest.approx(2.0**-33, rel=1e-6)


# Priors that make the host wait for the device


class Student(StudentTMixture):
    """torch's Student-t makes a Chi2, which checks its argument and makes a tensor of a number."""

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return StudentT(self.df(), loc, scale, validate_args=False)


def test_numbers_of_the_host_and_checks_on_the_host_are_found_with_the_line_that_makes_them() -> None:
    found = warnings(Student, StudentTOptions())
    assert set(found) == {WAITS}
    line = f"{__file__}:{inspect.getsourcelines(Student.family)[1] + 1}"
    for operation in ("lift_fresh makes a tensor of the device from", "_local_scalar_dense makes the host wait"):
        assert f"aten.{operation}" in found[WAITS]
    assert f" at {line} (in torch/distributions/distribution.py:" in found[WAITS]
    assert "computing z, log_density, log_responsibilities, entropies, log q(z|x)" not in found[WAITS]


class Factorised(GaussianMixture):
    """A covariance whose factorisation is checked."""

    def component(self, y: Tensor) -> Distribution:
        diagonal = self.scales()[y].square()
        normal: Distribution = dist.LowRankMultivariateNormal(
            self.loc[y], 0 * diagonal.unsqueeze(-1), diagonal, validate_args=False
        )
        return normal


class Masked(GaussianMixture):
    """Indexes with a mask."""

    def input_map(self, z: Tensor) -> Tensor:
        return torch.cat([z[z < 9], z[z >= 9]]).reshape(z.shape)


class Checked(GaussianMixture):
    """Leaves torch's checks of arguments on, of q(z|x) only."""

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return Normal(loc, scale, validate_args=True)


class Listed(GaussianMixture):
    """Multiplies by a list of numbers, and adds the sum of another tensor by way of the host."""

    def log_density(self, z: Tensor) -> Tensor:
        ones = torch.tensor([1.0] * self.latent_dim, device=z.device)
        return super().log_density(z * ones) + float(ones.sum()) - self.latent_dim


class Stranded(GaussianMixture):
    """Makes its noise on the CPU, wherever its parameters are."""

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        y = self.sample_labels(count)
        return self.loc[y] + self.scales()[y] * torch.randn(count, self.latent_dim, dtype=self.loc.dtype), y


class WaitsBackwards(torch.autograd.Function):
    """The identity, whose gradient looks at a value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] if bool((gradients[0] == gradients[0]).all()) else None


class Backwards(GaussianMixture):
    """Waits in a gradient."""

    def entropies(self) -> Tensor:
        return WaitsBackwards.apply(super().entropies())  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        (Factorised, ["aten._linalg_check_errors makes the host wait", "lowrank_multivariate_normal.py:"]),
        (Checked, ["aten._local_scalar_dense makes the host wait", "computing log q(z|x)"]),
        (
            Listed,
            ["aten.lift_fresh makes a tensor", "aten._local_scalar_dense makes", "computing log_density, log_resp"],
        ),
        (Backwards, ["aten._local_scalar_dense makes", "computing the gradient of entropies"]),
    ],
)
def test_what_waits_for_a_device_is_found_without_one(prior: type[Prior], words: list[str]) -> None:
    found = warnings(prior, GAUSSIAN)
    assert set(found) == {WAITS}
    assert all(word in found[WAITS] for word in words)
    assert __file__ in found[WAITS]


def test_a_tensor_that_stays_on_the_host_breaks_a_law_because_it_would_fail_on_a_device() -> None:
    found = failures(Stranded, GAUSSIAN)
    assert set(found) == {STRAYS}
    expected = "aten.mul meets a tensor of shape (6, 2) that has stayed on the host"
    assert all(word in found[STRAYS] for word in (expected, "computing z", __file__))


def test_a_mask_as_an_index_is_found() -> None:
    found = {finding.name: finding.detail for finding in report_of(Masked, GAUSSIAN).warnings}
    assert "aten.index makes the host count the true values of a mask (choose torch.where)" in found[WAITS]


class Rejecting(GaussianMixture):
    """Draws until all samples are near."""

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        z, y = super().sample(count)
        while bool((z.abs() > 40).any()):
            z, y = super().sample(count)
        return z, y


def test_a_loop_that_may_never_end_is_found_before_it_is_entered() -> None:
    found = failures(Rejecting, GAUSSIAN)
    assert set(found) == {LOOPS}
    assert "aten._local_scalar_dense makes the host wait for a result at " in found[LOOPS]
    assert found[LOOPS].endswith("nothing else was checked, for the other laws need this one")
