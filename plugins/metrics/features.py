"""Features of real and generated images, extracted once for each evaluation; all scores of features share them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import Tensor

from mpcc.core.contracts import Direction, EvaluatedImages, Evaluation, FeatureRequest, Metric
from mpcc.core.errors import InvalidInput
from mpcc.plugins.metrics.extractors import Extractor, Features, check_extractor, load_extractor, require_torch_fidelity

__all__ = ["FeatureMetric", "check_features", "generated_features", "real_features"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


def real_features(images: EvaluatedImages) -> Features:
    """Return the features of the evaluated images, N of them."""
    return cached(images, "real", lambda: extractor(images).extract(images.real()))


def generated_features(images: EvaluatedImages) -> Features:
    """Return the features of ``request.samples`` generated images."""
    return cached(images, "generated", lambda: extractor(images).extract(images.generated(images.request.samples)))


def examples_features(request: FeatureRequest) -> Features:
    """Return the features of the examples of a request, extracted once; warn if they are all the same.

    Raises:
        InvalidInput: If the extractor fails.
    """
    key = f"{__name__}:examples"
    if key not in request.cache:
        assert request.examples is not None
        tried = load_extractor(request, request.examples.device)
        features = tried.extract([request.examples])
        same, alike = (bool((values == values[0]).all()) for values in (features.values, request.examples))
        if same and not alike:
            logger.warning(
                "%s: the first %d images differ, but not in any of their %d features: scores of features tell nothing",
                tried.described,
                *features.values.shape,
            )
        request.cache[key] = features
    found: Features = request.cache[key]  # type: ignore[assignment]
    return found


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
        standard_name: The name of the score with the standard extractor.
        other_name: What comes before ``[module:name]`` in its name with another extractor.
        has_deviation: Whether there is a second score, the deviation over parts of the images.
        by_torch_fidelity: The name of the metric, if torch-fidelity computes the score from the features.
    """

    standard_name: ClassVar[str]
    other_name: ClassVar[str]
    has_deviation: ClassVar[bool] = False
    by_torch_fidelity: ClassVar[str | None] = None

    needs_labels = False
    needs_images = True
    on_request = True
    higher_is_better = False

    def prepare(self, request: FeatureRequest) -> None:
        """Check that an extractor, torch-fidelity where it is needed, and enough images will be there.

        Raises:
            InvalidInput: If one of them is missing, there are fewer than 2 images, or the extractor fails on examples.
        """
        if self.by_torch_fidelity is not None:
            require_torch_fidelity(f"the metric {self.by_torch_fidelity}")
        if request.samples < 2:
            raise InvalidInput(f"--generated-images {request.samples}: expected at least 2 for scores of features")
        if request.examples is None:
            check_extractor(request)
        else:
            self.check_examples(request, examples_features(request))

    def check_examples(self, request: FeatureRequest, features: Features) -> None:
        """Check the features of a few images before training; warn of what makes the score meaningless.

        Arguments:
            request: With ``evaluated``.
            features: Of the examples.

        Raises:
            InvalidInput: If the score cannot be computed from such features.
        """

    def scores(self, name: str, request: FeatureRequest) -> dict[str, Direction]:
        """Return the score in the metric's direction, and its deviation, if there is one, in neither."""
        better: Direction = "higher" if self.higher_is_better else "lower"
        score, *deviation = self.names(request)
        return {score: better, **dict.fromkeys(deviation, "neither")}

    def names(self, request: FeatureRequest) -> list[str]:
        """Return the names of the score, and of its deviation if it has one, for the extractor that is asked for."""
        parts = ["", "_deviation"] if self.has_deviation else [""]
        if request.extractor is None:
            return [f"{self.standard_name}{part}" for part in parts]
        return [f"{self.other_name}{part}[{request.extractor}]" for part in parts]

    def images(self, evaluation: Evaluation) -> EvaluatedImages:
        """Return the images of an evaluation.

        Raises:
            InvalidInput: If fewer than 2 were evaluated.
        """
        assert evaluation.images is not None
        if len(evaluation.locations) < 2:
            raise InvalidInput("scores of features need at least 2 evaluated images, got 1 (--eval-images)")
        return evaluation.images
