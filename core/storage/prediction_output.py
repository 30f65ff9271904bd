"""Everything that a prediction writes, batch by batch: a table, arrays, a folder of sorted images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import torch
from torch import Tensor

from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation.generation import Generation
from mpcc.core.evaluation.inference import Prediction
from mpcc.core.storage.prediction_files import ArrayRows, AssignmentTable
from mpcc.core.storage.reconstructed_images import ReconstructedImages
from mpcc.core.storage.sorted_images import SortedImages
from mpcc.core.storage.table_formats import FORMATS
from mpcc.core.system.whole_files import new_file, new_folder

__all__ = ["OutputPaths", "PredictionOutput"]


@attrs.frozen
class OutputPaths:
    """Where the results of a prediction go; all names are new.

    Attributes:
        table: A row for each image; the ending is that of a format.
        posterior: q(y|x), float32, shape (N, K), or None.
        latents: The locations of q(z|x), float32, shape (N, J), or None.
        sorted: A folder with a subfolder of images for each cluster, or None.
        link: How images are linked there: ``hard`` or ``soft``; None copies them.
        reconstructed: A folder with the reconstruction of each image, or None.
    """

    table: Path
    posterior: Path | None = None
    latents: Path | None = None
    sorted: Path | None = None
    link: str | None = None
    reconstructed: Path | None = None

    def all(self) -> list[Path]:
        """Return those that are written."""
        paths = (self.table, self.posterior, self.latents, self.reconstructed, self.sorted)
        return [path for path in paths if path is not None]


class PredictionOutput:
    """Writes predictions.

    Arguments:
        clusters: K.
        names: Names of clusters, by number.

    Attributes:
        sizes: Predicted images in each cluster, int64, shape (K,).
        sorted: The sorted images, if there are any.
    """

    def __init__(self, clusters: int, names: Mapping[int, str] | None = None) -> None:
        self.sizes: Tensor = torch.zeros(clusters, dtype=torch.int64)
        self.sorted: SortedImages | None = None
        self._names = names or {}
        self._writers: list[Callable[[Prediction], None]] = []

    @contextlib.contextmanager
    def opened(
        self, paths: OutputPaths, data: ImageSet, latent_dim: int, generation: Generation | None = None
    ) -> Iterator[None]:
        """Write what is added in a ``with`` block; each file gets its name at the end, and none if the block fails.

        Arguments:
            paths: Where the results go.
            data: The images.
            latent_dim: J.
            generation: Makes reconstructions, if there are any.

        Raises:
            InvalidInput: If a file cannot be written, or an image cannot be put into a folder.
        """
        clusters = len(self.sizes)
        with contextlib.ExitStack() as files:
            # The table is opened first, so that it gets its name last.
            opened = files.enter_context(new_file(paths.table))
            table = AssignmentTable(opened, data, rows=FORMATS[paths.table.suffix.lower()], names=self._names)
            files.callback(table.close)
            if paths.sorted is not None:
                folder = files.enter_context(new_folder(paths.sorted))
                self.sorted = SortedImages(folder, data, clusters, paths.link, named=paths.sorted, names=self._names)
                self._writers.append(self.sorted.write)
            if paths.reconstructed is not None and generation is not None:
                part = files.enter_context(new_folder(paths.reconstructed))
                self._writers.append(ReconstructedImages(part, data, generation, paths.reconstructed).write)
            if paths.posterior is not None:
                posterior = ArrayRows(files.enter_context(new_file(paths.posterior)), (len(data), clusters))
                self._writers.append(lambda prediction: posterior.write(prediction.posterior))
            if paths.latents is not None:
                latents = ArrayRows(files.enter_context(new_file(paths.latents)), (len(data), latent_dim))
                self._writers.append(lambda prediction: latents.write(prediction.locations))
            self._writers.append(table.write)
            yield

    def add(self, prediction: Prediction) -> None:
        """Add the next n images.

        Raises:
            InvalidInput: If an image cannot be put into a folder.
            OSError: If a file cannot be written.
        """
        for write in self._writers:
            write(prediction)
        self.sizes += torch.bincount(prediction.clusters, minlength=len(self.sizes))
