"""Tables of clusters and arrays of posteriors, written row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation.inference import Prediction

__all__ = ["AssignmentTable", "PosteriorRows", "write_rows"]


class AssignmentTable:
    """A CSV table: index, path, cluster, confidence, reconstruction_error, label; unknown columns are left out.

    The label of an image without one is empty.

    Arguments:
        file: Where it goes.
        data: The images.
        paths: Whether there is a column of paths; by default if the images have any.
    """

    def __init__(self, file: IO[bytes], data: ImageSet, *, paths: bool | None = None) -> None:
        self._file = file
        self._data = data
        self._paths = bool(data.paths) if paths is None else paths
        self._count = 0

    def write(self, prediction: Prediction, indices: Tensor | None = None, errors: Tensor | None = None) -> None:
        """Add the rows of n images.

        Arguments:
            prediction: Clusters and posteriors of these images.
            indices: Which images they are, shape (n,); by default those that follow the last row.
            errors: Errors of their reconstructions, shape (n,), if they are known.
        """
        data, start = self._data, self._count
        self._count += len(prediction.posterior)
        chosen = list(range(start, self._count)) if indices is None else indices.tolist()
        columns: dict[str, Sequence[Any]] = {"index": chosen}
        if self._paths:
            columns["path"] = [data.paths[index] if data.paths else "" for index in chosen]
        columns["cluster"] = prediction.clusters.tolist()
        columns["confidence"] = [f"{value:.6f}" for value in prediction.confidence.tolist()]
        if errors is not None:
            columns["reconstruction_error"] = [f"{value:.6g}" for value in errors.tolist()]
        if data.labels is not None:
            labels = data.labels[chosen].tolist()
            names = data.class_names
            columns["label"] = ["" if label < 0 else names[label] if names else label for label in labels]
        header = [] if start else [list(columns)]
        write_rows(self._file, [*header, *zip(*columns.values(), strict=True)])


def write_rows(file: IO[bytes], rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of a CSV table."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    # File names need not be valid text; invalid ones keep their bytes.
    file.write(text.getvalue().encode("utf-8", "surrogateescape"))


class PosteriorRows:
    """An array in numpy's format, float32, shape (N, K), that is written row by row and never held in memory.

    It is not a memory map: pages of a map count as memory of the process, and on a full disk the system would kill the
    process instead of reporting an error.

    Arguments:
        file: Where it goes.
        shape: (N, K).
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int]) -> None:
        self._file = file
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, prediction: Prediction) -> None:
        """Add the rows of the next images."""
        self._file.write(prediction.posterior.to(torch.float32).numpy().astype("<f4", copy=False).tobytes())
