"""Trained weights phi: the gradient of every term against the sum over all labels, written out (method, section 4)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mpcc.core.contracts import Networks, Prior
from mpcc.core.method.losses import Batch, draw, encoder_and_prior_loss, generator_loss
from mpcc.core.method.model import Model, trainable
from mpcc.core.method.terms import TermWeights
from mpcc.core.registry import load_registry
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, NOISES = 3, 2, 7
REGISTRY = load_registry()
WEIGHTS = TermWeights(data=0.7, latent=0.3, membership=1.1, entropy=0.4, label=0.9)
# Multiples of 1/8, so that a batch can hold every label as often as phi says.
PHI = torch.tensor([4, 3, 1], dtype=torch.float64) / 8


class Enumerated(GaussianMixture):
    """Instead of a draw: every noise with every label, each label as often as phi has eighths."""

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(K).repeat_interleave((PHI * 8).long()).repeat(NOISES)
        noise = torch.randn(NOISES, 1, J, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        noise = noise.expand(NOISES, 8, J).reshape(-1, J)
        return self.loc[y] + self.scales()[y] * noise, y


class Generator(nn.Module):
    """Images that depend on z and y, without batch statistics: each sample stands for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.by_latent = nn.Linear(J, 4)
        self.by_label = nn.Embedding(K, 4)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.by_latent(z) + self.by_label(y)).view(-1, 1, 2, 2)


class Scores(nn.Module):
    """A discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x.flatten(1).square()).squeeze(1)
        return scores


class Heads(nn.Module):
    """An encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Linear(4, J)
        self.raw_scale = nn.Linear(4, J)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc(x.flatten(1)), self.raw_scale(x.flatten(1))


@pytest.fixture
def model() -> Model:
    """A model in float64 whose prior enumerates the labels."""
    torch.manual_seed(0)
    prior = Enumerated(K, J, GaussianMixtureOptions(weights="trainable"))
    made = Model.assemble(prior, Networks(Generator(), Scores(), Heads()), torch.device("cpu"))
    for part in made.parts().values():
        part.double()
    with torch.no_grad():
        prior.logits.copy_(PHI.log() + 0.3)
        prior.raw_scale.add_(torch.randn(K, J, dtype=torch.float64))
    return made


def written(model: Model, term: str) -> Tensor:
    """The expectation of a term as a mean over the noises of a sum over the labels, with phi in plain sight."""
    prior, networks = model.prior, model.networks
    phi, scale = torch.softmax(prior.logits, 0), 0.5 + torch.exp(prior.raw_scale / 2)
    noise = torch.randn(NOISES, 1, J, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[:, 0]

    def log_normal(value: Tensor, loc: Tensor, s: Tensor) -> Tensor:
        return (-(((value - loc) / s) ** 2) / 2 - s.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    total = torch.zeros((), dtype=torch.float64)
    for k in range(K):
        z, y = prior.loc[k] + scale[k] * noise, torch.full((NOISES,), k)
        x = networks.generator(z, y)
        if term == "data":
            each = -networks.discriminator(x)
        elif term == "latent":
            loc, log_variance = networks.encoder(x.detach())
            each = -log_normal(z, loc, torch.exp(log_variance / 2))
        else:
            joint = phi.log() + torch.stack([log_normal(z, prior.loc[j], scale[j]) for j in range(K)], dim=1)
            each = joint.logsumexp(1) - joint[:, k]
        total = total + phi[k] * each.mean()
    return total


def parameters(prior: Prior) -> list[Tensor]:
    return [prior.loc, prior.raw_scale, prior.logits]


def test_the_generator_loss_has_the_value_and_gradient_of_the_sum_over_labels(model: Model) -> None:
    with trainable(model.prior, model.networks.generator):
        loss = generator_loss(model, Batch(1), WEIGHTS).total
        expected = 0.7 * written(model, "data")
        inputs = [*parameters(model.prior), *model.networks.generator.parameters()]
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        actual, wanted = (torch.autograd.grad(value, inputs) for value in (loss, expected))
    torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)
    assert actual[2].abs().min() > 1e-6


def test_the_encoder_loss_has_the_value_and_gradient_of_the_sum_over_labels(model: Model) -> None:
    prior = model.prior
    with trainable(prior, model.networks.encoder):
        loss = encoder_and_prior_loss(model, Batch(1, generated=draw(model, 1, train_prior=True)), WEIGHTS).total
        phi, scale = torch.softmax(prior.logits, 0), 0.5 + torch.exp(prior.raw_scale / 2)
        entropies = (0.5 * (1 + torch.log(2 * math.pi * scale**2))).sum(1)
        expected = 0.3 * written(model, "latent") + 1.1 * written(model, "membership")
        expected = expected - 0.4 * (phi * entropies).sum() + 0.9 * (phi * phi.log()).sum()
        inputs = [*parameters(prior), *model.networks.encoder.parameters()]
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        actual, wanted = (torch.autograd.grad(value, inputs) for value in (loss, expected))
    torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)


