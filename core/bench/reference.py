"""What a machine can do at best: a square matrix product and a 3x3 convolution, timed among the engines.

A fraction of a peak out of a data sheet would say how busy the machine was with other things; a fraction of what it did
in the same minute says what an engine leaves to be gained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from mpcc.core.bench.timing import Measured
from mpcc.core.system import allocator

__all__ = ["Reference", "convolution", "matmul", "references"]

MATMUL_SIZE = 2048
# A GPU does one of them in less time than it takes to be told.
CALLS_ON_CUDA = 20


@attrs.frozen(eq=False)
class Reference:
    """Work of a known size.

    Attributes:
        name: For tables.
        kind: ``matmul`` or ``convolution``.
        precision: ``float32`` or ``bf16``.
        operations: Floating-point operations in one step: multiplications and additions.
        step: Does it.
    """

    name: str
    kind: str
    precision: str
    operations: int
    step: Callable[[], object]

    def measured(self, device: torch.device) -> Measured:
        """Return it as something to be timed, set up for speed."""

        def best() -> contextlib.AbstractContextManager[Any]:
            if device.type == "cuda":
                return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
            return allocator.kept_memory()

        return Measured(self.name, self.step, best)


def repeated(step: Callable[[], object], device: torch.device) -> tuple[Callable[[], object], int]:
    """Return a step that is long enough to be timed, and how many of the given one it has."""
    if device.type == "cpu":
        return step, 1
    return lambda: [step() for _ in range(CALLS_ON_CUDA)], CALLS_ON_CUDA


def matmul(device: torch.device, precision: str = "float32", size: int = MATMUL_SIZE) -> Reference:
    """Return the product of two square matrices: 2 n^3 operations."""
    a, b = torch.rand(2, size, size, device=device).to(of(precision))
    step, calls = repeated(lambda: a @ b, device)
    return Reference(f"matmul {precision}", "matmul", precision, calls * 2 * size**3, step)


def convolution(
    device: torch.device, channels: int, size: int, batch: int, precision: str = "float32", *, innermost: bool = False
) -> Reference:
    """Return a 3x3 convolution that keeps shape (N, C, R, R), forward and both gradients: 3 * 2 N C^2 9 R^2 operations.

    Arguments:
        device: Where to compute.
        channels: C, in and out.
        size: R.
        batch: N.
        precision: ``float32`` or ``bf16``.
        innermost: Whether channels are the innermost dimension in memory.
    """
    layout = torch.channels_last if innermost else torch.contiguous_format
    x = torch.rand(batch, channels, size, size, device=device).to(of(precision), memory_format=layout)
    weight = torch.rand(channels, channels, 3, 3, device=device).to(of(precision), memory_format=layout)
    towards = torch.rand(batch, channels, size, size, device=device).to(of(precision), memory_format=layout)
    x.requires_grad_(True)
    weight.requires_grad_(True)

    def once() -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.conv2d(x, weight, padding=1), (x, weight), towards)

    step, calls = repeated(once, device)
    words = "channels last" if innermost else "channels first"
    operations = calls * 3 * 2 * batch * channels**2 * 9 * size**2
    return Reference(f"convolution {precision}, {words}", "convolution", precision, operations, step)


def references(
    device: torch.device, channels: int, size: int, batch: int, precisions: Sequence[str]
) -> list[Reference]:
    """Return matrix product and convolution, in both layouts, for each precision."""
    found = []
    for precision in precisions:
        found.append(matmul(device, precision))
        found += [convolution(device, channels, size, batch, precision, innermost=last) for last in (False, True)]
    return found


def of(precision: str) -> torch.dtype:
    """Return the type of numbers of a precision."""
    return torch.bfloat16 if precision == "bf16" else torch.float32
