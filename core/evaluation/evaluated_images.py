"""The images of one evaluation, computed when a metric or a picture asks for them: real, reconstructed, generated."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.contracts import EvaluatedImages, Evaluation, FeatureRequest, ImageSet
from mpcc.core.evaluation.inference import EVALUATION_BATCH, predict
from mpcc.core.method.model import Model, standing_generator, to_pixels, to_unit_range
from mpcc.core.system.kernel_settings import full_precision
from mpcc.core.system.randomness import own_randomness, random_states, restore_random_states

__all__ = ["ModelImages"]


@attrs.define(eq=False, slots=False)
class ModelImages(EvaluatedImages):
    """The evaluated images, their reconstructions by a model, and images that the model generates.

    The averaged generator gets its standing statistics once, on a copy. The networks and the random state of the run
    stay as they are. All networks compute in the precision of their parameters, whatever training computes in.

    Arguments:
        model: Averaged generator and prior.
        data: The image set.
        indices: The images that were evaluated, shape (N,).
        evaluation: Their locations and clusters.
        request: Settings of feature scores, for metrics.
        passes: Batches for the standing statistics.
        batch: Samples in each.
        seed: The same seed gives the same latent noise, so that evaluations can be compared over time.
    """

    model: Model
    _data: ImageSet
    _indices: Tensor
    _evaluation: Evaluation
    request: FeatureRequest = attrs.field(kw_only=True)
    _passes: int = attrs.field(kw_only=True)
    _batch: int = attrs.field(kw_only=True)
    _seed: int = attrs.field(kw_only=True)
    cache: dict[str, object] = attrs.field(factory=dict, init=False)
    record: dict[str, object] = attrs.field(factory=dict, init=False)
    _standing: tuple[nn.Module, dict[str, Any]] | None = attrs.field(default=None, init=False)
    _compared: tuple[Tensor, Tensor] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Say where the networks are."""
        self.device = self.model.device

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image, (D, R, R)."""
        return tuple(self._data.images.shape[1:])

    @contextlib.contextmanager
    def standing(self) -> Iterator[nn.Module]:
        """Lend the generator for a ``with`` block, in the random state that computing the statistics left.

        Each block starts from the same random state, whatever the order of the blocks.
        """
        with torch.no_grad(), full_precision(self.device), own_randomness(self._seed, self.device):
            if self._standing is None:
                generator = standing_generator(self.model.averaged, self.model.prior, self._passes, self._batch)
                self._standing = generator, random_states()
            generator, states = self._standing
            restore_random_states(states)
            yield generator

    def pixels(self, chosen: Tensor) -> Tensor:
        """Return some of the evaluated images, uint8, (n, D, R, R), by their numbers in 0..N-1, shape (n,)."""
        return self._data.images[self._indices[chosen]]

    def reconstruct(self, generator: nn.Module, chosen: Tensor) -> Tensor:
        """Return reconstructions of `pixels` in [-1, 1] on the device, of the same shape.

        Arguments:
            generator: From `standing`, or another one in the mode in which it shall reconstruct.
            chosen: Numbers in 0..N-1, shape (n,).
        """
        z = self._evaluation.locations[chosen].to(self.device)
        images: Tensor = generator(self.model.prior.input_map(z), self._evaluation.assignments[chosen].to(self.device))
        return images

    def real(self) -> Iterator[Tensor]:
        """Yield batches of the evaluated images, as the contract says."""
        for chosen in torch.split(torch.arange(len(self._indices)), EVALUATION_BATCH):
            yield self.pixels(chosen)

    def generated(self, count: int) -> Iterator[Tensor]:
        """Yield batches of images of fresh (z, y) ~ p, as the contract says."""
        with self.standing() as lent:
            generator = lent
        for number, start in enumerate(range(0, count, EVALUATION_BATCH)):
            # Each batch has its own seed, because the caller may draw random numbers between two batches.
            seed = (self._seed * 1_000_003 + number + 1) % 2**63
            with torch.no_grad(), full_precision(self.device), own_randomness(seed, self.device):
                z, y = self.model.prior.sample(min(EVALUATION_BATCH, count - start))
                images = to_pixels(generator(self.model.prior.input_map(z), y))
            yield images

    def reconstruction_errors(self) -> Tensor:
        """Return each image's mean squared error, as the contract says."""
        return self._compare()[0]

    def reconstructed_clusters(self) -> Tensor:
        """Return the cluster of each reconstruction, as the contract says."""
        return self._compare()[1]

    def _compare(self) -> tuple[Tensor, Tensor]:
        """Reconstruct all images once; return the errors of the reconstructions and their clusters."""
        if self._compared is None:
            errors, clusters = [], []
            with self.standing() as generator:
                for chosen in torch.split(torch.arange(len(self._indices)), EVALUATION_BATCH):
                    original = to_unit_range(self.pixels(chosen), self.device)
                    reconstructed = self.reconstruct(generator, chosen)
                    errors.append((original - reconstructed).flatten(1).square().mean(1))
                    clusters.append(predict(self.model, to_pixels(reconstructed)).clusters)
            self._compared = torch.cat(errors).cpu(), torch.cat(clusters)
        return self._compared

    def published_error(self) -> float:
        """Return the error of the published code, as the contract says; computed with a copy of the generator."""
        count = len(self._indices)
        with torch.no_grad(), own_randomness(self._seed, self.device):
            generator = copy.deepcopy(self.model.networks.generator).train()
            order = torch.randperm(count)
            batches = torch.split(order[: max(self._batch, count - count % self._batch)], self._batch)
            errors = [
                (to_unit_range(self.pixels(chosen), self.device) - self.reconstruct(generator, chosen)).mean()
                for chosen in batches
            ]
        return float(torch.stack(errors).double().square().mean())

    def known_errors(self) -> Tensor | None:
        """Return the `reconstruction_errors` if they have been computed already, else None."""
        return None if self._compared is None else self._compared[0]
