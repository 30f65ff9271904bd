"""Recordings of an iteration with reductions, told by stand-ins for CUDA's graphs, and what ends before ranks part."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mpcc.core.engines import cuda_graph
from mpcc.core.engines.cuda_graph import CannotRecord, GraphedIteration
from mpcc.core.engines.fast import FastEngine
from mpcc.core.system import ranks

CPU = torch.device("cpu")


class Graph:
    """A graph that says when it is replayed."""

    log: list[str]

    def replay(self) -> None:
        self.log.append("replay")

    def reset(self) -> None:
        self.log.append("reset")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what happens to graphs and reductions, in order, in a process that believes to be one of two."""
    seen: list[str] = []

    class Open(contextlib.AbstractContextManager[None]):
        def __init__(self, graph: Graph, **options: Any) -> None:
            graph.log = seen

        def __enter__(self) -> None:
            seen.append("begin")

        def __exit__(self, *error: object) -> None:
            seen.append("end")

    def reduced(values: Tensor) -> None:
        seen.append("reduce")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Open)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(cuda_graph, "index_of", lambda device: 0)
    monkeypatch.setattr(cuda_graph, "side_stream", lambda index, purpose: None)
    monkeypatch.setattr(torch.distributed, "all_reduce", reduced)
    monkeypatch.setattr(ranks, "_current", ranks.Ranks(2, 0))
    monkeypatch.setattr(ranks.Ranks, "gathered", lambda self, value: [value, ""])
    return seen


def iteration(real: Tensor) -> dict[str, Tensor]:
    """Reduce once forwards, once backwards, and once gradients, as batch norms and the trainer do."""
    x = real.float().requires_grad_()
    total = ranks.current().summed(x.sum(), "moments")
    total.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    ranks.current().average([x.grad], "encoder")
    return {"loss": total.detach()}


IMAGES = torch.ones(2, 3, dtype=torch.uint8)


def test_a_reduction_ends_a_graph_and_a_replay_carries_it_out_in_its_place(log: list[str]) -> None:
    recorded = GraphedIteration(iteration, IMAGES, CPU, None)
    assert log == ["begin", "end"] * 4
    assert not ranks.current().calls, "a recording computes nothing, so it has nothing to reduce"
    log.clear()
    assert recorded.replay(IMAGES).keys() == {"loss"}
    assert log == ["replay", "reduce"] * 3 + ["replay"]
    assert ranks.current().calls == {"moments": 2, "encoder": 1}
    assert ranks.current().bytes == {"moments": 8, "encoder": 24}


def test_captured_reductions_are_part_of_one_graph_and_counted_in_replays(log: list[str]) -> None:
    recorded = GraphedIteration(iteration, IMAGES, CPU, None, "captured")
    assert log == ["begin", "reduce", "reduce", "reduce", "end"]
    assert not ranks.current().calls
    log.clear()
    recorded.replay(IMAGES)
    assert log == ["replay"]
    assert ranks.current().bytes == {"moments": 8, "encoder": 24}


class Breaks:
    """Raises an error when it is called for the n-th time, and otherwise calls another function."""

    def __init__(self, call: Callable[..., Any], at: int) -> None:
        self.call, self.left = call, at

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("a copy to the host")
        return self.call(*arguments, **options)


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("what", ["graph", "end", "iteration"])
def test_a_recording_that_fails_leaves_reductions_and_threads_as_they_were(
    log: list[str], what: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Any = torch.cuda.graph
    if what == "graph":
        monkeypatch.setattr(torch.cuda, "graph", Breaks(opened, at))
    elif what == "end":
        end = Breaks(opened.__exit__, at)
        monkeypatch.setattr(opened, "__exit__", lambda self, *error: end(self, *error))
    else:
        summed = Breaks(ranks.Ranks.summed, 1)
        monkeypatch.setattr(ranks.Ranks, "summed", lambda *arguments: summed(*arguments))
    with pytest.raises(RuntimeError, match="a copy to the host") as caught:
        GraphedIteration(iteration, IMAGES, CPU, None)
    assert cuda_graph.first_cause(caught.value).startswith("a copy to the host at ")
    assert torch.autograd.is_multithreading_enabled()
    ranks.current().reduce(torch.ones(1), "after")
    assert log[-1] == "reduce"


def test_a_graph_is_given_up_if_another_process_cannot_record_it(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks.Ranks, "gathered", lambda self, value: [value, "no room"])
    monkeypatch.setattr("mpcc.core.engines.fast.record", lambda *words: GraphedIteration(*words[:3], None))
    engine = FastEngine()
    engine.capturable, engine._warm_up = True, 0
    engine.run(iteration, IMAGES)
    assert engine.notes == ["no CUDA graph: no room"]
    assert log == ["begin", "end"] * 4 + ["reset"] * 4 + ["reduce"] * 3


def test_captured_reductions_that_cannot_be_recorded_are_left_between_graphs(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def record(iteration: Callable[[Tensor], Any], real: Tensor, device: torch.device, reductions: str) -> Any:
        asked.append(reductions)
        if reductions == "captured":
            raise CannotRecord("operation not permitted")
        return GraphedIteration(iteration, real, device, None, reductions)

    monkeypatch.setattr("mpcc.core.engines.fast.record", record)
    engine = FastEngine(reductions="captured")
    engine.capturable, engine._warm_up = True, 0
    engine.run(iteration, IMAGES)
    engine.run(iteration, IMAGES)
    assert asked == ["captured", "between"]
    assert engine.notes == ["reductions are between CUDA graphs, not part of one: operation not permitted"]
    assert log.count("reduce") == 6


@pytest.fixture
def alone_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what torchrun sets for one process."""
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_PORT": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


class Holder:
    """Holds something that needs the other ranks."""

    def __init__(self, seen: list[bool]) -> None:
        self.seen = seen

    def end(self) -> None:
        self.seen.append(torch.distributed.is_initialized())


@pytest.mark.usefixtures("alone_under_torchrun")
def test_what_needs_the_others_ends_before_the_ranks_part() -> None:
    seen: list[bool] = []
    held, gone = Holder(seen), Holder(seen)
    with contextlib.suppress(KeyError), ranks.joined(cuda=False):
        for each in (held, gone):
            ranks.before_leaving(each.end)
        del each, gone
        raise KeyError
    assert seen == [True]
    assert not torch.distributed.is_initialized()
    with ranks.joined(cuda=False):
        pass
    assert len(seen) == 1
