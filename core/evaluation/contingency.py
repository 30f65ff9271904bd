"""The contingency table of a clustering: how many images of each class are in each cluster, and which match."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mpcc.core.contracts import Evaluation

__all__ = ["contingency", "matching", "paired", "true_labels"]


def paired(clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return both labellings as int64 arrays of shape (N,), on the CPU, after checking that they belong together.

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,), N >= 1.
        labels: Class of each image, integers >= 0, shape (N,).

    Raises:
        ValueError: If a labelling is not a one-dimensional array of integers >= 0, is empty, or differs in length.

    Example:
        >>> paired([0, 2, 2], [1, 0, 0])
        (array([0, 2, 2]), array([1, 0, 0]))
    """
    first, second = _integers("clusters", clusters), _integers("labels", labels)
    if len(first) != len(second):
        raise ValueError(f"clusters and labels must have the same length, got shapes {first.shape} and {second.shape}")
    return first, second


def _integers(name: str, values: ArrayLike | Tensor) -> NDArray[np.int64]:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must have shape (N,) with N >= 1, got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if array.min() < 0:
        raise ValueError(f"{name} must be >= 0, got {array.min()} at index {array.argmin()}")
    return array.astype(np.int64)


def contingency(clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> NDArray[np.int64]:
    r"""Count the images of each class in each cluster; clusters and classes without images have no row or column.

    .. math:: n_{kc} = |\{i : \hat y_i = k, \, y_i = c\}|

    Arguments:
        clusters: Cluster of each image, integers >= 0, shape (N,).
        labels: Class of each image, integers >= 0, shape (N,).

    Returns:
        The counts, shape (clusters in use, classes in use), both in ascending order of their numbers; the sum is N.

    Raises:
        ValueError: As `paired` does.

    Example:
        >>> contingency([0, 0, 7, 7], [1, 1, 1, 3])
        array([[2, 0],
               [1, 1]])
    """
    first, second = paired(clusters, labels)
    rows, row = np.unique(first, return_inverse=True)
    columns, column = np.unique(second, return_inverse=True)
    table: NDArray[np.int64] = np.zeros((len(rows), len(columns)), dtype=np.int64)
    np.add.at(table, (row, column), 1)
    return table


def matching(table: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    r"""Match clusters and classes one to one so that the matched pairs hold the most images (Hungarian method).

    Arguments:
        table: Counts, shape (clusters, classes).

    Returns:
        The cluster and the class of each pair, min(clusters, classes) of them, by ascending cluster; a pair may hold
        no image.

    Reference:
        Kuhn, The Hungarian method for the assignment problem, 1955.

    Example:
        >>> matching(np.array([[5, 4], [4, 0]]))
        (array([0, 1]), array([1, 0]))
    """
    rows, columns = linear_sum_assignment(table, maximize=True)
    return rows, columns


def true_labels(evaluation: Evaluation) -> Tensor:
    """Return the labels of an evaluation, int64, shape (N,).

    Raises:
        ValueError: If the evaluation has no labels.
    """
    if evaluation.labels is None:
        raise ValueError("this metric compares clusters with labels, but the evaluation has no labels (got None)")
    return evaluation.labels
