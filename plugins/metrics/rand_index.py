"""The Rand index of clusters and classes, adjusted for chance."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from mpcc.core.contracts import Evaluation, Metric
from mpcc.core.evaluation.contingency import paired, true_labels

__all__ = ["AdjustedRandIndex", "adjusted_rand_index"]


def adjusted_rand_index(clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    r"""Return the agreement of clusters and classes over pairs of images, 0 on average for random clusters.

    .. math:: \mathrm{ari} = \frac{\mathrm{RI} - E[\mathrm{RI}]}{1 - E[\mathrm{RI}]}

    where RI is the share of pairs of images that both labellings join or both separate, and the expectation is over
    permutations of one labelling. Computed by scikit-learn.

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).
        labels: Class of each image, integers >= 0, shape (N,).

    Returns:
        A number in [-0.5, 1]; negative if the agreement is worse than chance.

    Raises:
        ValueError: If the two are not integers >= 0 of one shape (N,), N >= 1.

    Reference:
        Hubert and Arabie, Comparing partitions, 1985.

    Example:
        >>> adjusted_rand_index([0, 0, 1, 1], [0, 1, 0, 1])
        -0.5
    """
    first, second = paired(clusters, labels)
    return float(adjusted_rand_score(second, first))


class AdjustedRandIndex(Metric):
    """The metric ``ari``: `adjusted_rand_index` of the most probable clusters and the true labels."""

    def compute(self, evaluation: Evaluation) -> float:
        """Return ari in [-0.5, 1]."""
        return adjusted_rand_index(evaluation.assignments, true_labels(evaluation))
