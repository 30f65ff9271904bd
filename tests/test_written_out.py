"""AIM, VaDE and the VAE, step for step, against versions that are written out here from the equations, in float64.

Each twin has its own networks as plain matrices, its own densities and its own Adam. It shares only the random numbers
and the order of the real images with the product.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import attrs
import pytest
import torch
from torch import Tensor, nn

from mpcc.core.contracts import Networks, Objective
from mpcc.core.engines.fast import FastEngine
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.model import Model
from mpcc.core.method.phases import MPCC, phases_of
from mpcc.core.method.prior_fit import fit_images, fit_prior
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.plugins.objectives.aim import AIM, AdversarialInference
from mpcc.plugins.objectives.options import VariationalOptions
from mpcc.plugins.objectives.vade import VariationalDeepEmbedding
from mpcc.plugins.objectives.vae import VariationalAutoencoder
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions
from mpcc.plugins.priors.standard_normal import StandardNormal

J, SIZE, BATCH, ITERATIONS = 3, 4, 5, 6
PIXELS = SIZE * SIZE
CPU = torch.device("cpu")
SCHEDULE = Schedule(BATCH, d_steps=2, e_steps=3, lr=2e-3, prior_lr=5e-3, ema_decay=0.9, ema_start=2)
every_engine = pytest.mark.parametrize("engine", [PlainEngine, FastEngine])
Parameters = dict[str, Tensor]


class Decoder(nn.Module):
    """One layer and a tanh; labels beside z, one column for each."""

    def __init__(self, clusters: int) -> None:
        super().__init__()
        self.clusters, self.linear = clusters, nn.Linear(J + clusters, PIXELS)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        label = nn.functional.one_hot(y, self.clusters).to(z.dtype)
        return torch.tanh(self.linear(torch.cat([z, label], 1))).view(-1, 1, SIZE, SIZE)


class Encoder(nn.Module):
    """Two heads on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.raw_scale = nn.Linear(PIXELS, J), nn.Linear(PIXELS, J)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc(x.flatten(1)), self.raw_scale(x.flatten(1))


