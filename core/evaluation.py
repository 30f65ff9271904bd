"""Evaluation: images to latents, latents to clusters, clusters to scores and pictures.

Nothing here changes the model, and every draw is made under a random state of its own, so that training goes on as if
no evaluation had taken place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mpcc.core.contracts import Evaluation, ImageSet, Metric
from mpcc.core.errors import PluginError
from mpcc.core.model import Model, standing_generator, to_pixels, to_unit_range

__all__ = ["Pictures", "choose_images", "draw_pictures", "evaluate", "own_randomness", "score"]

ENCODING_BATCH = 256
SAMPLES_PER_CLUSTER = 10
RECONSTRUCTED_IMAGES = 50


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state for the length of a ``with`` block and put the old state back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def choose_images(count: int, wanted: int | str, seed: int) -> Tensor:
    """Return the indices of the images to be evaluated, in ascending order.

    The choice depends on the numbers given alone, so that every evaluation of a run sees the same images.

    Arguments:
        count: N, the images there are.
        wanted: How many of them, or ``"all"``.
        seed: Of the run.
    """
    if isinstance(wanted, str) or wanted >= count:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:wanted].sort().values


@torch.no_grad()
def evaluate(model: Model, data: ImageSet, indices: Tensor) -> Evaluation:
    """Encode images and compute the posterior over clusters, q(y|z) at z = location of q(z|x).

    Arguments:
        model: Encoder and prior.
        data: The images.
        indices: Which of them, shape (N,).
    """
    encoder = model.networks.encoder
    training = encoder.training
    encoder.eval()
    locations = []
    try:
        for chosen in torch.split(indices, ENCODING_BATCH):
            loc, _ = encoder(to_unit_range(data.images[chosen], model.device))
            locations.append(loc)
    finally:
        encoder.train(training)
    location = torch.cat(locations)
    posterior = torch.cat([model.prior.log_responsibilities(z).exp() for z in torch.split(location, ENCODING_BATCH)])
    labels = None if data.labels is None else data.labels[indices]
    return Evaluation(posterior.cpu(), location.cpu(), labels)


def score(metrics: Mapping[str, Metric], evaluation: Evaluation) -> dict[str, float]:
    """Compute every metric whose needs are met, by name.

    Raises:
        PluginError: If a metric returns something else than a finite number.
    """
    scores = {}
    for name, metric in metrics.items():
        if metric.needs_labels and evaluation.labels is None:
            continue
        value = float(metric.compute(evaluation))
        if not math.isfinite(value):
            raise PluginError(f"metric {name!r} returned {value}: expected a finite number")
        scores[name] = value
    return scores


class Pictures:
    """Images for the eye, uint8.

    Attributes:
        samples: A row of samples for each cluster, shape (K, columns, D, R, R).
        originals: Real images, sorted by label, or by cluster where there are no labels, shape (M, D, R, R).
        reconstructions: What the generator makes of each original's location and cluster, same shape.
    """

    def __init__(self, samples: Tensor, originals: Tensor, reconstructions: Tensor) -> None:
        self.samples = samples
        self.originals = originals
        self.reconstructions = reconstructions


@torch.no_grad()
def draw_pictures(
    model: Model, data: ImageSet, indices: Tensor, evaluation: Evaluation, *, passes: int, batch: int, seed: int
) -> Pictures:
    """Generate samples and reconstructions from the averaged generator with standing statistics.

    Arguments:
        model: Averaged generator and prior.
        data: The images.
        indices: Those that were evaluated, shape (N,).
        evaluation: Their locations and clusters.
        passes: Batches for the standing statistics.
        batch: Samples in each.
        seed: The same seed gives the same latent noise, so that pictures can be compared over time.
    """
    with own_randomness(seed, model.device):
        generator = standing_generator(model.averaged, model.prior, passes, batch)
        clusters = torch.arange(model.prior.clusters, device=model.device).repeat_interleave(SAMPLES_PER_CLUSTER)
        rows = []
        for y in torch.split(clusters, ENCODING_BATCH):
            z = model.prior.component(y).rsample()
            rows.append(to_pixels(generator(model.prior.input_map(z), y)))
        shown = torch.randperm(len(indices))[:RECONSTRUCTED_IMAGES]
    key = evaluation.assignments if evaluation.labels is None else evaluation.labels
    shown = shown[key[shown].argsort(stable=True)]
    z = evaluation.locations[shown].to(model.device)
    y = evaluation.assignments[shown].to(model.device)
    samples = torch.cat(rows)
    return Pictures(
        samples.view(model.prior.clusters, SAMPLES_PER_CLUSTER, *samples.shape[1:]),
        data.images[indices[shown]],
        to_pixels(generator(model.prior.input_map(z), y)),
    )
