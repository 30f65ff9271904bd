"""Evaluation: images to latents, latents to clusters, clusters to scores and pictures.

Nothing here changes the model. Every draw uses its own random state, so that training goes on as if no evaluation had
taken place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mpcc.core.contracts import Evaluation, ImageSet, Metric
from mpcc.core.errors import PluginError
from mpcc.core.evaluation.evaluated_images import ModelImages
from mpcc.core.evaluation.inference import EVALUATION_BATCH, Prediction, predictions
from mpcc.core.method.model import Model, to_pixels
from mpcc.core.system.plain_values import plain_value

__all__ = [
    "SAME_IMAGES",
    "Pictures",
    "choose_images",
    "draw_interpolations",
    "draw_pictures",
    "evaluate",
    "left_out",
    "score",
]

# The seed of the choice of evaluated images. It is not that of the run: scores and clusterings of several seeds can be
# compared only on the same images.
SAME_IMAGES = 0
SAMPLES_PER_CLUSTER = 10
INTERPOLATED_IMAGES = 10
RECONSTRUCTED_IMAGES = 50


def choose_images(count: int, wanted: int | str, seed: int) -> Tensor:
    """Return the indices of the images to be evaluated, in ascending order.

    The choice depends only on the arguments, so that every evaluation of a run uses the same images.

    Arguments:
        count: N, the number of images in the set.
        wanted: How many of them to evaluate, or ``"all"``.
        seed: Of the choice.
    """
    if isinstance(wanted, str) or wanted >= count:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:wanted].sort().values


def evaluate(
    model: Model,
    data: ImageSet,
    indices: Tensor,
    predicted: Callable[[Tensor], Sequence[Prediction]] | None = None,
) -> Evaluation:
    """Encode images and compute the posterior over clusters, q(y|x).

    Arguments:
        model: Encoder and prior.
        data: The images.
        indices: Which of them, shape (N,).
        predicted: Returns predictions for images of these indices, in order; by default this process makes them.
    """
    if predicted is None:
        chosen = (data.images[numbers] for numbers in torch.split(indices, EVALUATION_BATCH))
        found: Sequence[Prediction] = list(predictions(model, chosen, batch=EVALUATION_BATCH))
    else:
        found = predicted(indices)
    labels = None if data.labels is None else data.labels[indices]
    posterior, locations = (
        torch.cat(parts) for parts in zip(*((each.posterior, each.locations) for each in found), strict=True)
    )
    return Evaluation(posterior, locations, labels)


def left_out(metrics: Mapping[str, Metric], labels: Tensor | None) -> dict[str, str]:
    """Return the reason why a metric cannot be computed, by the name of the metric.

    One class is no labelling: every clustering would agree with it.

    Arguments:
        metrics: By name.
        labels: Of the evaluated images, shape (N,), or None.
    """
    needing = [name for name, metric in metrics.items() if metric.needs_labels]
    if labels is None:
        return dict.fromkeys(needing, "the data set has no labels")
    known = labels[labels >= 0]
    if not len(known):
        return dict.fromkeys(needing, "no evaluated image has a label")
    if bool((known == known[0]).all()):
        reason = f"all {len(known)} evaluated images are of one class, which is no labelling"
        return dict.fromkeys(needing, reason)
    if len(known) == len(labels):
        return {}
    reason = "it needs images and the labels of all of them, and some have none"
    return {name: reason for name in needing if metrics[name].needs_images}


def score(metrics: Mapping[str, Metric], evaluation: Evaluation) -> dict[str, float]:
    """Compute every metric that is not `left_out`; those that need labels, from the images that have one.

    Returns:
        Scores by the metric's name, or by the names that a metric with several scores gives them.

    Raises:
        PluginError: If a metric returns something other than finite numbers, or a name that is taken; or if it needs
            images, and the evaluation has no images.
    """
    scores: dict[str, float] = {}
    skipped = left_out(metrics, evaluation.labels)
    for name, metric in metrics.items():
        if name in skipped:
            continue
        if metric.needs_images and evaluation.images is None:
            raise PluginError(
                f"metric {name!r} needs images: expected an evaluation with images, got one with latents only"
            )
        computed = metric.compute((evaluation.labelled() or evaluation) if metric.needs_labels else evaluation)
        if evaluation.images is not None:
            make_plain(evaluation.images.record, name)
        for key, value in computed.items() if isinstance(computed, Mapping) else [(name, computed)]:
            if not isinstance(key, str) or not key:
                raise PluginError(f"metric {name!r} named a score {key!r}: expected a text")
            if key in scores:
                raise PluginError(f"metric {name!r} gives the score {key!r}, as another metric does")
            try:
                number = float(value)
            except (TypeError, ValueError) as error:
                raise PluginError(
                    f"metric {name!r} returned {value!r} for {key!r}: expected a finite number"
                ) from error
            if not math.isfinite(number):
                what = f"metric {name!r} returned {number}" if key == name else f"metric {name!r}: {key!r} is {number}"
                raise PluginError(f"{what}: expected a finite number")
            scores[key] = number
    return scores


def make_plain(record: dict[str, object], name: str) -> None:
    """Turn what metrics have recorded into plain values for ``results.json``.

    Arguments:
        record: Of the evaluated images; it is changed.
        name: The metric that was computed last.

    Raises:
        PluginError: If JSON cannot hold a value.
    """
    try:
        plain = plain_value(record, "record")
    except ValueError as error:
        raise PluginError(f"metric {name!r}: {error}") from error
    record.clear()
    record.update(plain)


class Pictures:
    """The images that an evaluation shows, uint8.

    Attributes:
        samples: A row of samples for each cluster, shape (K, columns, D, R, R).
        originals: Real images, sorted by cluster, those of a cluster by label, shape (M, D, R, R).
        reconstructions: What the generator makes of each original's location and cluster, same shape.
        clusters: The cluster of each original, int64, shape (M,).
    """

    def __init__(self, samples: Tensor, originals: Tensor, reconstructions: Tensor, clusters: Tensor) -> None:
        self.samples = samples
        self.originals = originals
        self.reconstructions = reconstructions
        self.clusters = clusters


def draw_pictures(images: ModelImages, evaluation: Evaluation) -> Pictures:
    """Generate samples and reconstructions from the averaged generator with standing statistics.

    Arguments:
        images: Images of the evaluation; their seed gives the latent noise, so that pictures can be compared over time.
        evaluation: The reconstructions are sorted by its clusters and labels.
    """
    prior = images.model.prior
    with images.standing() as generator:
        labels_of_samples = torch.arange(prior.clusters, device=images.device).repeat_interleave(SAMPLES_PER_CLUSTER)
        rows = []
        for y in torch.split(labels_of_samples, EVALUATION_BATCH):
            z = prior.component(y).rsample()
            rows.append(to_pixels(generator(prior.input_map(z), y)))
        shown = torch.randperm(len(evaluation.locations))[:RECONSTRUCTED_IMAGES]
        if evaluation.labels is not None:
            labels = evaluation.labels[shown]
            labels = labels.where(labels >= 0, labels.max() + 1)  # images without a label come last
            shown = shown[labels.argsort(stable=True)]
        clusters = evaluation.assignments[shown]
        shown, clusters = shown[clusters.argsort(stable=True)], clusters.sort(stable=True).values
        reconstructions = to_pixels(images.reconstruct(generator, shown))
    samples = torch.cat(rows)
    samples = samples.view(prior.clusters, SAMPLES_PER_CLUSTER, *samples.shape[1:])
    return Pictures(samples, images.pixels(shown), reconstructions, clusters)


def draw_interpolations(images: ModelImages, clusters: Sequence[int]) -> Tensor:
    """Generate images on a straight line in z from one sample of a cluster to another, for some clusters.

    Arguments:
        images: Images of the evaluation; their seed gives the ends of the lines.
        clusters: Numbers of clusters.

    Returns:
        uint8, shape (clusters, 10, D, R, R).
    """
    prior = images.model.prior
    with images.standing() as generator:
        y = torch.tensor(clusters, dtype=torch.int64, device=images.device)
        ends = prior.component(y.repeat_interleave(2)).rsample().view(len(y), 2, -1)
        along = torch.linspace(0, 1, INTERPOLATED_IMAGES, device=images.device)[None, :, None]
        z = torch.lerp(ends[:, :1], ends[:, 1:], along.to(ends)).flatten(0, 1)
        y = y.repeat_interleave(INTERPOLATED_IMAGES)
        parts = zip(torch.split(z, EVALUATION_BATCH), torch.split(y, EVALUATION_BATCH), strict=True)
        drawn = [to_pixels(generator(prior.input_map(some), own)) for some, own in parts]
    pixels = torch.cat(drawn)
    return pixels.view(len(clusters), INTERPOLATED_IMAGES, *pixels.shape[1:])
