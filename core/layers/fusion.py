"""Layers with two ways to compute the same result: step by step, as the method is written, or fused, with less work.

The fast engine switches whole networks to the fused way (`fuse`). The results of a network stay equal up to rounding.
Letters in shapes: N images, W channels, S image size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    *("Blur", "Fusable", "SharedBlocks", "channels_last", "convolution", "fuse"),
    *("means_of_squares", "narrow_convolution", "pooled", "pooled_convolution", "shared_calls", "upsampled"),
]

# In half precision a matrix unit makes the convolution so cheap that memory traffic decides. On maps below this size,
# the larger kernel, or one more pass over the map, costs more than it saves.
MERGED_FROM = 32
# Kernels of convolutions compute at least this many output channels at a time; fewer channels waste the rest.
CHANNELS_AT_A_TIME = 16
# On smaller maps a matrix product and nine sums cost as much as the convolution that they replace.
NARROW_FROM = 16
# From this size on, a CPU computes means of neighbours faster as a convolution of each channel than as a pooling.
DEPTHWISE_FROM = 8


class Fusable(nn.Module):
    """A module with a fused way to compute.

    Attributes:
        fused: Whether the module computes in the fused way; False at first.
        own_kernels: Whether the fused way may use `mpcc.core.layers.triton_kernels`.
    """

    fused: bool = False
    own_kernels: bool = False


def fuse(network: nn.Module, on: bool = True, own_kernels: bool = False) -> None:
    """Switch every `Fusable` module of a network to its fused way, with kernels of our own or without, or back."""
    for module in network.modules():
        if isinstance(module, Fusable):
            module.fused, module.own_kernels = on, on and own_kernels


class SharedBlocks(nn.Sequential):
    """Blocks that several networks call; inside `shared_calls`, a second call with the same tensor costs nothing.

    The blocks draw no random numbers and change no buffers, and nobody writes to their output.

    Attributes:
        calls: Inside of `shared_calls`, the inputs so far, how often each had been written to, whether gradients were
            recorded, and the outputs; None outside.
    """

    calls: list[tuple[Tensor, int, bool, Tensor]] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the last block."""
        state = input._version, torch.is_grad_enabled()
        for known, *known_state, output in self.calls or ():
            if known is input and (*known_state,) == state:
                return output
        output = input
        for block in self:
            output = block(output)
        if self.calls is not None:
            self.calls.append((input, *state, output))
        return output


@contextlib.contextmanager
def shared_calls(blocks: Sequence[SharedBlocks]) -> Iterator[None]:
    """Compute what blocks give for a tensor once for the length of a ``with`` block, in which no parameter changes."""
    for each in blocks:
        each.calls = []
    try:
        yield
    finally:
        for each in blocks:
            each.calls = None


