"""Plugins that are right, though unusual; the docstring of a class says in which way.

They are loaded after the wrong ones, whose right base classes they use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, StudentT
from wrong_architectures import Discriminator, Encoder, Generator, Small
from wrong_datasets import COUNT, Blots, Source
from wrong_metrics import Majority, counts
from wrong_priors import MIXTURE, Gaussians

from mpcc.core.contracts import Evaluation, FeatureRequest, ImageSet, Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.hookspecs import hookimpl

# Priors


class LearnedGain(Gaussians):
    """The input map has a gain, which the generator trains."""

    def __init__(self, clusters: int, latent_dim: int, options: Any) -> None:
        super().__init__(clusters, latent_dim, options)
        self.gain = nn.Parameter(torch.zeros(latent_dim))

    def input_map(self, z: Tensor) -> Tensor:
        return super().input_map(z) * torch.exp(torch.tanh(self.gain))


class LearnedTails(Gaussians):
    """q(z|x) has a shape, which the latent term trains; torch's Student-t makes the host wait, which is a warning."""

    def __init__(self, clusters: int, latent_dim: int, options: Any) -> None:
        super().__init__(clusters, latent_dim, options)
        self.raw_df = nn.Parameter(torch.zeros(()))

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        return StudentT(1.5 + F.softplus(self.raw_df), loc, scale, validate_args=False)


class EvenOnly(Gaussians):
    """It refuses an odd J."""

    def __init__(self, clusters: int, latent_dim: int, options: Any) -> None:
        if latent_dim % 2:
            raise InvalidInput(f"expected an even latent_dim, got {latent_dim}")
        super().__init__(clusters, latent_dim, options)


class Chained(Distribution):
    """Each dimension's noise holds a half of the one before, in samples and in the density."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - torch's own annotation
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        before = torch.cat([torch.zeros_like(noise[..., :1]), noise[..., :-1]], -1)
        return self.loc + self.scale * (noise + 0.5 * before)

    def log_prob(self, value: Tensor) -> Tensor:
        first, *others = ((value - self.loc) / self.scale).unbind(-1)
        noise = [first]
        for each in others:
            noise.append(each - 0.5 * noise[-1])
        log_densities = -torch.stack(noise, -1).square() / 2 - math.log(2 * math.pi) / 2 - torch.log(self.scale)
        return log_densities.sum(-1)

    def entropy(self) -> Tensor:
        return (math.log(2 * math.pi * math.e) / 2 + torch.log(self.scale)).sum(-1)


class Correlated(Gaussians):
    """Dimensions depend on each other, in samples as in the density."""

    def component(self, y: Tensor) -> Distribution:
        return Chained(F.embedding(y, self.loc), F.embedding(y, self.scales()))


class ClampedFarOut(Gaussians):
    """The encoder's raw scale is clamped at -30 and 30, which no scale reaches."""

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        return super().encoder_distribution(loc, raw_scale.clamp(-30, 30))


# Architectures


class SpectralNorms(Small):
    """The discriminator has torch's older spectral norm."""

    class discriminator(Discriminator):  # noqa: N801 - it replaces the attribute
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.score = nn.utils.spectral_norm(self.score)


class Dropping(Small):
    """The encoder has functional dropout."""

    class encoder(Encoder):  # noqa: N801
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = F.dropout(self.trunk(x), 0.3, self.training)
            return self.loc(h), self.raw_scale(h)


class Attending(Small):
    """The encoder has attention with dropout."""

    class encoder(Encoder):  # noqa: N801
        def __init__(self, latent_dim: int, channels: int) -> None:
            super().__init__(latent_dim, channels)
            self.attention = nn.MultiheadAttention(6, 2, dropout=0.2, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            tokens = self.trunk(x).view(len(x), 6, -1).transpose(1, 2)
            attended, _ = self.attention(tokens, tokens, tokens)
            h = (tokens + attended).flatten(1)
            return self.loc(h), self.raw_scale(h)


class NoisyImages(Small):
    """The discriminator adds noise to images in training."""

    class discriminator(Discriminator):  # noqa: N801
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)


class NarrowStart(Small):
    """The raw scale starts at -9."""

    class encoder(Encoder):  # noqa: N801
        def __init__(self, latent_dim: int, channels: int) -> None:
            super().__init__(latent_dim, channels)
            nn.init.constant_(self.raw_scale.bias, -9.0)


class BatchNormed(Small):
    """The generator has batch norm, and refuses more than 50 clusters."""

    class generator(Generator):  # noqa: N801
        def __init__(self, clusters: int, latent_dim: int, channels: int) -> None:
            super().__init__(clusters, latent_dim, channels)
            self.norm = nn.BatchNorm1d(24)

        def hidden(self, z: Tensor, y: Tensor) -> Tensor:
            return F.leaky_relu(self.norm(self.latent(z) + self.label(y)), 0.2)

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        if clusters > 50:
            raise InvalidInput(f"expected at most 50 clusters, got {clusters}")
        return super().build(clusters, latent_dim, channels)


# Data sets


class BlackAndWhite(Blots):
    """Pixels are 0 or 255."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=(255 * images.round()).to(torch.uint8))


class PartlyLabelled(Blots):
    """Most images have no label."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        labels = torch.where(torch.arange(COUNT) < 10, torch.arange(COUNT) % 5, -1)
        return attrs.evolve(found, labels=labels)


class OnDemand(Blots):
    """Images are read on demand, and a list is written into the data folder."""

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        if root is not None:
            (root / "list.txt").write_text("a list")
        return super().load(image_size, root, download)

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=Source(found.images), description="on demand")


# Metrics


class Counted(Majority):
    """The score is a whole number."""

    def compute(self, evaluation: Evaluation) -> Any:
        return int(counts(evaluation).amax(1).sum())


class Single(Majority):
    """The score is a NumPy float32."""

    def compute(self, evaluation: Evaluation) -> Any:
        return np.float32(super().compute(evaluation))


class Several(Majority):
    """Three scores: higher is better, lower is better, and neither."""

    def scores(self, name: str, request: FeatureRequest) -> Mapping[str, Any]:
        return {"its_share": "higher", "its_error": "lower", "its_clusters": "neither"}

    def compute(self, evaluation: Evaluation) -> Any:
        share = super().compute(evaluation)
        used = len(evaluation.assignments.unique())
        return {"its_share": share, "its_error": 1 - share, "its_clusters": used}


BASES = {"prior": Gaussians, "architecture": Small, "dataset": Blots, "metric": Majority}


def own(kind: str) -> dict[str, type]:
    """Return the classes of a kind that this file defines, by name."""
    here = {name: each for name, each in globals().items() if isinstance(each, type) and each.__module__ == __name__}
    return {name: each for name, each in here.items() if issubclass(each, BASES[kind])}


@hookimpl
def register_priors(register: Any) -> None:
    for name, cls in own("prior").items():
        register(name, f"right_plugins:{name}", summary=cls.__doc__, options=MIXTURE)


@hookimpl
def register_architectures(register: Any) -> None:
    for name, cls in own("architecture").items():
        register(name, f"right_plugins:{name}", summary=cls.__doc__)


@hookimpl
def register_datasets(register: Any) -> None:
    for name, cls in own("dataset").items():
        register(name, f"right_plugins:{name}", summary=cls.__doc__)


@hookimpl
def register_metrics(register: Any) -> None:
    for name, cls in own("metric").items():
        register(name, f"right_plugins:{name}", summary=cls.__doc__)
