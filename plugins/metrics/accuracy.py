"""Clustering accuracy under the best one-to-one matching of clusters and classes."""

from __future__ import annotations

from numpy.typing import ArrayLike
from torch import Tensor

from mpcc.core.contracts import Evaluation, Metric
from mpcc.core.evaluation.contingency import contingency, matching, true_labels

__all__ = ["Accuracy", "accuracy"]


def accuracy(clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    r"""Return the share of images whose cluster is matched to their class, by the best one-to-one matching.

    .. math:: \mathrm{acc} = \max_{m} \frac{1}{N} \sum_k n_{k, m(k)}

    over all injective partial maps m from clusters to classes. A class is given to one cluster at most, so with more
    clusters than classes the images of the clusters left over count as errors, and vice versa. A majority vote, which
    may give a class to many clusters, is `mpcc.plugins.metrics.purity.purity`; acc <= purity.

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).
        labels: Class of each image, integers >= 0, shape (N,).

    Returns:
        A number in (0, 1]; 1 if the clusters are the classes.

    Raises:
        ValueError: If the two are not integers >= 0 of one shape (N,), N >= 1.

    Reference:
        Kuhn, The Hungarian method for the assignment problem, 1955; Yang et al., Image clustering using local
        discriminant models and global integration, 2010 (the score).

    Example:
        >>> accuracy([1, 1, 0, 0], [0, 0, 1, 1])
        1.0
        >>> accuracy([0, 1, 2, 3], [0, 0, 1, 1])
        0.5
    """
    table = contingency(clusters, labels)
    rows, columns = matching(table)
    return float(table[rows, columns].sum() / table.sum())


class Accuracy(Metric):
    """The metric ``acc``: `accuracy` of the most probable clusters against the true labels."""

    def compute(self, evaluation: Evaluation) -> float:
        """Return acc in (0, 1]."""
        return accuracy(evaluation.assignments, true_labels(evaluation))
