"""CIFAR-10, and CIFAR-100 by its coarse labels, in the folder layout of torchvision."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.options import SplitOptions
from mpcc.plugins.datasets.reading.pickles import load_pickle
from mpcc.plugins.datasets.resizing import resize_images
from mpcc.plugins.datasets.sources import download_failed, missing_file, require_root
from mpcc.plugins.datasets.splits import parts_of

__all__ = ["CIFAR", "CIFAR10", "CIFAR20"]

_PIXELS = 32
_VALUES = 3 * _PIXELS * _PIXELS
_PUBLISHED = {"all": 60_000, "train": 50_000, "test": 10_000}
_REMEDY = "delete it and pass --download"


class CIFAR(Dataset, abc.ABC):
    """Photographs of 32 x 32, colour, in the pickle files of the CIFAR sets; a subclass says which set it is.

    The files are read by `mpcc.plugins.datasets.reading.pickles`, which runs no code in them.

    Attributes:
        name: The name of the data set, for messages.
        folder: The folder below the data root.
        train: The files to train on.
        test: The files to test on.
        meta: The file of the names of the labels.
        labels_key: The key of the labels in the files.
        names_key: The key of the names of the labels in `meta`.
        classes: How many labels there are.
        downloader: The data set of torchvision that fetches the files and knows their md5 sums.
    """

    name: ClassVar[str]
    folder: ClassVar[str]
    train: ClassVar[Sequence[str]]
    test: ClassVar[Sequence[str]]
    meta: ClassVar[str]
    labels_key: ClassVar[str]
    names_key: ClassVar[str]
    classes: ClassVar[int]
    downloader: ClassVar[Callable[..., Any]]
    channels = 3

    def __init__(self, options: SplitOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read the split, in the order of its files.

        Arguments:
            image_size: R, in pixels.
            root: The data root, where the set has its folder.
            download: Whether torchvision may fetch the archive and unpack it if files are missing.

        Returns:
            uint8 images, shape (N, 3, R, R), and their labels.

        Raises:
            InvalidInput: If there is no data folder, or a file is missing, cannot be fetched, or is broken.
        """
        root = require_root(root, self.name)
        folder = root / self.folder
        parts = parts_of(self.options.split, self.train, self.test)
        files = [folder / part for part in (self.meta, *parts)]
        if download and not all(file.exists() for file in files):
            try:
                type(self).downloader(root, train=self.options.split != "test", download=True)
            except Exception as error:  # the network, the disk and torchvision may raise anything
                raise download_failed(self.folder, root, error) from error
        for file in files:
            if not file.exists():
                raise missing_file(file, f"a file of {self.name}", root)

        class_names = self._read_names(files[0])
        batches = [self._read_batch(file) for file in files[1:]]
        pixels = np.concatenate([images for images, _ in batches]).reshape(-1, 3, _PIXELS, _PIXELS)
        published = _PUBLISHED[self.options.split]
        fewer = "" if len(pixels) == published else f" (not the published {published})"
        resized = "" if image_size == _PIXELS else f", resized from {_PIXELS} to {image_size} pixels"
        return ImageSet(
            images=resize_images(torch.from_numpy(pixels), image_size),
            labels=torch.tensor([label for _, labels in batches for label in labels]),
            class_names=class_names,
            paths=[
                f"{self.folder}/{part}#{index}"
                for part, (_, labels) in zip(parts, batches, strict=True)
                for index in range(len(labels))
            ],
            description=f"{self.name}: {len(pixels)} images, split {self.options.split}{fewer}{resized}",
        )

    def _read_names(self, file: Path) -> list[str]:
        """Read the names of the labels."""
        names = _entry(load_pickle(file, _REMEDY), self.names_key, file)
        if not isinstance(names, list) or len(names) != self.classes or not all(map(_is_text, names)):
            raise _broken(file, f"expected {self.names_key}, a list of {self.classes} names")
        return [name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name for name in names]

    def _read_batch(self, file: Path) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[int]]:
        """Read images, uint8 (n, 3072), each all of red, then green, then blue, and labels."""
        content = load_pickle(file, _REMEDY)
        images, labels = _entry(content, "data", file), _entry(content, self.labels_key, file)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise _broken(file, f"expected data, an array of uint8, got {kind}")
        if images.ndim != 2 or images.shape[1] != _VALUES or len(images) == 0:
            raise _broken(file, f"expected data of shape (n, {_VALUES}), n > 0, got {images.shape}")
        if isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu":
            labels = labels.tolist()
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise _broken(file, f"expected {self.labels_key}, a list of whole numbers")
        if len(labels) != len(images):
            raise _broken(file, f"expected as many {self.labels_key} as images, got {len(labels)} and {len(images)}")
        for index, label in enumerate(labels):
            if not 0 <= label < self.classes:
                shown = label if abs(label) < 10**9 else "a huge number"
                raise _broken(file, f"expected {self.labels_key} in 0..{self.classes - 1}, got {shown} at {index}")
        return images, labels


class CIFAR10(CIFAR):
    """60,000 photographs of 32 x 32, colour, ten classes: 50,000 to train on, then 10,000 to test.

    The files are ``data_batch_1`` to ``data_batch_5``, ``test_batch`` and ``batches.meta`` in
    ``ROOT/cifar-10-batches-py``.

    Source:
        A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The set: method section 5.
    """

    name = "cifar10"
    folder = "cifar-10-batches-py"
    train = tuple(f"data_batch_{number}" for number in range(1, 6))
    test = ("test_batch",)
    meta = "batches.meta"
    labels_key = "labels"
    names_key = "label_names"
    classes = 10
    downloader = torchvision.datasets.CIFAR10


class CIFAR20(CIFAR):
    """CIFAR-100 by its 20 coarse labels: 60,000 photographs of 32 x 32, colour, 50,000 to train on, 10,000 to test.

    The files are ``train``, ``test`` and ``meta`` in ``ROOT/cifar-100-python``.

    Source:
        A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The set: method section 5.
    """

    name = "cifar20"
    folder = "cifar-100-python"
    train = ("train",)
    test = ("test",)
    meta = "meta"
    labels_key = "coarse_labels"
    names_key = "coarse_label_names"
    classes = 20
    downloader = torchvision.datasets.CIFAR100


def _is_text(value: object) -> bool:
    return isinstance(value, (str, bytes))


def _entry(content: object, key: str, file: Path) -> object:
    """Return one entry of a file's dict, whose keys are text in files of Python 3 and bytes in those of Python 2."""
    if not isinstance(content, Mapping):
        raise _broken(file, f"expected a dict, got {type(content).__name__}")
    for spelling in (key.encode(), key):
        if spelling in content:
            return content[spelling]
    names = [
        name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
        for name in content
        if isinstance(name, (str, bytes))
    ]
    raise _broken(file, f"expected an entry {key!r}, got {', '.join(sorted(names)[:8]) or 'none'}")


def _broken(file: Path, what: str) -> InvalidInput:
    return InvalidInput(f"broken file {file}: {' '.join(what.split())}; {_REMEDY}")
