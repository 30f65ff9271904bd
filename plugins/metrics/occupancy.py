"""How the images spread over the clusters; classes are not used."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from mpcc.core.contracts import Direction, Evaluation, FeatureRequest, Metric
from mpcc.core.evaluation.contingency import paired

__all__ = ["Occupancy", "occupancy"]


def occupancy(clusters: ArrayLike | Tensor) -> tuple[int, float]:
    r"""Return the number of non-empty clusters, and the entropy of their shares of the images, in nats.

    .. math:: H = -\sum_k \frac{n_k}{N} \log \frac{n_k}{N}

    Empty clusters contribute 0. exp(H) is the number of equally large clusters with the same entropy.

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).

    Returns:
        The number, in 1..min(N, K), and the entropy, in [0, log of the number]; 0 for one cluster.

    Raises:
        ValueError: If they are not integers >= 0 of shape (N,), N >= 1.

    Example:
        >>> used, entropy = occupancy([0, 0, 7, 7])
        >>> used, round(entropy, 4)
        (2, 0.6931)
    """
    assigned, _ = paired(clusters, clusters)
    counts = np.unique(assigned, return_counts=True)[1]
    shares = counts / counts.sum()
    return len(counts), max(0.0, float(-(shares * np.log(shares)).sum()))


class Occupancy(Metric):
    """The metric ``occupancy``: ``occupancy_used`` and ``occupancy_entropy`` of the most probable clusters."""

    needs_labels = False

    def scores(self, name: str, request: FeatureRequest) -> dict[str, Direction]:
        """Return both names; neither number alone tells a good clustering from a random one."""
        return {"occupancy_used": "higher", "occupancy_entropy": "higher"}

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        """Return both numbers by name."""
        used, entropy = occupancy(evaluation.assignments)
        return {"occupancy_used": float(used), "occupancy_entropy": entropy}
