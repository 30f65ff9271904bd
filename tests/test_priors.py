"""Priors: laws over all that are registered, with default options; then the Gaussian mixture against scipy."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call

from mpcc.core import contracts
from mpcc.core.config.options import convert, fields
from mpcc.core.contracts import Prior
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

REGISTRY = load_registry()
SHAPES = [(1, 1), (3, 1), (4, 3), (2, 5)]
SAMPLES = 100_000

every_prior = pytest.mark.parametrize("name", REGISTRY.names("prior"))
every_shape = pytest.mark.parametrize(("clusters", "latent_dim"), SHAPES)


def build(name: str, clusters: int, latent_dim: int, seed: int = 0) -> Prior:
    """A registered prior with default options, in float64, its parameters moved off their start."""
    torch.manual_seed(seed)
    entry = REGISTRY.entry("prior", name)
    options = entry.options_class()
    prior: Prior = entry.load()(clusters, latent_dim, options(**entry.defaults) if options else None).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


def wide_grid(count: int = 40_001) -> tuple[np.ndarray, np.ndarray]:
    """Points on the whole line, dense near 0, and what each weighs in an integral."""
    t = np.linspace(-20, 20, count)
    return np.sinh(t), np.cosh(t) * (t[1] - t[0])


def standard_error(values: Tensor) -> float:
    return float(values.std()) / len(values) ** 0.5


# Laws over all priors


@every_prior
@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes_follow_the_contract(name: str, clusters: int, latent_dim: int, dtype: torch.dtype) -> None:
    prior = build(name, clusters, latent_dim).to(dtype)
    z, y = prior.sample(6)
    found = {
        "z": z,
        "weights": prior.weights(),
        "density": prior.log_density(z),
        "responsibilities": prior.log_responsibilities(z),
        "entropies": prior.entropies(),
        "component": prior.component(y).log_prob(z),
        "encoder": prior.encoder_distribution(z, torch.zeros_like(z)).log_prob(z),
        "encoded": prior.encoder_distribution(z, torch.zeros_like(z)).rsample(),
    }
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "z": (6, latent_dim),
        "weights": (clusters,),
        "density": (6, clusters),
        "responsibilities": (6, clusters),
        "entropies": (clusters,),
        "component": (6,),
        "encoder": (6,),
        "encoded": (6, latent_dim),
    }
    assert {value.dtype for value in found.values()} == {dtype}
    assert (y.shape, y.dtype) == ((6,), torch.int64)
    assert (prior.clusters, prior.latent_dim) == (clusters, latent_dim)
    scales = prior.scales()
    assert scales is None or (scales.shape == (clusters, latent_dim) and bool((scales > 0).all()))


@every_prior
@every_shape
def test_weights_are_positive_and_sum_to_one(name: str, clusters: int, latent_dim: int) -> None:
    weights = build(name, clusters, latent_dim).weights()
    assert bool((weights > 0).all())
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)


@every_prior
@every_shape
@torch.no_grad()
def test_responsibilities_are_those_of_bayes_rule(name: str, clusters: int, latent_dim: int) -> None:
    prior = build(name, clusters, latent_dim)
    z, _ = prior.sample(50)
    one_by_one = [prior.component(torch.full((50,), k)).log_prob(z).numpy() for k in range(clusters)]
    np.testing.assert_allclose(prior.log_density(z).numpy(), np.stack(one_by_one, axis=1), rtol=1e-12, atol=1e-12)
    expected = special.log_softmax(np.log(prior.weights().numpy()) + np.stack(one_by_one, axis=1), axis=1)
    actual = prior.log_responsibilities(z)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(actual.exp().sum(1).numpy(), 1, atol=1e-12)


@every_prior
@torch.no_grad()
def test_responsibilities_far_from_every_component_stay_finite_and_sum_to_one(name: str) -> None:
    prior = build(name, 3, 2).float()
    found = prior.log_responsibilities(torch.tensor([[1e4, -1e4], [1e6, 1e6]]))
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2))


@every_prior
@torch.no_grad()
def test_densities_integrate_to_one(name: str) -> None:
    prior = build(name, 3, 1)
    z, cell = wide_grid()
    density = prior.log_density(torch.from_numpy(z).unsqueeze(1)).exp().numpy()
    np.testing.assert_allclose(cell @ density, 1, atol=1e-6)


@every_prior
@torch.no_grad()
def test_samples_of_a_component_follow_its_density(name: str) -> None:
    prior = build(name, 3, 1)
    z, cell = wide_grid()
    torch.manual_seed(1)
    for k in range(3):
        density = prior.log_density(torch.from_numpy(z).unsqueeze(1))[:, k].exp().numpy()
        cumulative = np.cumsum(density * cell) - density * cell / 2
        drawn = prior.component(torch.full((20_000,), k)).rsample().squeeze(1).numpy()
        uniform = np.interp(drawn, z, cumulative)
        assert stats.kstest(uniform, "uniform").pvalue > 1e-3


@every_prior
@torch.no_grad()
def test_entropies_are_the_mean_surprise_of_samples(name: str) -> None:
    prior = build(name, 3, 4)
    torch.manual_seed(2)
    for k, entropy in enumerate(prior.entropies().tolist()):
        component = prior.component(torch.full((SAMPLES,), k))
        surprise = -component.log_prob(component.rsample())
        assert standard_error(surprise) < 0.02
        assert abs(surprise.mean().item() - entropy) < 5 * standard_error(surprise)


@every_prior
@torch.no_grad()
def test_entropies_are_the_integral_of_the_surprise(name: str) -> None:
    prior = build(name, 3, 1)
    z, cell = wide_grid()
    log_density = prior.log_density(torch.from_numpy(z).unsqueeze(1)).numpy()
    expected = -cell @ (np.exp(log_density) * log_density)
    np.testing.assert_allclose(prior.entropies().numpy(), expected, atol=1e-5)


@every_prior
@torch.no_grad()
def test_labels_are_as_frequent_as_their_weights(name: str) -> None:
    prior = build(name, 5, 2)
    torch.manual_seed(3)
    counts = np.bincount(prior.sample(SAMPLES)[1].numpy(), minlength=5)
    weights = prior.weights().numpy()
    assert stats.chisquare(counts, SAMPLES * weights / weights.sum()).pvalue > 1e-3


@every_prior
def test_the_same_seed_draws_the_same_labels_first_and_then_the_same_latents(name: str) -> None:
    prior = build(name, 4, 3)
    torch.manual_seed(4)
    z, y = prior.sample(30)
    torch.manual_seed(4)
    labels = torch.multinomial(prior.weights().detach(), 30, replacement=True)
    latents = prior.component(labels).rsample()
    assert torch.equal(y, labels)
    assert torch.equal(z, latents)


@every_prior
def test_every_parameter_gets_a_gradient_through_sample_and_density(name: str) -> None:
    prior = build(name, 3, 2)
    if name == "standard_normal":  # everything in it is fixed
        assert not list(prior.parameters())
        return
    z, _ = prior.sample(40)
    assert z.requires_grad
    by_sample = torch.autograd.grad(z.pow(2).sum(), list(prior.parameters()), allow_unused=True)
    by_density = torch.autograd.grad(prior.log_density(z.detach()).sum(), list(prior.parameters()))
    by_entropy = torch.autograd.grad(prior.entropies().sum(), list(prior.parameters()), allow_unused=True)
    named = dict(prior.named_parameters())
    for key, sampled, density, entropy in zip(named, by_sample, by_density, by_entropy, strict=True):
        for gradient in (sampled, density, entropy):
            assert gradient is None or bool(torch.isfinite(gradient).all()), key
        assert density.abs().max() > 0, key
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in by_sample)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in by_entropy)


@every_prior
def test_gradients_of_density_responsibility_and_entropy_are_those_of_finite_differences(name: str) -> None:
    prior = build(name, 3, 2)
    names = [key for key, _ in prior.named_parameters()]
    z, y = (value.detach() for value in prior.sample(4))

    class Quantities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prior = prior

        def forward(self, z: Tensor) -> tuple[Tensor, ...]:
            torch.manual_seed(5)
            drawn = self.prior.component(y).rsample()
            density, posterior = self.prior.log_density(z), self.prior.log_responsibilities(z)
            return density, posterior, self.prior.entropies(), drawn

    def quantities(z: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        values = {f"prior.{key}": value for key, value in zip(names, parameters, strict=True)}
        found: tuple[Tensor, ...] = functional_call(Quantities(), values, (z,))
        return found

    inputs = [z.requires_grad_(), *(value.detach().clone().requires_grad_() for value in prior.parameters())]
    assert gradcheck(quantities, inputs)


@every_prior
def test_a_copy_and_a_saved_state_give_the_same_prior(name: str) -> None:
    prior, other = build(name, 3, 2, seed=0), build(name, 3, 2, seed=1)
    file = io.BytesIO()
    torch.save(prior.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (copy.deepcopy(prior), other):
        torch.manual_seed(6)
        z, y = prior.sample(20)
        torch.manual_seed(6)
        same_z, same_y = twin.sample(20)
        assert torch.equal(z, same_z)
        assert torch.equal(y, same_y)
        assert torch.equal(prior.log_responsibilities(z), twin.log_responsibilities(z))


@every_prior
def test_a_copy_shares_no_parameter_with_its_original(name: str) -> None:
    prior = build(name, 3, 2)
    twin = copy.deepcopy(prior)
    before = prior.entropies().detach().clone()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(prior.entropies(), before)


# The Gaussian mixture


def mixture(clusters: int, latent_dim: int, floor: float = 0.5, seed: int = 0) -> GaussianMixture:
    torch.manual_seed(seed)
    prior = GaussianMixture(clusters, latent_dim, GaussianMixtureOptions(scale_floor=floor)).double()
    with torch.no_grad():
        prior.raw_scale.copy_(torch.randn_like(prior.raw_scale))
    return prior


@pytest.mark.parametrize(("clusters", "latent_dim"), [(3, 8), (8, 3), (4, 4), (1, 5)])
def test_locations_start_orthonormal_and_scales_at_one_raw_unit(clusters: int, latent_dim: int) -> None:
    torch.manual_seed(0)
    prior = GaussianMixture(clusters, latent_dim, GaussianMixtureOptions())
    loc = prior.loc.detach().numpy()
    gram = loc @ loc.T if clusters <= latent_dim else loc.T @ loc
    np.testing.assert_allclose(gram, np.eye(min(clusters, latent_dim)), atol=1e-5)
    np.testing.assert_allclose(prior.scales().detach().numpy(), 0.5 + math.exp(0.5), rtol=1e-6)
    np.testing.assert_allclose(prior.weights().numpy(), 1 / clusters, rtol=1e-6)


def test_scales_may_be_given_as_whole_numbers() -> None:
    prior = GaussianMixture(2, 3, GaussianMixtureOptions(scale_floor=1, initial_raw_scale=0))
    assert prior.raw_scale.dtype == torch.float32
    assert prior.scales().eq(2).all()


@pytest.mark.parametrize("floor", [0.0, 0.2, 0.5, 2.0])
def test_the_scale_of_samples_density_and_entropy_is_floor_plus_exp_of_half_the_raw_scale(floor: float) -> None:
    prior = mixture(3, 4, floor)
    loc = prior.loc.detach().numpy()
    scale = floor + np.exp(prior.raw_scale.detach().numpy() / 2)
    np.testing.assert_allclose(prior.scales().detach().numpy(), scale, rtol=1e-14)
    z = np.random.default_rng(0).normal(size=(7, 4))
    density = stats.norm.logpdf(z[:, None], loc, scale).sum(-1)
    np.testing.assert_allclose(prior.log_density(torch.from_numpy(z)).detach().numpy(), density, rtol=1e-12)
    entropies = stats.norm.entropy(loc, scale).sum(-1)
    np.testing.assert_allclose(prior.entropies().detach().numpy(), entropies, rtol=1e-12)
    torch.manual_seed(1)
    drawn, y = prior.sample(9)
    torch.manual_seed(1)
    labels = torch.multinomial(torch.full((3,), 1 / 3, dtype=torch.float64), 9, replacement=True).numpy()
    noise = torch.randn(9, 4, dtype=torch.float64).numpy()
    np.testing.assert_array_equal(y.numpy(), labels)
    np.testing.assert_allclose(drawn.detach().numpy(), loc[labels] + scale[labels] * noise, rtol=1e-14)


def test_samples_carry_the_gradient_of_the_reparameterisation_to_locations_and_scales() -> None:
    prior = mixture(3, 2)
    torch.manual_seed(7)
    z, y = prior.sample(25)
    z.sum().backward()
    torch.manual_seed(7)
    prior.sample_labels(25)
    noise = torch.randn(25, 2, dtype=torch.float64)
    ones = torch.zeros(3, 2, dtype=torch.float64).index_add_(0, y, torch.ones_like(noise))
    noises = torch.zeros(3, 2, dtype=torch.float64).index_add_(0, y, noise)
    torch.testing.assert_close(prior.loc.grad, ones)
    torch.testing.assert_close(prior.raw_scale.grad, noises * torch.exp(prior.raw_scale.detach() / 2) / 2)


@torch.no_grad()
def test_latents_have_the_moments_of_their_component() -> None:
    prior = mixture(3, 2)
    torch.manual_seed(2)
    z, y = prior.sample(SAMPLES)
    for k in range(3):
        mine = z[y == k]
        scale = prior.scales()[k]
        error = scale / len(mine) ** 0.5
        assert bool(((mine.mean(0) - prior.loc[k]).abs() < 5 * error).all())
        assert bool(((mine.std(0) - scale).abs() < 5 * error / 2**0.5).all())
        correlation = np.corrcoef(mine.T.numpy())[0, 1]
        assert abs(correlation) < 5 / len(mine) ** 0.5


def test_the_density_of_the_mixture_integrates_to_one_by_scipy() -> None:
    prior = mixture(3, 1)

    def density(z: float) -> float:
        log_joint = prior.log_density(torch.tensor([[z]], dtype=torch.float64)) + prior.weights().log()
        return float(log_joint.exp().sum().detach())

    assert integrate.quad(density, -20, 20, points=[-1.0, 0.0, 1.0])[0] == pytest.approx(1, abs=1e-6)


def test_the_encoder_family_is_normal_with_a_log_variance_and_no_floor() -> None:
    random = np.random.default_rng(1)
    loc, raw, z = random.normal(size=(3, 5, 4))
    q = mixture(2, 4).encoder_distribution(torch.from_numpy(loc), torch.from_numpy(raw))
    expected = stats.norm.logpdf(z, loc, np.exp(raw / 2)).sum(-1)
    np.testing.assert_allclose(q.log_prob(torch.from_numpy(z)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("raw", [-60.0, 60.0])
def test_extreme_raw_scales_stay_finite_forwards_and_backwards_in_single_precision(raw: float) -> None:
    torch.manual_seed(0)
    prior = GaussianMixture(3, 2, GaussianMixtureOptions(initial_raw_scale=raw))
    z, _ = prior.sample(10)
    values = [z, prior.log_density(z), prior.log_responsibilities(z), prior.entropies(), prior.scales()]
    assert all(bool(torch.isfinite(value).all()) for value in values)
    sum(value.sum() for value in values[1:]).backward()  # type: ignore[union-attr]
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in prior.parameters())
    if raw < 0:
        assert prior.scales().eq(0.5).all()


@pytest.mark.parametrize(("value", "fragment"), [("-0.1", "-0.1"), (-2, "-2"), ("nan", "nan"), ("wide", "wide")])
def test_a_floor_that_is_no_width_is_refused_by_name_and_value(value: object, fragment: str) -> None:
    field = fields(GaussianMixtureOptions)["scale_floor"]
    with pytest.raises(InvalidInput, match=r"--prior\.scale-floor") as caught:
        convert(value, field, "--prior.scale-floor")
    assert fragment in str(caught.value)


@pytest.mark.parametrize(("value", "number"), [("0", 0.0), ("0.25", 0.25), (1, 1.0)])
def test_a_floor_that_is_a_width_is_taken(value: object, number: float) -> None:
    assert convert(value, fields(GaussianMixtureOptions)["scale_floor"], "--prior.scale-floor") == number


def test_densities_of_many_clusters_are_computed_in_blocks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    prior = GaussianMixture(7, 3, GaussianMixtureOptions()).double()
    z = torch.randn(11, 3, dtype=torch.float64, requires_grad=True)
    whole = prior.log_density(z)
    monkeypatch.setattr(contracts, "BLOCK", 2 * 7 * 3)
    blocks = prior.log_density(z)
    assert torch.equal(blocks, whole)
    gradients = [torch.autograd.grad(each.sin().sum(), [z, *prior.parameters()]) for each in (blocks, whole)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
