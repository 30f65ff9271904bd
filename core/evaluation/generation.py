"""New images: samples of clusters, images of given latents, and the way from one sample to another."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.inference import EVALUATION_BATCH
from mpcc.core.method.model import Model, standing_generator, to_pixels
from mpcc.core.system.kernel_settings import full_precision
from mpcc.core.system.randomness import own_randomness

__all__ = ["Generation", "Samples"]


# The smallest share of latents that a truncation may keep, and how many are kept of one draw.
LEAST_TRUNCATION, KEPT_AT_ONCE = 0.01, 1000


@attrs.frozen(eq=False)
class Samples:
    """Generated images, with what they were generated from.

    Attributes:
        images: uint8, shape (N, D, R, R), on the CPU.
        z: float32, shape (N, J), on the CPU.
        clusters: int64, shape (N,), on the CPU.
    """

    images: Tensor
    z: Tensor
    clusters: Tensor


class Generation:
    """Generates images from the averaged generator of a model, with standing statistics (supplement, C).

    The statistics are computed once, on a copy. The model and the global random states stay as they are.

    Arguments:
        model: Averaged generator and prior.
        passes: Batches for the standing statistics.
        batch: Samples in each of them.
        seed: Of these batches; with the seed of the run, the images are those of its evaluations.
    """

    def __init__(self, model: Model, *, passes: int, batch: int, seed: int) -> None:
        self.model = model
        self._passes = passes
        self._batch = batch
        self._seed = seed
        self._generator: nn.Module | None = None

    def standing(self) -> nn.Module:
        """Return the averaged generator with standing statistics, in evaluation mode; it must not be changed."""
        if self._generator is None:
            with full_precision(self.model.device), own_randomness(self._seed, self.model.device):
                self._generator = standing_generator(self.model.averaged, self.model.prior, self._passes, self._batch)
        return self._generator

    @torch.no_grad()
    def images(self, z: Tensor, clusters: Tensor) -> Tensor:
        """Return the images of latents, uint8, shape (N, D, R, R), on the CPU.

        Arguments:
            z: Latents, shape (N, J).
            clusters: The cluster of each, shape (N,).
        """
        device, prior, generator = self.model.device, self.model.prior, self.standing()
        with full_precision(device), own_randomness(self._seed, device):
            parts = zip(torch.split(z, EVALUATION_BATCH), torch.split(clusters, EVALUATION_BATCH), strict=True)
            made = [to_pixels(generator(prior.input_map(some.to(device)), y.to(device))) for some, y in parts]
        return torch.cat(made)

    @torch.no_grad()
    def sample(self, clusters: Tensor | int, seed: int, truncation: float = 1.0) -> Samples:
        """Draw z ~ p(z|y) and generate the images.

        The truncation trick of GANs, in a form that every prior has: with a truncation of 0.25, four latents are drawn
        for each one that is kept, and those of the highest density p(z|y) in their cluster are kept. A small truncation
        gives typical images, and less variety.

        Arguments:
            clusters: The cluster of each image, shape (N,); or N, to draw the clusters from the prior, too.
            seed: The same seed gives the same images.
            truncation: The share of the latents that is kept, from 0.01 to 1.

        Raises:
            InvalidInput: If the truncation is not in that range.
        """
        if not LEAST_TRUNCATION <= truncation <= 1:
            raise InvalidInput(
                f"truncation {truncation:g}: expected a share from {LEAST_TRUNCATION:g} to 1, such as 0.5"
            )
        prior, device = self.model.prior, self.model.device
        with full_precision(device), own_randomness(seed, device):
            y = prior.sample_labels(clusters) if isinstance(clusters, int) else clusters.to(device)
            z = torch.empty(len(y), prior.latent_dim, device=device)
            for cluster in torch.bincount(y).nonzero().flatten().tolist():
                for places in torch.split((y == cluster).nonzero().flatten(), KEPT_AT_ONCE):
                    drawn = prior.component(y[places[:1]].expand(math.ceil(len(places) / truncation))).rsample()
                    if len(drawn) > len(places):
                        densities = prior.log_density(drawn)[:, cluster]
                        drawn = drawn[densities.topk(len(places)).indices.sort().values]
                    z[places] = drawn.to(z.dtype)
        return Samples(self.images(z, y), z.cpu(), y.cpu())

    def interpolate(self, clusters: Tensor, steps: int, seed: int, truncation: float = 1.0) -> Samples:
        """Go on a straight line in z from one sample of a cluster to another.

        Arguments:
            clusters: The cluster of each line, shape (N,).
            steps: Images of each line, both ends included, at least 2.
            seed: The same seed gives the same images.
            truncation: As in `sample`.

        Returns:
            N times ``steps`` images, line by line.

        Raises:
            InvalidInput: If there are fewer than two steps.
        """
        if steps < 2:
            raise InvalidInput(f"steps {steps}: expected at least 2, the two ends")
        ends = self.sample(clusters.repeat_interleave(2), seed, truncation).z.view(len(clusters), 2, -1)
        along = torch.linspace(0, 1, steps)[None, :, None]
        z = torch.lerp(ends[:, :1], ends[:, 1:], along).flatten(0, 1)
        y = clusters.cpu().repeat_interleave(steps)
        return Samples(self.images(z, y), z, y)
