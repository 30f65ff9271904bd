"""The fast engine on a GPU: a recorded iteration, no waiting for the device, the plain engine's results."""

from __future__ import annotations

import attrs
import pytest
import torch

from mpcc.core.engines.fast import WARM_UP, FastEngine
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

K, J, BATCH = 3, 8, 6
SCHEDULE = Schedule(batch=BATCH, d_steps=3, e_steps=4, lr=1e-3, prior_lr=5e-3, ema_decay=0.9, ema_start=2)
REGISTRY = load_registry()


def trainer(
    engine: Engine, prior: str = "gmm", dtype: torch.dtype = torch.float64, schedule: Schedule = SCHEDULE
) -> Trainer:
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    entry = REGISTRY.entry("prior", prior)
    cls = entry.options_class()
    assert cls is not None
    made = entry.load()(K, J, cls(**entry.defaults)).to(dtype)
    networks = BigGAN8(BigGANOptions(width=2)).build(K, J, channels=1)
    for network in (networks.generator, networks.discriminator, networks.encoder):
        network.to(dtype)
    images = torch.randint(256, (31, 1, 8, 8), dtype=torch.uint8)
    weights = TermWeights.published(channels=1, image_size=8, latent_dim=J)
    model = Model.assemble(made, networks, device, EntropyPolicy.of(made))
    stream = ImageStream(images, BATCH, seed=1, device=device)
    return Trainer(model, stream, schedule, weights, engine)


DECAY = attrs.evolve(SCHEDULE, iterations=WARM_UP + 7, lr_decay=1.0)


@pytest.mark.parametrize(
    ("prior", "schedule"), [*((name, SCHEDULE) for name in REGISTRY.names("prior")), ("gmm", DECAY)]
)
def test_replayed_iterations_are_those_of_the_plain_engine(prior: str, schedule: Schedule) -> None:
    plain, fast = trainer(PlainEngine(), prior, schedule=schedule), trainer(FastEngine(), prior, schedule=schedule)
    found: dict[str, list[dict[str, float]]] = {"plain": [], "fast": []}
    for made in (plain, fast):
        torch.manual_seed(7)
        for _ in range(WARM_UP + 7):
            terms = made.iterate()
            found[made.engine.name].append({name: float(value) for name, value in terms.items()})
    assert fast.engine.notes == []
    for expected, terms in zip(found["plain"], found["fast"], strict=True):
        # A recorded term is kept in single precision.
        assert terms == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_prior_that_cannot_be_recorded_is_trained_eagerly_with_a_reason() -> None:
    plain, fast = trainer(PlainEngine(), "lowrank_gmm"), trainer(FastEngine(), "lowrank_gmm")
    # Copying to the host is what a graph cannot hold, whatever the prior's libraries do.
    weights = fast.model.prior.weights
    fast.model.prior.weights = lambda: weights() * float(weights().sum())  # type: ignore[method-assign]
    found: list[list[dict[str, float]]] = []
    for made in (plain, fast):
        torch.manual_seed(7)
        found.append([{name: float(value) for name, value in made.iterate().items()} for _ in range(WARM_UP + 3)])
    for expected, terms in zip(*found, strict=True):
        assert terms == pytest.approx(expected, rel=1e-5, abs=1e-6)
    (note,) = fast.engine.notes
    assert note.startswith("no CUDA graph: ")
    assert "previous error" not in note


@pytest.mark.parametrize(
    ("precision", "schedule"), [("float32", SCHEDULE), ("tf32", SCHEDULE), ("bf16", SCHEDULE), ("float32", DECAY)]
)
def test_the_host_never_waits_for_the_device_in_the_steady_state(precision: str, schedule: Schedule) -> None:
    made = trainer(FastEngine(precision), dtype=torch.float32, schedule=schedule)  # type: ignore[arg-type]
    with made.engine.active():
        for _ in range(WARM_UP + 2):
            made.iterate()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(20):
                made.iterate()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert made.engine.notes == []


def test_images_that_fit_live_on_the_device_and_come_in_the_same_order() -> None:
    images = torch.randint(256, (31, 1, 8, 8), dtype=torch.uint8)
    there = ImageStream(images, BATCH, seed=1, device=torch.device("cuda"))
    here = ImageStream(images, BATCH, seed=1)
    for _ in range(12):
        found = there.take(2)
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), here.take(2))


@pytest.mark.parametrize("schedule", [SCHEDULE, DECAY], ids=["constant", "decay"])
def test_a_restored_state_is_recorded_anew(schedule: Schedule) -> None:
    made = trainer(FastEngine(), schedule=schedule)
    for _ in range(WARM_UP + 2):
        made.iterate()
    state, random = made.state(), torch.cuda.get_rng_state()
    state = {**state, "parts": {name: {k: v.clone() for k, v in part.items()} for name, part in state["parts"].items()}}
    state["optimizers"] = torch.utils._pytree.tree_map(
        lambda value: value.clone() if isinstance(value, torch.Tensor) else value, state["optimizers"]
    )
    expected = {name: float(value) for name, value in made.iterate().items()}
    made.restore(state)
    torch.cuda.set_rng_state(random)
    assert {name: float(value) for name, value in made.iterate().items()} == pytest.approx(expected, rel=1e-5)
