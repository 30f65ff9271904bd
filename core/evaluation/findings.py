"""What one evaluation of a model finds, and its summary for ``results.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from mpcc.core.config import RunSettings
from mpcc.core.contracts import Evaluation, FeatureRequest, ImageSet, Metric, Prior
from mpcc.core.errors import PluginError, TrainingDiverged
from mpcc.core.evaluation.baseline import PixelBaseline, PixelClusters
from mpcc.core.evaluation.baseline_sheet import PixelGroup, find_groups
from mpcc.core.evaluation.confusion import Confusion
from mpcc.core.evaluation.evaluated_images import ModelImages
from mpcc.core.evaluation.evaluation import Pictures, draw_interpolations, draw_pictures, evaluate, left_out, score
from mpcc.core.evaluation.inference import EVALUATION_BATCH, Prediction, encoder_scales
from mpcc.core.evaluation.members import ClusterMembers, ShownClusters, find_members
from mpcc.core.method.model import Model
from mpcc.core.system.kernel_settings import full_precision
from mpcc.core.system.plain_values import plain_value
from mpcc.core.system.randomness import own_randomness

__all__ = ["Findings", "feature_request", "find"]


def feature_request(settings: RunSettings) -> FeatureRequest:
    """Return what the settings say about scores of features."""
    return FeatureRequest(
        settings.features, settings.feature_weights, settings.generated_images, download=settings.download
    )


@attrs.frozen(eq=False)
class Findings:
    """Everything that one evaluation computes.

    Attributes:
        data: The image set.
        indices: The images that were evaluated, shape (N,).
        evaluation: Latents, posterior and labels.
        images: The images that metrics and pictures use.
        scores: Scores by name.
        left_out: Metrics that could not be computed, with the reason.
        pictures: Samples and reconstructions.
        interpolations: For each cluster that is shown, the way in z from one sample to another, uint8, shape
            (clusters, steps, D, R, R).
        shown: The clusters that pictures show, and the sizes of all.
        members: Typical and uncertain real members of the clusters that are shown.
        confusion: Classes against clusters, or None without labels.
        pixels: Clusters of the pixels of the evaluated images for comparison, or None.
        groups: Those beside the clusters that are shown.
    """

    data: ImageSet
    indices: Tensor
    evaluation: Evaluation
    images: ModelImages
    scores: Mapping[str, float]
    left_out: Mapping[str, str]
    pictures: Pictures
    interpolations: Tensor
    shown: ShownClusters
    members: tuple[ClusterMembers, ...]
    confusion: Confusion | None
    pixels: PixelClusters | None = None
    groups: tuple[PixelGroup, ...] = ()

    @property
    def sizes(self) -> Tensor:
        """Evaluated images in each cluster, int64, shape (K,)."""
        return torch.tensor(self.shown.sizes)

    @property
    def used(self) -> int:
        """How many clusters have at least one evaluated image."""
        return self.shown.used

    def encoder_scales(self) -> Tensor | None:
        """Return the scales of q(z|x) of up to 256 evaluated images, shape (n, J); None if the family has none."""
        some = torch.arange(min(len(self.indices), EVALUATION_BATCH))
        return encoder_scales(self.images.model, self.images.pixels(some))

    def summary(self) -> dict[str, Any]:
        """Return what ``results.json`` says about the evaluation and the evaluated model."""
        model = self.images.model
        evaluated = {
            "images": len(self.indices),
            "of": len(self.data),
            "labelled": 0 if self.evaluation.labels is None else int((self.evaluation.labels >= 0).sum()),
            "skipped": len(self.data.skipped),
            "data": self.data.description,
        }
        return {
            "metrics": dict(self.scores),
            "not_computed": dict(self.left_out),
            # How metrics computed their scores, e.g. from which features.
            "evaluated": self.images.record | evaluated,
            "entropy": model.entropy.record(),
            "prior": prior_record(model.prior),
            "clusters": {"total": self.evaluation.clusters, "used": self.used, "sizes": self.sizes.tolist()},
        }


def find(
    model: Model,
    data: ImageSet,
    indices: Tensor,
    metrics: Mapping[str, Metric],
    settings: RunSettings,
    baseline: PixelBaseline | None = None,
    predicted: Callable[[Tensor], Sequence[Prediction]] | None = None,
) -> Findings:
    """Evaluate a model without a change to it or to any random state.

    All draws depend only on the run's seed, so that the noise behind the pictures is the same at every evaluation.

    Arguments:
        model: Encoder, prior, averaged generator.
        data: The images.
        indices: The images to be evaluated, shape (N,).
        metrics: Prepared metrics by name.
        settings: Seed, standing statistics, feature scores, clusters in pictures.
        baseline: Clusters the pixels of the images for comparison.
        predicted: See `mpcc.core.evaluation.evaluation.evaluate`.

    Raises:
        TrainingDiverged: If latents or posteriors are not finite.
        PluginError: If a metric returns something other than finite numbers.
        InvalidInput: If a metric lacks what it needs.
    """
    with own_randomness(settings.seed, model.device):
        latents = evaluate(model, data, indices, predicted)
    if not bool(torch.isfinite(latents.locations).all() and torch.isfinite(latents.posterior).all()):
        raise TrainingDiverged("the encoder's locations or their posteriors are not finite: training has diverged")
    images = ModelImages(
        model,
        data,
        indices,
        latents,
        request=feature_request(settings),
        passes=settings.standing_passes,
        batch=settings.batch,
        seed=settings.seed,
    )
    evaluation = attrs.evolve(latents, images=images)
    with full_precision(model.device), own_randomness(settings.seed, model.device):
        scores = score(metrics, evaluation)
    pictures = draw_pictures(images, evaluation)
    shown = ShownClusters.of(evaluation.assignments, evaluation.clusters, settings.picture_clusters, settings.seed)
    between = draw_interpolations(images, shown.numbers)
    members = find_members(images, evaluation, shown)
    labelled = evaluation.labelled()
    confusion = None if labelled is None else Confusion.of(labelled, data.class_names)
    missing = left_out(metrics, evaluation.labels)
    found = Findings(data, indices, evaluation, images, scores, missing, pictures, between, shown, members, confusion)
    if baseline is None:
        return found
    pixels = baseline.clusters(indices)
    groups = find_groups(data, indices, evaluation.assignments, pixels, shown)
    return attrs.evolve(found, pixels=pixels, groups=groups)


@torch.no_grad()
def prior_record(prior: Prior) -> dict[str, Any]:
    """Return the weights of the clusters and the scalar quantities of a prior as plain numbers.

    Raises:
        PluginError: If JSON cannot hold a quantity.
    """
    scalars = {name: value.item() for name, value in prior.quantities().items() if value.numel() == 1}
    weights = [round(weight, 6) for weight in prior.weights().tolist()]
    try:
        record: dict[str, Any] = plain_value({"weights": weights, **scalars}, "quantities")
    except ValueError as error:
        raise PluginError(f"prior {type(prior).__module__}.{type(prior).__qualname__}: {error}") from error
    return record
