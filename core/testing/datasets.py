"""Laws of a data set: what it gives, that it gives it again, and what it says when its files are missing."""

from __future__ import annotations

import pickle
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet, ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.report import Law, broken, law, require

__all__ = ["DATASET_LAWS", "DatasetCase"]

# R of the first load, and of a second one where the first took no longer than this.
FIRST_SIZE, SECOND_SIZE = 8, 12
QUICK_SECONDS = 3.0
# Images that are read of a set that is not in memory.
READ = 200


@attrs.define
class DatasetCase:
    """A data set's class, options and files; loads once and remembers.

    Attributes:
        cls: The class under test.
        options: Its options.
        root: The data folder, or None.
        download: Whether missing files may be fetched.
    """

    cls: Callable[[Any], Dataset]
    options: Any
    root: Path | None
    download: bool
    _loaded: ImageSet | None = None
    _seconds: float = 0.0

    def load(self, image_size: int) -> ImageSet:
        """Make the data set and load it."""
        return self.cls(self.options).load(image_size, self.root, self.download)

    def first(self) -> ImageSet:
        """Return the set at the first size, loaded once."""
        if self._loaded is None:
            started = time.monotonic()
            self._loaded = self.load(FIRST_SIZE)
            self._seconds = time.monotonic() - started
        return self._loaded

    @property
    def quick(self) -> bool:
        """Whether loading is so quick that it may be done again and again."""
        return self._seconds < QUICK_SECONDS


@law("without its files it raises InvalidInput and nothing else")
def missing_files(case: DatasetCase) -> str:
    made = case.cls(case.options)
    require(isinstance(made, Dataset), f"expected a subclass of Dataset, got {type(made).__name__}")
    messages = []
    with tempfile.TemporaryDirectory() as folder:
        for words, root in (("without a data folder", None), ("in an empty data folder", Path(folder))):
            try:
                made.load(FIRST_SIZE, root, False)
            except InvalidInput as error:
                message = str(error)
                require(bool(message.strip()) and "\n" not in message, f"{words}: the message must be one line")
                messages.append(message)
            else:
                return f"{words} it loads: it needs no files from there"
    return messages[0]


@law("it loads", essential=True)
def loads(case: DatasetCase) -> str:
    try:
        found = case.first()
    except InvalidInput as error:
        broken(f"cannot be checked without its files: {error}")
    require(isinstance(found, ImageSet), f"expected an ImageSet, got {type(found).__name__}")
    images = found.images
    is_source = hasattr(images, "shape") and hasattr(images, "__getitem__")
    require(is_source, f"images: expected a tensor or an ImageSource, got {type(images).__name__}")
    return f"{len(found)} images in {case._seconds:.1f} s"


def sample(images: Tensor | ImageSource) -> Tensor:
    """Return the images: all of a tensor; of a source, the first, the last and some between."""
    if isinstance(images, Tensor):
        return images
    count = images.shape[0]
    return images[torch.linspace(0, count - 1, min(count, READ), dtype=torch.float64).long()]


def check_images(found: ImageSet, size: int) -> None:
    images = found.images
    if not isinstance(images, Tensor):
        require(isinstance(images.shape, tuple), f"images.shape: expected a tuple, got {type(images.shape).__name__}")
    shape = tuple(images.shape)
    require(len(shape) == 4 and shape[0] > 0, f"images: expected shape (N, D, R, R), N > 0, got {shape}")
    require(shape[1] > 0 and shape[2:] == (size, size), f"images: expected {size}x{size} pixels, got shape {shape}")
    read = sample(images)
    require(isinstance(read, Tensor), f"images: expected to read a tensor, got {type(read).__name__}")
    require(read.dtype == torch.uint8, f"images: expected uint8, got {read.dtype}")
    require(read.device.type == "cpu", f"images: expected the CPU, got {read.device}")
    expected = (min(shape[0], READ) if read is not images else shape[0], *shape[1:])
    require(tuple(read.shape) == expected, f"images: expected to read shape {expected}, got {tuple(read.shape)}")


@law("images are uint8, (N, D, R, R), of the size asked for")
def images_fit(case: DatasetCase) -> str:
    check_images(case.first(), FIRST_SIZE)
    channels, declared = case.first().images.shape[1], case.cls(case.options).channels
    require(declared in (None, channels), f"channels: it declares {declared} but its images have {channels}")
    if not case.quick:
        return f"R = {FIRST_SIZE}; loading took {case._seconds:.0f} s, so that no other was tried"
    other = case.load(SECOND_SIZE)
    check_images(other, SECOND_SIZE)
    pair = (tuple(case.first().images.shape[:2]), tuple(other.images.shape[:2]))
    require(pair[0] == pair[1], f"(N, D) changes with the image size: {pair[0]} and {pair[1]}")
    return f"R = {FIRST_SIZE} and {SECOND_SIZE}; (N, D) = {pair[0]}"


