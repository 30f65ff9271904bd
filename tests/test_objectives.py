"""Objectives: other systems than the paper's are other rows; the loop, the count, the bench and the progress follow."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from mpcc.core.bench.timing import section_seconds
from mpcc.core.commands import entry
from mpcc.core.contracts import Objective
from mpcc.core.engines.fast import FastEngine
from mpcc.core.errors import PluginError
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.losses import Batch, Loss, needed
from mpcc.core.method.model import Model
from mpcc.core.method.phases import MPCC, Draws, EndOfIteration, Phase, check_phases, phases_of, real_batches
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.reporting.summary import operation_counter, summarise
from mpcc.core.testing import check_objective
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, BATCH = 3, 8, 6
CPU = torch.device("cpu")
SCHEDULE = Schedule(BATCH, d_steps=2, e_steps=3, lr=1e-3, prior_lr=1e-3, ema_decay=0.9, ema_start=0)


def reconstruction_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """The squared error of reconstructed real images: nothing is generated from the prior, nothing is adversarial."""
    real = needed(batch.real).to(model.prior.weights().dtype)
    loc, _ = model.networks.encoder(real)
    y = model.prior.log_responsibilities(loc).argmax(1)
    return Loss.of(reconstruction=(0.5, (model.generate(loc, y) - real).square().mean()))


def penalised_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """The hinge loss with the squared gradient of the scores at real images; that gradient is differentiated again."""
    generated = needed(batch.generated)
    real = needed(batch.real).to(generated.images.dtype).requires_grad_()
    scores = model.networks.discriminator(real)
    (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    hinge = torch.relu(1 - scores).mean() + torch.relu(1 + model.networks.discriminator(generated.images)).mean()
    return Loss.of(hinge=(1.0, hinge), penalty=(5.0, slope.square().sum((1, 2, 3)).mean()))


AUTOENCODER = (
    Phase(
        "autoencoder",
        trains=("encoder", "generator"),
        updates=lambda schedule: schedule.e_steps,
        loss=reconstruction_loss,
        real=0,
        advances="encoder",
    ),
)
PENALISED = (
    Phase(
        "discriminator",
        trains=("discriminator",),
        updates=lambda schedule: schedule.d_steps,
        loss=penalised_loss,
        draws=Draws.FIXED,
        real=0,
        advances="discriminator",
    ),
    *MPCC[1:],
)
SYSTEMS: dict[str, Sequence[Phase | EndOfIteration]] = {"autoencoder": AUTOENCODER, "penalised": PENALISED}
every_system = pytest.mark.parametrize("system", SYSTEMS)
every_engine = pytest.mark.parametrize("engine", [PlainEngine, FastEngine])


def trainer(system: str, engine: Engine, weights: TermWeights | None = None) -> Trainer:
    torch.manual_seed(0)
    prior = GaussianMixture(K, J, GaussianMixtureOptions()).double()
    networks = BigGAN8(BigGANOptions(width=2)).build(K, J, channels=1)
    for network in networks.by_name().values():
        network.double()
    images = torch.randint(256, (31, 1, 8, 8), dtype=torch.uint8)
    model = Model.assemble(prior, networks, CPU)
    stream = ImageStream(images, BATCH, seed=1)
    return Trainer(model, stream, SCHEDULE, weights or TermWeights(), engine, SYSTEMS[system])


@every_system
@every_engine
def test_another_system_trains_what_it_names_and_both_engines_agree(system: str, engine: type[Engine]) -> None:
    made, oracle = trainer(system, engine()), trainer(system, PlainEngine())
    before = {name: [p.clone() for p in part.parameters()] for name, part in made.model.trained_parts().items()}
    for each in (made, oracle):
        torch.manual_seed(1)
        for _ in range(3):
            terms = each.iterate()
    changed = {
        name
        for name, part in made.model.trained_parts().items()
        if any(not torch.equal(*pair) for pair in zip(before[name], part.parameters(), strict=True))
    }
    trained = {part for row in SYSTEMS[system] if isinstance(row, Phase) for part in row.trains}
    trunk = {"discriminator", "encoder"}  # they share parameters
    assert changed == trained | (trunk if trunk & trained else set())
    assert set(made.term_weights) == set(terms)
    assert made.guard.breakdown() is None
    for ours, theirs in zip(made.model.parts().values(), oracle.model.parts().values(), strict=True):
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[key], atol=1e-8, rtol=1e-7)


def test_an_iteration_takes_as_many_batches_of_real_images_as_its_phases_need() -> None:
    made = trainer("autoencoder", PlainEngine())
    made.iterate()
    assert made.stream.state()["position"] == 3 * BATCH
    assert real_batches(AUTOENCODER, SCHEDULE) == 3
    assert real_batches(PENALISED, SCHEDULE) == 2


def test_weights_of_terms_that_a_system_lacks_are_not_taken_for_terms_on_real_images() -> None:
    for name in ("balance", "consistency"):
        weighted = TermWeights(**{name: 1.0})
        assert not trainer("autoencoder", PlainEngine(), weighted).real_terms
        assert trainer("penalised", PlainEngine(), weighted).real_terms
    assert not trainer("penalised", PlainEngine()).real_terms


def test_the_penalty_is_differentiated_to_the_parameters_as_finite_differences_say() -> None:
    made = trainer("penalised", PlainEngine())
    model, weight = made.model, made.model.networks.discriminator.trunk[0].conv1.weight
    real = torch.rand(BATCH, 1, 8, 8, dtype=torch.float64) * 2 - 1

    def penalty() -> Tensor:
        inputs = real.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model.networks.discriminator(inputs).sum(), inputs, create_graph=True)
        return slope.square().sum()

    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-6 * direction
    up = penalty().item()
    with torch.no_grad():
        weight -= 2e-6 * direction
    down = penalty().item()
    assert (gradient * direction).sum().item() == pytest.approx((up - down) / 2e-6, rel=1e-5)


@every_system
def test_the_count_of_operations_is_what_torch_counts_in_a_real_iteration(system: str) -> None:
    prior = GaussianMixture(K, J, GaussianMixtureOptions())
    found = summarise(BigGAN8(BigGANOptions(width=2)), prior, channels=1, schedule=SCHEDULE, phases=SYSTEMS[system])
    with operation_counter() as counter:
        trainer(system, PlainEngine()).iterate()
    assert found.operations_per_iteration == counter.get_total_flops()
    assert found.counted == "from shapes alone"
    assert [phase.name for phase in found.phases] == [row.name for row in SYSTEMS[system] if isinstance(row, Phase)]


@every_system
def test_the_bench_has_a_share_for_each_row(system: str) -> None:
    seconds = section_seconds(trainer(system, FastEngine()))
    assert list(seconds) == ["real images", "generated images", *(row.name for row in SYSTEMS[system]), "rest"]
    assert all(seconds[row.name] > 0 for row in SYSTEMS[system])


PLUGIN = """
from mpcc.core.contracts import Objective
from mpcc.core.hookspecs import hookimpl


