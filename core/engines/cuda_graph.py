"""An iteration as a CUDA graph: recorded once, then replayed without Python between its kernels.

With the networks of the small presets, a GPU waits most of the time for the next launch: one iteration is about a
thousand kernels of a few microseconds each. If several processes train together, a graph ends before each reduction
and another one begins after it; or the reductions are part of one graph.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import attrs
import torch
from torch import Tensor

from mpcc.core.method.engine import Iteration
from mpcc.core.system import ranks
from mpcc.core.system.device_waits import device_waits, place

__all__ = ["CannotRecord", "GraphedIteration", "default_generator", "probed", "record", "warmed_up"]


class CannotRecord(Exception):
    """A graph cannot hold an operation of the iteration; the message names it in one line."""


@attrs.frozen(eq=False)
class Piece:
    """A recorded graph, and what happens after it in a replay.

    Attributes:
        graph: The kernels.
        inside: What the reductions that are part of the graph are, and how many bytes each has.
        after: A tensor that is reduced after the graph, and what it is; None at the end of the iteration.
    """

    graph: torch.cuda.CUDAGraph
    inside: list[tuple[str, int]]
    after: tuple[Tensor, str] | None = None


class Recording:
    """Records what a ``with`` block launches, as one graph or as several with reductions between them.

    Arguments:
        index: Of the device.
        pool: The identity of the memory that the graphs work on.
        reductions: ``captured`` as part of one graph, ``between`` graphs.

    Attributes:
        pieces: The graphs in their order.
    """

    def __init__(self, index: int, pool: Any, reductions: str) -> None:
        self.pieces: list[Piece] = []
        self._pool, self._stream, self._captured = pool, side_stream(index, "recording"), reductions == "captured"
        self._inside: list[tuple[str, int]] = []
        self._open: torch.cuda.graph | None = None

    def __enter__(self) -> Recording:
        with contextlib.ExitStack() as held:
            if not ranks.current().alone:
                held.enter_context(backward_in_this_thread())
                held.enter_context(torch.cuda.stream(self._stream))
                held.enter_context(ranks.reductions_to(self._reduction))
            self._begin()
            self._held = held.pop_all()
        return self

    def _begin(self) -> None:
        self._graph, self._inside = torch.cuda.CUDAGraph(), []
        # Other threads, such as one that reads images ahead, may call CUDA meanwhile.
        opened = torch.cuda.graph(self._graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        opened.__enter__()
        self._open = opened

    def _end(self, *error: Any) -> None:
        """End the graph that is being recorded, once."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.__exit__(*error)

    def _reduction(self, values: Tensor, what: str) -> None:
        if self._captured:
            torch.distributed.all_reduce(values)
            self._inside.append((what, values.numel() * values.element_size()))
            return
        self._end(None, None, None)
        self.pieces.append(Piece(self._graph, self._inside, (values, what)))
        self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        with self._held:
            self._end(kind, error, frames)
            self.pieces.append(Piece(self._graph, self._inside))


@contextlib.contextmanager
def backward_in_this_thread() -> Iterator[None]:
    """Let backward passes run in the thread that asks for them, if several processes train together.

    Backward passes reduce, too, and a graph must end in the thread in which it began. Libraries choose their kernels
    anew in each thread, so it must be the same thread before a recording.
    """
    if ranks.current().alone:
        yield
        return
    with torch.autograd.set_multithreading_enabled(False):
        yield


class GraphedIteration:
    """A recorded iteration: the same kernels on the same memory, with new random numbers in each replay.

    The iteration must change parameters, moments and buffers in place. Torch's default generator is registered with
    the graphs: replays draw the same random numbers as eager iterations would.

    Arguments:
        iteration: Takes real images and returns terms, scalars on the device. It must have been executed on a side
            stream before (`warmed_up`), which sets up libraries and optimizers. Here it is recorded, not executed.
        real: Images of the shape of every replay, uint8, on any device.
        device: The device that computes.
        pool: The identity of the memory that the graphs work on, from `torch.cuda.graph_pool_handle`.
        reductions: Where the sums over several processes take place: ``between`` graphs, or ``captured`` in one.

    Raises:
        RuntimeError: If an operation cannot be recorded, such as a copy to the host.
    """

    def __init__(
        self, iteration: Iteration, real: Tensor, device: torch.device, pool: Any, reductions: str = "between"
    ) -> None:
        self._real = real.to(device, copy=True)
        self._together = ranks.current()
        with Recording(index_of(device), pool, reductions) as recording:
            terms = iteration(self._real)
            self._names = list(terms)
            self._terms = torch.stack([terms[name].float() for name in self._names])
        self._pieces = recording.pieces

    def replay(self, real: Tensor) -> dict[str, Tensor]:
        """Execute the iteration on other images; the host does not wait for it.

        Arguments:
            real: Images of the recorded shape and type.
        """
        self._real.copy_(real, non_blocking=True)
        for piece in self._pieces:
            piece.graph.replay()
            for what, size in piece.inside:
                self._together.count(what, size)
            if piece.after is not None:
                self._together.carry_out(*piece.after)
        # A copy is needed because the next replay overwrites the recorded terms.
        return dict(zip(self._names, self._terms.clone().unbind(), strict=True))

    def release(self) -> None:
        """Give up the graphs, whoever still holds this object; there is no replay after it."""
        for piece in self._pieces:
            piece.graph.reset()
        self._pieces = []


