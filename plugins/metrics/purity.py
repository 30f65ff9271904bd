"""Purity: accuracy when each cluster is named after the majority of its images."""

from __future__ import annotations

from numpy.typing import ArrayLike
from torch import Tensor

from mpcc.core.contracts import Evaluation, Metric
from mpcc.core.evaluation.contingency import contingency, true_labels

__all__ = ["Purity", "purity"]


def purity(clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    r"""Return the share of images that belong to the majority class of their cluster.

    .. math:: \mathrm{purity} = \frac{1}{N} \sum_k \max_c n_{kc}

    Many clusters may have the same majority class, so purity never falls when clusters are split, and N clusters of
    one image have purity 1: compare it only at equal K. The one-to-one score is
    `mpcc.plugins.metrics.accuracy.accuracy`; acc <= purity. (The authors' code reports purity under the name accuracy.)

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).
        labels: Class of each image, integers >= 0, shape (N,).

    Returns:
        A number in (0, 1], at least the share of the largest class.

    Raises:
        ValueError: If the two are not integers >= 0 of one shape (N,), N >= 1.

    Reference:
        Manning, Raghavan and Schuetze, Introduction to information retrieval, 2008, section 16.3.

    Example:
        >>> purity([0, 1, 2, 3], [0, 0, 1, 1])
        1.0
        >>> purity([0, 0, 0, 0], [0, 0, 1, 2])
        0.5
    """
    table = contingency(clusters, labels)
    return float(table.max(axis=1).sum() / table.sum())


class Purity(Metric):
    """The metric ``purity``: `purity` of the most probable clusters against the true labels."""

    def compute(self, evaluation: Evaluation) -> float:
        """Return purity in (0, 1]."""
        return purity(evaluation.assignments, true_labels(evaluation))
