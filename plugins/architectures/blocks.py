"""Residual blocks of the BigGAN family (supplement, Fig. 1).

Letters in shapes: N images, W channels of a block (4C in the paper's tables), S image size at the block's entry.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpcc.core.layers.batch_norm import GroupedBatchNorm2d
from mpcc.core.layers.fusion import pooled, upsampled
from mpcc.core.layers.spectral_norm import SpectralConv2d
from mpcc.plugins.architectures.conditioning import Conditioning

__all__ = ["EDGES", "ConditionalBatchNorm", "DownBlock", "EdgeInput", "PlainBlock", "UpBlock"]

# Channels that `EdgeInput` adds.
EDGES = 2


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation and a ReLU; gain and bias are maps of the block's condition, which is made from (z, y).

    The gain is 1 + g, because g starts near 0: a gain of g alone would switch the residual branch off.

    Arguments:
        channels: W.
        conditioning: Makes the two maps.
    """

    def __init__(self, channels: int, conditioning: Conditioning) -> None:
        super().__init__()
        self.normalisation = GroupedBatchNorm2d(channels, eps=1e-5, momentum=0.1, affine=False)
        self.gain, self.bias = conditioning.maps(channels)

    def forward(self, x: Tensor, condition: Tensor, overwrite: bool = False, upsampling: str | None = None) -> Tensor:
        """Normalise x, (N, W, S, S), over the batch; scale and shift by the condition, N rows; then take the ReLU.

        Arguments:
            x: Features.
            condition: The block's condition, from the conditioning.
            overwrite: Whether the result may take the place of x in memory.
            upsampling: ``bilinear`` or ``nearest`` if the result is wanted at twice the size.
        """
        gain = 1 + self.gain(condition)[:, :, None, None]
        bias = self.bias(condition)[:, :, None, None]
        return self.normalisation.normalised_relu(x, gain, bias, overwrite=overwrite, upsampling=upsampling)


class EdgeInput(nn.Module):
    """Adds to an image the derivatives of its grey values by the Sobel operator, (N, D, S, S) to (N, D + 2, S, S).

    The first new channel is the derivative across, the second one that down, each from -2 to 2 for an image in [-1, 1].
    Pixels outside of the image are those of its edge. Colours alone say little about what a picture shows.

    Example:
        >>> ramp = torch.arange(3.0).expand(1, 1, 3, 3)
        >>> EdgeInput()(ramp)[0, 1:, 1]
        tensor([[1., 2., 1.],
                [0., 0., 0.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return images with their edges."""
        grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        across, down = grey[..., 2:] - grey[..., :-2], grey[..., 2:, :] - grey[..., :-2, :]
        # The mean of three rows or columns, the middle one twice.
        across = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
        down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 4
        return torch.cat([x, across, down], dim=1)


class UpBlock(nn.Module):
    """The generator's block: doubles the image size, (N, W, S, S) to (N, W, 2S, 2S).

    The weights of an interpolation sum to 1, so the shortcut's 1x1 convolution commutes with it. The convolution runs
    first, on a quarter of the pixels.

    Arguments:
        channels: W.
        conditioning: Feeds z and y to the two batch norms.
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
        """Return the block's output for x, (N, W, S, S), and the block's condition, N rows."""
        if isinstance(self.norm1, ConditionalBatchNorm):
            h = self.norm1(x, condition, upsampling=self.upsampling)
        else:  # A subclass or a user may have put another module here.
            h = upsampled(self.norm1(x, condition), self.upsampling)
        h = self.conv1(h)
        out: Tensor = self.conv2(self.norm2(h, condition, overwrite=True))
        # No backward pass needs the output of a convolution, so sums and ReLUs may overwrite it.
        return out.add_(upsampled(self.shortcut(x), self.upsampling))


class DownBlock(nn.Module):
    """The discriminator's block that halves the image size, (N, in, S, S) to (N, W, S/2, S/2).

    Arguments:
        in_channels: Channels of the input.
        channels: W.
        first: Whether this is the first block of the network, which has no leading ReLU, since its input is the image.
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
        # An average commutes with a 1x1 convolution, bias included, so pooling first gives the same for less work.
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
