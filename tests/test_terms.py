"""Each term against a closed form, scipy and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch.autograd import gradcheck

from mpcc.core.method import terms
from mpcc.core.method.terms import TermWeights
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions


def prior(clusters: int, latent_dim: int, seed: int = 0) -> GaussianMixture:
    """A Gaussian mixture in float64 with uneven weights and scales."""
    torch.manual_seed(seed)
    made = GaussianMixture(clusters, latent_dim, GaussianMixtureOptions(scale_floor=0.2)).double()
    with torch.no_grad():
        made.loc.mul_(2)
        made.raw_scale.copy_(torch.randn(clusters, latent_dim))
        made.phi.copy_(torch.arange(1, clusters + 1) / (clusters * (clusters + 1) / 2))
    return made


def normal(loc: Tensor, raw_scale: Tensor) -> torch.distributions.Distribution:
    """The encoder family of the Gaussian mixture."""
    return prior(1, loc.shape[1]).encoder_distribution(loc, raw_scale)


def quantiles(mean: float, scale: float, count: int = 200_001) -> Tensor:
    """Gaussian scores, one in the middle of each of ``count`` equally probable intervals: a sample without noise."""
    return torch.from_numpy(stats.norm.ppf((np.arange(count) + 0.5) / count, mean, scale))


def expected_hinge(mean: float, scale: float) -> float:
    """E relu(1 - X) for X ~ N(mean, scale^2)."""
    edge = (1 - mean) / scale
    return (1 - mean) * stats.norm.cdf(edge) + scale * stats.norm.pdf(edge)


# Data


@pytest.mark.parametrize(("real", "fake"), [((0.0, 1.0), (0.0, 1.0)), ((1.5, 0.5), (-2.0, 0.7)), ((-1.0, 2), (3, 0.1))])
def test_the_hinge_loss_of_gaussian_scores_is_its_closed_form(
    real: tuple[float, float], fake: tuple[float, float]
) -> None:
    loss = terms.data_discriminator(quantiles(*real), quantiles(*fake))
    assert float(loss) == pytest.approx(expected_hinge(*real) + expected_hinge(-fake[0], fake[1]), abs=2e-5)


def test_the_closed_form_of_the_hinge_is_its_integral() -> None:
    integral = stats.norm.expect(lambda score: max(1 - score, 0), loc=0.3, scale=1.4, points=[1.0], lb=-20, ub=20)
    assert expected_hinge(0.3, 1.4) == pytest.approx(integral, abs=1e-7)


def test_scores_beyond_the_margins_cost_the_discriminator_nothing_and_have_no_gradient() -> None:
    real = torch.tensor([1.0, 2.5], requires_grad=True)
    fake = torch.tensor([-1.0, -7.0], requires_grad=True)
    loss = terms.data_discriminator(real, fake)
    loss.backward()
    assert loss.item() == 0
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == fake.grad.tolist() == [0, 0]


def test_real_and_fake_scores_are_averaged_apart() -> None:
    loss = terms.data_discriminator(torch.tensor([0.0]), torch.tensor([1.0, 1.0, 4.0]))
    assert loss.item() == pytest.approx(1 + (2 + 2 + 5) / 3)


def test_the_generator_loss_of_gaussian_scores_is_minus_their_mean() -> None:
    assert float(terms.data_generator(quantiles(0.7, 2.0))) == pytest.approx(-0.7, abs=1e-9)


# Latent


def test_the_latent_term_is_the_mean_over_samples_of_the_sum_over_dimensions() -> None:
    random = np.random.default_rng(0)
    loc, raw, z = random.normal(size=(3, 7, 4))
    expected = -stats.norm.logpdf(z, loc, np.exp(raw / 2)).sum(axis=1).mean()
    actual = terms.latent(normal(torch.from_numpy(loc), torch.from_numpy(raw)), torch.from_numpy(z))
    assert float(actual) == pytest.approx(expected, abs=1e-12)


def test_the_latent_term_of_gaussian_latents_is_the_closed_cross_entropy() -> None:
    # One dimension of each, so that the quantiles of z are a sample without noise.
    mean, scale, loc, raw = 0.4, 0.8, -0.6, 0.5
    z = quantiles(mean, scale).unsqueeze(1)
    encoder = normal(torch.full_like(z, loc), torch.full_like(z, raw))
    variance = math.exp(raw)
    expected = 0.5 * math.log(2 * math.pi * variance) + (scale**2 + (mean - loc) ** 2) / (2 * variance)
    assert float(terms.latent(encoder, z)) == pytest.approx(expected, abs=2e-4)


# Membership


def test_the_membership_term_is_the_cross_entropy_of_bayes_rule() -> None:
    made, z, y = prior(4, 3), torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 4
    loc, scale = made.loc.detach().numpy(), made.scales().detach().numpy()
    joint = np.log(made.weights().numpy()) + stats.norm.logpdf(z.numpy()[:, None], loc, scale).sum(-1)
    expected = -np.log(special.softmax(joint, axis=1))[np.arange(9), y.numpy()].mean()
    actual = terms.membership(made.log_responsibilities(z), y)
    assert float(actual.detach()) == pytest.approx(expected, abs=1e-12)


def test_the_expected_membership_term_is_its_integral_over_z() -> None:
    made = prior(3, 1)
    grid = torch.linspace(-25, 25, 20_001, dtype=torch.float64).unsqueeze(1)
    loc, scale = made.loc.detach().numpy()[:, 0], made.scales().detach().numpy()[:, 0]
    joint = made.weights().numpy() * stats.norm.pdf(grid.numpy(), loc, scale)
    conditional_entropy = -np.sum(special.xlogy(joint, joint / joint.sum(1, keepdims=True))) * (50 / 20_000)
    torch.manual_seed(1)
    with torch.no_grad():
        batches = [made.sample(1000) for _ in range(200)]
        means = [float(terms.membership(made.log_responsibilities(z), y)) for z, y in batches]
    error = np.std(means, ddof=1) / 200**0.5
    assert error < 0.005
    assert abs(np.mean(means) - conditional_entropy) < 5 * error


@pytest.mark.parametrize("clusters", [1, 5])
def test_the_membership_term_of_identical_components_is_the_log_of_their_number(clusters: int) -> None:
    made = prior(clusters, 2)
    with torch.no_grad():
        made.loc.fill_(0.5)
        made.raw_scale.zero_()
        made.phi.fill_(1 / clusters)
        z, y = made.sample(6)
        assert float(terms.membership(made.log_responsibilities(z), y)) == pytest.approx(math.log(clusters))


# Entropy


def test_the_entropy_term_is_minus_the_weighted_entropy_of_scipy() -> None:
    made = prior(4, 3)
    entropies = stats.norm.entropy(scale=made.scales().detach().numpy()).sum(axis=1)
    expected = -np.sum(made.weights().numpy() * entropies)
    actual = terms.entropy(made.weights(), made.entropies())
    assert float(actual.detach()) == pytest.approx(expected, abs=1e-12)


def test_the_entropy_term_is_the_mean_log_density_of_samples_in_their_component() -> None:
    made = prior(3, 4)
    torch.manual_seed(2)
    with torch.no_grad():
        z, y = made.sample(200_000)
        values = made.log_density(z).gather(1, y.unsqueeze(1))
        error = float(values.std()) / len(values) ** 0.5
        assert error < 0.005
        assert abs(float(values.mean() - terms.entropy(made.weights(), made.entropies()))) < 5 * error


# Label


@pytest.mark.parametrize("phi", [[1.0], [0.5, 0.5], [0.2, 0.3, 0.5], [0.0, 0.25, 0.75], [0.0, 1.0]])
def test_the_label_term_is_minus_the_entropy_of_scipy_with_empty_clusters_too(phi: list[float]) -> None:
    weights = torch.tensor(phi, dtype=torch.float64, requires_grad=True)
    term = terms.label(weights)
    term.backward()
    assert term.item() == pytest.approx(-stats.entropy(phi), abs=1e-14)
    assert weights.grad is not None
    positive = weights.detach() > 0
    torch.testing.assert_close(weights.grad[positive], 1 + weights.detach()[positive].log())


# Weights


@pytest.mark.parametrize(("channels", "size", "latent_dim"), [(1, 32, 24), (3, 32, 128), (1, 8, 12)])
def test_the_published_weights_are_those_of_the_method(channels: int, size: int, latent_dim: int) -> None:
    weights = TermWeights.published(channels, size, latent_dim)
    assert (weights.data, weights.membership, weights.label) == (1, 1, 1)
    assert weights.latent == pytest.approx(1 / (channels * size * size), rel=1e-15)
    assert weights.entropy == pytest.approx(0.01 / latent_dim, rel=1e-15)


def test_unnamed_weights_are_one_so_that_the_sum_is_the_divergence() -> None:
    assert TermWeights() == TermWeights(data=1, latent=1, membership=1, entropy=1, label=1)


# Laws over all terms


def arguments(name: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Inputs of each term, away from the kinks of the hinge."""
    torch.manual_seed(3)
    scores, other = torch.tensor([0.3, 2.0, -1.7], dtype=dtype), torch.tensor([-3.0, 0.4], dtype=dtype)
    made = {
        "data_discriminator": (scores, other),
        "data_generator": (other,),
        "latent": tuple(torch.randn(3, 5, 2, dtype=dtype)),
        "membership": (torch.randn(6, 3, dtype=dtype),),
        "entropy": (torch.tensor([0.2, 0.8], dtype=dtype), torch.tensor([-0.4, 1.3], dtype=dtype)),
        "label": (torch.tensor([0.2, 0.3, 0.5], dtype=dtype),),
        "balance": (torch.randn(6, 3, dtype=dtype), torch.randn(3, dtype=dtype)),
        # The first argument of consistency receives no gradient.
        "consistency": (torch.randn(6, 3, dtype=dtype),),
        "density": (torch.randn(6, 3, dtype=dtype), torch.randn(3, dtype=dtype)),
    }[name]
    return tuple(value.detach().requires_grad_() for value in made)


def term(name: str, *values: Tensor) -> Tensor:
    """The term as a function of what carries gradients alone."""
    if name == "latent":
        loc, raw_scale, z = values
        return terms.latent(normal(loc, raw_scale), z)
    if name == "membership":
        return terms.membership(values[0].log_softmax(1), torch.tensor([0, 1, 2, 2, 1, 0]))
    if name == "balance":
        return terms.balance(values[0].log_softmax(1), values[1].log_softmax(0))
    if name == "consistency":
        return terms.consistency(torch.zeros_like(values[0]).log_softmax(1), values[0].log_softmax(1))
    result: Tensor = getattr(terms, name)(*values)
    return result


every_term = pytest.mark.parametrize("name", [name for name in terms.__all__ if name != "TermWeights"])


@every_term
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    assert gradcheck(lambda *values: term(name, *values), arguments(name, torch.float64))


@every_term
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_term_is_a_scalar_in_the_dtype_of_its_arguments(name: str, dtype: torch.dtype) -> None:
    value = term(name, *arguments(name, dtype))
    assert value.shape == ()
    assert value.dtype == dtype
