"""Architectures that are wrong, each in one way; the docstring of a class says in which."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpcc.core.contracts import Architecture, Networks
from mpcc.core.hookspecs import hookimpl

SIZE = 6


class Generator(nn.Module):
    """Right: two layers."""

    def __init__(self, clusters: int, latent_dim: int, channels: int) -> None:
        super().__init__()
        self.shape = channels, SIZE, SIZE
        self.latent, self.label = nn.Linear(latent_dim, 24), nn.Embedding(clusters, 24)
        self.out = nn.Linear(24, channels * SIZE * SIZE)

    def hidden(self, z: Tensor, y: Tensor) -> Tensor:
        return F.leaky_relu(self.latent(z) + self.label(y), 0.2)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.out(self.hidden(z, y))).view(-1, *self.shape)


class Trunk(nn.Module):
    """Right: a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.convolution(x), 0.2).flatten(1)


class Discriminator(nn.Module):
    """Right: a linear score."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.trunk, self.score = Trunk(channels), nn.Linear(6 * SIZE * SIZE, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.score(self.trunk(x)).squeeze(1)
        return scores


class Encoder(nn.Module):
    """Right: two linear heads."""

    def __init__(self, latent_dim: int, channels: int) -> None:
        super().__init__()
        self.trunk = Trunk(channels)
        self.loc, self.raw_scale = (nn.Linear(6 * SIZE * SIZE, latent_dim) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        return self.loc(h), self.raw_scale(h)


class Small(Architecture):
    """Right; the wrong ones replace one network."""

    image_size = SIZE
    generator, discriminator, encoder = Generator, Discriminator, Encoder

    def __init__(self, options: Any = None) -> None:
        pass

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        return Networks(
            self.generator(clusters, latent_dim, channels),
            self.discriminator(channels),
            self.encoder(latent_dim, channels),
        )


class PositiveImages(Small):
    """Images lie in [0, 1]."""

    class generator(Generator):  # noqa: N801 - it replaces the attribute
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.sigmoid(self.out(self.hidden(z, y))).view(-1, *self.shape)


class PositiveLocation(Small):
    """The location is positive only."""

    class encoder(Encoder):  # noqa: N801
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            loc, raw_scale = super().forward(x)
            return F.softplus(loc), raw_scale


class LastDropped(Small):
    """The generator drops the last dimension of z, if there are several."""

    class generator(Generator):  # noqa: N801
        def hidden(self, z: Tensor, y: Tensor) -> Tensor:
            kept = z if z.shape[1] == 1 else torch.cat([z[:, :-1], torch.zeros_like(z[:, -1:])], 1)
            return super().hidden(kept, y)


class HalfTheLabels(Small):
    """Clusters from 4 on are the cluster 4."""

    class generator(Generator):  # noqa: N801
        def hidden(self, z: Tensor, y: Tensor) -> Tensor:
            return super().hidden(z, y.clamp(max=4))


class Cropped(Small):
    """The discriminator does not see the last column."""

    class discriminator(Discriminator):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.cat([x[..., :-1], torch.zeros_like(x[..., -1:])], -1))


class HostConstant(Small):
    """A mask is made on the CPU in each call."""

    class encoder(Encoder):  # noqa: N801
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x * torch.full((SIZE, SIZE), 0.5))


class SeedsAfterwards(Small):
    """build() ends with a seed."""

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        networks = super().build(clusters, latent_dim, channels)
        torch.manual_seed(4)
        return networks


class ByPlace(Small):
    """An image depends on its place in the batch."""

    class generator(Generator):  # noqa: N801
        def hidden(self, z: Tensor, y: Tensor) -> Tensor:
            places = torch.linspace(-0.3, 0.3, len(z), device=z.device).unsqueeze(1)
            return super().hidden(z + places, y)


class BatchStatistics(Small):
    """The encoder subtracts the mean of the batch."""

    class encoder(Encoder):  # noqa: N801
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x - 0.2 * x.mean(0, keepdim=True))


class HiddenLayers(Small):
    """Layers lie in a plain list."""

    class generator(Generator):  # noqa: N801
        def __init__(self, clusters: int, latent_dim: int, channels: int) -> None:
            super().__init__(clusters, latent_dim, channels)
            self.blocks = [nn.Linear(24, 24)]

        def hidden(self, z: Tensor, y: Tensor) -> Tensor:
            hidden: Tensor = self.blocks[0](super().hidden(z, y))
            return hidden


class LateLayer(Small):
    """A layer is made in the first call."""

    class discriminator(Discriminator):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "late"):
                self.late = nn.Linear(1, 1)
            scores: Tensor = self.late(super().forward(x).unsqueeze(1)).squeeze(1)
            return scores


class Drifting(Small):
    """A buffer of the generator changes in evaluation mode, too."""

    class generator(Generator):  # noqa: N801
        def __init__(self, clusters: int, latent_dim: int, channels: int) -> None:
            super().__init__(clusters, latent_dim, channels)
            self.register_buffer("mean", torch.zeros(latent_dim))

        def hidden(self, z: Tensor, y: Tensor) -> Tensor:
            self.mean.lerp_(z.detach().mean(0), 0.1)
            return super().hidden(z - self.mean, y)


class Probabilities(Small):
    """Scores are probabilities: a warning, because some losses take them."""

    class discriminator(Discriminator):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(super().forward(x))


@hookimpl
def register_architectures(register: Any) -> None:
    for name, cls in globals().items():
        if isinstance(cls, type) and issubclass(cls, Small) and cls is not Small:
            register(name, f"wrong_architectures:{name}", summary=cls.__doc__ or "")