class Reconstruction(Objective):
    def __init__(self, options=None):
        self.options = options

    def phases(self):
        from mpcc.core.method.losses import Loss
        from mpcc.core.method.phases import MPCC, Phase

        def loss(model, batch, weights):
            loc, _ = model.networks.encoder(batch.real)
            y = model.prior.log_responsibilities(loc).argmax(1)
            return Loss.of(reconstruction=(2.0, (model.generate(loc, y) - batch.real).square().mean()))

        return (Phase("autoencoder", ("encoder", "generator"), lambda schedule: 2, loss, real=0), MPCC[-1])


@hookimpl
def register_objectives(register):
    register("reconstruction", "my_objective:Reconstruction", summary="Squared error of reconstructions.")
"""


def test_a_plugins_objective_runs_is_logged_evaluated_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_objective.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    chosen = ["--plugin", "my_objective.py", "--objective", "reconstruction"]
    for arguments in (
        [*chosen, "--iterations", "2", "--log-every", "1", "--standing-passes", "1", "--threads", "1", "--out", "run"],
        ["--resume", "run", "--iterations", "3"],
    ):
        with pytest.raises(SystemExit) as caught:
            entry.run_main(arguments)
        assert caught.value.code == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["iterations"] == 3
    assert "objective reconstruction" in results["plugins"]
    events = event_scalars(tmp_path / "run")
    assert events["weighted/reconstruction"] == pytest.approx([2 * value for value in events["terms/reconstruction"]])
    assert "learning_rate/discriminator" not in events


def event_scalars(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [each.value for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


VALID = AUTOENCODER[0]


def without_gradient(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    return Loss.of(nothing=(1.0, torch.zeros(())))


def bare(model: Model, batch: Batch, weights: TermWeights) -> Tensor:
    return reconstruction_loss(model, batch, weights).total


def unweighted(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    loss = reconstruction_loss(model, batch, weights)
    return Loss(loss.total, loss.terms, {})


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (without_gradient, "phase 'autoencoder': expected a scalar loss with a gradient, .* without a gradient"),
        (bare, "phase 'autoencoder': expected a Loss, got Tensor; make it with Loss.of"),
        (unweighted, "phase 'autoencoder': expected a weight for each term, got the weights .. for the terms"),
    ],
)
def test_a_loss_that_cannot_be_minimised_names_its_phase(loss: Any, expected: str) -> None:
    made = trainer("autoencoder", PlainEngine())
    made.phases = (attrs.evolve(VALID, loss=loss),)
    with pytest.raises(PluginError, match=expected):
        made.iterate()


@pytest.mark.parametrize("change", [{"real": -3}, {"real": 0.5}, {"draws": "fixed"}, {"name": 5}, {"loss": None}])
def test_a_phase_refuses_values_of_the_wrong_kind(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        attrs.evolve(VALID, **change)


class Partial(Objective):
    """Its loss is another object each time."""

    def __init__(self, options: Any = None) -> None:
        pass

    def phases(self) -> tuple[Phase, ...]:
        return (attrs.evolve(VALID, loss=functools.partial(reconstruction_loss)),)


def test_the_kit_accepts_a_loss_that_is_made_anew() -> None:
    assert check_objective(Partial).passed


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(PluginError, match=r"phases\(\): expected a tuple of rows, got None"):
        phases_of(type("Empty", (Objective,), {"phases": lambda self: None})())


def test_a_second_phase_can_have_real_batches_of_its_own() -> None:
    later = attrs.evolve(VALID, name="later", real=3)
    assert real_batches((VALID, later), SCHEDULE) == 3 + SCHEDULE.e_steps


@every_engine
def test_a_phase_that_advances_the_generator_draws_from_each_of_its_states(engine: type[Engine]) -> None:
    rows = [attrs.evolve(row, advances="generator") for row in MPCC if isinstance(row, Phase) and row.name == "encoder"]
    made, oracle = trainer("penalised", engine()), trainer("penalised", PlainEngine())
    for each in (made, oracle):
        each.phases = tuple(rows)
        torch.manual_seed(1)
        latent = [each.iterate()["latent"] for _ in range(2)]
        each.latent = latent  # type: ignore[attr-defined]
    torch.testing.assert_close(made.latent, oracle.latent, rtol=1e-10, atol=0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["discriminator"], "expected rows that are a Phase or EndOfIteration, got 'discriminator'"),
        (
            [attrs.evolve(VALID, trains=("decoder",))],
            r"trains \('decoder',\); expected some of discriminator, generator",
        ),
        ([attrs.evolve(VALID, trains=())], r"trains \(\); expected some of"),
        (
            [attrs.evolve(VALID, advances="prior")],
            r"advances \('prior',\); expected some of discriminator, generator, encoder",
        ),
        ([VALID, VALID], "expected a name of its own for each row, got autoencoder, autoencoder"),
        ([attrs.evolve(VALID, real=None)], "expected a phase that takes real images"),
    ],
)
def test_rows_that_cannot_be_carried_out_are_refused(rows: list[object], expected: str) -> None:
    with pytest.raises(PluginError, match=expected):
        check_phases(rows, "Mine")
