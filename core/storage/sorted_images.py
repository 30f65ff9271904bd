"""A folder of images with a subfolder for each cluster, or for all clusters to which the user gave one name."""

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

__all__ = ["SortedImages", "cluster_folders"]

# The longest name of an image in bytes, so that a number can follow it.
LONGEST = 200
# The most clusters whose numbers are all in the name of a folder that they share.
NUMBERS = 4


def cluster_folders(clusters: int, names: Mapping[int, str] | None = None) -> list[str]:
    """Return the name of the subfolder of each cluster; clusters of one name share a subfolder.

    The numbers of all clusters have equally many digits. No two subfolders have the same numbers, so that names that
    differ only in capitals are two subfolders on every system. Letters that a file name cannot have on some system
    become ``_``.

    Arguments:
        clusters: K.
        names: The names that the user gave to clusters, by number.

    Example:
        >>> cluster_folders(4, {0: "cats/dogs", 1: "long", 3: "long"})
        ['cluster-0-cats_dogs', 'cluster-1+3-long', 'cluster-2', 'cluster-1+3-long']
        >>> cluster_folders(12, dict.fromkeys(range(1, 12), "other"))[:2]
        ['cluster-00', 'cluster-01+02+03+etc-other']
    """
    groups: dict[str, list[int]] = {}
    for cluster, name in (names or {}).items():
        groups.setdefault(name, []).append(cluster)
    folders = [f"cluster-{number(cluster, clusters)}" for cluster in range(clusters)]
    for name, members in groups.items():
        numbers = [number(cluster, clusters) for cluster in sorted(members)]
        if len(numbers) > NUMBERS:
            numbers[NUMBERS - 1 :] = ["etc"]
        named = os.fsencode(re.sub(r"[^\w .,()+-]", "_", name))[:LONGEST].decode("utf-8", "ignore").rstrip(" .")
        for cluster in members:
            folders[cluster] = f"cluster-{'+'.join(numbers)}" + (f"-{named}" if named else "")
    return folders


def number(cluster: int, clusters: int) -> str:
    """Return the number of a cluster with as many digits as the largest one has."""
    return f"{cluster:0{len(str(clusters - 1))}}"


class SortedImages:
    """Puts images into the subfolders of their clusters; clusters of one name share a subfolder.

    An image that has a file of its own is copied or linked. One in an archive is written as its file there, and all
    others as PNG, in the size that they had before they became squares. Images of one name get numbers: ``a.png``,
    ``a-2.png``.

    Arguments:
        folder: An empty folder.
        data: The images.
        clusters: K.
        link: ``hard`` or ``soft`` to link files instead of copying them; None copies.
        named: The name that the folder will have, for errors; by default its present one.
        names: Names of clusters, by number; a subfolder has that of its clusters behind the numbers.

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
        self._folders = [folder / name for name in cluster_folders(clusters, names)]
        self._data, self._link, self._named = data, link, named or folder
        subfolders = sorted(set(self._folders))
        self._taken: dict[Path, set[str]] = {subfolder: set() for subfolder in subfolders}
        self._last: dict[Path, Counter[str]] = {subfolder: Counter() for subfolder in subfolders}
        self._next = self.linked = self.written = 0
        with disk_errors(f"{self._named} could not be written"):
            for subfolder in subfolders:
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
        subfolder = self._folders[cluster]
        place = subfolder / self._name(index, image, subfolder)
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

    def _name(self, index: int, image: Path | bytes | Tensor, subfolder: Path) -> str:
        """Return a name that is not taken in the subfolder; capitals do not make two names."""
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
        taken, last = self._taken[subfolder], self._last[subfolder]
        while name.casefold() in taken:
            last[f"{stem}{ending}".casefold()] += 1
            name = f"{stem}-{1 + last[f'{stem}{ending}'.casefold()]}{ending}"
        taken.add(name.casefold())
        return name
