"""Calibration: whether an image's confidence is the share of such images that are right."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from mpcc.core.contracts import Direction, Evaluation, FeatureRequest, Metric
from mpcc.core.evaluation.contingency import contingency, matching, true_labels

__all__ = ["Calibration", "calibration_error", "right_images"]

BINS = 15


def calibration_error(confidence: ArrayLike | Tensor, right: ArrayLike | Tensor, bins: int = BINS) -> float:
    r"""Return the expected calibration error: the mean distance of confidence and accuracy, over bins of confidence.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} \, | \mathrm{acc}_b - \mathrm{conf}_b |

    Arguments:
        confidence: Numbers in [0, 1], shape (N,).
        right: Whether each image is right, shape (N,).
        bins: How many bins of equal width.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If the two do not have one shape (N,), N >= 1.

    Reference:
        Guo et al., On calibration of modern neural networks, 2017, equation 3.

    Example:
        >>> calibration_error([0.9, 0.9, 0.9, 0.9], [True, True, True, False])
        0.15000000000000002
    """
    sure, correct = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != correct.shape or not len(sure):
        raise ValueError(f"expected two arrays of one shape (N,), N >= 1, got {sure.shape} and {correct.shape}")
    numbers = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(numbers, weights=correct - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def right_images(
    clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return which images have the class that their cluster is matched with, and which have its majority class.

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).
        labels: Class of each image, integers >= 0, shape (N,).

    Example:
        >>> matched, majority = right_images([0, 0, 1, 2], [5, 5, 5, 6])
        >>> matched.tolist(), majority.tolist()
        ([True, True, False, True], [True, True, True, True])
    """
    own, classes = np.asarray(clusters), np.asarray(labels)
    present, rows = np.unique(own, return_inverse=True)
    _, columns = np.unique(classes, return_inverse=True)
    table = contingency(rows, columns)
    matched = np.full(len(present), -1)
    chosen, partners = matching(table)
    matched[chosen] = partners
    return matched[rows] == columns, table[rows].argmax(axis=1) == columns


class Calibration(Metric):
    """The metric ``calibration``: two calibration errors of the confidence of the most probable clusters.

    ``calibration_matched`` counts an image as right if its cluster is matched with its class, as `acc` does;
    ``calibration_majority`` if its class is the majority of its cluster, as `purity` does.
    """

    on_request = True

    def scores(self, name: str, request: FeatureRequest) -> dict[str, Direction]:
        """Return both names."""
        return {"calibration_matched": "lower", "calibration_majority": "lower"}

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        """Return both numbers by name."""
        sure = evaluation.posterior.max(dim=1).values
        matched, majority = right_images(evaluation.assignments, true_labels(evaluation))
        return {
            "calibration_matched": calibration_error(sure, matched),
            "calibration_majority": calibration_error(sure, majority),
        }
