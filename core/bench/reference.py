"""Reference rates of a machine: a square matrix product and a 3x3 convolution, timed in turn with the engines.

A comparison with the peak rate of a data sheet would depend on the other load of the machine. A comparison with rates
from the same minute shows how much faster an engine could still become.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from mpcc.core.bench.timing import Measured, Seconds, Spread, flattened
from mpcc.core.system import allocator
from mpcc.core.system.kernel_settings import kernel_settings

__all__ = ["Reference", "convolution", "matmul", "references"]

MATMUL_SIZE = 2048
# On a GPU, a single call takes less time than its launch.
CALLS_ON_CUDA = 20


@attrs.frozen(eq=False)
class Reference:
    """A computation with a known number of operations.

    Attributes:
        name: Its name in tables.
        kind: ``matmul`` or ``convolution``.
        precision: ``float32``, ``tf32`` or ``bf16``.
        operations: Floating-point operations in one step: multiplications and additions.
        step: Executes one step.
    """

    name: str
    kind: str
    precision: str
    operations: int
    step: Callable[[], object]

    def measured(self, device: torch.device) -> Measured:
        """Return the computation for `interleaved`, with the fastest kernel settings."""

        def fastest_settings() -> contextlib.AbstractContextManager[Any]:
            if device.type == "cuda":
                return kernel_settings(tf32=self.precision == "tf32")
            return allocator.kept_memory()

        return Measured(self.name, self.step, fastest_settings)

    def figures(self, seconds: Seconds) -> dict[str, Any]:
        """Return what the computation is and its rate, in operations a second, from the seconds of timed steps."""
        spread = Spread.of(flattened(seconds))
        described = {"kind": self.kind, "precision": self.precision, "operations": self.operations}
        return {**described, "seconds": seconds, **spread.plain(), "rate": self.operations / spread.median}


def repeated(step: Callable[[], object], device: torch.device) -> tuple[Callable[[], object], int]:
    """Return a step that is long enough to be timed, and how often it calls the given step."""
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
        device: The device to compute on.
        channels: C, of input and output.
        size: R.
        batch: N.
        precision: ``float32``, ``tf32`` or ``bf16``.
        innermost: Whether channels are the innermost dimension in memory.
    """
    layout = torch.channels_last if innermost else torch.contiguous_format
    x = torch.rand(batch, channels, size, size, device=device).to(of(precision), memory_format=layout)
    weight = torch.rand(channels, channels, 3, 3, device=device).to(of(precision), memory_format=layout)
    output_gradient = torch.rand(batch, channels, size, size, device=device).to(of(precision), memory_format=layout)
    x.requires_grad_(True)
    weight.requires_grad_(True)

    def forward_and_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.conv2d(x, weight, padding=1), (x, weight), output_gradient)

    step, calls = repeated(forward_and_backward, device)
    layout_name = "channels last" if innermost else "channels first"
    operations = calls * 3 * 2 * batch * channels**2 * 9 * size**2
    return Reference(f"convolution {precision}, {layout_name}", "convolution", precision, operations, step)


def references(
    device: torch.device, channels: int, size: int, batch: int, precisions: Sequence[str]
) -> list[Reference]:
    """Return the matrix product and the convolution in both layouts, for each precision."""
    computations = []
    for precision in precisions:
        computations.append(matmul(device, precision))
        for innermost in (False, True):
            computations.append(convolution(device, channels, size, batch, precision, innermost=innermost))
    return computations


def of(precision: str) -> torch.dtype:
    """Return the torch type of a precision; values of tf32 are stored in float32."""
    return torch.bfloat16 if precision == "bf16" else torch.float32
