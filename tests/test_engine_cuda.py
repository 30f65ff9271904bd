"""The fast engine on a GPU: a recorded iteration, no waiting for the device, the plain engine's results."""

from __future__ import annotations

import copy
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import torch
from torch import Tensor

from mpcc.core.config import RunSettings
from mpcc.core.contracts import Evaluation, ImageSet, Metric
from mpcc.core.engines.fast import WARM_UP, FastEngine
from mpcc.core.evaluation.findings import find
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.core.system import ranks
from mpcc.core.system.device_waits import waiting
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
    made = entry.load()(K, J, None if cls is None else cls(**entry.defaults)).to(dtype)
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


@pytest.fixture
def first_of_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Let this process believe to be one of two; reductions go to NCCL, which has nothing to add."""
    monkeypatch.setattr(ranks, "_before_leaving", [])
    address = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", init_method=address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("first_of_two")
@pytest.mark.parametrize("over_ranks", [False, True], ids=["own moments", "moments of all"])
@pytest.mark.parametrize("reductions", ["between", "captured"])
def test_replays_with_reductions_are_those_of_the_plain_engine(
    reductions: Literal["between", "captured"], over_ranks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[dict[str, float]]] = []
    counted: list[Counter[str]] = []
    for engine in (PlainEngine(), FastEngine(reductions=reductions)):
        monkeypatch.setattr(ranks, "_current", ranks.Ranks(2, 0))
        made = trainer(engine)
        made.norms_over_ranks = over_ranks
        torch.manual_seed(7)
        with engine.active():
            terms = [made.iterate() for _ in range(WARM_UP + 7)]
        found.append([{name: float(value) for name, value in each.items()} for each in terms])
        counted.append(ranks.current().bytes)
        assert engine.notes == []
        engine.reset()
    for expected, values in zip(*found, strict=True):
        assert values == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert counted[0] == counted[1]


def test_a_prior_that_cannot_be_recorded_is_trained_eagerly() -> None:
    plain, fast = trainer(PlainEngine()), trainer(FastEngine())
    wait_in_forward(fast)
    found: list[list[dict[str, float]]] = []
    for made in (plain, fast):
        torch.manual_seed(7)
        found.append([{name: float(value) for name, value in made.iterate().items()} for _ in range(WARM_UP + 3)])
    for expected, terms in zip(*found, strict=True):
        assert terms == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert len(fast.engine.notes) == 1


def wait_in_forward(made: Trainer) -> None:
    weights = made.model.prior.weights
    # The sum is 1; a copy to the host is what a graph cannot hold.
    made.model.prior.weights = lambda: weights() * round(float(weights().sum()))  # type: ignore[method-assign]


class WaitsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradients[0].sum().item()
        return gradients[0]


def wait_in_backward(made: Trainer) -> None:
    encoder = made.model.networks.encoder
    forward = encoder.forward
    encoder.forward = lambda images: tuple(map(WaitsInBackward.apply, forward(images)))  # type: ignore[no-untyped-call]


def wait_without_a_notice(made: Trainer) -> None:
    weights = made.model.prior.weights

    def weights_after_a_wait() -> Tensor:
        torch.cuda.synchronize()
        return weights()

    made.model.prior.weights = weights_after_a_wait  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("spoil", "line", "reason"),
    [
        (wait_in_forward, "float(weights().sum())", "the host waits for the device"),
        (wait_in_backward, "sum().item()", "the host waits for the device"),
        (wait_without_a_notice, "torch.cuda.synchronize()", "operation not permitted"),
    ],
)
def test_what_cannot_be_recorded_is_named_by_file_and_line_and_leaves_nothing_behind(
    spoil: Callable[[Trainer], None], line: str, reason: str
) -> None:
    made = trainer(FastEngine(), dtype=torch.float32)
    spoil(made)
    for _ in range(WARM_UP + 2):
        made.iterate()
    (note,) = made.engine.notes
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    number = next(number for number, text in enumerate(source, 1) if line in text)
    assert note.startswith("no CUDA graph: ")
    assert reason in note
    assert f"{Path(__file__).name}:{number}" in note
    assert torch.cuda.get_sync_debug_mode() == 0
    # An allocator that is still recording would not free memory that two streams have used.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    for _ in range(8):
        block = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
        block.record_stream(side)
        del block
        torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() - before <= 3 * 64 << 20


@pytest.mark.parametrize("restart", [False, True])
def test_the_memory_of_a_trainer_is_free_when_it_is_gone_and_no_restart_takes_more(restart: bool) -> None:
    kept: list[int] = []
    made = trainer(FastEngine(), dtype=torch.float32)
    for _ in range(5):
        if restart:
            made.restore(copy.deepcopy(made.state()))
        else:
            made = trainer(FastEngine(), dtype=torch.float32)
        for _ in range(WARM_UP + 2):
            made.iterate()
        assert made.engine.notes == []
        gc.collect()
        kept.append(torch.cuda.memory_allocated())
    # The first one leaves the workspaces of libraries, which the others take over.
    assert max(kept[1:]) <= kept[1]


@pytest.mark.parametrize(
    ("precision", "schedule"), [("float32", SCHEDULE), ("tf32", SCHEDULE), ("bf16", SCHEDULE), ("float32", DECAY)]
)
def test_the_host_never_waits_for_the_device_in_the_steady_state(precision: str, schedule: Schedule) -> None:
    made = trainer(FastEngine(precision), dtype=torch.float32, schedule=schedule)  # type: ignore[arg-type]
    with made.engine.active():
        for _ in range(WARM_UP + 2):
            made.iterate()
        with waiting("error"):
            for _ in range(20):
                made.iterate()
    assert made.engine.notes == []
    assert torch.cuda.get_sync_debug_mode() == 0


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


def test_metrics_and_pictures_are_computed_in_full_precision_and_without_trying_kernels() -> None:
    made = trainer(FastEngine("tf32"), dtype=torch.float32)
    seen: list[tuple[bool, bool, bool]] = []

    def look(*_: object) -> None:
        cudnn = torch.backends.cudnn
        seen.append((torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark))

    class Looks(Metric):
        needs_images = True

        def compute(self, evaluation: Evaluation) -> float:
            look()
            assert evaluation.images is not None
            for _ in evaluation.images.generated(3):
                look()
            return float(evaluation.images.reconstruction_errors().isnan().any())

    for network in (made.model.averaged, made.model.networks.encoder):
        network.register_forward_hook(look)
    data = ImageSet(torch.randint(256, (31, 1, 8, 8), dtype=torch.uint8))
    with made.engine.active():
        before = torch.backends.cudnn.benchmark
        evaluated = find(made.model, data, torch.arange(31), {"looks": Looks()}, RunSettings(batch=BATCH))
        assert torch.backends.cudnn.benchmark == before
    assert evaluated.pictures.samples.shape[0] == K
    assert set(seen) == {(False, False, False)}
