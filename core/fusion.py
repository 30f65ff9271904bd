"""Layers that know two ways to compute the same: step by step, as the method reads, or fused, with less work.

The fast engine switches whole networks to the second (`fuse`); what a network computes is the same up to rounding.
Letters in shapes: N images, W channels, S image size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Fusable", "channels_last", "fuse", "pooled_convolution"]

# In half precision a matrix unit makes the convolution so cheap that memory traffic decides: below this size of the map
# the kernel that is four times as large, or one more pass over the map, costs more than it saves.
MERGED_FROM = 32


class Fusable(nn.Module):
    """A module with a fused way to compute.

    Attributes:
        fused: Whether it is taken; False at first.
    """

    fused: bool = False


def fuse(network: nn.Module, on: bool = True) -> None:
    """Switch every `Fusable` module of a network to its fused way, or back."""
    for module in network.modules():
        if isinstance(module, Fusable):
            module.fused = on


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
        return x.to(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last)


def pooled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    r"""Return the 2x2 average pooling of a 3x3 convolution with padding 1, for a quarter of its operations or less.

    Two linear maps without anything between them are one. Either the four shifted means are taken of the input,

    .. math:: \mathrm{pool}(w * x) = (w * \mathrm{blur}(x))_{\downarrow 2}, \qquad
        \mathrm{blur}(x)_{ij} = \tfrac14 (x_{ij} + x_{i+1,j} + x_{i,j+1} + x_{i+1,j+1}),

    a convolution with stride 2 on the blurred, padded input (9/36 of the operations); or of the kernel, which becomes
    4x4 with stride 2 (16/36, but no pass over the input). In float32 the first is never slower (docs/performance.md);
    in half precision the second is faster from 32 pixels, and neither pays below.

    Arguments:
        x: Shape (N, in, S, S), S even.
        weight: Shape (out, in, 3, 3).
        bias: Shape (out,), or None.

    Returns:
        Shape (N, out, S/2, S/2).
    """
    half = torch.is_autocast_enabled(x.device.type) or x.dtype in (torch.bfloat16, torch.float16)
    if not half:
        return F.conv2d(F.avg_pool2d(x, 2, stride=1, padding=1), weight, bias, stride=2)
    if x.shape[-1] >= MERGED_FROM:
        shifted = [F.pad(weight, (left, 1 - left, top, 1 - top)) for left in (0, 1) for top in (0, 1)]
        return F.conv2d(x, channels_last(torch.stack(shifted).mean(0)), bias, padding=1, stride=2)
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)
