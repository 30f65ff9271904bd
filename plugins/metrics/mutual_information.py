"""Normalized mutual information of clusters and classes."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from mpcc.core.contracts import Evaluation, Metric
from mpcc.core.evaluation.contingency import paired, true_labels

__all__ = ["NormalizedMutualInformation", "normalized_mutual_information"]


def normalized_mutual_information(clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    r"""Return the mutual information of clusters and classes over the arithmetic mean of their entropies.

    .. math:: \mathrm{nmi} = \frac{2 \, I(\hat y; y)}{H(\hat y) + H(y)}

    Computed by scikit-learn, with its convention that nmi is 1 if there is one cluster and one class.

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).
        labels: Class of each image, integers >= 0, shape (N,).

    Returns:
        A number in [0, 1]; 0 if the two are independent. It is not corrected for chance: it grows with K.

    Raises:
        ValueError: If the two are not integers >= 0 of one shape (N,), N >= 1.

    Reference:
        Vinh, Epps and Bailey, Information theoretic measures for clusterings comparison, 2010 (NMI sum).

    Example:
        >>> round(normalized_mutual_information([0, 0, 1, 2], [0, 0, 1, 1]), 4)
        0.8
    """
    first, second = paired(clusters, labels)
    # Rounding can leave a perfect clustering one ulp above 1.
    return min(1.0, float(normalized_mutual_info_score(second, first, average_method="arithmetic")))


class NormalizedMutualInformation(Metric):
    """The metric ``nmi``: `normalized_mutual_information` of the most probable clusters and the true labels."""

    def compute(self, evaluation: Evaluation) -> float:
        """Return nmi in [0, 1]."""
        return normalized_mutual_information(evaluation.assignments, true_labels(evaluation))
