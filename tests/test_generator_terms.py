"""Latent and membership term in the generator's update: formulas, gradients, and their place in an iteration."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import Tensor

from mpcc.core.engines.fast import FastEngine
from mpcc.core.images.stream import ImageStream
from mpcc.core.method import losses
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.losses import Batch, Loss
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, N = 4, 3, 6
PUBLISHED = TermWeights.published(1, 8, J)
WEIGHTS = attrs.evolve(PUBLISHED, generator_latent=0.5, generator_membership=2.0)


def trainer(weights: TermWeights = WEIGHTS, engine: Engine | None = None) -> Trainer:
    torch.manual_seed(0)
    prior = GaussianMixture(K, J, GaussianMixtureOptions(scale_floor=0.2)).double()
    networks = BigGAN8(BigGANOptions(width=1)).build(K, J, channels=1)
    for network in (networks.generator, networks.discriminator, networks.encoder):
        network.double()
    images = torch.randint(256, (31, 1, 8, 8), dtype=torch.uint8)
    model = Model.assemble(prior, networks, torch.device("cpu"))
    schedule = Schedule(N, d_steps=1, e_steps=2, lr=1e-3, prior_lr=5e-3, ema_decay=0.9, ema_start=2)
    return Trainer(model, ImageStream(images, N, seed=1), schedule, weights, engine)


def loss_of(model: Model, weights: TermWeights) -> Loss:
    torch.manual_seed(7)
    return losses.generator_loss(model, Batch(N), weights)


def test_the_terms_are_those_of_torchs_normal_and_of_a_softmax_over_densities() -> None:
    model = trainer().model
    torch.manual_seed(7)
    z, y = model.prior.sample(N)
    with torch.no_grad():
        loc, raw_scale = model.networks.encoder(model.generate(z, y))
        q = model.prior.encoder_distribution(loc, raw_scale)
        component = model.prior.component(torch.arange(K))
        log_joint = torch.distributions.Normal(component.mean, component.stddev).log_prob(loc.unsqueeze(1)).sum(2)
        log_r = (log_joint + model.prior.weights().log()).log_softmax(1)
    found = loss_of(model, WEIGHTS)
    assert float(found.terms["generator_latent"]) == pytest.approx(-float(q.log_prob(z).mean()), rel=1e-9)
    expected = torch.nn.functional.nll_loss(log_r, y)
    assert float(found.terms["generator_membership"]) == pytest.approx(float(expected), rel=1e-9)
    assert found.weights == {"data_generator": 1.0, "generator_latent": 0.5, "generator_membership": 2.0}
    total = sum(weight * float(found.terms[name]) for name, weight in found.weights.items())
    assert float(found.total) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("weights", [attrs.evolve(WEIGHTS, data=0.0), WEIGHTS], ids=["alone", "with the data term"])
def test_the_gradient_of_the_generator_is_a_finite_difference(weights: TermWeights) -> None:
    model = trainer().model
    parameters = list(model.networks.generator.requires_grad_(True).parameters())
    gradients = torch.autograd.grad(loss_of(model, weights).total, parameters)
    torch.manual_seed(3)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

    def moved(step: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=step)
            value = float(loss_of(model, weights).total)
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=step)
        return value

    step = 1e-6
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(slope, rel=1e-4)


def test_the_terms_train_generator_and_prior_and_leave_the_encoder_as_it_is() -> None:
    with_terms, without = trainer(), trainer(PUBLISHED)
    before = {key: value.clone() for key, value in with_terms.model.networks.encoder.state_dict().items()}
    for made in (with_terms, without):
        made.phases = tuple(row for row in made.phases if row.name == "generator and prior")
        torch.manual_seed(5)
        made.iterate()

    def differs(name: str) -> bool:
        one, other = (made.model.parts()[name].state_dict() for made in (with_terms, without))
        return any(not torch.equal(one[key], other[key]) for key in one)

    assert differs("generator")
    assert differs("prior")
    after = with_terms.model.networks.encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_without_weights_the_encoder_has_no_part_in_the_generators_update(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trainer().model

    def never(*_: Tensor) -> None:
        raise AssertionError("the encoder was called")

    monkeypatch.setattr(model.networks.encoder, "forward", never)
    assert {*loss_of(model, PUBLISHED).terms} == {"data_generator"}


def test_engines_agree_in_double_precision() -> None:
    plain, fast = (trainer(engine=engine) for engine in (PlainEngine(), FastEngine()))
    for iteration in range(6):
        found = []
        for made in (plain, fast):
            torch.manual_seed(iteration)
            found.append(made.iterate())
        assert found[0].keys() >= {"generator_latent", "generator_membership"}
        for name, value in found[0].items():
            assert float(found[1][name]) == pytest.approx(float(value), rel=1e-8, abs=1e-12), name
