"""Residual blocks of the BigGAN family (supplement, Fig. 1).

Letters in shapes: N images, W channels of a block (4C in the paper's tables), S image size at the block's entry.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpcc.core.layers.batch_norm import GroupedBatchNorm2d
from mpcc.core.layers.fusion import pooled
from mpcc.core.layers.spectral_norm import SpectralConv2d
from mpcc.plugins.architectures.conditioning import Conditioning

__all__ = ["ConditionalBatchNorm", "DownBlock", "PlainBlock", "UpBlock"]


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose gain and bias are maps of what the block knows of (z, y), and a ReLU.

    The gain is 1 + g: with g alone and a start at 0.02 the residual branch would be dead.

    Arguments:
        channels: W.
        conditioning: Makes the two maps.
    """

    def __init__(self, channels: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.normalisation = GroupedBatchNorm2d(channels, eps=1e-5, momentum=0.1, affine=False)
        self.gain, self.bias = conditioning.maps(channels)

    def forward(self, x: Tensor, condition: Tensor, overwrite: bool = False) -> Tensor:
        """Normalise x, (N, W, S, S), over the batch; scale and shift by the condition, N rows; then take the ReLU.

        Arguments:
            x: What is normalised.
            condition: What the conditioning gives the block.
            overwrite: Whether nobody needs x any more.
        """
        gain = 1 + self.gain(condition)[:, :, None, None]
        bias = self.bias(condition)[:, :, None, None]
        return self.normalisation.normalised_relu(x, gain, bias, overwrite=overwrite)


class UpBlock(nn.Module):
    """The generator's block: doubles the image size, (N, W, S, S) to (N, W, 2S, 2S).

    The 1x1 convolution of the shortcut commutes with either interpolation, whose weights sum to 1, so it runs first, on
    a quarter of the pixels.

    Arguments:
        channels: W.
        conditioning: Of the two batch norms.
        upsampling: ``bilinear`` (supplement, C) or ``nearest`` (authors' code).
    """

    def __init__(
        self, channels: int, conditioning: Conditioning, upsampling: Literal["bilinear", "nearest"] = "bilinear"
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.norm1 = ConditionalBatchNorm(channels, conditioning)
        self.conv1 = SpectralConv2d(channels, channels, 3)
        self.norm2 = ConditionalBatchNorm(channels, conditioning)
        self.conv2 = SpectralConv2d(channels, channels, 3)
        self.shortcut = SpectralConv2d(channels, channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the block's output for x, (N, W, S, S), and what the conditioning gives the block, N rows."""
        h = self.conv1(self.upsample(self.norm1(x, condition)))
        out: Tensor = self.conv2(self.norm2(h, condition, overwrite=True))
        # No backward pass needs what a convolution gave: sums and ReLUs of it may be in place.
        return out.add_(self.upsample(self.shortcut(x)))

    def upsample(self, x: Tensor) -> Tensor:
        """Double the image size, (N, W, S, S) to (N, W, 2S, 2S)."""
        if self.upsampling == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class DownBlock(nn.Module):
    """The discriminator's block that halves the image size, (N, in, S, S) to (N, W, S/2, S/2).

    Arguments:
        in_channels: Channels of the input.
        channels: W.
        first: Whether it is the first block of the network: it has no leading ReLU, since its input is the image, and
            its shortcut pools before the 1x1 convolution (the two commute).
    """

    def __init__(self, in_channels: int, channels: int, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv1 = SpectralConv2d(in_channels, channels, 3)
        self.conv2 = SpectralConv2d(channels, channels, 3)
        self.shortcut = SpectralConv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x, (N, in, S, S)."""
        h = self.conv1(x if self.first else torch.relu(x))
        h = self.conv2.pooled(torch.relu_(h))
        # An average commutes with a 1x1 convolution, bias included: pooling first is the same and cheaper.
        small = pooled(x) if self.conv2.fused else F.avg_pool2d(x, 2)
        return h.add_(self.shortcut(small))


class PlainBlock(nn.Module):
    """The discriminator's block that keeps size and channels, with an identity shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = SpectralConv2d(channels, channels, 3)
        self.conv2 = SpectralConv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x, (N, W, S, S)."""
        h: Tensor = self.conv2(torch.relu_(self.conv1(torch.relu(x))))
        return h.add_(x)
