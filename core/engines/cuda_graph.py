"""An iteration as one CUDA graph: recorded once, then replayed without Python between its kernels.

The networks of the small presets keep a GPU waiting for the next launch most of the time: an iteration is some
thousand kernels of a few microseconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpcc.core.method.engine import Iteration

__all__ = ["CannotRecord", "GraphedIteration", "record", "warmed_up"]


class CannotRecord(Exception):
    """An iteration does something that a graph cannot hold; the message says what, in one line."""


class GraphedIteration:
    """A recorded iteration: the same kernels, on the same memory, with the random numbers of the next draws.

    What the iteration changes (parameters, moments of optimizers, buffers) must be changed in place; torch's default
    generator is registered with the graph, so that replays draw on as eager iterations would.

    Arguments:
        iteration: Takes real images and returns terms, scalars on the device. It has been executed before, on a side
            stream (`warmed_up`), so that libraries and optimizers are set up. It is not executed here, only recorded.
        real: Images like those of every replay, uint8, on any device.
        device: Where to compute.

    Raises:
        RuntimeError: If something in the iteration cannot be recorded, such as a copy to the host.
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
            real: Of the shape and type that were recorded.
        """
        self._real.copy_(real, non_blocking=True)
        self._graph.replay()
        # The next replay writes over the recorded terms.
        return dict(zip(self._names, self._terms.clone().unbind(), strict=True))


def record(iteration: Iteration, real: Tensor, device: torch.device) -> GraphedIteration:
    """Record an iteration; if that fails, leave random generator and streams as if it had not been tried.

    Arguments:
        iteration: As `GraphedIteration` takes it.
        real: Images like those of every replay.
        device: Where to compute.

    Raises:
        CannotRecord: If something in the iteration cannot be recorded.
    """
    generator = torch.cuda.default_generators[device.index or 0]
    state, stream = generator.clone_state(), torch.cuda.current_stream(device)
    try:
        return GraphedIteration(iteration, real, device)
    except (RuntimeError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        # A capture that fails leaves the generator counting for a graph that does not exist.
        generator.graphsafe_set_state(state)
        torch.cuda.set_stream(stream)
        raise CannotRecord(first_cause(error)) from error


def first_cause(error: BaseException) -> str:
    """Return what went wrong first: the end of a broken capture raises an error of its own on top of it.

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
    """Execute an iteration on a side stream, as recording it later demands."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        terms = iteration(real)
    torch.cuda.current_stream().wait_stream(stream)
    return terms
