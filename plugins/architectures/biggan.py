"""BigGAN-style generator, discriminator and encoder for 8, 16, 32 and 64 pixels (supplement, C, Tables 1-3).

Letters in shapes: N images, K clusters, J latent dimensions, D image channels, R image size, C the width option.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mpcc.core.contracts import Architecture, Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.layers.batch_norm import GroupedBatchNorm2d
from mpcc.core.layers.fusion import SharedBlocks, channels_last
from mpcc.core.layers.spectral_norm import SpectralConv2d, SpectralEmbedding, SpectralLinear, iterate_in_forward
from mpcc.core.system.available_memory import require_memory
from mpcc.plugins.architectures.blocks import EDGES, DownBlock, EdgeInput, PlainBlock, UpBlock
from mpcc.plugins.architectures.conditioning import (
    Conditioning,
    EmbeddingConditioning,
    SharedConditioning,
    SplitConditioning,
)
from mpcc.plugins.architectures.options import BigGANOptions

__all__ = [
    "BigGAN8",
    "BigGAN16",
    "BigGAN32",
    "BigGAN64",
    "Discriminator",
    "Encoder",
    "Generator",
    "ProjectionDiscriminator",
]

# Image sizes in pixels: the generator starts from 4x4, the encoder ends at 2x2.
GENERATOR_START = 4
ENCODER_END = 2


CONDITIONINGS: dict[str, type[EmbeddingConditioning | SharedConditioning | SplitConditioning]] = {
    "embedding": EmbeddingConditioning,
    "shared": SharedConditioning,
    "split": SplitConditioning,
}


class Generator(nn.Module):
    """G(z, y), the decoder p(x|z, y) (Table 1): linear to 4x4x4C, up-blocks, batch norm, ReLU, 3x3 convolution, tanh.

    Arguments:
        conditioning: Feeds z and y to the linear layer and the blocks.
        channels: D.
        width: C.
        up_blocks: How often the size of 4 pixels is doubled.
        upsampling: ``bilinear`` or ``nearest``.
    """

    def __init__(
        self,
        conditioning: Conditioning,
        channels: int,
        width: int,
        up_blocks: int,
        upsampling: Literal["bilinear", "nearest"],
    ) -> None:
        super().__init__()
        self.features = 4 * width
        self.conditioning = conditioning
        self.entry = SpectralLinear(conditioning.entry_size, GENERATOR_START**2 * self.features)
        self.blocks = nn.ModuleList(UpBlock(self.features, conditioning, upsampling) for _ in range(up_blocks))
        self.norm = GroupedBatchNorm2d(self.features, eps=1e-5, momentum=0.1)
        self.output = SpectralConv2d(self.features, channels, 3)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images in [-1, 1], (N, D, R, R), for z, (N, J), and labels y, (N,)."""
        entry, conditions = self.conditioning(z, y)
        h = self.entry(entry).view(-1, self.features, GENERATOR_START, GENERATOR_START)
        if self.output.fused:
            h = channels_last(h)
        for block, condition in zip(self.blocks, conditions, strict=True):
            h = block(h, condition)
        return torch.tanh(self.output(self.norm.normalised_relu(h, overwrite=True)))


