"""Sets of grey images in idx files, in the folder layout of torchvision, such as MNIST and Fashion-MNIST."""

from __future__ import annotations

import abc
import math
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.options import SplitOptions
from mpcc.plugins.datasets.resizing import resize_images
from mpcc.plugins.datasets.sources import download_failed, missing_file, require_root
from mpcc.plugins.datasets.splits import parts_of

__all__ = ["IdxSet"]

_PIXELS = 28


class IdxSet(Dataset, abc.ABC):
    """Grey images of 28 x 28, with their labels, in four idx files; a subclass says which set it is.

    The files are ``ROOT/FOLDER/raw/train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
    and ``t10k-labels-idx1-ubyte``, unpacked.

    Attributes:
        name: The name of the data set, for messages.
        folder: The folder below the data root.
        class_names: The name of each label.
        downloader: The data set of torchvision that fetches the files and knows their md5 sums.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    class_names: ClassVar[Sequence[str]]
    downloader: ClassVar[Callable[..., Any]]
    channels = 1

    def __init__(self, options: SplitOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read the split, in the order of its files.

        Arguments:
            image_size: R, in pixels.
            root: The data root, where the set has its folder.
            download: Whether torchvision may fetch files that are missing, or unpack their ``.gz`` if it is there.

        Returns:
            uint8 images, shape (N, 1, R, R), and their labels 0..9.

        Raises:
            InvalidInput: If there is no data folder, or a file is missing, cannot be fetched, or is broken.
        """
        root = require_root(root, self.name)
        raw = root / self.folder / "raw"
        parts = parts_of(self.options.split, train=["train"], test=["t10k"])
        files = [raw / name for part in parts for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")]

        if download and not all(path.exists() for path in files):
            self._fetch(root, [path for path in files if path.exists()])
        for path in files:
            if not path.exists():
                raise missing_file(path, f"a file of {self.folder} in the idx format, unpacked", root)

        images, labels = zip(*(self._read(*pair) for pair in zip(files[::2], files[1::2], strict=True)), strict=True)
        paths = [
            f"{self.folder}/raw/{file.name}#{index}"
            for file, part in zip(files[::2], images, strict=True)
            for index in range(len(part))
        ]
        return ImageSet(
            images=resize_images(torch.cat(images).unsqueeze(1), image_size),
            labels=torch.cat(labels),
            class_names=self.class_names,
            paths=paths,
            description=f"{self.folder}: {len(paths)} images, split {self.options.split}, "
            f"resized from {_PIXELS} to {image_size} pixels",
        )

    def _fetch(self, root: Path, present: Sequence[Path]) -> None:
        """Let torchvision fetch or unpack the missing files."""
        for path in present:
            # torchvision reads all files after a download, and its error would not name a broken one.
            _check_header(path)
        try:
            type(self).downloader(root, train=self.options.split != "test", download=True)
        except Exception as error:  # the network, the disk and torchvision may raise anything
            raise download_failed(self.folder, root, error) from error

    def _read(self, image_file: Path, label_file: Path) -> tuple[Tensor, Tensor]:
        """Read images, uint8 (N, 28, 28), and labels, int64 (N,)."""
        _check_header(image_file)
        _check_header(label_file)
        images: Tensor = read_image_file(str(image_file))
        labels: Tensor = read_label_file(str(label_file))
        if len(images) != len(labels):
            raise InvalidInput(
                f"{image_file} holds {len(images)} images but {label_file.name} holds {len(labels)} labels: expected "
                "one label for each image; delete the two files and pass --download"
            )
        highest = int(labels.max())
        if highest >= len(self.class_names):
            raise InvalidInput(
                f"{label_file} holds the label {highest}: expected 0 to {len(self.class_names) - 1}; "
                "delete the file and pass --download"
            )
        return images, labels


def _check_header(path: Path) -> None:
    """Check magic number, shape and length, before torchvision's reader reads the rest.

    idx: big-endian 32-bit numbers, first 0x800 + rank (8: unsigned bytes), then one length a dimension, then the data.
    """
    rank = 3 if "idx3" in path.name else 1
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(4 * (rank + 1))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error

    def broken(what: str) -> InvalidInput:
        return InvalidInput(f"broken file {path}: {what}; delete it and pass --download")

    if len(header) < 4 * (rank + 1):
        raise broken(f"expected a header of {4 * (rank + 1)} bytes, got {len(header)}")
    magic, *shape = struct.unpack(f">{rank + 1}I", header)
    if magic != 0x800 + rank:
        raise broken(f"expected the magic number {0x800 + rank:#010x} of an unpacked idx{rank} file, got {magic:#010x}")
    if rank == 3 and shape[1:] != [_PIXELS, _PIXELS]:
        raise broken(f"expected images of {_PIXELS} x {_PIXELS} pixels, got {shape[1]} x {shape[2]}")
    if shape[0] == 0:
        raise broken("expected at least one item, got 0")
    expected = len(header) + math.prod(shape)
    if length != expected:
        raise broken(f"expected {expected} bytes for {shape[0]} items, got {length}")
