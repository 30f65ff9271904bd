"""Balance and consistency on real images: closed forms, gradients, and their place in an iteration."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import attrs
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.autograd import gradcheck

from mpcc.core.config import Layer, resolve
from mpcc.core.engines.fast import FastEngine
from mpcc.core.images.invariances import Invariances
from mpcc.core.images.stream import ImageStream
from mpcc.core.method import terms
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.model import Model
from mpcc.core.method.phases import MPCC, Phase, real_batches, takes_real
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.core.run.assembly import term_weights
from mpcc.core.run.network_summary import network_summary
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, N = 4, 3, 7
Direction = Literal["images", "prior"]
DIRECTIONS: tuple[Direction, ...] = ("images", "prior")
PHI = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
WEIGHTS = attrs.evolve(TermWeights.published(1, 8, J), balance=0.1, consistency=0.3)
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def log_responsibilities(count: int = N, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, K, dtype=torch.float64, generator=generator).mul(2).log_softmax(1)


# The terms


@every_direction
def test_balance_is_the_divergence_of_scipy(direction: Direction) -> None:
    log_r = log_responsibilities()
    pair = (log_r.exp().mean(0).numpy(), PHI.numpy())
    expected = stats.entropy(*(pair if direction == "images" else pair[::-1]))
    assert float(terms.balance(log_r, PHI.log(), direction)) == pytest.approx(expected, rel=1e-12)
    tolerated = terms.balance(log_r, PHI.log(), direction, tolerance=float(expected) / 2)
    assert float(tolerated) == pytest.approx(expected / 2, rel=1e-12)
    assert float(terms.balance(log_r, PHI.log(), direction, tolerance=1.0)) == 0


def test_consistency_is_the_mean_divergence_of_scipy() -> None:
    first, second = log_responsibilities(), log_responsibilities(seed=1)
    expected = np.mean([stats.entropy(*pair) for pair in zip(first.exp().numpy(), second.exp().numpy(), strict=True)])
    assert float(terms.consistency(first, second)) == pytest.approx(expected, rel=1e-12)
    assert float(terms.consistency(first, first)) == 0


@every_direction
def test_the_gradients_of_balance_are_finite_differences_also_in_a_trained_phi(direction: Direction) -> None:
    def balance(values: Tensor, logits: Tensor) -> Tensor:
        return terms.balance(values.log_softmax(1), logits.log_softmax(0), direction)

    values, logits = log_responsibilities().requires_grad_(), PHI.log().requires_grad_()
    assert gradcheck(balance, (values, logits))


def test_a_trained_phi_moves_towards_the_mean_of_the_responsibilities() -> None:
    log_r = log_responsibilities(50)
    for direction in DIRECTIONS:
        logits = torch.zeros(K, dtype=torch.float64, requires_grad=True)
        for _ in range(2000):
            (gradient,) = torch.autograd.grad(terms.balance(log_r, logits.log_softmax(0), direction), logits)
            logits = (logits - gradient).detach().requires_grad_()
        torch.testing.assert_close(logits.detach().softmax(0), log_r.exp().mean(0), atol=1e-4, rtol=1e-3)


def test_consistency_trains_the_second_argument_alone() -> None:
    first, second = log_responsibilities().requires_grad_(), log_responsibilities(seed=1).requires_grad_()
    terms.consistency(first, second).backward()  # type: ignore[no-untyped-call]
    assert first.grad is None
    assert gradcheck(lambda moved: terms.consistency(first, moved.log_softmax(1)), second)


def test_only_the_divergence_from_the_prior_pulls_an_empty_cluster() -> None:
    scores = torch.zeros(N, K, dtype=torch.float64)
    scores[:, 0] = 40.0
    pulls = {}
    for direction in DIRECTIONS:
        values = scores.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(terms.balance(values.log_softmax(1), PHI.log(), direction), values)
        pulls[direction] = gradient[:, 3].sum()
    assert float(-pulls["prior"]) == pytest.approx(float(PHI[3]), rel=1e-6)
    assert abs(float(pulls["images"])) < 1e-12


def test_the_mean_of_a_batch_is_biased_as_the_documentation_says() -> None:
    count, phi = 100, torch.full((K,), 1 / K, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        hard = torch.multinomial(phi, count, replacement=True, generator=generator)
        log_r = torch.nn.functional.one_hot(hard, K).double().clamp_min(1e-300).log()
        found.append(float(terms.balance(log_r, phi.log())))
    standard_error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - (K - 1) / (2 * count)) < 4 * standard_error + 2e-4


# In the iteration


def trainer(
    weights: TermWeights = WEIGHTS,
    engine: Engine | None = None,
    dtype: torch.dtype = torch.float32,
    changes: str = "shift",
    **schedule: Any,
) -> Trainer:
    torch.manual_seed(0)
    prior = GaussianMixture(K, J, GaussianMixtureOptions(scale_floor=0.2)).to(dtype)
    networks = BigGAN8(BigGANOptions(width=1)).build(K, J, channels=1)
    for network in (networks.generator, networks.discriminator, networks.encoder):
        network.to(dtype)
    images = torch.randint(256, (31, 1, 8, 8), dtype=torch.uint8)
    numbers = {"batch": 6, "d_steps": 2, "e_steps": 3, "lr": 1e-3, "prior_lr": 5e-3, "ema_decay": 0.9, "ema_start": 2}
    model = Model.assemble(prior, networks, torch.device("cpu"))
    stream = ImageStream(images, 6, seed=1, invariances=Invariances.parse(changes))
    return Trainer(model, stream, Schedule(**{"real_terms_rise": 4, **numbers, **schedule}), weights, engine)


def test_without_weights_an_iteration_takes_no_real_images_for_the_encoder() -> None:
    rows = [row for row in MPCC if isinstance(row, Phase)]
    assert [row.name for row in rows if takes_real(row, TermWeights())] == ["discriminator"]
    made = trainer(TermWeights())
    assert not {"balance", "consistency"} & {*made.iterate()}


@pytest.mark.parametrize("name", ["balance", "consistency"])
def test_with_one_weight_both_terms_are_logged_and_the_weight_is_told(name: str) -> None:
    made = trainer(attrs.evolve(TermWeights(), **{name: 0.5}))
    values = made.iterate()
    assert {"balance", "consistency"} <= {*values}
    assert made.term_weights[name] == 0.5
    assert all(float(values[term]) >= 0 for term in ("balance", "consistency"))


def test_the_encoder_phases_take_the_batches_of_the_discriminator_in_turn() -> None:
    schedule = Schedule(6, d_steps=2, e_steps=5, lr=1, prior_lr=1, ema_decay=0, ema_start=0)
    assert real_batches(MPCC, schedule) == 2


def test_the_terms_train_encoder_and_in_the_first_update_the_prior() -> None:
    """The difference that the terms make to parameters after one iteration."""
    for phase, trained in (("encoder and prior", {"encoder", "prior"}), ("encoder", {"encoder"})):
        row = next(row for row in MPCC if row.name == phase)
        assert isinstance(row, Phase)
        after = []
        for weights in (attrs.evolve(WEIGHTS, consistency=50.0), attrs.evolve(WEIGHTS, consistency=0.0)):
            made = trainer(weights, real_terms_rise=0)
            made.phases = (attrs.evolve(row, updates=lambda schedule: 1, advances=None),)
            made.iterate()
            after.append({name: part.state_dict() for name, part in made.model.trained_parts().items()})
        differing = {
            name
            for name in after[0]
            for key in after[0][name]
            if not torch.equal(after[0][name][key], after[1][name][key])
        }
        # The trunk is shared with the discriminator.
        assert differing - {"discriminator"} == trained


def test_the_terms_rise_to_their_weights() -> None:
    factors = [trainer().schedule.real_terms_factor(done) for done in range(6)]
    assert factors == [0, 0.25, 0.5, 0.75, 1, 1]
    assert trainer(real_terms_rise=0).schedule.real_terms_factor(0) == 1
    # With the factor 0, an iteration is the one without the terms.
    with_terms, without = trainer(), trainer(TermWeights.published(1, 8, J))
    for made in (with_terms, without):
        torch.manual_seed(5)
        made.iterate()
    for one, other in zip(with_terms.model.parts().values(), without.model.parts().values(), strict=True):
        for key, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[key], atol=1e-6, rtol=1e-5)


def test_engines_agree_in_double_precision() -> None:
    plain, fast = (trainer(engine=engine, dtype=torch.float64) for engine in (PlainEngine(), FastEngine()))
    for iteration in range(8):
        found = []
        for made in (plain, fast):
            torch.manual_seed(iteration)
            found.append(made.iterate())
        for name, value in found[0].items():
            assert float(found[1][name]) == pytest.approx(float(value), rel=1e-8, abs=1e-12), name


def test_a_resumed_training_goes_on_bit_for_bit_while_the_terms_rise() -> None:
    made = trainer()
    torch.manual_seed(1)
    made.iterate()
    made.iterate()
    resumed = trainer()
    resumed.restore(copy.deepcopy(made.state()))
    found = []
    for each in (made, resumed):
        torch.manual_seed(2)
        found.append([each.iterate() for _ in range(3)][-1])
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# From the configuration


def test_weights_are_in_units_of_the_latent_term_and_the_cost_is_counted() -> None:
    registry = load_registry()

    def config(**run: Any) -> Any:
        return resolve(registry, [Layer("flag", {"data": {"name": "digits"}, "run": run})])

    with_terms = config(balance_weight=2.0, consistency_weight=3.0, invariant_to="shift", latent_weight=0.25)
    weights = term_weights(with_terms.run, (1, 1, 8, 8))
    assert (weights.balance, weights.consistency) == (0.5, 0.75)
    without = config(balance_weight=0.0, consistency_weight=0.0)
    costs = [network_summary(each, 1).operations_per_iteration for each in (with_terms, without)]
    assert costs[0] > costs[1]