class Discriminator(nn.Module):
    """D(x) (Table 2): the trunk that the encoder shares, further blocks, ReLU, global sum pooling, linear to a score.

    Arguments:
        trunk: The shared blocks, (N, D, R, R) to (N, 4C, S, S); empty if there are none.
        blocks: The discriminator's own blocks.
        width: C.
    """

    def __init__(self, trunk: nn.Sequential, blocks: nn.Sequential, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.blocks = blocks
        self.score = SpectralLinear(4 * width, 1)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the globally summed features h, (N, 4C), of images x, (N, D, R, R)."""
        return torch.relu(self.blocks(self.trunk(x))).sum(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return unbounded scores, (N,), for images x, (N, D, R, R)."""
        score: Tensor = self.score(self.pooled(x)).squeeze(1)
        return score


class ProjectionDiscriminator(Discriminator):
    """D(x, y) (Table 2, conditional): the score of D(x) plus Embed(y) . h, h the globally summed features.

    Arguments:
        trunk: The shared blocks; empty if there are none.
        blocks: The discriminator's own blocks.
        width: C.
        clusters: K.
    """

    def __init__(self, trunk: nn.Sequential, blocks: nn.Sequential, width: int, clusters: int) -> None:
        super().__init__(trunk, blocks, width)
        self.label = SpectralEmbedding(clusters, 4 * width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # it needs the labels
        """Return unbounded scores, (N,), for images x, (N, D, R, R), and labels y, (N,)."""
        h = self.pooled(x)
        score: Tensor = self.score(h).squeeze(1) + (self.label(y) * h).sum(dim=1)
        return score


class Encoder(nn.Module):
    """E(x), the parameters of q(z|x) (Table 3): the shared trunk, further blocks, flatten 2x2x4C, two heads.

    Arguments:
        trunk: The shared blocks; empty if there are none.
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
    """The BigGAN family, without attention (authors' code); a subclass sets the image size and the blocks.

    Arguments:
        options: See `BigGANOptions`.

    Raises:
        InvalidInput: If the options share more blocks than discriminator and encoder have in common.
    """

    up_blocks: int
    """Up-blocks of the generator."""
    discriminator_blocks: Sequence[str]
    """All blocks of the discriminator, each "down" or "plain"."""
    encoder_blocks: Sequence[str]
    """All blocks of the encoder in the authors' code, the shared ones included."""
    shared_blocks: int
    """How many first blocks discriminator and encoder share by default."""

    def __init__(self, options: BigGANOptions) -> None:
        self.options = options
        self.width = options.width
        if options.encoder_blocks == "paper":
            plain = self.encoder_blocks.index("plain")
            self.encoder_blocks = (*self.encoder_blocks[:plain], *self.encoder_blocks[plain + 1 :])
        if options.shared_blocks is not None:
            self.shared_blocks = options.shared_blocks
        pairs = enumerate(zip(self.discriminator_blocks, self.encoder_blocks, strict=False))
        common = next((index for index, (kind, other) in pairs if kind != other), len(self.discriminator_blocks))
        if self.shared_blocks > common:
            raise InvalidInput(
                f"--arch.shared-blocks {self.shared_blocks}: at {self.image_size} pixels the discriminator "
                f"({', '.join(self.discriminator_blocks)}) and the encoder ({', '.join(self.encoder_blocks)}) have "
                f"{common} first blocks in common (nearest valid choice: --arch.shared-blocks {common})"
            )

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        """Build fresh networks; generator first, then discriminator, then the rest of the encoder.

        Raises:
            InvalidInput: If the conditioning splits z into chunks and ``latent_dim`` cannot be divided, or the networks
                don't fit into memory.
        """
        require_memory(
            4 * self._least_parameters(clusters, latent_dim),
            f"networks of --arch.width {self.width} for --clusters {clusters} and --latent-dim {latent_dim}",
            "lower the largest of them",
        )
        options, width, shared = self.options, self.width, self.shared_blocks
        conditioning = CONDITIONINGS[options.conditioning](clusters, latent_dim, self.up_blocks)
        generator = Generator(conditioning, channels, width, self.up_blocks, options.upsampling)
        trunk = SharedBlocks(*self._blocks(self.discriminator_blocks, 0, shared, channels))
        own = self._blocks(self.discriminator_blocks, shared, len(self.discriminator_blocks), channels)
        conditional = options.projection != "none"
        discriminator = (
            ProjectionDiscriminator(trunk, own, width, clusters) if conditional else Discriminator(trunk, own, width)
        )
        encoder_blocks = self._blocks(self.encoder_blocks, shared, len(self.encoder_blocks), channels)
        encoder = Encoder(trunk, encoder_blocks, width, latent_dim)
        if options.power_iterations == "forward":
            for network in (generator, discriminator, encoder):
                iterate_in_forward(network)
        # If the vectors advance in every forward pass, one call for several batches differs from several calls.
        grouped = options.power_iterations == "step"
        return Networks(generator, discriminator, encoder, conditional, grouped)

    def _least_parameters(self, clusters: int, latent_dim: int) -> int:
        """Return a lower bound on the number of weights."""
        features = 4 * self.width
        blocks = self.up_blocks + len(self.discriminator_blocks) + len(self.encoder_blocks) - self.shared_blocks
        # Counted are two 3x3 convolutions in each block, except those that read an image; one embedding of the labels;
        # the generator's entry and the encoder's two heads.
        inner = 9 * (2 * blocks - 2) * features**2
        return inner + clusters * min(features, latent_dim) + GENERATOR_START**2 * features * latent_dim

    def _blocks(self, kinds: Sequence[str], start: int, stop: int, channels: int) -> nn.Sequential:
        """Make the blocks start, ..., stop - 1 of a chain that begins at an image of D channels."""
        features = 4 * self.width
        blocks: list[nn.Module] = []
        if self.options.edges and start == 0 < stop:
            blocks.append(EdgeInput())
            channels += EDGES
        for index in range(start, stop):
            # Every chain begins with a down-block.
            first = index == 0
            in_channels = channels if first else features
            blocks.append(DownBlock(in_channels, features, first) if kinds[index] == "down" else PlainBlock(features))
        return nn.Sequential(*blocks)


class BigGAN64(BigGAN):
    """64x64 pixels, in the same pattern: four up-blocks; three shared blocks. The paper's networks end at 32 pixels.

    As at 16 and 32 pixels, the discriminator goes down to 8x8 and has two plain blocks there. The encoder has the same
    blocks, then two that go down from 8x8 to the 2x2 that it flattens. Three blocks are shared, as in the paper; here
    they are the three that go down. BigGAN's own networks for 64 pixels have self-attention. It is left out here, as
    the authors left it out at 32.
    """

    image_size = 64
    up_blocks = 4
    discriminator_blocks = ("down", "down", "down", "plain", "plain")
    encoder_blocks = ("down", "down", "down", "plain", "plain", "down", "down")
    shared_blocks = 3


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
    discriminator_blocks = ("down", "down", "plain", "plain")
    encoder_blocks = ("down", "down", "plain", "plain", "down", "down")
    shared_blocks = 3


class BigGAN16(BigGAN):
    """16x16 pixels, as in the authors' code: two up-blocks; two shared blocks."""

    image_size = 16
    up_blocks = 2
    discriminator_blocks = ("down", "plain", "plain")
    encoder_blocks = ("down", "plain", "plain", "down", "down")
    shared_blocks = 2


class BigGAN8(BigGAN):
    """8x8 pixels, in the same pattern: one up-block; two shared blocks."""

    image_size = 8
    up_blocks = 1
    discriminator_blocks = ("down", "plain", "plain")
    encoder_blocks = ("down", "plain", "plain", "down")
    shared_blocks = 2
