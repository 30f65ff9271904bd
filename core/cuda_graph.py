"""An iteration as one CUDA graph: recorded once, then replayed without Python between its kernels.

The networks of the small presets keep a GPU waiting for the next launch most of the time: an iteration is some
thousand kernels of a few microseconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["GraphedIteration", "kernel_settings", "warmed_up"]

Iteration = Callable[[Tensor], dict[str, Tensor]]


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
        with torch.cuda.graph(self._graph):
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


def warmed_up(iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
    """Execute an iteration on a side stream, as recording it later demands."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        terms = iteration(real)
    torch.cuda.current_stream().wait_stream(stream)
    return terms


@contextlib.contextmanager
def kernel_settings(tf32: bool) -> Iterator[None]:
    """Let cuDNN look for the fastest kernels, and say whether float32 products may be rounded to TF32 inside."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, tf32
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
            yield
    finally:
        matmul.allow_tf32 = before
