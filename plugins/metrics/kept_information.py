"""How much of the clusters survives reconstruction: a score without labels that does not reward collapse."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information
from torch import Tensor

from mpcc.core.contracts import Evaluation, Metric
from mpcc.core.evaluation.contingency import contingency, paired
from mpcc.plugins.metrics.occupancy import occupancy

__all__ = ["KeptInformation", "kept_information"]

# Below this many nats there is nothing left to be known beyond chance: as many clusters as images, one image in each.
NOTHING_LEFT = 1e-9


def kept_information(clusters: ArrayLike | Tensor, reconstructed: ArrayLike | Tensor, count: int) -> float:
    r"""Return the information that clusters of images and of their reconstructions share, times the share of clusters.

    .. math:: \frac{I(y; \hat y) - E[I]}{\log K - E[I]} \cdot \frac{\exp H(y)}{K}

    where E[I] is the mutual information by chance, the mean over all permutations of one of the two, and exp H(y) is
    the number of equally large clusters with the entropy of y. The score is 1 if all K clusters are equally large and
    every reconstruction stays in the cluster of its image. Both factors fall with a collapse: if only u clusters are
    used, the score is at most about u log u / (K log K), however stable they are. Clusters at random score 0 on
    average, a single one scores 0.

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).
        reconstructed: Cluster of each image's reconstruction, integers >= 0, shape (N,).
        count: K, larger than every cluster's number.

    Returns:
        A number up to 1; below 0 if the two agree less than by chance; 0 if K = 1.

    Raises:
        ValueError: If the two are not integers in 0..K-1 of one shape (N,), N >= 1.

    Reference:
        Ours. Mutual information of the clusters of two views of an image: Ji, Henriques and Vedaldi, Invariant
        information clustering, 2019. Correction for chance: Vinh, Epps and Bailey, 2010. Here the second view is the
        model's own reconstruction, so that no invariance has to be known.

    Example:
        >>> [round(kept_information([0, 0, 1, 1], [0, 0, 1, 1], count), 2) for count in (2, 4)]
        [1.0, 0.2]
        >>> kept_information([0, 0, 0, 0], [0, 0, 0, 0], 4)
        0.0
    """
    first, second = paired(clusters, reconstructed)
    largest = max(int(first.max()), int(second.max()))
    if largest >= count:
        raise ValueError(f"clusters must be less than K = {count}, got {largest}")
    chance = float(expected_mutual_information(contingency(first, second), len(first)))
    room = math.log(count) - chance
    if room < NOTHING_LEFT:
        return 0.0
    return float((mutual_info_score(first, second) - chance) / room) * math.exp(occupancy(first)[1]) / count


class KeptInformation(Metric):
    """The metric ``kept_information``: of the most probable clusters of the images and of their reconstructions.

    The averaged generator reconstructs an image from the encoder's location and the most probable cluster.
    """

    needs_labels = False
    needs_images = True
    judges_clusterings = True

    def compute(self, evaluation: Evaluation) -> float:
        """Return a number up to 1."""
        assert evaluation.images is not None
        return kept_information(evaluation.assignments, evaluation.images.reconstructed_clusters(), evaluation.clusters)
