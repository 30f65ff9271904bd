"""BigGAN-style generator, discriminator and encoder for 8, 16 and 32 pixels (supplement, C, Tables 1-3).

Letters in shapes: N images, K clusters, J latent dimensions, D image channels, R image size, C the width option.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mpcc.core.contracts import Architecture, Networks
from mpcc.core.spectral_norm import SpectralConv2d, SpectralLinear
from mpcc.plugins.architectures.blocks import DownBlock, PlainBlock, UpBlock
from mpcc.plugins.architectures.options import BigGANOptions

__all__ = ["BigGAN8", "BigGAN16", "BigGAN32", "Discriminator", "Encoder", "Generator"]

# Both ends work on small maps: the generator starts from 4x4, the encoder flattens 2x2.
GENERATOR_START = 4
ENCODER_END = 2


class Generator(nn.Module):
    """G(z, y), the decoder p(x|z, y) (Table 1): linear to 4x4x4C, up-blocks, batch norm, ReLU, 3x3 convolution, tanh.

    The whole z enters the linear layer; y enters every block through its conditional batch norms.

    Arguments:
        latent_dim: J.
        clusters: K.
        channels: D.
        width: C.
        up_blocks: How often the size of 4 pixels is doubled.
    """

    def __init__(self, latent_dim: int, clusters: int, channels: int, width: int, up_blocks: int) -> None:
        super().__init__()
        self.features = 4 * width
        self.entry = SpectralLinear(latent_dim, GENERATOR_START**2 * self.features)
        self.blocks = nn.ModuleList(UpBlock(self.features, clusters) for _ in range(up_blocks))
        self.norm = nn.BatchNorm2d(self.features, eps=1e-5, momentum=0.1)
        self.output = SpectralConv2d(self.features, channels, 3)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images in [-1, 1], (N, D, R, R), for z, (N, J), and labels y, (N,)."""
        h = self.entry(z).view(-1, self.features, GENERATOR_START, GENERATOR_START)
        for block in self.blocks:
            h = block(h, y)
        return torch.tanh(self.output(torch.relu(self.norm(h))))


class Discriminator(nn.Module):
    """D(x) (Table 2): the trunk that the encoder shares, further blocks, ReLU, global sum pooling, linear to a score.

    Arguments:
        trunk: The shared blocks, (N, D, R, R) to (N, 4C, S, S).
        blocks: The discriminator's own blocks.
        width: C.
    """

    def __init__(self, trunk: nn.Sequential, blocks: nn.Sequential, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.blocks = blocks
        self.score = SpectralLinear(4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return unbounded scores, (N,), for images x, (N, D, R, R)."""
        h = torch.relu(self.blocks(self.trunk(x))).sum(dim=(2, 3))
        score: Tensor = self.score(h).squeeze(1)
        return score


class Encoder(nn.Module):
    """E(x), the parameters of q(z|x) (Table 3): the shared trunk, further blocks, flatten 2x2x4C, two heads.

    The authors' code has one more plain block than Table 3; it is kept here.

    Arguments:
        trunk: The shared blocks.
        blocks: The encoder's own blocks, down to 2x2.
        width: C.
        latent_dim: J.
    """

    def __init__(self, trunk: nn.Sequential, blocks: nn.Sequential, width: int, latent_dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.blocks = blocks
        flat = ENCODER_END**2 * 4 * width
        self.loc = self._head(flat, latent_dim)
        self.raw_scale = self._head(flat, latent_dim)

    @staticmethod
    def _head(flat: int, latent_dim: int) -> nn.Sequential:
        return nn.Sequential(SpectralLinear(flat, flat // 2), nn.ReLU(), SpectralLinear(flat // 2, latent_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return location and raw scale of q(z|x), each (N, J), for images x, (N, D, R, R)."""
        h = self.blocks(self.trunk(x)).flatten(1)
        return self.loc(h), self.raw_scale(h)


class BigGAN(Architecture):
    """The family; a subclass says the image size and which blocks stand where.

    Arguments:
        options: The width C.
    """

    up_blocks: int
    """Up-blocks of the generator."""
    trunk: Sequence[str]
    """Blocks shared by discriminator and encoder, each "down" or "plain"."""
    discriminator_blocks: Sequence[str]
    encoder_blocks: Sequence[str]

    def __init__(self, options: BigGANOptions) -> None:
        self.width = options.width

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        """Build fresh networks; generator first, then discriminator, then the rest of the encoder."""
        generator = Generator(latent_dim, clusters, channels, self.width, self.up_blocks)
        trunk = self._blocks(self.trunk, channels)
        discriminator = Discriminator(trunk, self._blocks(self.discriminator_blocks), self.width)
        encoder = Encoder(trunk, self._blocks(self.encoder_blocks), self.width, latent_dim)
        return Networks(generator, discriminator, encoder)

    def _blocks(self, kinds: Sequence[str], image_channels: int | None = None) -> nn.Sequential:
        """Make a chain of blocks; with ``image_channels`` it starts at the image."""
        features = 4 * self.width
        blocks: list[nn.Module] = []
        for kind in kinds:
            first = image_channels is not None and not blocks
            in_channels = image_channels if image_channels is not None and first else features
            blocks.append(DownBlock(in_channels, features, first) if kind == "down" else PlainBlock(features))
        return nn.Sequential(*blocks)


class BigGAN32(BigGAN):
    """32x32 pixels, as in the paper: three up-blocks; three shared blocks.

    Example:
        >>> networks = BigGAN32(BigGANOptions(width=2)).build(clusters=10, latent_dim=24, channels=1)
        >>> x = networks.generator(torch.zeros(5, 24), torch.arange(5))
        >>> x.shape, networks.discriminator(x).shape, networks.encoder(x)[0].shape
        (torch.Size([5, 1, 32, 32]), torch.Size([5]), torch.Size([5, 24]))
    """

    image_size = 32
    up_blocks = 3
    trunk = ("down", "down", "plain")
    discriminator_blocks = ("plain",)
    encoder_blocks = ("plain", "down", "down")


class BigGAN16(BigGAN):
    """16x16 pixels, as in the authors' code: two up-blocks; two shared blocks."""

    image_size = 16
    up_blocks = 2
    trunk = ("down", "plain")
    discriminator_blocks = ("plain",)
    encoder_blocks = ("plain", "down", "down")


class BigGAN8(BigGAN):
    """8x8 pixels, in the same pattern: one up-block; two shared blocks."""

    image_size = 8
    up_blocks = 1
    trunk = ("down", "plain")
    discriminator_blocks = ("plain",)
    encoder_blocks = ("plain", "down")
