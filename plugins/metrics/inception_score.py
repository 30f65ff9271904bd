"""How confidently and how diversely a classifier classifies generated images."""

from __future__ import annotations

from torch import Tensor

from mpcc.core.contracts import Evaluation, FeatureRequest
from mpcc.core.errors import InvalidInput
from mpcc.plugins.metrics.extractors import Features
from mpcc.plugins.metrics.features import FeatureMetric, generated_features

__all__ = ["InceptionScore", "classifier_score"]

SPLITS = 10


def classifier_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    r"""Return the exponential of the mutual information of images and classes, a mean over parts of the images.

    .. math:: \exp \Big( \frac{1}{n} \sum_i KL \big( p(c|x_i) \,\|\, \tfrac{1}{n} \sum_j p(c|x_j) \big) \Big)

    Computed by torch-fidelity, in float64, with its shuffling of the images.

    Arguments:
        logits: Of p(c|x), shape (n, classes).
        splits: The number of parts, at most n.

    Returns:
        The mean over the parts, in [1, classes], and its standard deviation over them.

    Raises:
        ValueError: If the logits don't have that shape.

    Reference:
        Salimans et al., Improved techniques for training GANs, 2016.

    Example:
        >>> import torch
        >>> score, _ = classifier_score(50 * torch.eye(4), splits=1)
        >>> round(score, 6)
        4.0
    """
    if logits.dim() != 2 or len(logits) < 1:
        raise ValueError(f"logits must have shape (n, classes) with n >= 1, got {tuple(logits.shape)}")
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    scores = isc_features_to_metric(logits.double(), splits=min(splits, len(logits)))
    return float(scores[KEY_METRIC_ISC_MEAN]), float(scores[KEY_METRIC_ISC_STD])


class InceptionScore(FeatureMetric):
    """The metric ``inception_score``: `classifier_score` of generated images; higher is better.

    The scores are ``inception_score`` and ``inception_score_deviation``; with another extractor than the standard one,
    which then has to return logits, ``classifier_score[module:name]`` and ``classifier_score_deviation[module:name]``.
    """

    standard_name, other_name, has_deviation = "inception_score", "classifier_score", True
    by_torch_fidelity = "inception_score"
    higher_is_better = True

    def check_examples(self, request: FeatureRequest, features: Features) -> None:
        """Check that the extractor has logits.

        Raises:
            InvalidInput: If it has none.
        """
        logits_of(features, request)

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the score and its deviation over parts by their names.

        Raises:
            InvalidInput: If the extractor has no logits.
        """
        images = self.images(evaluation)
        logits = logits_of(generated_features(images), images.request)
        return dict(zip(self.names(images.request), classifier_score(logits), strict=True))


def logits_of(features: Features, request: FeatureRequest) -> Tensor:
    """Return the logits beside features, shape (n, classes).

    Raises:
        InvalidInput: If the extractor has none.
    """
    if features.logits is None:
        raise InvalidInput(
            f"--features {request.extractor}: inception_score needs an extractor that returns (features, logits), "
            "this one returns features only"
        )
    return features.logits
