"""Three ways to feed (z, y) to a generator (supplement, C): embeddings of y; hierarchical latents, split or shared.

Letters in shapes: N images, K clusters, J latent dimensions, B residual blocks of the generator, W channels of a block.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from mpcc.core.errors import InvalidInput
from mpcc.core.layers.spectral_norm import SpectralLinear

__all__ = ["Conditioning", "EmbeddingConditioning", "SharedConditioning", "SplitConditioning"]

# Standard deviation of all starting weights (authors' code). Embeddings are not spectrally normalised.
START = 0.02


class Conditioning(nn.Module, abc.ABC):
    """Feeds (z, y) to the entry of a generator and to the conditional batch norms of its blocks.

    Attributes:
        entry_size: J', the number of inputs of the generator's linear layer.
    """

    entry_size: int

    @abc.abstractmethod
    def maps(self, channels: int) -> tuple[nn.Module, nn.Module]:
        """Make the two maps of one conditional batch norm, from a block's condition to gain and to bias, (N, W)."""

    @abc.abstractmethod
    def forward(self, z: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the entry's input, (N, J'), and a condition for each of the B blocks, for z, (N, J), and y, (N,)."""


class EmbeddingConditioning(Conditioning):
    """The entry gets all of z; each conditional batch norm has its own embeddings of y, for gain and for bias.

    Arguments:
        clusters: K.
        latent_dim: J.
        blocks: B.
    """

    def __init__(self, clusters: int, latent_dim: int, blocks: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.blocks = blocks
        self.entry_size = latent_dim

    def maps(self, channels: int) -> tuple[nn.Module, nn.Module]:
        """Make two embeddings of y."""
        gain, bias = nn.Embedding(self.clusters, channels), nn.Embedding(self.clusters, channels)
        nn.init.normal_(gain.weight, std=START)
        nn.init.normal_(bias.weight, std=START)
        return gain, bias

    def forward(self, z: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return z, and y for each block."""
        return z, [y] * self.blocks


class HierarchicalConditioning(Conditioning):
    """Every block gets latents and the generator's only Embed(y); gain and bias are linear in both.

    The linear maps are spectrally normalised and have no constant; Embed(y) has dimension J.

    Arguments:
        clusters: K.
        latent_dim: J.
        entry_size: J', the number of latents that the entry and each block get.
    """

    def __init__(self, clusters: int, latent_dim: int, entry_size: int) -> None:
        super().__init__()
        self.entry_size = entry_size
        self.condition_size = latent_dim + entry_size
        self.label = nn.Embedding(clusters, latent_dim)
        nn.init.normal_(self.label.weight, std=START)

    def maps(self, channels: int) -> tuple[nn.Module, nn.Module]:
        """Make two linear maps of (Embed(y), latents)."""
        gain = SpectralLinear(self.condition_size, channels, bias=False)
        return gain, SpectralLinear(self.condition_size, channels, bias=False)


class SharedConditioning(HierarchicalConditioning):
    """The entry gets all of z, and so does every block, beside Embed(y).

    Arguments:
        clusters: K.
        latent_dim: J.
        blocks: B.
    """

    def __init__(self, clusters: int, latent_dim: int, blocks: int) -> None:
        super().__init__(clusters, latent_dim, latent_dim)
        self.blocks = blocks

    def forward(self, z: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return z, and (Embed(y), z), (N, 2J), for each block."""
        return z, [torch.cat([self.label(y), z], dim=1)] * self.blocks


class SplitConditioning(HierarchicalConditioning):
    """z is cut into B + 1 equal chunks: the entry gets the first; each block one of the others, beside Embed(y).

    Arguments:
        clusters: K.
        latent_dim: J, a multiple of B + 1.
        blocks: B.

    Raises:
        InvalidInput: If J cannot be divided.

    Example:
        >>> conditioning = SplitConditioning(clusters=10, latent_dim=128, blocks=3)
        >>> entry, conditions = conditioning(torch.zeros(2, 128), torch.tensor([0, 9]))
        >>> entry.shape, [condition.shape[1] for condition in conditions]
        (torch.Size([2, 32]), [160, 160, 160])
    """

    def __init__(self, clusters: int, latent_dim: int, blocks: int) -> None:
        chunks = blocks + 1
        if latent_dim % chunks:
            nearest = max(1, (latent_dim + chunks // 2) // chunks) * chunks
            raise InvalidInput(
                f"--latent-dim {latent_dim} cannot be split into {chunks} equal chunks, one for the entry of the "
                f"generator and one for each up-block (nearest valid choice: --latent-dim {nearest})"
            )
        super().__init__(clusters, latent_dim, latent_dim // chunks)
        self.chunks = chunks

    def forward(self, z: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the first J/(B+1) of z, and (Embed(y), chunk) for each block."""
        entry, *chunks = z.chunk(self.chunks, dim=1)
        label = self.label(y)
        return entry, [torch.cat([label, chunk], dim=1) for chunk in chunks]
