"""Laws of a data set: its contents, the same contents each time, and its error when files are missing."""

from __future__ import annotations

import pickle
import random
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet, ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.system.randomness import seed_everything
from mpcc.core.testing.cases import Case
from mpcc.core.testing.comparison import require_instance, require_plugin, require_tensor
from mpcc.core.testing.report import Laws, broken, require

__all__ = [
    "DATASET_LAWS",
    "FIRST_SIZE",
    "QUICK_SECONDS",
    "SECOND_SIZE",
    "DatasetCase",
    "companions",
    "images_fit",
    "images_vary",
    "sample",
]

# R of the first load, and of a second one, which is left out after a first one of this many seconds.
FIRST_SIZE, SECOND_SIZE = 8, 12
QUICK_SECONDS = 3.0
# How many images are read of a set that is not in memory.
READ = 200
# The global random states, in values that can be compared.
RANDOM_STATES = {
    "torch": lambda: torch.get_rng_state().tolist(),
    "NumPy": lambda: pickle.dumps(np.random.get_state()),
    "Python": random.getstate,
}


@attrs.define
class DatasetCase(Case[Dataset]):
    """A data set's class, options and files; loads once and remembers."""

    law_seconds: ClassVar[float] = 3600.0

    _loaded: ImageSet | None = None
    _second: ImageSet | None = None
    seconds: float = 0.0

    def load(self, image_size: int) -> ImageSet:
        """Make the data set and load it."""
        return self.make().load(image_size, self.root, self.download)

    def first(self) -> ImageSet:
        """Return the set at the first size, loaded once."""
        if self._loaded is None:
            started = time.monotonic()
            self._loaded = self.load(FIRST_SIZE)
            self.seconds = time.monotonic() - started
        return self._loaded

    def second(self) -> ImageSet:
        """Return the set at the second size, loaded once."""
        if self._second is None:
            self._second = self.load(SECOND_SIZE)
        return self._second


DATASET_LAWS = Laws[DatasetCase]()


@DATASET_LAWS.add("without its files it raises InvalidInput and nothing else")
def missing_files(case: DatasetCase) -> str:
    dataset = require_plugin(case.make(), Dataset)
    messages = []
    with tempfile.TemporaryDirectory() as folder:
        for where, root in (("without a data folder", None), ("in an empty data folder", Path(folder))):
            try:
                dataset.load(FIRST_SIZE, root, False)
            except InvalidInput as error:
                messages.append(str(error))
                one_line = bool(messages[-1].strip()) and "\n" not in messages[-1]
                require(one_line, f"{where}: the message must be one line, got {messages[-1]!r}")
            else:
                return f"{where} it loads: it needs no files from there"
    return messages[0]


@DATASET_LAWS.add("it loads", essential=True)
def loads(case: DatasetCase) -> str:
    try:
        image_set = require_instance("what it loads", case.first(), ImageSet)
    except InvalidInput as error:
        broken(f"cannot be checked without its files: {error}")
    images = image_set.images
    is_source = hasattr(images, "shape") and hasattr(images, "__getitem__")
    require(is_source, f"images: expected a tensor or an ImageSource, got {type(images).__name__}")
    return f"{len(image_set)} images in {case.seconds:.1f} s"


def sample(images: Tensor | ImageSource) -> Tensor:
    """Return the images: all of a tensor; of a source, the first, the last and some between."""
    if isinstance(images, Tensor):
        return images
    count = images.shape[0]
    return images[torch.linspace(0, count - 1, min(count, READ), dtype=torch.float64).long()]


def check_images(image_set: ImageSet, size: int) -> tuple[int, int]:
    """Check shape, dtype and device, and return (N, D)."""
    images = image_set.images
    if not isinstance(images, Tensor):
        require_instance("images.shape", images.shape, tuple)
    shape = tuple(images.shape)
    require(len(shape) == 4 and shape[0] > 0, f"images: expected shape (N, D, R, R), N > 0, got {shape}")
    require(shape[1] > 0 and shape[2:] == (size, size), f"images: expected {size}x{size} pixels, got shape {shape}")
    count = shape[0] if isinstance(images, Tensor) else min(shape[0], READ)
    require_tensor("images", sample(images), (count, *shape[1:]), torch.uint8, torch.device("cpu"))
    return shape[0], shape[1]


@DATASET_LAWS.add("images are uint8, (N, D, R, R), of the size asked for")
def images_fit(case: DatasetCase) -> str:
    count, channels = check_images(case.first(), FIRST_SIZE)
    dataset = case.make()
    declared = dataset.channels
    require(declared in (None, channels), f"channels: it declares {declared} but its images have {channels}")
    for name in ("clusters", "image_side"):
        hint = getattr(dataset, name)
        right = hint is None or (isinstance(hint, int) and not isinstance(hint, bool) and hint > 0)
        require(right, f"{name}: expected a whole number of at least 1 or None, got {hint!r}")
    if case.seconds >= QUICK_SECONDS:
        return f"R = {FIRST_SIZE}; loading took {case.seconds:.0f} s, so no other size was tried"
    other = check_images(case.second(), SECOND_SIZE)
    require(other == (count, channels), f"(N, D) changes with the image size: {(count, channels)} and {other}")
    return f"R = {FIRST_SIZE} and {SECOND_SIZE}; (N, D) = {other}"


