"""A folder of images with a subfolder for each cluster."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.inference import Prediction
from mpcc.core.system.file_names import original, printable
from mpcc.core.system.resources import disk_errors

__all__ = ["SortedImages", "cluster_folder"]

# The longest name of an image in bytes, so that a number can follow it.
LONGEST = 200


def cluster_folder(cluster: int, clusters: int, name: str = "") -> str:
    """Return the name of the subfolder of a cluster; the numbers of all clusters have equally many digits.

    Letters that a file name cannot have on some system become ``_``.

    Arguments:
        cluster: Its number.
        clusters: K.
        name: The name that the user gave it, or nothing.

    Example:
        >>> cluster_folder(3, 10), cluster_folder(3, 12), cluster_folder(3, 12, "cats/dogs")
        ('cluster-3', 'cluster-03', 'cluster-03-cats_dogs')
    """
    named = os.fsencode(re.sub(r"[^\w .,()+-]", "_", name))[:LONGEST].decode("utf-8", "ignore").rstrip(" .")
    return f"cluster-{cluster:0{len(str(clusters - 1))}}" + (f"-{named}" if named else "")


class SortedImages:
    """Puts images into the subfolders of their clusters.

    An image that has a file of its own is copied or linked. One in an archive is written as its file there, and all
    others as PNG, in the size that they had before they became squares. Images of one name get numbers: ``a.png``,
    ``a-2.png``.

    Arguments:
        folder: An empty folder.
        data: The images.
        clusters: K.
        link: ``hard`` or ``soft`` to link files instead of copying them; None copies.
        named: The name that the folder will have, for errors; by default its present one.
        names: Names of clusters, by number; a subfolder has that of its cluster behind the number.

    Attributes:
        linked: How many images have been linked.
        written: How many have been copied or written.

    Raises:
        InvalidInput: If the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        data: ImageSet,
        clusters: int,
        link: str | None = None,
        *,
        named: Path | None = None,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self._folders = [
            folder / cluster_folder(cluster, clusters, (names or {}).get(cluster, "")) for cluster in range(clusters)
        ]
        self._data, self._link, self._named = data, link, named or folder
        self._taken: list[set[str]] = [set() for _ in range(clusters)]
        self._last: list[Counter[str]] = [Counter() for _ in range(clusters)]
        self._next = self.linked = self.written = 0
        with disk_errors(f"{self._named} could not be written"):
            for subfolder in self._folders:
                subfolder.mkdir()

    def write(self, prediction: Prediction) -> None:
        """Put the next n images into the folders.

        Raises:
            InvalidInput: If an image cannot be read, copied or linked.
            OutOfResources: If the disk is full.
        """
        for cluster in prediction.clusters.tolist():
            self._put(self._next, cluster)
            self._next += 1

    def _put(self, index: int, cluster: int) -> None:
        image = self._original(index)
        place = self._folders[cluster] / self._name(index, image, cluster)
        self.written += 1
        with disk_errors(f"{printable(str(self._named / place.parent.name / place.name))} could not be written"):
            if isinstance(image, Tensor):
                # A channel of grey has no axis in a picture.
                pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
                Image.fromarray(pixels.contiguous().numpy()).save(place, "PNG")
            elif isinstance(image, bytes):
                place.write_bytes(image)
            elif self._link:
                self._linked(image, place)
            else:
                shutil.copyfile(image, place)
                with contextlib.suppress(OSError):  # times and rights are of no importance
                    shutil.copystat(image, place)

    def _linked(self, file: Path, place: Path) -> None:
        """Link a file.

        Raises:
            InvalidInput: If the system refuses that.
        """
        try:
            if self._link == "hard":
                place.hardlink_to(file.resolve())
            else:
                place.symlink_to(file.resolve())
        except OSError as error:
            others = "--link soft" if self._link == "hard" else "copies, without --link"
            raise InvalidInput(
                f"--link {self._link}: {printable(str(file))} cannot be linked: {error.strerror or error} (nearest "
                f"valid choice: {others})"
            ) from error
        self.written -= 1
        self.linked += 1

    def _original(self, index: int) -> Path | bytes | Tensor:
        originals = self._data.originals
        return self._data.images[torch.tensor([index])][0] if originals is None else originals.original(index)

    def _name(self, index: int, image: Path | bytes | Tensor, cluster: int) -> str:
        """Return a name that is not taken in the folder of the cluster; capitals do not make two names."""
        if isinstance(image, Path):
            name = image.name
        else:
            # The names in an archive are not to be trusted: only what follows the last separator counts.
            path = original(self._data.paths[index]) if self._data.paths else ""
            name = re.split(r"[/\\]", path)[-1].lstrip(".")
            if isinstance(image, Tensor):
                name, _, frame = name.partition("#")
                stem = PurePosixPath(name).stem
                name = "-".join(part for part in (stem, frame or (f"{index}" if not stem else "")) if part) + ".png"
        stem, ending = os.path.splitext(name)  # noqa: PTH122  # a name may be anything
        stem = os.fsdecode(os.fsencode(stem)[:LONGEST]) or str(index)
        name = f"{stem}{ending}"
        while name.casefold() in self._taken[cluster]:
            self._last[cluster][f"{stem}{ending}".casefold()] += 1
            name = f"{stem}-{1 + self._last[cluster][f'{stem}{ending}'.casefold()]}{ending}"
        self._taken[cluster].add(name.casefold())
        return name
