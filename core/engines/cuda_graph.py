"""An iteration as one CUDA graph: recorded once, then replayed without Python between its kernels.

With the networks of the small presets, a GPU waits most of the time for the next launch: one iteration is about a
thousand kernels of a few microseconds each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpcc.core.method.engine import Iteration

__all__ = ["CannotRecord", "GraphedIteration", "record", "warmed_up"]


class CannotRecord(Exception):
    """A graph cannot hold an operation of the iteration; the message names it in one line."""


class GraphedIteration:
    """A recorded iteration: the same kernels on the same memory, with new random numbers in each replay.

    The iteration must change parameters, moments and buffers in place. Torch's default generator is registered with
    the graph: replays draw the same random numbers as eager iterations would.

    Arguments:
        iteration: Takes real images and returns terms, scalars on the device. It must have been executed on a side
            stream before (`warmed_up`), which sets up libraries and optimizers. Here it is recorded, not executed.
        real: Images of the shape of every replay, uint8, on any device.
        device: The device that computes.

    Raises:
        RuntimeError: If an operation cannot be recorded, such as a copy to the host.
    """

    def __init__(self, iteration: Iteration, real: Tensor, device: torch.device) -> None:
        self._real = real.to(device, copy=True)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as one that reads images ahead, may call CUDA meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            terms = iteration(self._real)
            self._names = list(terms)
            self._terms = torch.stack([terms[name].float() for name in self._names])

    def replay(self, real: Tensor) -> dict[str, Tensor]:
        """Execute the iteration on other images; the host does not wait for it.

        Arguments:
            real: Images of the recorded shape and type.
        """
        self._real.copy_(real, non_blocking=True)
        self._graph.replay()
        # A copy is needed because the next replay overwrites the recorded terms.
        return dict(zip(self._names, self._terms.clone().unbind(), strict=True))


def record(iteration: Iteration, real: Tensor, device: torch.device) -> GraphedIteration:
    """Record an iteration; if that fails, restore the random generator and the stream.

    Arguments:
        iteration: The same as for `GraphedIteration`.
        real: Images of the shape of every replay.
        device: The device that computes.

    Raises:
        CannotRecord: If an operation of the iteration cannot be recorded.
    """
    generator = torch.cuda.default_generators[device.index or 0]
    state, stream = generator.clone_state(), torch.cuda.current_stream(device)
    try:
        return GraphedIteration(iteration, real, device)
    except (RuntimeError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        # After a failed capture, the generator would still count for a graph that does not exist.
        generator.graphsafe_set_state(state)
        torch.cuda.set_stream(stream)
        raise CannotRecord(first_cause(error)) from error


def first_cause(error: BaseException) -> str:
    """Return the first error of a failed capture, whose end raises another error on top of it.

    Example:
        >>> try:
        ...     try:
        ...         raise ValueError("a copy to the host")
        ...     finally:
        ...         raise RuntimeError("capture failed")
        ... except RuntimeError as error:
        ...     print(first_cause(error))
        a copy to the host
    """
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:120] or type(error).__name__


def warmed_up(iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
    """Execute an iteration on a side stream, which is required before it can be recorded."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        terms = iteration(real)
    torch.cuda.current_stream().wait_stream(stream)
    return terms