@DATASET_LAWS.add("images are not all alike")
def images_vary(case: DatasetCase) -> str:
    images = sample(case.first().images)
    low, high = int(images.min()), int(images.max())
    require(low < high, f"every pixel is {low}")
    require(len(images) == 1 or bool((images != images[:1]).any()), "all images are the same")
    require(high - low >= 8, f"grey levels span {low}..{high} only: expected 0..255")
    return f"grey levels {low}..{high}"


@DATASET_LAWS.add("an image is the same at each reading, in any batch and in any process")
def reading(case: DatasetCase) -> str:
    images = case.first().images
    if isinstance(images, Tensor):
        return "all are in memory"
    count = images.shape[0]
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:READ]
    first = images[chosen]
    kept = first.clone()
    again = images[chosen].clone()
    images[chosen.flip(0)]
    require(
        torch.equal(first, kept) or not torch.equal(again, kept),
        "images that were read before change when others are read: the source gives the same buffer again; return a "
        "new tensor each time",
    )
    require(torch.equal(kept, again), "reading the same images again gives others")
    require(torch.equal(first.flip(0), images[chosen.flip(0)]), "the images depend on the order of reading")
    alone = torch.cat([images[index.reshape(1)] for index in chosen[:5]])
    require(torch.equal(first[:5], alone), "an image depends on the others that are read with it")
    twice = torch.stack([chosen[0], chosen[0], chosen[-1]])
    expected = torch.stack([kept[0], kept[0], kept[-1]])
    require(torch.equal(images[twice], expected), "an index that is asked for twice in one batch gives other images")
    try:
        copy: ImageSource = pickle.loads(pickle.dumps(images))
    except Exception as error:  # an object that cannot be pickled may raise anything
        broken(f"it cannot be sent to worker processes: {type(error).__name__}: {error}")
    same = tuple(copy.shape) == tuple(images.shape) and torch.equal(first, copy[chosen])
    require(same, "a copy in another process reads other images")
    return f"{len(chosen)} of {count}, read when needed"


def is_line(value: object) -> bool:
    """Tell whether a value is one line of text."""
    return isinstance(value, str) and "\n" not in value


@DATASET_LAWS.add("labels, names and paths fit the images")
def companions(case: DatasetCase) -> str:
    given = case.first()
    count, names, paths = given.images.shape[0], list(given.class_names), list(given.paths)
    for what, values in (("class_names", names), ("paths", paths)):
        require(all(isinstance(value, str) for value in values), f"{what}: expected texts")
    require(len(paths) in (0, count), f"paths: expected {count}, one for each image, or none, got {len(paths)}")
    require(is_line(given.description), f"description: expected one line of text, got {given.description!r}")
    for line in given.skipped:
        require(is_line(line), f"skipped: expected lines of text, got {line!r}")
    if given.labels is None:
        require(not names, f"class_names without labels: {names[:3]}")
        return f"no labels, {len(paths)} paths; {given.description!r}"
    labels = require_tensor("labels", given.labels, (count,), torch.int64)
    low, high = int(labels.min()), int(labels.max())
    require(low >= -1, f"labels: expected 0 or more, or -1 for an image without a label, got {low}")
    require(high >= 0, "labels: expected None if no image has a label")
    require(not names or high < len(names), f"labels: expected 0..{len(names) - 1} as class_names say, got {high}")
    return f"labels {low}..{high}, {len(names)} class names, {len(paths)} paths; {given.description!r}"


@DATASET_LAWS.add("loading again gives the same and leaves the global random states alone")
def deterministic(case: DatasetCase) -> str:
    first = case.first()
    seed_everything(1)
    before = {library: state() for library, state in RANDOM_STATES.items()}
    second = case.load(FIRST_SIZE)
    for library, state in RANDOM_STATES.items():
        require(before[library] == state(), f"it draws from {library}'s global random state")
    same = tuple(first.images.shape) == tuple(second.images.shape)
    require(same and torch.equal(sample(first.images), sample(second.images)), "the images differ from load to load")
    loaded_again = companions_of(second)
    for what, values in companions_of(first).items():
        require(values == loaded_again[what], f"the {what} differ from load to load")
    return "images, labels and paths"


def companions_of(image_set: ImageSet) -> dict[str, list[int] | list[str] | None]:
    """Return what comes with the images, in values that can be compared."""
    labels = None if image_set.labels is None else image_set.labels.tolist()
    return {"labels": labels, "paths": list(image_set.paths), "skipped": list(image_set.skipped)}