def test_without_the_ratio_the_gradient_of_phi_would_be_another(model: Model) -> None:
    with trainable(model.prior):
        expected = torch.autograd.grad(written(model, "latent"), model.prior.logits)[0]
    assert expected.abs().min() > 1e-3


def test_over_many_draws_the_gradient_of_phi_is_that_of_the_expectation() -> None:
    torch.manual_seed(0)
    prior = GaussianMixture(K, 1, GaussianMixtureOptions(weights="trainable")).double()
    with torch.no_grad():
        prior.logits.copy_(PHI.log())
    values = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    exact = torch.autograd.grad((prior.weights() * values).sum(), prior.logits)[0]
    y = prior.sample_labels(200_000)
    ratio = prior.label_ratio(y)
    assert ratio is not None
    torch.testing.assert_close(ratio, torch.ones_like(ratio))
    # d log phi_y / d logits, written out, times the value: its mean is the gradient, its spread the error.
    each = (torch.nn.functional.one_hot(y, K) - prior.weights().detach()) * values[y][:, None]
    (actual,) = torch.autograd.grad((ratio * values[y]).mean(), prior.logits)
    torch.testing.assert_close(actual, each.mean(0), rtol=1e-9, atol=1e-12)
    assert bool(((actual - exact).abs() < 5 * each.std(0) / len(y) ** 0.5).all())


@pytest.mark.parametrize("name", [name for name in REGISTRY.names("prior") if REGISTRY.entry("prior", name).options])
def test_every_prior_with_options_can_train_its_weights_or_hold_them(name: str) -> None:
    entry = REGISTRY.entry("prior", name)
    options = entry.options_class()
    assert options is not None
    fixed, trained = (entry.load()(K, J, options(weights=how)) for how in ("uniform", "trainable"))
    y = torch.arange(K)
    assert fixed.label_ratio(y) is None
    assert trained.label_ratio(y).requires_grad
    for prior in (fixed, trained):
        torch.testing.assert_close(prior.weights(), torch.full((K,), 1 / K))
        torch.testing.assert_close(prior.log_weights(), prior.weights().log())
    # The names of what is saved don't change with the number of clusters or from release to release.
    assert set(trained.state_dict()) - set(fixed.state_dict()) == {"logits"}
    trained.requires_grad_(False)
    assert trained.label_ratio(y) is None


def test_weights_that_underflow_leave_the_responsibilities_finite() -> None:
    prior = GaussianMixture(2, 1, GaussianMixtureOptions(weights="trainable"))
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, -200.0]))
    assert prior.weights()[1] == 0
    found = prior.log_responsibilities(torch.zeros(1, 1))
    assert bool(torch.isfinite(found).all())
    found.sum().backward()
    assert bool(torch.isfinite(prior.logits.grad).all())