def channels_last(x: Tensor) -> Tensor:
    """Return a tensor of shape (N, W, S, S) with the channels innermost in memory; no copy if they are already.

    Convolutions with few channels are about twice as fast in this layout, on CPUs and with tensor cores.

    Example:
        >>> channels_last(torch.zeros(2, 3, 4, 4)).stride()
        (48, 1, 12, 3)
    """
    # With a single channel `contiguous` would leave the tensor as it is, and a convolution would take it for
    # channels-first.
    if x.shape[1] == 1:
        # Both orders are the same in memory; only the strides tell one from the other.
        return x.contiguous().view(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def pooled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    r"""Return the 2x2 average pooling of a 3x3 convolution with padding 1, for less than half of its operations.

    Two linear maps in a row are one linear map. Either the input is blurred by the mean of four shifted copies,

    .. math:: \mathrm{pool}(w * x) = (w * \mathrm{blur}(x))_{\downarrow 2}, \qquad
        \mathrm{blur}(x)_{ij} = \tfrac14 (x_{ij} + x_{i+1,j} + x_{i,j+1} + x_{i+1,j+1}),

    and a convolution with stride 2 follows on the blurred, padded input (9/36 of the operations). Or the kernel is
    blurred: it becomes 4x4, with stride 2 (16/36, but no pass over the input). In float32 the first way is never slower
    on a CPU (docs/performance.md). With a matrix unit the second is faster from 32 pixels on; in half precision neither
    is below. On an H100 in TF32, passes over maps took longer than the convolutions between them.

    Arguments:
        x: Shape (N, in, S, S), S even.
        weight: Shape (out, in, 3, 3).
        bias: Shape (out,), or None.

    Returns:
        Shape (N, out, S/2, S/2).
    """
    x, weight = channels_last(x), channels_last(weight)
    half = torch.is_autocast_enabled(x.device.type) or x.dtype in (torch.bfloat16, torch.float16)
    tf32 = x.device.type == "cuda" and torch.backends.cudnn.allow_tf32
    merged = x.shape[-1] >= MERGED_FROM and (half or tf32)
    if not half and not merged:
        blurred: Tensor = Blur.apply(x)
        return F.conv2d(blurred, weight, bias, stride=2)
    if merged:
        return F.conv2d(x, channels_last(Blur.apply(weight)), bias, padding=1, stride=2)
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


class Blur(torch.autograd.Function):
    """Means of 2x2 pixels around each corner of a pixel, (N, W, S, S) to (N, W, S + 1, S + 1), zeros around the edge.

    Its transpose is the same without the zeros. torch's own gradient of a pooling adds the contributions of overlapping
    windows pixel by pixel, and takes twice the time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the means."""
        return means_of_squares(x, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of x."""
        return means_of_squares(gradients[0], padding=0)


def means_of_squares(x: Tensor, padding: int) -> Tensor:
    """Return the mean of every 2x2 pixels, squares that overlap included, of an image with zeros around it."""
    size, channels = x.shape[-1], x.shape[1]
    if x.device.type == "cpu" and size >= DEPTHWISE_FROM and x.dtype == torch.float32:
        quarter = x.new_full((1, 1, 2, 2), 0.25).expand(channels, 1, 2, 2)
        return F.conv2d(x, quarter, padding=padding, groups=channels)
    return F.avg_pool2d(x, 2, stride=1, padding=padding)


class Pooling(torch.autograd.Function):
    """Means of each 2x2 pixels, (N, W, S, S) to (N, W, S/2, S/2); its transpose repeats a quarter of each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the means."""
        return F.avg_pool2d(x, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of x."""
        return F.interpolate(gradients[0] / 4, scale_factor=2, mode="nearest")


def upsampled(x: Tensor, how: str) -> Tensor:
    """Return (N, W, S, S) at twice the size, ``bilinear`` or ``nearest``."""
    return F.interpolate(x, scale_factor=2, mode=how, align_corners=False if how == "bilinear" else None)


def pooled(x: Tensor) -> Tensor:
    """Return the mean of each 2x2 pixels of (N, W, S, S), S even, with a gradient that is one pass over the memory."""
    means: Tensor = Pooling.apply(x)
    return means


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a convolution that keeps the image size, computed in the way that is faster on the device.

    Arguments:
        x: Shape (N, in, S, S).
        weight: Shape (out, in, k, k), k odd.
        bias: Shape (out,), or None.

    Returns:
        Shape (N, out, S, S).
    """
    x, weight = channels_last(x), channels_last(weight)
    out, channels, kernel, _ = weight.shape
    narrow = kernel > 1 and CHANNELS_AT_A_TIME * out <= channels and x.shape[-1] >= NARROW_FROM
    if narrow and x.device.type == "cpu":
        return narrow_convolution(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=kernel // 2)


def narrow_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    r"""Return a convolution to few channels, with padding, as a matrix product and a sum of shifted maps.

    .. math:: (w * x)_{ij} = \sum_{ab} (w_{ab} \cdot x)_{i+a,\,j+b}

    The product with all :math:`w_{ab}` at once reads x a single time.

    Arguments:
        x: Shape (N, in, S, S), channels innermost.
        weight: Shape (out, in, k, k), k odd.
        bias: Shape (out,), or None.

    Returns:
        Shape (N, out, S, S).
    """
    out, channels, kernel, _ = weight.shape
    height, width = x.shape[2:]
    products = F.linear(x.permute(0, 2, 3, 1), weight.permute(2, 3, 0, 1).reshape(-1, channels))
    # The array is small, and shifts are cheap with the pixels innermost.
    edge = kernel // 2
    maps = F.pad(products.permute(3, 0, 1, 2), (edge,) * 4)
    maps = maps.view(kernel, kernel, out, *maps.shape[1:])
    total = torch.zeros_like(maps[0, 0, :, :, :height, :width]) if bias is None else bias.view(-1, 1, 1, 1)
    for row in range(kernel):
        for column in range(kernel):
            total = total + maps[row, column, :, :, row : row + height, column : column + width]
    return total.transpose(0, 1)
