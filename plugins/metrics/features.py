"""Features of real and generated images, extracted once for each evaluation; all scores of features share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import Tensor

from mpcc.core.contracts import EvaluatedImages, Evaluation, FeatureRequest, Metric
from mpcc.core.errors import InvalidInput
from mpcc.plugins.metrics.extractors import Extractor, Features, check_extractor, load_extractor, require_torch_fidelity

__all__ = ["FeatureMetric", "check_features", "generated_features", "real_features"]

T = TypeVar("T")


def real_features(images: EvaluatedImages) -> Features:
    """Return the features of the evaluated images, N of them."""
    return cached(images, "real", lambda: extractor(images).extract(images.real()))


def generated_features(images: EvaluatedImages) -> Features:
    """Return the features of ``request.samples`` generated images."""
    return cached(images, "generated", lambda: extractor(images).extract(images.generated(images.request.samples)))


def extractor(images: EvaluatedImages) -> Extractor:
    """Return the extractor, loaded once for each evaluation, and record its name."""

    def load() -> Extractor:
        loaded = load_extractor(images.request, images.device)
        images.record["features"] = {**loaded.record, "generated_images": images.request.samples}
        return loaded

    return cached(images, "extractor", load)


def check_features(first: Tensor, second: Tensor) -> None:
    """Check the shapes of two sets of features, (n, F) and (m, F), n and m at least 2.

    Raises:
        ValueError: If they don't fit.
    """
    for features in (first, second):
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(f"features must have shape (n, F) with n >= 2, got {tuple(features.shape)}")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"both must have the same number of features, got {first.shape[1]} and {second.shape[1]}")


def cached(images: EvaluatedImages, name: str, compute: Callable[[], T]) -> T:
    """Return a value from the cache of an evaluation; compute it if it is missing."""
    key = f"mpcc.plugins.metrics.features:{name}"
    if key not in images.cache:
        images.cache[key] = compute()
    value: T = images.cache[key]  # type: ignore[assignment]
    return value


class FeatureMetric(Metric):
    """A score of features, computed only if it is named; its extractor is checked before training.

    Scores of different extractors cannot be compared, so a score carries the name of an extractor of the user's own.

    Attributes:
        by_torch_fidelity: The name of the metric, if torch-fidelity computes the score from the features.
    """

    by_torch_fidelity: ClassVar[str | None] = None

    needs_labels = False
    needs_images = True
    on_request = True
    higher_is_better = False

    def prepare(self, request: FeatureRequest) -> None:
        """Check that an extractor, torch-fidelity where it is needed, and enough images will be there.

        Raises:
            InvalidInput: If one of them is missing, or there are fewer than 2 images.
        """
        if self.by_torch_fidelity is not None:
            require_torch_fidelity(f"the metric {self.by_torch_fidelity}")
        if request.samples < 2:
            raise InvalidInput(f"--generated-images {request.samples}: expected at least 2 for scores of features")
        check_extractor(request)

    def named(self, images: EvaluatedImages, standard: str, other: str) -> str:
        """Return the name of a score: ``standard``, or ``other[module:name]`` for another extractor."""
        name = images.request.extractor
        return standard if name is None else f"{other}[{name}]"

    def images(self, evaluation: Evaluation) -> EvaluatedImages:
        """Return the images of an evaluation.

        Raises:
            InvalidInput: If fewer than 2 were evaluated.
        """
        assert evaluation.images is not None
        if len(evaluation.locations) < 2:
            raise InvalidInput("scores of features need at least 2 evaluated images, got 1 (--eval-images)")
        return evaluation.images
