"""How well the clusters are separated in latent space."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import silhouette_score
from torch import Tensor

from mpcc.core.contracts import Evaluation, Metric
from mpcc.core.evaluation.contingency import paired

__all__ = ["Silhouette", "silhouette"]

# All pairs of images are compared; more images would take minutes.
LARGEST_SAMPLE = 10_000
SAMPLE_SEED = 0


def silhouette(locations: ArrayLike | Tensor, clusters: ArrayLike | Tensor, sample: int = LARGEST_SAMPLE) -> float:
    r"""Return the mean silhouette coefficient of points in clusters, with Euclidean distances.

    .. math:: \frac{1}{N} \sum_i \frac{b_i - a_i}{\max(a_i, b_i)}

    where a_i is the mean distance of i to the others of its cluster and b_i the smallest mean distance to another
    cluster; 0 for a point that is alone in its cluster. Computed by scikit-learn.

    Arguments:
        locations: z, shape (N, J).
        clusters: Cluster of each point, integers >= 0, shape (N,).
        sample: The largest number of points to compare. Of more points, a fixed random choice of this size is taken.

    Returns:
        A number in [-1, 1]; 0 if there is only one cluster, or if every point is alone in its cluster.

    Raises:
        ValueError: If the clusters are not integers >= 0 of shape (N,), or there are not N locations.

    Reference:
        Rousseeuw, Silhouettes: a graphical aid to the interpretation and validation of cluster analysis, 1987.

    Example:
        >>> round(silhouette([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1]), 4)
        0.8885
        >>> silhouette([[0.0], [1.0]], [0, 0])
        0.0
    """
    points = np.asarray(locations.detach().cpu() if isinstance(locations, Tensor) else locations, dtype=np.float64)
    assigned, _ = paired(clusters, clusters)
    if points.ndim != 2 or len(points) != len(assigned):
        raise ValueError(f"locations must have shape ({len(assigned)}, J), got {points.shape}")
    if len(points) > sample:
        chosen = np.random.default_rng(SAMPLE_SEED).choice(len(points), sample, replace=False)
        points, assigned = points[chosen], assigned[chosen]
    if not 2 <= len(np.unique(assigned)) < len(assigned):
        return 0.0
    return float(silhouette_score(points, assigned))


class Silhouette(Metric):
    """The metric ``silhouette``: of the encoder's locations and the most probable clusters."""

    needs_labels = False

    def compute(self, evaluation: Evaluation) -> float:
        """Return a number in [-1, 1]."""
        return silhouette(evaluation.locations, evaluation.assignments)
