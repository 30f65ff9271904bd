"""Clusters whose latents have two peaks: a sign, without labels, that a cluster holds two groups."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

__all__ = ["clusters_with_two_peaks"]

# Members of a cluster: fewer say nothing, more do not make the answer more certain.
FEWEST, MOST = 40, 400
# Clusters that are looked at, the largest ones.
LOOKED_AT = 30
# Directions in which members spread most.
DIRECTIONS = 2
# The distance of the peaks in units of their spread (Ashman's D; above 2 they are apart), and the smaller one's share.
DISTANCE, SHARE = 4.0, 0.2
# A spread that is so small beside the values is the error of their arithmetic.
SAME = 1e-6


def clusters_with_two_peaks(locations: Tensor, assignments: Tensor) -> list[int]:
    """Return the clusters whose members' latents have two peaks, far apart, where they spread most.

    A mixture of two Gaussians is fitted to the members' projections on each of the two first principal directions. The
    two peaks count if the mixture is better than one Gaussian (Bayesian information criterion), they are at least
    4 spreads apart (Ashman, Bird and Zepf, Detecting bimodality in astronomical datasets, 1994), and each has at least
    a fifth of the members. No random state changes.

    Arguments:
        locations: The encoder's locations of z, shape (N, J).
        assignments: The cluster of each, int64, shape (N,).
    """
    sizes = np.bincount(assignments.numpy())
    found = []
    for cluster in sorted(np.argsort(-sizes, kind="stable")[:LOOKED_AT].tolist()):
        if sizes[cluster] < FEWEST:
            continue
        members = locations[assignments == cluster].double().numpy()
        members = members[np.linspace(0, len(members) - 1, min(MOST, len(members))).round().astype(int)]
        centred = members - members.mean(axis=0)
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        if any(has_two_peaks(centred @ direction) for direction in directions[:DIRECTIONS]):
            found.append(cluster)
    return found


def has_two_peaks(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    """Return whether numbers, shape (n,), have two peaks far apart."""
    spread = values.std()
    if not np.isfinite(spread) or spread <= SAME * np.abs(values).max():
        return False
    column = ((values - values.mean()) / spread)[:, None]
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        # Values of which many are equal, or a fit that needs more steps, are no concern of the user.
        one, two = (GaussianMixture(count, random_state=0).fit(column) for count in (1, 2))
    if two.bic(column) >= one.bic(column):
        return False
    distance = abs(two.means_[0, 0] - two.means_[1, 0]) / np.sqrt(two.covariances_[:, 0, 0].mean())
    return bool(distance > DISTANCE and two.weights_.min() >= SHARE)
