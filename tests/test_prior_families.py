"""The families beyond the Gaussian against scipy, and what all mixtures of locations and scales share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Normal

from mpcc.core.config.options import convert, fields, make
from mpcc.core.contracts import Prior
from mpcc.core.errors import InvalidInput
from mpcc.core.mixture import LocationScaleMixture
from mpcc.core.registry import load_registry
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions, GumbelOptions, StudentTOptions
from mpcc.plugins.priors.student_t import StudentTMixture

REGISTRY = load_registry()
K, J = 3, 2
Family = Callable[[np.ndarray, np.ndarray], Any]
# The component and the family of q(z|x), frozen by scipy at a location and a scale.
FAMILIES: dict[str, tuple[Family, Family]] = {
    "gmm": (stats.norm, stats.norm),
    "student_t": (lambda m, s: stats.t(3, m, s), lambda m, s: stats.t(3, m, s)),
    "cauchy": (stats.cauchy, stats.cauchy),
    "laplace": (stats.laplace, stats.laplace),
    "logistic": (stats.logistic, stats.logistic),
    "gumbel": (stats.gumbel_r, stats.laplace),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
# The fixed one has no options; it is tested by itself.
PRIORS = [name for name in REGISTRY.names("prior") if REGISTRY.entry("prior", name).options_class()]
every_prior = pytest.mark.parametrize("name", PRIORS)


def build(name: str, clusters: int = K, latent_dim: int = J, **options: Any) -> LocationScaleMixture:
    """A built-in prior in float64, moved off its start."""
    entry = REGISTRY.entry("prior", name)
    cls = entry.options_class()
    assert cls is not None
    torch.manual_seed(0)
    prior: LocationScaleMixture = entry.load()(clusters, latent_dim, cls(**options)).double()
    with torch.no_grad():
        prior.loc.add_(torch.randn_like(prior.loc))
        prior.raw_scale.copy_(torch.randn_like(prior.raw_scale))
    return prior


def test_every_built_in_prior_is_compared_with_scipy() -> None:
    assert {*FAMILIES, "lowrank_gmm"} == set(PRIORS)
    assert {*PRIORS, "standard_normal"} == set(REGISTRY.names("prior"))


def test_the_fixed_prior_is_scipys_standard_normal_at_every_precision() -> None:
    prior: Prior = REGISTRY.entry("prior", "standard_normal").load()(1, J).double()
    z = 5 * np.random.default_rng(0).normal(size=(9, J))
    density = prior.log_density(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(density[:, 0], stats.norm().logpdf(z).sum(1), rtol=1e-12)
    np.testing.assert_allclose(prior.entropies().numpy(), J * stats.norm().entropy(), rtol=1e-12)
    drawn, _ = prior.sample(2000)
    assert stats.kstest(drawn.numpy().ravel(), stats.norm().cdf).pvalue > 1e-3
    assert not list(prior.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prior.float().sample(3)[0].dtype == torch.float32
    prior.validate()


@every_family
@torch.no_grad()
def test_density_entropy_and_encoder_are_those_of_scipy(name: str) -> None:
    component, encoder = FAMILIES[name]
    prior = build(name, scale_floor=0.3)
    loc, scale = prior.loc.numpy(), 0.3 + np.exp(prior.raw_scale.numpy() / 2)
    z = 5 * np.random.default_rng(0).normal(size=(9, J))
    expected = component(loc, scale).logpdf(z[:, None]).sum(-1)
    np.testing.assert_allclose(prior.log_density(torch.from_numpy(z)).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(prior.entropies().numpy(), component(loc, scale).entropy().sum(-1), rtol=1e-9)
    raw = np.random.default_rng(1).normal(size=(9, J))
    q = prior.encoder_distribution(torch.from_numpy(z), torch.from_numpy(raw))
    at = z + np.random.default_rng(2).normal(size=(9, J))
    expected = encoder(z, np.exp(raw / 2)).logpdf(at).sum(-1)
    np.testing.assert_allclose(q.log_prob(torch.from_numpy(at)).numpy(), expected, rtol=1e-9)


@every_family
@torch.no_grad()
def test_samples_follow_the_distribution_of_scipy(name: str) -> None:
    prior = build(name, 1, 1)
    drawn = prior.component(torch.zeros(20_000, dtype=torch.int64)).rsample().numpy()[:, 0]
    frozen = FAMILIES[name][0](prior.loc.item(), prior.scales().item())
    assert stats.kstest(drawn, frozen.cdf).pvalue > 1e-3


def test_the_gumbel_prior_may_have_a_logistic_encoder() -> None:
    q = build("gumbel", encoder="logistic").encoder_distribution(torch.zeros(1, 1), torch.zeros(1, 1))
    assert q.log_prob(torch.ones(1, 1)).item() == pytest.approx(stats.logistic.logpdf(1.0), rel=1e-6)


def test_a_gumbel_density_far_on_its_thin_side_is_finite_with_finite_gradients_in_single_precision() -> None:
    prior = build("gumbel").float()
    found = prior.log_responsibilities(torch.full((1, J), -1e4))
    assert bool(torch.isfinite(found).all())
    found.sum().backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in prior.parameters())


# The low-rank mixture


@torch.no_grad()
def test_the_low_rank_mixture_is_the_multivariate_normal_of_scipy() -> None:
    prior = build("lowrank_gmm", 3, 4, rank=2, initial_factor=0.8)
    factor = prior.factor.numpy()
    scale = 0.5 + np.exp(prior.raw_scale.numpy() / 2)
    z = np.random.default_rng(0).normal(size=(6, 4))
    log_density, entropies = prior.log_density(torch.from_numpy(z)).numpy(), prior.entropies().numpy()
    for k in range(3):
        frozen = stats.multivariate_normal(prior.loc[k].numpy(), factor[k] @ factor[k].T + np.diag(scale[k] ** 2))
        np.testing.assert_allclose(log_density[:, k], frozen.logpdf(z), rtol=1e-9)
        assert entropies[k] == pytest.approx(frozen.entropy(), rel=1e-9)


@torch.no_grad()
def test_low_rank_samples_have_the_covariance_of_their_component() -> None:
    prior = build("lowrank_gmm", 1, 3, rank=2, initial_factor=1.0)
    drawn = prior.component(torch.zeros(100_000, dtype=torch.int64)).rsample().numpy()
    factor, scale = prior.factor[0].numpy(), prior.scales()[0].numpy()
    expected = factor @ factor.T + np.diag(scale**2)
    assert abs(np.cov(drawn.T) - expected).max() < 5 * expected.max() * math.sqrt(2 / 100_000)


# The degrees of freedom


def test_nu_is_fixed_or_learned_above_its_floor() -> None:
    fixed, learned = build("student_t", df=4.0), build("student_t", df=4.0, learn_df=True, df_floor=2.0)
    assert "raw_df" not in dict(fixed.named_parameters())
    assert fixed.quantities()["df"].item() == 4
    assert learned.quantities()["df"].item() == pytest.approx(4, rel=1e-6)
    with torch.no_grad():
        learned.raw_df.fill_(-50)
    assert learned.quantities()["df"].item() == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("df", [1.001, 1.5, 3.0, 30.0, 1e4])
def test_a_learned_nu_starts_where_it_is_told(df: float) -> None:
    prior = StudentTMixture(2, 2, StudentTOptions(df=df, learn_df=True))
    assert prior.df().item() == pytest.approx(df, rel=1e-5)


def test_the_entropy_pulls_nu_down_and_the_encoder_does_not_move_it() -> None:
    prior = build("student_t", df=4.0, learn_df=True)
    (gradient,) = torch.autograd.grad(-prior.entropies().sum(), prior.raw_df)
    assert gradient > 0
    loc = torch.zeros(1, J, dtype=torch.float64, requires_grad=True)
    density = prior.encoder_distribution(loc, torch.zeros_like(loc)).log_prob(torch.ones_like(loc))
    assert torch.autograd.grad(density.sum(), prior.raw_df, allow_unused=True) == (None,)


def test_samples_carry_the_gradient_of_nu() -> None:
    # E[cos z] has a derivative in nu: by quadrature and central differences, and by the reparameterised sampler.
    prior = build("student_t", 1, 1, df=3.0, learn_df=True)
    with torch.no_grad():
        prior.loc.zero_()
        prior.raw_scale.zero_()
    t = np.linspace(-20, 20, 200_001)
    x, cell = np.sinh(t), np.cosh(t) * (t[1] - t[0])

    def expectation(df: float) -> float:
        return float(np.sum(cell * np.cos(x) * stats.t(df, 0, 1.5).pdf(x)))

    slope = (expectation(3.001) - expectation(2.999)) / 0.002 * float(torch.sigmoid(prior.raw_df.detach()))
    y = torch.zeros(20_000, dtype=torch.int64)
    found = torch.stack(
        [torch.autograd.grad(prior.component(y).rsample().cos().mean(), prior.raw_df)[0] for _ in range(30)]
    )
    assert abs(float(found.mean()) - slope) < 5 * float(found.std()) / 30**0.5


def test_a_start_of_nu_below_its_floor_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"prior student_t: df must be above df_floor to be learned, got 1\.0"):
        make(StudentTOptions, {"df": 1.0, "learn_df": True}, "prior student_t")


# What they share


@pytest.mark.parametrize("scheme", ["orthogonal", "normal", "uniform"])
def test_locations_start_by_a_scheme_and_a_factor(scheme: Any) -> None:
    torch.manual_seed(0)
    one = GaussianMixture(4, 50, GaussianMixtureOptions(locations=scheme)).loc
    torch.manual_seed(0)
    three = GaussianMixture(4, 50, GaussianMixtureOptions(locations=scheme, location_scale=3.0)).loc
    torch.testing.assert_close(three, 3 * one)
    if scheme == "orthogonal":
        torch.testing.assert_close(one @ one.T, torch.eye(4), atol=1e-6, rtol=0)
    else:
        frozen = {"normal": stats.norm(), "uniform": stats.uniform(-1, 2)}[scheme]
        assert stats.kstest(one.detach().numpy().ravel(), frozen.cdf).pvalue > 1e-3


@every_prior
def test_the_input_map_is_the_identity_or_asinh_and_strictly_monotone(name: str) -> None:
    z = torch.cat([-torch.logspace(6, -3, 40), torch.logspace(-3, 6, 40)]).double()
    assert torch.equal(build(name, input_map="identity").input_map(z), z)
    mapped = build(name, input_map="asinh").input_map(z)
    np.testing.assert_allclose(mapped.numpy(), np.arcsinh(z.numpy()))
    assert bool((mapped.diff() > 0).all())


@every_family
def test_families_without_a_fourth_moment_are_mapped_by_default_and_only_they(name: str) -> None:
    cls = REGISTRY.entry("prior", name).options_class()
    assert cls is not None
    kurtosis = float(FAMILIES[name][0](0.0, 1.0).stats(moments="k"))
    assert cls().input_map == ("identity" if math.isfinite(kurtosis) else "asinh")


@every_prior
def test_prior_arithmetic_stays_in_single_precision_under_mixed_precision(name: str) -> None:
    prior: Prior = build(name).float()

    def everything() -> list[torch.Tensor]:
        torch.manual_seed(3)
        z, _ = prior.sample(20)
        return [z, prior.log_density(z), prior.log_responsibilities(z), prior.entropies()]

    expected = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = everything()
    assert all(value.dtype == torch.float32 for value in actual)
    assert all(torch.equal(one, other) for one, other in zip(expected, actual, strict=True))


@every_prior
def test_a_prior_validates_its_own_parameters_whatever_torch_does(name: str) -> None:
    prior = build(name)
    try:
        torch.distributions.Distribution.set_default_validate_args(False)
        prior.validate()
        with torch.no_grad():
            prior.raw_scale[1, 0] = torch.nan
        with pytest.raises(ValueError, match=r"\w+\.\w+: expected finite values, .*, got nan|not positive-definite"):
            prior.validate()
    finally:
        torch.distributions.Distribution.set_default_validate_args(__debug__)  # torch's default


def test_a_scale_of_zero_is_out_of_the_domain() -> None:
    prior = GaussianMixture(2, 2, GaussianMixtureOptions(scale_floor=0.0))
    with torch.no_grad():
        prior.raw_scale[0, 0] = -1e4
    with pytest.raises(ValueError, match=r"Normal\.scale: expected finite values, GreaterThan.*, got 0\.0"):
        prior.validate()


def test_weights_that_are_no_distribution_are_named() -> None:
    prior = GaussianMixture(2, 2, GaussianMixtureOptions())
    prior.phi.copy_(torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="weights: expected positive numbers that sum to 1, got"):
        prior.validate()


class TwoDimensional(GaussianMixture):
    """A prior outside of pyro, nested in two layers of Independent."""

    def component(self, y: torch.Tensor) -> Independent:
        return Independent(Independent(Normal(self.loc[y], self.scales()[y]), 1), 0)


def test_validation_looks_through_nested_independence() -> None:
    prior = TwoDimensional(2, 2, GaussianMixtureOptions())
    prior.validate()
    with torch.no_grad():
        prior.loc[0, 0] = math.inf
    with pytest.raises(ValueError, match=r"Normal\.loc: expected finite values, .*, got inf"):
        prior.validate()


@pytest.mark.parametrize(
    ("cls", "name", "value", "message"),
    [
        (GaussianMixtureOptions, "locations", "ortogonal", "did you mean 'orthogonal'"),
        (GaussianMixtureOptions, "weights", "train", "expected one of trainable, uniform"),
        (GaussianMixtureOptions, "input_map", "tanh", "asinh, identity"),
        (GaussianMixtureOptions, "location_scale", "0", "must be > 0"),
        (GaussianMixtureOptions, "initial_raw_scale", "200", "must be <= 100"),
        (StudentTOptions, "df", "-1", "the value must be >= 0.5: -1.0"),
        (StudentTOptions, "df", "0.1", r"must be >= 0.5: 0.1 \(with less, samples leave the range of float32\)"),
        (StudentTOptions, "df", "2e9", r"must be <= 1e\+09: 2e\+09 .* choose --prior gmm"),
        (StudentTOptions, "df_floor", "0.4", "must be >= 0.5: 0.4"),
        (GumbelOptions, "encoder", "normal", "laplace, logistic"),
    ],
)
def test_options_that_make_no_prior_are_refused(cls: type, name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        convert(value, fields(cls)[name], f"--prior.{name.replace('_', '-')}")
