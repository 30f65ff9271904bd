"""The priors' own distributions against mpmath, scipy and finite differences, where float32 is at its limits."""

from __future__ import annotations

import math
import re
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import LowRankMultivariateNormal
from torch.utils._python_dispatch import TorchDispatchMode

from mpcc.core.registry import load_registry
from mpcc.core.testing.prior.noise import ENDS, ExtremeNoise
from mpcc.plugins.priors.distributions import BoundedGumbel, BoundedLogistic, LowRankNormal, StableStudentT
from mpcc.plugins.priors.gumbel import GumbelMixture
from mpcc.plugins.priors.lowrank_gmm import LowRankGaussianMixture
from mpcc.plugins.priors.options import GumbelOptions, LowRankOptions, StudentTOptions
from mpcc.plugins.priors.student_t import StudentTMixture

REGISTRY = load_registry()
SAMPLES = 20_000
# The fixed one has no options.
PRIORS = [name for name in REGISTRY.names("prior") if REGISTRY.entry("prior", name).options_class()]
every_prior = pytest.mark.parametrize("name", PRIORS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
# What mpmath computes with.
mpmath.mp.dps = 60


def exactly(values: Tensor) -> Any:
    return mpmath.matrix(values.double().tolist())


def tensor(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


# The ends of the noise


@every_prior
@torch.no_grad()
def test_every_sampler_is_finite_at_the_ends_of_its_noise_in_a_start_without_a_floor(name: str) -> None:
    cls = REGISTRY.entry("prior", name).options_class()
    assert cls is not None
    for raw in (-6.0, 1.0):
        prior = REGISTRY.entry("prior", name).load()(4, 3, cls(scale_floor=0.0, initial_raw_scale=raw))
        with ExtremeNoise() as noise:
            z, y = prior.sample(ENDS**3)
        assert noise.draws
        assert bool(torch.isfinite(z).all())
        assert bool(torch.isfinite(prior.input_map(z)).all())
        assert bool(torch.isfinite(prior.log_density(z).gather(1, y.unsqueeze(1))).all())
        assert bool(torch.isfinite(prior.log_responsibilities(z)).all())
        assert bool(torch.isfinite(prior.encoder_distribution(z * 0, z * 0 + raw).log_prob(z)).all())


@every_dtype
def test_the_ends_of_a_logistic_are_symmetric_and_others_are_its_inverse_distribution_function(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.finfo(dtype).eps / 2
    noise = tensor(0, step, 0.1, 0.5, 1 - step, dtype=dtype)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: noise)
    drawn = BoundedLogistic(torch.zeros(5, dtype=dtype), torch.ones(5, dtype=dtype)).rsample()
    expected = stats.logistic.ppf(noise[1:].double().numpy())
    np.testing.assert_allclose(drawn[1:].numpy(), expected, rtol=1e-5, atol=1e-7)
    assert drawn[0] == drawn[1] == -drawn[-1]


def test_a_gumbel_whose_uniform_number_is_0_is_no_outlier() -> None:
    with ExtremeNoise():
        drawn = BoundedGumbel(torch.zeros(25), torch.ones(25)).rsample()
    # The quantile 2^-24, as rare as the number; torch's own is -4.5, of probability 1e-38.
    assert drawn.min().item() == pytest.approx(-math.log(24 * math.log(2)), rel=1e-5)
    assert 15 < drawn.max().item() < 24 * math.log(2)


@pytest.mark.parametrize("df", [0.5, 1.0, 3.0, 1e5, 1e9])
def test_student_t_samples_are_those_of_scipy_in_single_precision(df: float) -> None:
    torch.manual_seed(0)
    drawn = StableStudentT(torch.tensor(df), torch.zeros(SAMPLES), torch.ones(SAMPLES)).rsample()
    assert bool(torch.isfinite(drawn).all())
    assert stats.kstest(drawn.double().numpy(), stats.t(df).cdf).pvalue > 1e-3


# Student-t


def student_density(z: float, df: Any) -> Any:
    half, z = mpmath.mpf(df) / 2, mpmath.mpf(z)
    constant = mpmath.loggamma(half + 0.5) - mpmath.loggamma(half) - mpmath.log(2 * mpmath.pi * half) / 2
    return constant - (half + 0.5) * mpmath.log1p(z**2 / (2 * half))


def student_entropy(df: Any) -> Any:
    half = mpmath.mpf(df) / 2
    mean = mpmath.digamma(half + 0.5) - mpmath.digamma(half)
    return (half + 0.5) * mean + mpmath.log(mpmath.sqrt(2 * half) * mpmath.beta(half, 0.5))


@every_dtype
@pytest.mark.parametrize("df", [0.5, 1.0, 3.0, 30.0, 1e3, 1e5, 1e7, 1e9])
def test_a_student_t_is_that_of_mpmath_for_any_nu(dtype: torch.dtype, df: float) -> None:
    allowed = 2e-6 if dtype == torch.float32 or df > 1e5 else 1e-9
    z = tensor(-20.0, -1.0, 0.0, 0.3, 2.0, 1e4, 1e25, dtype=dtype)
    student = StableStudentT(torch.tensor(df, dtype=dtype), torch.zeros_like(z), torch.ones_like(z))
    expected = [float(student_density(value, df)) for value in z.tolist()]
    np.testing.assert_allclose(student.log_prob(z).numpy(), expected, rtol=allowed, atol=allowed)
    assert student.entropy()[0].item() == pytest.approx(float(student_entropy(df)), abs=allowed)


@every_dtype
@pytest.mark.parametrize("df", [0.6, 3.0, 100.0, 1e5])
def test_the_gradient_in_nu_is_that_of_mpmath(dtype: torch.dtype, df: float) -> None:
    nu = torch.tensor(df, dtype=dtype, requires_grad=True)
    student = StableStudentT(nu, torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype))
    (density,) = torch.autograd.grad(student.log_prob(tensor(2.0, 0.5, dtype=dtype))[0], nu)
    assert density.item() == pytest.approx(float(mpmath.diff(lambda v: student_density(2.0, v), df)), rel=0.03)
    (entropy,) = torch.autograd.grad(student.entropy()[0], nu)
    assert entropy.item() == pytest.approx(float(mpmath.diff(student_entropy, df)), rel=1e-4)


def test_far_out_a_student_t_has_the_gradients_of_a_power_in_single_precision() -> None:
    z, scale = tensor(1e20, -1e30).requires_grad_(), torch.ones(2, requires_grad=True)
    density = StableStudentT(torch.tensor(3.0), torch.zeros(2), scale).log_prob(z)
    by_z, by_scale = torch.autograd.grad(density.sum(), [z, scale])
    # log p = -4 log |z| + 3 log s + a constant.
    torch.testing.assert_close(by_z * z.detach(), torch.full((2,), -4.0))
    torch.testing.assert_close(by_scale, torch.full((2,), 3.0))


def test_a_student_t_expands_validates_and_has_the_moments_of_torch() -> None:
    student = StableStudentT(torch.tensor([3.0, 5.0]), torch.zeros(2), torch.ones(2))
    wide = student.expand(torch.Size([4, 2]))
    assert wide.rsample(torch.Size([3])).shape == (3, 4, 2)
    torch.testing.assert_close(wide.log_prob(torch.ones(4, 2)), student.log_prob(torch.ones(2)).expand(4, 2))
    torch.testing.assert_close(wide.variance, tensor(3.0, 5 / 3).expand(4, 2))
    with pytest.raises(ValueError, match="scale"):
        StableStudentT(torch.tensor(3.0), torch.zeros(2), -torch.ones(2), validate_args=True)


def test_a_mixture_of_student_t_with_a_large_nu_is_one_of_gaussians() -> None:
    torch.manual_seed(0)
    prior = StudentTMixture(3, 2, StudentTOptions(df=1e7))
    z = prior.sample(50)[0].detach()
    gaussian = stats.norm(prior.loc.detach().numpy(), prior.scales().detach().numpy())
    expected = gaussian.logpdf(z.numpy()[:, None]).sum(-1)
    np.testing.assert_allclose(prior.log_density(z).detach().numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(prior.entropies().detach().numpy(), gaussian.entropy().sum(-1), atol=1e-5)


# Gumbel


def test_a_gumbel_density_is_that_of_scipy_up_to_600_scales_on_its_thin_side() -> None:
    z = torch.linspace(-600, 40, 161, dtype=torch.float64)
    ours = BoundedGumbel(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)
    np.testing.assert_allclose(ours.numpy(), stats.gumbel_r.logpdf(z.numpy()), rtol=1e-13)


def test_a_gumbel_density_in_single_precision_is_that_of_scipy_as_far_as_it_goes_and_then_falls_on() -> None:
    z = torch.linspace(-70, 40, 111)
    ours = BoundedGumbel(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)
    np.testing.assert_allclose(ours.numpy(), stats.gumbel_r.logpdf(z.double().numpy()), rtol=1e-5)
    z = -torch.logspace(1, 30, 500)
    ours = BoundedGumbel(torch.zeros_like(z), torch.ones_like(z)).log_prob(z)
    assert bool(torch.isfinite(ours).all())
    assert bool((ours.diff() < 0).all())


@pytest.mark.parametrize("at", [-0.5, -40.0, -300.0, -690.5, -691.5, -2000.0])
def test_gradients_of_a_gumbel_density_are_those_of_finite_differences(at: float) -> None:
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (at, 0.0, 1.0)]

    def log_surprise(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return torch.log(-BoundedGumbel(loc, scale, validate_args=False).log_prob(z))

    assert gradcheck(log_surprise, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("distance", [30.0, 80.0, 200.0, 1e4, 1e6])
def test_far_out_on_the_thin_side_of_a_gumbel_the_nearer_cluster_is_chosen_and_gradients_point_to_it(
    distance: float,
) -> None:
    prior = GumbelMixture(3, 2, GumbelOptions(scale_floor=0.0, initial_raw_scale=0.0))
    with torch.no_grad():
        prior.loc.copy_(torch.tensor([[0.0, 0.0], [-0.5, -0.5], [1.0, -1.0]]) * max(1.0, distance / 1e4))
    z = torch.full((1, 2), -distance, requires_grad=True)
    assert prior.log_responsibilities(z).argmax().item() == 1
    assert prior.log_responsibilities(z).exp()[0, 1].item() == pytest.approx(1.0)
    by_z, by_loc, by_scale = torch.autograd.grad(prior.log_density(z).sum(), [z, prior.loc, prior.raw_scale])
    # The density grows towards the clusters, as they come nearer, and as they get wider.
    assert bool((by_z > 0).all())
    assert bool((by_loc < 0).all())
    assert bool((by_scale > 0).all())
    assert all(bool(torch.isfinite(gradient).all()) for gradient in (by_z, by_loc, by_scale))


# Diagonal plus low rank


def low_rank(scale: float, dtype: torch.dtype = torch.float32, rank: int = 3) -> tuple[LowRankNormal, Tensor]:
    """A Gaussian of 8 dimensions and a sample, rounded to float32."""
    torch.manual_seed(0)
    factor, loc = torch.randn(8, rank), torch.randn(8)
    scales = scale * (0.5 + torch.rand(8))
    sample = LowRankNormal(loc.double(), factor.double(), scales.double()).rsample().float()
    return LowRankNormal(loc.to(dtype), factor.to(dtype), scales.to(dtype)), sample.to(dtype)


@every_dtype
@pytest.mark.parametrize("rank", [1, 3, 12])
@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4, 1e-6, 1e-8])
def test_a_low_rank_normal_loses_nothing_at_a_small_diagonal(dtype: torch.dtype, scale: float, rank: int) -> None:
    normal, z = low_rank(scale, dtype, rank)
    factor, difference = exactly(normal.factor), exactly(z) - exactly(normal.loc)
    covariance = factor * factor.T + mpmath.diag([value**2 for value in exactly(normal.scale)])
    log_det = mpmath.log(mpmath.det(covariance))
    form = (difference.T * mpmath.lu_solve(covariance, difference))[0]
    expected = -(form + log_det + 8 * mpmath.log(2 * mpmath.pi)) / 2
    allowed = 2e-6 if dtype == torch.float32 else 1e-7
    assert normal.log_prob(z).item() == pytest.approx(float(expected), rel=allowed, abs=allowed)
    entropy = (8 + 8 * mpmath.log(2 * mpmath.pi) + log_det) / 2
    assert normal.entropy().item() == pytest.approx(float(entropy), rel=allowed, abs=allowed)


def test_collinear_columns_of_the_factor_are_no_problem() -> None:
    normal, z = low_rank(1e-3, torch.float64, 2)
    normal.factor[:, 1] = normal.factor[:, 0]
    once = LowRankNormal(normal.loc, 2**0.5 * normal.factor[:, :1], normal.scale)
    torch.testing.assert_close(normal.log_prob(z), once.log_prob(z), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normal.entropy(), once.entropy())


@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_gradients_of_a_low_rank_normal_are_those_of_finite_differences(scale: float) -> None:
    normal, z = low_rank(scale, torch.float64)
    inputs = [value.clone().requires_grad_() for value in (normal.loc, normal.factor, normal.scale)]
    assert gradcheck(lambda *given: torch.asinh(LowRankNormal(*given).log_prob(z)), inputs, eps=1e-7, atol=1e-4)
    assert gradcheck(lambda *given: LowRankNormal(*given).entropy(), inputs, eps=1e-7, atol=1e-5)


def test_a_low_rank_normal_is_that_of_torch_in_shapes_moments_and_densities() -> None:
    torch.manual_seed(1)
    loc, factor, scale = torch.randn(5, 4).double(), torch.randn(5, 4, 2).double(), torch.rand(5, 4).double() + 0.5
    ours, theirs = LowRankNormal(loc, factor, scale), LowRankMultivariateNormal(loc, factor, scale.square())
    z = torch.randn(7, 5, 4).double()
    for name in ("mean", "variance", "batch_shape", "event_shape"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    wide = ours.expand(torch.Size([3, 5]))
    assert wide.rsample(torch.Size([2])).shape == (2, 3, 5, 4)
    torch.testing.assert_close(wide.log_prob(z[:3]), ours.log_prob(z[:3]))
    with pytest.raises(ValueError, match="scale"):
        LowRankNormal(loc, factor, -scale, validate_args=True)


class Products(TorchDispatchMode):
    """Notes the operations that a flag may round to TF32."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        product = re.fullmatch(
            r"aten::(b?mm|addb?mm|baddbmm|matmul|linear|(add)?mv|v?dot|einsum|linalg_(?!vector).*)", name
        )
        if product and tensors[0].dtype == torch.float32:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@every_prior
def test_no_prior_has_a_product_that_a_gpu_may_round(name: str) -> None:
    cls = REGISTRY.entry("prior", name).options_class()
    assert cls is not None
    prior = REGISTRY.entry("prior", name).load()(3, 4, cls())
    with Products() as products:
        z, _ = prior.sample(6)
        q = prior.encoder_distribution(z, torch.zeros_like(z))
        total = prior.log_responsibilities(z).sum() + prior.entropies().sum() + q.log_prob(z).sum()
        torch.autograd.grad(total, list(prior.parameters()))
    assert products.found == []


def test_a_low_rank_prior_with_a_small_floor_trains_its_parameters_with_finite_gradients() -> None:
    torch.manual_seed(0)
    prior = LowRankGaussianMixture(
        3, 6, LowRankOptions(rank=4, scale_floor=1e-4, initial_raw_scale=-30, initial_factor=1)
    )
    z, y = prior.sample(20)
    loss = -prior.log_responsibilities(z).gather(1, y.unsqueeze(1)).mean() - prior.entropies().mean()
    for gradient in torch.autograd.grad(loss, list(prior.parameters())):
        assert bool(torch.isfinite(gradient).all())
    # In its own component, a sample is as far from its centre as a Gaussian's: on average J.
    own = prior.log_density(z).gather(1, y.unsqueeze(1)).squeeze(1) + prior.entropies()[y]
    assert abs(own.mean().item()) < 5 * (6 / 2) ** 0.5 / 20**0.5
