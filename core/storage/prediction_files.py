"""Tables of clusters and arrays of numbers, written row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from torch import Tensor

from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation.inference import Prediction
from mpcc.core.storage.table_formats import CsvRows, Rows, RowsClass

__all__ = ["ArrayRows", "AssignmentTable"]


class AssignmentTable:
    """A table: index, path, cluster, name, confidence, reconstruction_error, label; unknown columns are left out.

    The label of an image without one is empty, and so is the name of a cluster without one.

    Arguments:
        file: Where it goes.
        data: The images.
        paths: Whether there is a column of paths; by default if the images have any.
        rows: The format.
        names: Names of clusters, by number. Without any, there is no column of names.
    """

    def __init__(
        self,
        file: IO[bytes],
        data: ImageSet,
        *,
        paths: bool | None = None,
        rows: RowsClass = CsvRows,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self._file, self._data, self._format = file, data, rows
        self._paths = bool(data.paths) if paths is None else paths
        self._names = names or {}
        self._count = 0
        self._rows: Rows | None = None

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
        if self._names:
            columns["name"] = [self._names.get(cluster) for cluster in columns["cluster"]]
        columns["confidence"] = prediction.confidence.tolist()
        if errors is not None:
            columns["reconstruction_error"] = errors.tolist()
        if data.labels is not None:
            labels = data.labels[chosen].tolist()
            names = data.class_names
            columns["label"] = [None if label < 0 else names[label] if names else label for label in labels]
        if self._rows is None:
            self._rows = self._format(self._file, self._types(columns))
        self._rows.write(columns)

    def close(self) -> None:
        """Write what the format still has to write; the file stays open."""
        if self._rows is not None:
            self._rows.close()

    def _types(self, columns: Mapping[str, object]) -> dict[str, type]:
        types = {"path": str, "name": str, "confidence": float, "reconstruction_error": float}
        types["label"] = str if self._data.class_names else int
        return {name: types.get(name, int) for name in columns}


class ArrayRows:
    """An array in numpy's format, float32, that is written row by row and never held in memory.

    It is not a memory map: pages of a map count as memory of the process, and on a full disk the system would kill the
    process instead of reporting an error.

    Arguments:
        file: Where it goes.
        shape: (N, columns).
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, int]) -> None:
        self._file = file
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, rows: Tensor) -> None:
        """Add rows, shape (n, columns)."""
        self._file.write(rows.float().numpy().astype("<f4", copy=False).tobytes())
