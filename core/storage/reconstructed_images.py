"""A folder of reconstructions, a PNG file for each image."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from PIL import Image

from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation.generation import Generation
from mpcc.core.evaluation.inference import Prediction
from mpcc.core.images.pictures import channels_last, with_colours
from mpcc.core.system.file_names import printable
from mpcc.core.system.resources import disk_errors

__all__ = ["ReconstructedImages"]

# The longest part of a name that comes from the image, in characters.
LONGEST = 60


class ReconstructedImages:
    """Writes what the generator makes of each image's location and cluster, in the size of the networks.

    A file is named after the number of its image in the table and the image: ``0012-cat.png``.

    Arguments:
        folder: An empty folder.
        data: The images.
        generation: Makes the reconstructions.
        named: The name that the folder will have, for errors.
    """

    def __init__(self, folder: Path, data: ImageSet, generation: Generation, named: Path) -> None:
        self._folder, self._data, self._generation, self._named = folder, data, generation, named
        self._next = 0

    def write(self, prediction: Prediction) -> None:
        """Write the reconstructions of the next n images.

        Raises:
            OutOfResources: If the disk is full.
        """
        images = self._generation.images(prediction.locations.float(), prediction.clusters)
        for image in channels_last(with_colours(images)):
            with disk_errors(f"{printable(str(self._named))} could not be written"):
                Image.fromarray(image).save(self._folder / self._name(), "PNG")
            self._next += 1

    def _name(self) -> str:
        path = self._data.paths[self._next] if self._data.paths else ""
        stem = re.sub(r"[^\w.-]+", "_", PurePosixPath(path.replace("\\", "/")).name)[:LONGEST].strip("._")
        digits = len(str(max(0, len(self._data) - 1)))
        return f"{self._next:0{digits}}{f'-{stem}' if stem else ''}.png"
