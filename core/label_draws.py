"""Draws of cluster labels with less variance than independent ones."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["systematic_labels"]


def systematic_labels(weights: Tensor, count: int) -> Tensor:
    """Draw labels so that each cluster k gets count * phi_k of them, rounded up or down at random.

    Systematic sampling in a random order of the clusters (Douc and Cappe, Comparison of resampling schemes for particle
    filtering, 2005). Each label alone is distributed as phi, so a mean over the labels has the same expectation as with
    independent draws, usually with less variance. The order of the labels is random, too.

    Arguments:
        weights: phi, shape (K,).
        count: N.

    Returns:
        y, int64, shape (N,).

    Example:
        >>> systematic_labels(torch.tensor([0.25, 0.75]), 8).sort().values
        tensor([0, 0, 1, 1, 1, 1, 1, 1])
    """
    clusters = len(weights)
    draws = torch.rand(clusters + count + 1, dtype=weights.dtype, device=weights.device)
    # Orders by sorting, because a random permutation may make the host wait for CUDA. Without a random order of the
    # clusters, neighbours would never meet in a batch smaller than K.
    order = draws[:clusters].argsort()
    places = (draws[clusters:-1].argsort() + draws[-1]) / count
    bounds = weights[order].cumsum(0)[:-1]
    return order[torch.searchsorted(bounds, places, right=True)]
