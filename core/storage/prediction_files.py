"""The files of a prediction, written row by row and moved into place when they are whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np
import torch

from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation.inference import Prediction

__all__ = ["AssignmentTable", "PosteriorRows"]


class AssignmentTable:
    """A CSV table: index, path, cluster, confidence, label; without path and label where they are not known.

    Arguments:
        file: Where it goes.
        data: The images, whose predictions come in their order.
    """

    def __init__(self, file: IO[bytes], data: ImageSet) -> None:
        self._file = file
        self._data = data
        self._count = 0
        path, label = ["path"] if data.paths else [], [] if data.labels is None else ["label"]
        self._write([["index", *path, "cluster", "confidence", *label]])

    def write(self, prediction: Prediction) -> None:
        """Add the rows of the next images."""
        data, start = self._data, self._count
        self._count += len(prediction.posterior)
        columns: list[Sequence[Any]] = [range(start, self._count)]
        if data.paths:
            columns.append(data.paths[start : self._count])
        columns += [prediction.clusters.tolist(), [f"{value:.6f}" for value in prediction.confidence.tolist()]]
        if data.labels is not None:
            labels = data.labels[start : self._count].tolist()
            columns.append([data.class_names[label] for label in labels] if data.class_names else labels)
        self._write(zip(*columns, strict=True))

    def _write(self, rows: Iterable[Iterable[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        # File names need not be valid text; what isn't is written as the bytes that it was.
        self._file.write(text.getvalue().encode("utf-8", "surrogateescape"))


class PosteriorRows:
    """An array in numpy's format, float32, shape (N, K), of which nothing is held in memory.

    Rows come one after another, so that plain writes do: those into a memory map would count as memory of the process,
    and a full disk would be a signal that kills it rather than an error.

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