@law("images are not all alike")
def images_vary(case: DatasetCase) -> str:
    images = sample(case.first().images)
    low, high = int(images.min()), int(images.max())
    require(low < high, f"every pixel is {low}")
    if len(images) > 1:
        require(bool((images != images[:1]).any()), "all images are the same")
    if high - low < 8:
        broken(f"grey levels span {low}..{high} only: expected 0..255")
    return f"grey levels {low}..{high}"


@law("an image is the same whenever, in whatever company and by whichever process it is read")
def reading(case: DatasetCase) -> str:
    images = case.first().images
    if isinstance(images, Tensor):
        return "all are in memory"
    count = images.shape[0]
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:READ]
    first = images[chosen]
    require(torch.equal(first, images[chosen]), "reading the same images again gives others")
    require(torch.equal(first.flip(0), images[chosen.flip(0)]), "the images depend on the order of reading")
    alone = torch.cat([images[index.reshape(1)] for index in chosen[:5]])
    require(torch.equal(first[:5], alone), "an image depends on the others that are read with it")
    try:
        copy: ImageSource = pickle.loads(pickle.dumps(images))
    except Exception as error:  # whatever an object may say that cannot be pickled
        broken(f"it cannot be sent to worker processes: {type(error).__name__}: {error}")
    same = tuple(copy.shape) == tuple(images.shape) and torch.equal(first, copy[chosen])
    require(same, "a copy in another process reads other images")
    return f"{len(chosen)} of {count}, read when needed"


@law("labels, names and paths fit the images")
def companions(case: DatasetCase) -> str:
    found = case.first()
    count, names, paths = found.images.shape[0], list(found.class_names), list(found.paths)
    for what, values in (("class_names", names), ("paths", paths)):
        require(all(isinstance(value, str) for value in values), f"{what}: expected texts")
    require(len(paths) in (0, count), f"paths: expected {count}, one an image, or none, got {len(paths)}")
    require(
        isinstance(found.description, str) and "\n" not in found.description, "description: expected one line of text"
    )
    for line in found.skipped:
        require(isinstance(line, str) and "\n" not in line, f"skipped: expected lines of text, got {line!r}")
    if found.labels is None:
        require(not names, f"class_names without labels: {names[:3]}")
        return f"no labels, {len(paths)} paths; {found.description!r}"
    labels = found.labels
    require(isinstance(labels, torch.Tensor), f"labels: expected a tensor or None, got {type(labels).__name__}")
    require(labels.dtype == torch.int64, f"labels: expected int64, got {labels.dtype}")
    require(tuple(labels.shape) == (count,), f"labels: expected shape {(count,)}, got {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    require(low >= 0, f"labels: expected 0 or more, got {low}")
    require(not names or high < len(names), f"labels: expected 0..{len(names) - 1} as class_names say, got {high}")
    return f"labels {low}..{high}, {len(names)} class names, {len(paths)} paths; {found.description!r}"


def numpy_state() -> tuple[bytes, int]:
    """Return numpy's global random state as values that can be compared."""
    inner = np.random.get_state(legacy=False)["state"]
    return inner["key"].tobytes(), inner["pos"]


@law("loading again gives the same and draws no random numbers of the run's")
def deterministic(case: DatasetCase) -> str:
    first = case.first()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = (torch.get_rng_state(), numpy_state(), random.getstate())
    second = case.load(FIRST_SIZE)
    require(torch.equal(before[0], torch.get_rng_state()), "it draws from torch's global random state")
    require(before[1] == numpy_state(), "it draws from numpy's global random state")
    require(before[2] == random.getstate(), "it draws from Python's global random state")
    same = tuple(first.images.shape) == tuple(second.images.shape)
    same = same and torch.equal(sample(first.images), sample(second.images))
    require(same, "the images differ from load to load")
    if first.labels is not None and second.labels is not None:
        require(torch.equal(first.labels, second.labels), "the labels differ from load to load")
    require((first.labels is None) == (second.labels is None), "there are labels in one load only")
    require(list(first.paths) == list(second.paths), "the paths differ from load to load")
    require(list(first.skipped) == list(second.skipped), "what is skipped differs from load to load")
    return "images, labels and paths"


DATASET_LAWS: tuple[Law[DatasetCase], ...] = (
    missing_files,
    loads,
    images_fit,
    images_vary,
    reading,
    companions,
    deterministic,
)