def record(iteration: Iteration, real: Tensor, device: torch.device, reductions: str = "between") -> GraphedIteration:
    """Record an iteration; if that fails, restore the random generator, the stream and the allocator.

    Arguments:
        iteration: The same as for `GraphedIteration`.
        real: Images of the shape of every replay.
        device: The device that computes.
        reductions: As for `GraphedIteration`.

    Raises:
        CannotRecord: If an operation of the iteration cannot be recorded; the message gives its file and line.
    """
    generator, pool = default_generator(device), torch.cuda.graph_pool_handle()
    state, stream = generator.clone_state(), torch.cuda.current_stream(device)
    try:
        return GraphedIteration(iteration, real, device, pool, reductions)
    except (RuntimeError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        # After a failed capture, the generator would still count for a graph that does not exist.
        generator.graphsafe_set_state(state)
        torch.cuda.set_stream(stream)
        end_allocation(index_of(device), pool)
        if not isinstance(earliest(error), Exception):
            raise earliest(error) from None  # such as Ctrl-C, on which the end of the recording failed
        raise CannotRecord(first_cause(error)) from error


def end_allocation(index: int, pool: Any) -> None:
    """Let the allocator go on as if a recording that failed had never begun.

    Torch 2.11 does not do so itself: it then frees no memory that two streams have used.
    """
    with contextlib.suppress(RuntimeError):  # Newer versions have ended it already.
        torch._C._cuda_endAllocateToPool(index, pool)
        torch._C._cuda_releasePool(index, pool)


def earliest(error: BaseException) -> BaseException:
    """Return the error during whose handling all others came, down to this one."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def first_cause(error: BaseException) -> str:
    """Return the first error of a failed capture, whose end raises another error on top of it, and its place.

    Example:
        >>> try:
        ...     try:
        ...         raise ValueError("a copy to the host")
        ...     finally:
        ...         raise RuntimeError("capture failed")
        ... except RuntimeError as error:
        ...     print(first_cause(error).partition(" at ")[0])
        a copy to the host
    """
    error = earliest(error)
    frames = list(traceback.walk_tb(error.__traceback__))
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"{text} at {place(reversed(frames))}"


def warmed_up(iteration: Iteration, real: Tensor, device: torch.device) -> dict[str, Tensor]:
    """Execute an iteration on a side stream, which is required before it can be recorded."""
    stream, current = side_stream(index_of(device), "warm-up"), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream), backward_in_this_thread():
        terms = iteration(real)
    current.wait_stream(stream)
    return terms


def probed(iteration: Iteration, real: Tensor, device: torch.device) -> tuple[dict[str, Tensor], str]:
    """Execute an iteration like `warmed_up` and find out whether the host waits for the device.

    What waits cannot be recorded, and a recording that fails half-way leaves torch's allocator in the middle of it.

    Returns:
        The terms, and the reason why the iteration cannot be recorded, or an empty text.
    """
    with device_waits() as places:
        terms = warmed_up(iteration, real, device)
    if not places:
        return terms, ""
    first, *others = places
    return terms, f"the host waits for the device at {first}{f' and {len(others)} other lines' if others else ''}"


def default_generator(device: torch.device) -> torch.Generator:
    """Return the generator that draws on a CUDA device; without an index, on the current one."""
    generator: torch.Generator = torch.cuda.default_generators[index_of(device)]
    return generator


def index_of(device: torch.device) -> int:
    """Return the index of a CUDA device; without an index, that of the current one."""
    return torch.cuda.current_device() if device.index is None else device.index


@functools.cache
def side_stream(index: int, purpose: str) -> torch.cuda.Stream:
    """Return the stream of a purpose on a device, the same for the whole process.

    Libraries keep workspaces for every stream that they have worked on, up to about 65 MiB for each, for good.
    """
    return torch.cuda.Stream(index)  # type: ignore[no-untyped-call]