class Critic(nn.Module):
    """One layer to a score."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(PIXELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))[:, 0]


class Layers:
    """An architecture of the three small networks."""

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        networks = Networks(Decoder(clusters), Critic(), Encoder())
        for network in networks.by_name().values():
            network.double()
        return networks


def stream() -> ImageStream:
    torch.manual_seed(3)
    return ImageStream(torch.randint(256, (31, 1, SIZE, SIZE), dtype=torch.uint8), BATCH, seed=1)


def trainer(
    objective: Objective, clusters: int, engine: Engine, weights: TermWeights | None = None, prior_fit: float = 0.0
) -> Trainer:
    """A trainer of the small networks by an objective; a prior of one cluster is the standard Normal."""
    images = stream()
    torch.manual_seed(0)
    prior = StandardNormal(1, J) if clusters == 1 else GaussianMixture(clusters, J, GaussianMixtureOptions())
    networks = objective.networks(Layers(), clusters, J, 1)  # type: ignore[arg-type]
    likelihood = objective.likelihood()
    model = Model.assemble(
        prior.double(), networks, CPU, likelihood=None if likelihood is None else likelihood.double()
    )
    schedule = attrs.evolve(SCHEDULE, prior_fit=prior_fit, iterations=ITERATIONS)
    return Trainer(model, images, schedule, weights or TermWeights(), engine, phases_of(objective))


def parameters(model: Model) -> Parameters:
    """Copies of all parameters of a model, by part and name."""
    return {
        f"{part}.{name.replace('generator.', '')}": value.detach().clone()
        for part, module in model.trained_parts().items()
        for name, value in module.named_parameters()
    }


class Adam:
    """beta1 = 0, beta2 = 0.999, eps = 1e-8, written out; a count and a second moment for each parameter."""

    def __init__(self) -> None:
        self.moments: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def step(self, values: Parameters, loss: Tensor, used: dict[str, Tensor], rates: dict[str, float]) -> None:
        for name, gradient in zip(used, torch.autograd.grad(loss, list(used.values())), strict=True):
            count = self.counts[name] = self.counts.get(name, 0) + 1
            moment = 0.999 * self.moments.get(name, torch.zeros_like(gradient)) + 0.001 * gradient**2
            self.moments[name] = moment
            corrected = moment / (1 - 0.999**count)
            values[name] = values[name] - rates[name.partition(".")[0]] * gradient / (corrected.sqrt() + 1e-8)


RATES = {"encoder": 2e-3, "generator": 2e-3, "discriminator": 2e-3, "likelihood": 2e-3, "prior": 5e-3}


def leaves(values: Parameters, *parts: str) -> Parameters:
    """The parameters of some parts, ready to be differentiated."""
    return {name: value.requires_grad_() for name, value in values.items() if name.partition(".")[0] in parts}


def normal(shape: tuple[int, ...]) -> Tensor:
    return torch.normal(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))


def decoded(p: Parameters, z: Tensor) -> Tensor:
    """The images of one label, as rows of pixels."""
    label = torch.ones(len(z), 1, dtype=torch.float64)
    return torch.tanh(torch.cat([z, label], 1) @ p["generator.linear.weight"].T + p["generator.linear.bias"])


def heads(p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    loc, raw = (x @ p[f"encoder.{head}.weight"].T + p[f"encoder.{head}.bias"] for head in ("loc", "raw_scale"))
    return loc, raw


def score(p: Parameters, x: Tensor) -> Tensor:
    return (x @ p["discriminator.linear.weight"].T + p["discriminator.linear.bias"])[:, 0]


def batches(images: ImageStream, count: int) -> list[Tensor]:
    """Real images as rows of pixels in [-1, 1]; the product takes them in single precision."""
    return [(pixels.float() / 127.5 - 1).double().flatten(1) for pixels in images.take(count)]


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return (-((z - loc) ** 2) / (2 * scale**2) - scale.log() - math.log(2 * math.pi) / 2).sum(-1)


def aim(p: Parameters, images: ImageStream, adam: Adam, latent: float, generator_latent: float) -> None:
    """One iteration of AIM: D by the hinge, G by -D(G(z)) and perhaps -log q(z|G(z)), E by -log q(z|G(z))."""

    def draw() -> Tensor:
        torch.multinomial(torch.ones(1, dtype=torch.float64), BATCH, replacement=True)  # y, which is always 0
        return normal((BATCH, J))

    for x in batches(images, SCHEDULE.d_steps):
        fake = decoded(p, draw()).detach()
        used = leaves(p, "discriminator")
        loss = torch.relu(1 - score(p, x)).mean() + torch.relu(1 + score(p, fake)).mean()
        adam.step(p, loss, used, RATES)
    z, used = draw(), leaves(p, "generator")
    fake = decoded(p, z)
    loc, raw = heads(p, fake)
    loss = -score(p, fake).mean() - generator_latent * log_normal(z, loc, (raw / 2).exp()).mean()
    adam.step(p, loss, used, RATES)
    for _ in range(SCHEDULE.e_steps):
        z = draw()
        fake, used = decoded(p, z).detach(), leaves(p, "encoder")
        loc, raw = heads(p, fake)
        adam.step(p, -latent * log_normal(z, loc, (raw / 2).exp()).mean(), used, RATES)


def pixel_likelihood(kind: str, p: Parameters, x: Tensor, mean: Tensor) -> Tensor:
    """log p(x|z), summed over the pixels."""
    if kind == "bernoulli":
        white, chance = (x + 1) / 2, 1e-4 + 0.9998 * (mean + 1) / 2
        return (white * chance.log() + (1 - white) * (1 - chance).log()).sum(1)
    scale = p["likelihood.log_scale"].exp()
    if kind == "gaussian":
        return log_normal(x, mean, scale.expand_as(x))
    above = torch.where(x > 0.999, torch.ones_like(x), torch.sigmoid((x + 1 / 255 - mean) / scale))
    below = torch.where(x < -0.999, torch.zeros_like(x), torch.sigmoid((x - 1 / 255 - mean) / scale))
    return (above - below).log().sum(1)


def kl_of_normals(loc: Tensor, scale: Tensor, to_loc: Tensor, to_scale: Tensor) -> Tensor:
    return ((to_scale / scale).log() + (scale**2 + (loc - to_loc) ** 2) / (2 * to_scale**2) - 0.5).sum(-1)


def vae(p: Parameters, images: ImageStream, adam: Adam, kind: str) -> None:
    for x in batches(images, SCHEDULE.e_steps):
        used = leaves(p, "encoder", "generator", "likelihood")
        loc, raw = heads(p, x)
        scale = (raw / 2).exp()
        z = loc + scale * normal((BATCH, J))
        divergence = kl_of_normals(loc, scale, torch.zeros_like(loc), torch.ones_like(loc))
        bound = pixel_likelihood(kind, p, x, decoded(p, z)) - divergence
        adam.step(p, -bound.mean() / PIXELS, used, RATES)


def vade(p: Parameters, images: ImageStream, adam: Adam, kind: str, pretraining: bool = False) -> None:
    for x in batches(images, SCHEDULE.e_steps):
        used = leaves(p, "encoder", "generator", "likelihood")
        loc, raw = heads(p, x)
        scale = (raw / 2).exp()
        z = loc + scale * normal((BATCH, J))
        if pretraining:
            adam.step(p, -pixel_likelihood(kind, p, x, decoded(p, z)).mean() / PIXELS, used, RATES)
            continue
        used |= leaves(p, "prior")
        mu, s = p["prior.loc"], 0.5 + (p["prior.raw_scale"] / 2).exp()
        clusters = len(mu)
        density = torch.stack([log_normal(z, mu[k], s[k]) for k in range(clusters)], 1)
        log_gamma = density - density.logsumexp(1, keepdim=True)  # phi is uniform
        divergences = torch.stack([kl_of_normals(loc, scale, mu[k], s[k]) for k in range(clusters)], 1)
        bound = (
            pixel_likelihood(kind, p, x, decoded(p, z))
            - (log_gamma.exp() * divergences).sum(1)
            - (log_gamma.exp() * (log_gamma + math.log(clusters))).sum(1)
        )
        adam.step(p, -bound.mean() / PIXELS, used, RATES)


def compare(made: Trainer, twin: Callable[[Parameters, ImageStream, Adam, int], None], iterations: int) -> None:
    """Train the product and a twin from the same start, and compare all parameters after each iteration."""
    own, adam, images = parameters(made.model), Adam(), stream()
    made.guard.begin()
    for iteration in range(iterations):
        torch.manual_seed(iteration)
        made.iterate()
        torch.manual_seed(iteration)
        own = {name: value.detach() for name, value in own.items()}
        twin(own, images, adam, iteration)
        found = parameters(made.model)
        for name, value in own.items():
            torch.testing.assert_close(found[name], value.detach(), atol=1e-10, rtol=1e-8, msg=f"{name}, {iteration}")
    assert made.guard.breakdown() is None


@every_engine
@pytest.mark.parametrize("generator_latent", [0.0, 0.3])
def test_aim_is_the_version_written_out(engine: type[Engine], generator_latent: float) -> None:
    weights = TermWeights(latent=0.25, generator_latent=generator_latent, generator_membership=7.0)
    made = trainer(AdversarialInference(), 1, engine(), weights)
    before = parameters(made.model)
    compare(made, lambda p, images, adam, _: aim(p, images, adam, 0.25, generator_latent), ITERATIONS)
    moved = {name for name, value in parameters(made.model).items() if not torch.equal(value, before[name])}
    assert moved >= {name for name in before if name.endswith("weight")}
    logged = {"data_discriminator", "data_generator", "latent"}
    assert set(made.term_weights) == (logged | {"generator_latent"} if generator_latent else logged)


@every_engine
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "logistic"])
def test_the_vae_is_the_version_written_out(engine: type[Engine], likelihood: str) -> None:
    made = trainer(VariationalAutoencoder(VariationalOptions(likelihood=likelihood)), 1, engine())  # type: ignore[arg-type]
    compare(made, lambda p, images, adam, _: vae(p, images, adam, likelihood), ITERATIONS)
    assert set(made.term_weights) == {"reconstruction", "latent_divergence"}


@every_engine
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "logistic"])
def test_vade_is_the_version_written_out(engine: type[Engine], likelihood: str) -> None:
    objective = VariationalDeepEmbedding(VariationalOptions(likelihood=likelihood))  # type: ignore[arg-type]
    made = trainer(objective, 3, engine())
    before = parameters(made.model)
    compare(made, lambda p, images, adam, _: vade(p, images, adam, likelihood), ITERATIONS)
    moved = {name for name, value in parameters(made.model).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith("discriminator")}
    assert set(made.term_weights) == {"reconstruction", "latent_divergence", "label_divergence"}
    assert made.term_weights["label_divergence"] == pytest.approx(1 / PIXELS)


@every_engine
def test_vade_with_pretraining_is_an_autoencoder_first(engine: type[Engine]) -> None:
    made = trainer(VariationalDeepEmbedding(VariationalOptions()), 3, engine(), prior_fit=0.5)
    prior = copy.deepcopy(made.model.prior)

    def twin(p: Parameters, images: ImageStream, adam: Adam, done: int) -> None:
        if done == 3:
            # The fit has a test of its own (test_prior_fit.py). Moments of the autoencoder are of no use for the bound.
            pixels = torch.cat(list(images.some(fit_images(10))))
            encoded = heads(p, (pixels.float() / 127.5 - 1).double().flatten(1))
            fit_prior(prior, *encoded, seed=1)
            p |= {f"prior.{name}": value.detach().clone() for name, value in prior.named_parameters()}
            adam.moments, adam.counts = {}, {}
        vade(p, images, adam, "gaussian", pretraining=done < 3)

    compare(made, twin, ITERATIONS)


def test_the_pretraining_leaves_the_prior_alone() -> None:
    made = trainer(VariationalDeepEmbedding(VariationalOptions()), 3, PlainEngine(), prior_fit=0.5)
    before = parameters(made.model)
    for _ in range(3):
        assert set(made.iterate()) == {"reconstruction"}
    for name in ("prior.loc", "prior.raw_scale"):
        assert torch.equal(parameters(made.model)[name], before[name])
    assert not made.prior_fitted
    assert set(made.iterate()) == {"reconstruction", "latent_divergence", "label_divergence"}
    assert made.prior_fitted


@every_engine
@pytest.mark.parametrize("generator_latent", [0.0, 0.5])
def test_mpcc_with_one_cluster_and_a_fixed_prior_is_aim_step_for_step(
    engine: type[Engine], generator_latent: float
) -> None:
    weights = TermWeights(latent=0.1, generator_latent=generator_latent)
    aim_trainer, mpcc_trainer = (trainer(AdversarialInference(), 1, engine(), weights) for _ in range(2))
    mpcc_trainer.phases = MPCC
    assert aim_trainer.phases == AIM
    for iteration in range(ITERATIONS):
        for each in (aim_trainer, mpcc_trainer):
            torch.manual_seed(iteration)
            terms = each.iterate()
        found, expected = parameters(aim_trainer.model), parameters(mpcc_trainer.model)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-12, rtol=1e-10)
    # What MPCC has beyond AIM is constant: nothing to be told of y, and an entropy that nothing changes.
    assert float(terms["membership"]) == float(terms["label"]) == 0
    entropy = -J / 2 * (1 + math.log(2 * math.pi))
    assert float(terms["entropy"]) == pytest.approx(entropy)


def test_the_decoder_of_vade_does_not_see_y() -> None:
    made = trainer(VariationalDeepEmbedding(VariationalOptions()), 3, PlainEngine())
    z = torch.randn(4, J, dtype=torch.float64)
    first, second = (made.model.generate(z, torch.full((4,), label)) for label in (0, 2))
    assert torch.equal(first, second)


def test_the_likelihood_is_a_part_of_the_model_and_bernoulli_has_nothing_to_train() -> None:
    gaussian = trainer(VariationalAutoencoder(VariationalOptions()), 1, PlainEngine())
    bernoulli = trainer(VariationalAutoencoder(VariationalOptions(likelihood="bernoulli")), 1, PlainEngine())
    assert "likelihood" in gaussian.optimizers
    assert "likelihood" not in bernoulli.optimizers
    assert {"likelihood"} <= gaussian.state()["parts"].keys()
    assert all("likelihood" not in getattr(row, "trains", ()) for row in bernoulli.phases)
    assert attrs.evolve(gaussian.model, likelihood=None).trained_parts().keys() == {
        *("generator", "discriminator", "encoder", "prior")
    }
