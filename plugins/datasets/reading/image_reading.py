"""Reads the images of a folder in as few passes as possible, and finds every kind of fault in one start."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.memory import streams
from mpcc.plugins.datasets.options import FolderOptions
from mpcc.plugins.datasets.reading.image_decoding import (
    Decoding,
    FileImages,
    kind_of,
    reduced_by_pillow,
    storage_type,
    values_of,
)
from mpcc.plugins.datasets.reading.image_listing import ImageFile
from mpcc.plugins.datasets.reading.image_opening import UnreadableImage, each_frame, frames_in
from mpcc.plugins.datasets.reading.range_option import RangeSpec, ValueRange
from mpcc.plugins.datasets.reading.value_range import Extremes, find_range, known_range, measure

__all__ = ["FolderReader", "Look"]

T = TypeVar("T")

# How many images of a set that is read on demand are decoded to see how much of its range it uses.
SAMPLED = 64
_MODES = {"auto": None, "1": "L", "3": "RGB"}
_KINDS = {"L": "grey", "RGB": "colour"}


@attrs.frozen(eq=False)
class Look:
    """What is known of an image after one look.

    Attributes:
        kind: ``L`` or ``RGB``, after conversion.
        storage: The type of its values.
        size: Width and height.
        frames: How many frames its file has, if only the first is read.
        reduced: Whether it has colours of 16 bits.
        extremes: Of its values; none if they were not read.
        square: The result, or None if it was not decoded, or the range of its type is not known yet.
    """

    kind: str
    storage: str
    size: tuple[int, int]
    frames: int
    reduced: bool
    extremes: Extremes = Extremes()
    square: Tensor | None = None


@attrs.define(eq=False)
class FolderReader:
    """Reads images.

    Attributes:
        options: Of the data set.
        image_size: R, in pixels.
        where: The folder, or the inputs, for messages.
        each_once: Whether each image is wanted once only (`mpcc.core.contracts.Dataset.each_once`).
        seen: The images that can be read, in order, and what is known of each.
        faults: The images that cannot be read.
        ranges: The values of black and white by storage type.
        sampled: How many images of a storage type were measured, where it was not all.
        source: The images that can be read as files, once `read` has returned.
    """

    options: FolderOptions
    image_size: int
    where: str
    each_once: bool = False
    seen: list[tuple[ImageFile, Look]] = attrs.field(factory=list)
    faults: dict[ImageFile, UnreadableImage] = attrs.field(factory=dict)
    ranges: dict[str, ValueRange] = attrs.field(factory=dict)
    sampled: dict[str, int] = attrs.field(factory=dict)
    source: FileImages | None = None

    @property
    def spec(self) -> RangeSpec:
        """The option ``range``."""
        return RangeSpec.parse(self.options.range)

    def all_frames(self, files: Sequence[ImageFile]) -> list[ImageFile]:
        """Return every frame of the files; a file that cannot be read is kept for the pass that tells the reason."""
        found: list[ImageFile] = []
        for image, frames in self._each(files, lambda opened, _: frames_in(opened)):
            one = isinstance(frames, UnreadableImage) or len(frames) == 1
            found += [image] if one else [attrs.evolve(image, frame=frame) for frame in frames]  # type: ignore[union-attr]
        return found

    def read(self, files: Sequence[ImageFile], problems: Sequence[str] = ()) -> Tensor | ImageSource:
        """Return the images that are `seen`; those that are not have `faults`.

        Arguments:
            files: The images, those in one file one after the other.
            problems: What is wrong already; with all else that is, it becomes one error.

        Raises:
            InvalidInput: If images cannot be read and may not be skipped, or grey and colour are mixed, or the values
                of a type have no range.
        """
        mode, skip = _MODES[self.options.channels], self.options.unreadable == "skip"
        channels = 1 if (mode or self._first_kind(files)) == "L" else 3
        shape = (len(files), channels, self.image_size, self.image_size)
        stream = streams(self.options.memory, shape, f"the folder's {len(files)} images", each_once=self.each_once)
        # When streaming, decoding only shows which files to skip. The images are not kept.
        decoded = not stream or skip
        images = torch.empty(0 if stream else len(files), *shape[1:], dtype=torch.uint8)
        for image, look in self._readable(files, lambda opened, first: self._look(opened, first, decoded, not stream)):
            if look.square is not None:
                if not self.seen and images.shape[1] != len(look.square):  # the guess came from a file that was skipped
                    images = torch.empty(len(files), *look.square.shape, dtype=torch.uint8)
                if images.shape[1] == len(look.square):  # or the set is a mixture, and refused
                    images[len(self.seen)] = look.square
            self.seen.append((image, attrs.evolve(look, square=None)))
        if not decoded:
            self._sample()
        self._refuse(problems)
        self._find_ranges(decoded)
        self._refuse()
        # Absolute: the working directory of a run may change.
        places = (image.file for image, _ in self.seen)
        names = tuple(str(place.absolute()) if isinstance(place, Path) else place for place in places)
        numbers = tuple(image.frame for image, _ in self.seen)
        decoding = self._decoding(self.seen[0][1].kind if self.seen else mode)
        self.source = FileImages(names, numbers, decoding, self.options.largest_pixels)
        if stream:
            return self.source
        self._read_late(images)
        return images[: len(self.seen)]

    def _decoding(self, mode: str | None) -> Decoding:
        background = {"white": 255, "black": 0}[self.options.background]
        return Decoding(self.image_size, mode, background, self.options.fit, self.ranges)

    def _look(self, opened: Image.Image, first_mode: str, decoded: bool, kept: bool) -> Look:
        """Look at an opened image, and decode it if that is wanted and its range is known."""
        mode, storage = _MODES[self.options.channels], storage_type(opened)
        frames = len(frames_in(opened)) if self.options.frames == "first" else 1
        look = Look(mode or kind_of(opened, first_mode), storage, opened.size, frames, reduced_by_pillow(opened))
        if not decoded:
            return look
        known = known_range(self.spec, storage)
        if known is None:
            return attrs.evolve(look, extremes=measure([values_of(opened)]))
        self.ranges[storage] = known
        decoding = self._decoding(mode)
        image = decoding.decode(opened, first_mode)
        whole = storage == "uint8" and known == ValueRange(0, 255)
        extremes = _extremes(image) if whole else measure([values_of(opened)])
        return attrs.evolve(look, extremes=extremes, square=decoding.square(image) if kept else None)

    def _read_late(self, images: Tensor) -> None:
        """Decode the images whose range was not known in the first pass."""
        late = [
            (index, image)
            for index, (image, look) in enumerate(self.seen)
            if known_range(self.spec, look.storage) is None
        ]
        if not late:
            return
        decoding = self._decoding(self.seen[0][1].kind)
        squares = self._each([image for _, image in late], lambda *opened: decoding.square(decoding.decode(*opened)))
        for (index, _), (_, square) in zip(late, squares, strict=True):
            if isinstance(square, UnreadableImage):
                raise square
            images[index] = square

    def _find_ranges(self, decoded: bool) -> None:
        """Find the ranges of all storage types.

        Arguments:
            decoded: Whether the extremes of all images are known.
        """
        for storage in sorted({look.storage for _, look in self.seen}):
            of_type = [image for image, look in self.seen if look.storage == storage]
            found = self.extremes(storage)
            measured = decoded and self.spec.of(storage).kind != "percentiles"

            def values(
                of_type: list[ImageFile] = of_type, found: Extremes = found, measured: bool = measured
            ) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
                if measured:
                    yield np.array([found.low, found.high])
                else:
                    yield from (part for _, part in self._readable(of_type, lambda opened, _: values_of(opened)))

            try:
                self.ranges[storage] = find_range(self.spec, storage, values)
            except ValueError as error:
                self._refuse()
                raise InvalidInput(f"{printable(self.where)}: {error}") from error

    def _sample(self) -> None:
        """Decode a few images of each storage type, to find common faults and to tell how much of a range they use."""
        for storage in {look.storage for _, look in self.seen}:
            of_type = [index for index, (_, look) in enumerate(self.seen) if look.storage == storage]
            chosen = np.unique(np.linspace(0, len(of_type) - 1, SAMPLED).round().astype(int))
            places = {self.seen[of_type[index]][0]: of_type[index] for index in chosen}
            for image, found in self._readable(list(places), lambda opened, _: measure([values_of(opened)])):
                self.seen[places[image]] = (image, attrs.evolve(self.seen[places[image]][1], extremes=found))
            if len(chosen) < len(of_type):
                self.sampled[storage] = len(chosen)

    def extremes(self, storage: str) -> Extremes:
        """Return the extremes of all images of a storage type that were measured."""
        found = Extremes()
        for _, look in self.seen:
            if look.storage == storage:
                found = found.joined(look.extremes)
        return found

    def _first_kind(self, files: Sequence[ImageFile]) -> str:
        """Guess whether the images are grey or colour, from the first header that can be read."""
        for _, kind in self._each(files, kind_of):
            if not isinstance(kind, UnreadableImage):
                return kind
        return "RGB"

    def _each(
        self, files: Sequence[ImageFile], work: Callable[[Image.Image, str], T]
    ) -> Iterator[tuple[ImageFile, T | UnreadableImage]]:
        """Do some work with each image, opening each file once."""
        for _, group in itertools.groupby(files, key=lambda image: image.file):
            images = list(group)
            frames = [image.frame or 0 for image in images]
            yield from zip(images, each_frame(images[0].file, frames, work, self.options.largest_pixels), strict=True)

    def _readable(
        self, files: Sequence[ImageFile], work: Callable[[Image.Image, str], T]
    ) -> Iterator[tuple[ImageFile, T]]:
        """Do some work with each image that can be read, and keep the faults of the others."""
        for image, result in self._each(files, work):
            if isinstance(result, UnreadableImage):
                self.faults.setdefault(image, result)
            else:
                yield image, result

    def _refuse(self, problems: Sequence[str] = ()) -> None:
        """Raise one error for everything that is wrong, if anything is."""
        unreadable = _unreadable(self.faults, self.where) if self.options.unreadable == "refuse" else ""
        everything = [text for text in (*problems, unreadable, self._mixture()) if text]
        if len(everything) == 1:
            raise InvalidInput(everything[0])
        if everything:
            listed = "; ".join(f"({number}) {text}" for number, text in enumerate(everything, start=1))
            raise InvalidInput(f"{len(everything)} things are wrong with {printable(self.where)}: {listed}")

    def _mixture(self) -> str:
        """Return what is wrong with a set of grey and colour images, or nothing."""
        first = {look.kind: image for image, look in reversed(self.seen)}
        if len(first) < 2:
            return ""
        (kind, image), (other_kind, other) = sorted(first.items(), key=lambda item: item[1].parts)
        counts = {name: sum(look.kind == name for _, look in self.seen) for name in first}
        more = f" ({counts['L']} grey and {counts['RGB']} colour images)" if len(self.seen) > 2 else ""
        return (
            f"{printable(str(image.file))} is {_KINDS[kind]} but {printable(str(other.file))} is "
            f"{_KINDS[other_kind]}{more}: expected all alike; pass --data.channels 1 to convert to grey or "
            "--data.channels 3 to convert to colour"
        )


def _extremes(image: Image.Image) -> Extremes:
    """Return the extremes of a decoded image."""
    bands: Any = image.getextrema()
    pairs = bands if isinstance(bands[0], tuple) else (bands,)
    return Extremes(float(min(low for low, _ in pairs)), float(max(high for _, high in pairs)))


def _unreadable(faults: dict[ImageFile, UnreadableImage], where: str) -> str:
    """Return the images that cannot be read in words: each kind of fault, how often it occurs, an example."""
    if len(faults) <= 1:
        return "".join(str(fault) for fault in faults.values())
    kinds: dict[str, list[ImageFile]] = {}
    for image, fault in faults.items():
        kinds.setdefault(re.sub(r"\d+", "#", fault.reason), []).append(image)
    told = [
        f"{images[0].path}{f' and {len(images) - 1} more' if images[1:] else ''} ({faults[images[0]].reason})"
        for images in kinds.values()
    ]
    return (
        f"{len(faults)} images in {printable(where)} cannot be read: {', '.join(told)}; repair or remove them, "
        "or pass --data.unreadable skip to go without"
    )
