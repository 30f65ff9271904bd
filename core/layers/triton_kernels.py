"""Kernels of our own for CUDA, in Triton: each does in one pass what torch does in several.

Each kernel has a twin in torch's operations, which is what it is tested against: `NetworkWeights` divides weights by
their sigmas shape by shape, `group_moments` and `GroupedBatchNorm2d` normalise. No GPU has run them yet, so they are
off unless a user asks for them (``--kernels triton``). With ``TRITON_INTERPRET=1`` in the environment before Triton is
imported, they run on a CPU, slowly, which is how the tests run them.

Letters in shapes: N images, W channels, S image size.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

__all__ = ["WeightTable", "available", "block_moments", "normalise_weights", "scaled_relu"]

# Numbers that one program computes.
BLOCK = 1024
# Of batch moments: channels and pixels at a time, and the most programs that share the pixels of a group.
CHANNELS, PIXELS, SPLITS = 32, 64, 64


def available(device: torch.device) -> bool:
    """Return whether the kernels can run on a device: on CUDA if Triton is installed, elsewhere if it interprets."""
    if importlib.util.find_spec("triton") is None:
        return False
    return device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def kernels() -> Any:
    """Import the module of the kernels; it needs Triton, which torch brings on Linux with CUDA alone."""
    from mpcc.core.layers import triton_programs

    return triton_programs


@attrs.frozen(eq=False)
class WeightTable:
    """Where the weights of several layers lie in a flat buffer, a row for each block of `BLOCK` numbers.

    Attributes:
        rows: The layer's first place, its size, its channels, the pixels of its kernel, its row of sigma and the
            block's first number in the layer; int64, shape (blocks, 6).
    """

    rows: Tensor

    @classmethod
    def of(cls, shapes: Sequence[torch.Size], device: torch.device) -> WeightTable:
        """Return the table of layers that lie one behind the other.

        Arguments:
            shapes: The shape of each weight, (out, in, k, k) or (out, ...).
            device: Where the kernel runs.
        """
        rows, start = [], 0
        for number, shape in enumerate(shapes):
            size = math.prod(shape)
            # Only kernels of images get their channels innermost.
            channels, pixels = (shape[1], shape[2] * shape[3]) if len(shape) == 4 else (size // shape[0], 1)
            rows += [(start, size, channels, pixels, number, first) for first in range(0, size, BLOCK)]
            start += size
        return cls(torch.tensor(rows, dtype=torch.int64, device=device))


def normalise_weights(table: WeightTable, raw: Tensor, sigma: Tensor, flat: Tensor, half: Tensor | None) -> None:
    """Write W / sigma of all layers with the channels innermost, and rounded, if wanted, in the same pass.

    Arguments:
        table: Where the weights lie.
        raw: Weights in the order of the parameters, float32 or float64, shape (numbers,).
        sigma: Of each layer, shape (layers, 1).
        flat: Becomes W / sigma, of the type of ``raw``, shape (numbers,).
        half: Becomes the same, rounded to its type, or None.
    """
    with torch.cuda.device_of(raw):  # type: ignore[no-untyped-call]
        kernels().normalise[(len(table.rows),)](
            table.rows, raw, sigma, flat, flat if half is None else half, ROUND=half is not None, BLOCK=BLOCK
        )


def block_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel in each group of images, float32, shape (groups, W).

    Each program takes sums of differences to the mean of the group's first pixels, whose squares lose little to a large
    mean; a second kernel adds them up.

    Arguments:
        x: Shape (N, W, S, S), channels innermost, in half or single precision.
        groups: A divisor of N.
    """
    channels = x.shape[1]
    pixels = x.numel() // (channels * groups)
    splits = min(SPLITS, -(-pixels // PIXELS))
    each = -(-pixels // splits)
    sums = torch.empty(2, groups, splits, channels, dtype=torch.float32, device=x.device)
    means, variances = torch.empty(2, groups, channels, dtype=torch.float32, device=x.device).unbind()
    programs = kernels()
    blocks = -(-channels // CHANNELS)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        programs.partial_moments[(groups, splits, blocks)](
            *(x, sums[0], sums[1], pixels, each, channels, splits), CHANNELS=CHANNELS, PIXELS=PIXELS
        )
        programs.joined_moments[(groups, blocks)](
            *(x, sums[0], sums[1], means, variances, pixels, channels, splits), CHANNELS=CHANNELS, PIXELS=PIXELS
        )
    return means, variances


def scaled_relu(x: Tensor, scale: Tensor, shift: Tensor, upsampling: str | None = None) -> Tensor:
    """Return relu(x * scale + shift), at twice the size if wanted, in one pass; for forwards without gradients.

    Arguments:
        x: Shape (N, W, S, S), channels innermost.
        scale: Shape (N, W, 1, 1) or (1, W, 1, 1), float32.
        shift: As the scale.
        upsampling: ``bilinear`` or ``nearest`` for the size 2S, None for S.

    Returns:
        Channels innermost, of the type of x.
    """
    images, channels, height, width = x.shape
    factor = 1 if upsampling is None else 2
    size = (images, channels, factor * height, factor * width)
    out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    of_images = 0 if len(scale) == 1 else channels
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernels().scaled_relu[(-(-out.numel() // BLOCK),)](
            *(x, scale.contiguous(), shift.contiguous(), out, out.numel(), height, width, channels, of_images),
            FACTOR=factor,
            BILINEAR=upsampling == "bilinear",
            BLOCK=BLOCK,
        )
    return out
