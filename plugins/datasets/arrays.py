"""A user's own arrays of images, with or without labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.images.joined import joined
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.array_reading.files import EXTENSIONS, Array, ArrayFile, open_arrays
from mpcc.plugins.datasets.array_reading.labels import Labels, find_classes
from mpcc.plugins.datasets.array_reading.sets import JoinedArrays, Part, image_parts, label_names, listed_arrays
from mpcc.plugins.datasets.array_reading.tables import TABLES, read_label_table
from mpcc.plugins.datasets.array_reading.values import (
    Layout,
    find_layout,
    find_values,
    settled_range,
    to_bytes,
    with_channels,
)
from mpcc.plugins.datasets.memory import read_all, streams
from mpcc.plugins.datasets.options import ArraysOptions
from mpcc.plugins.datasets.reading.range_option import RangeSpec, ValueRange
from mpcc.plugins.datasets.resizing import resize_images

__all__ = ["ArrayImages", "Arrays"]

logger = logging.getLogger(__name__)

# Central squares of images that are longer than this keep less than a third of them.
_LONG = 3
_FITTED = {
    "crop": "central squares of {} x {} pixels, resized to",
    "pad": "{} x {} pixels padded to squares, resized to",
    "stretch": "{} x {} pixels stretched to squares of",
}
_IN_PARTS = "expected a .npy file, or a .pt file of torch 1.6 or newer"


@attrs.define(eq=False)
class ArrayImages:
    """Images of one array, or of one in each split, converted on demand.

    They are an `mpcc.core.contracts.ImageSource` and `mpcc.core.contracts.Originals`. A copy in another process opens
    the file again, because the array is not pickled.

    Arguments:
        path: The file.
        parts: The arrays of the file.
        layout: The order of the values.
        channels: D, 1 or 3.
        values: The values of black and white.
        fit: What happens to images that are not square: ``crop``, ``pad`` or ``stretch``.
        background: The grey level behind transparent pixels and beside an image that is padded.
        image_size: R, in pixels.
        array: The array.
    """

    path: Path
    parts: Sequence[Part]
    layout: Layout
    channels: int
    values: ValueRange
    fit: str
    background: int
    image_size: int
    array: Array | JoinedArrays | None

    def __getstate__(self) -> dict[str, object]:
        return {**{field.name: getattr(self, field.name) for field in attrs.fields(type(self))}, "array": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def opened(self) -> Array | JoinedArrays:
        """Return the array; a copy in another process opens the file first."""
        if self.array is None:
            self.array = _joined(open_arrays(self.path), self.parts, str(self.path))
        return self.array

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D, R, R)."""
        return len(self.opened()), self.channels, self.image_size, self.image_size

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Read images, uint8, shape (n, D, R, R), for indices of shape (n,)."""
        return resize_images(self._levels(indices), self.image_size, self.fit, self.background)

    def original(self, index: int) -> Tensor:
        """Return the grey levels or colours of one image in its own size, uint8, shape (D, H, W)."""
        return self._levels(torch.tensor([index]))[0]

    def _levels(self, indices: Tensor) -> Tensor:
        """Return images in their own size, uint8, shape (n, D, H, W)."""
        levels = to_bytes(self.opened()[indices.numpy()], self.layout, self.values, self.background)
        return torch.from_numpy(with_channels(levels, self.channels))


class Arrays(Dataset):
    """Images in one array, and their labels, if there are any, in another: .npy, .npz, .pt or .pth.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1, 3, or 4 with transparency, or rows of H W values, of
    booleans, whole numbers or floating point. The range of values becomes the nearest of 256 grey levels. Images with
    transparency are put on a background, and the option ``channels`` makes grey or colour of all. Then each image is
    resized so that the shorter side is R (bilinear, antialiased when it shrinks) and cut to the central square; the
    option ``fit`` pads or stretches it instead. Where a file has the arrays of several splits, they are joined, or one
    is chosen.

    Labels are whole numbers, booleans, texts or one-hot rows, in an array beside the images that has a usual name, or
    in a file of their own, which may be a table of text. Each label that occurs is a class with its name. Images may
    lack a label.

    No code in a file is run: pickled objects other than arrays, numbers and texts are refused. With the option
    ``memory``, the same images are read from a .npy or .pt file on demand, and the file must not change meanwhile.
    Floating-point images are read once before, to check that they are finite. A .npz file is read whole.
    """

    def __init__(self, options: ArraysOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read the arrays, or open them.

        Arguments:
            image_size: R, in pixels.
            root: Ignored: a relative ``path`` starts at the working directory.
            download: Ignored.

        Returns:
            uint8 images, shape (N, 1 or 3, R, R), and labels if there are any.

        Raises:
            InvalidInput: If a file, an array or a value in it is not as described above.
        """
        options = self.options
        if options.path is None:
            raise InvalidInput("data set arrays needs a file of images: pass --data.path FILE")
        # Absolute: the working directory of a run may change.
        path = options.path.expanduser().absolute()
        file = open_arrays(path)
        parts = image_parts(file, options.images_key, options.split)
        described = f"{path}, {' + '.join(part.name for part in parts)}" if file.named else str(path)
        array = _joined(file, parts, described)
        layout = find_layout(array.shape, options.layout, options.height, described)
        labels, used = self._labels(file, parts, array)
        in_file = all(file.arrays[part.name].in_file for part in parts)
        if options.memory == "stream" and not in_file:
            raise InvalidInput(f"--data.memory stream: {path} cannot be read part by part: {_IN_PARTS}")
        choice, remedy = (options.memory, "pass --data.memory stream") if in_file else ("load", _IN_PARTS)
        channels = layout.channels if options.channels == "auto" else int(options.channels)
        shape = (len(array), channels, image_size, image_size)
        stream = streams(choice, shape, "the images of the array", remedy, each_once=self.each_once)
        spec = RangeSpec.parse(options.range)
        values = find_values(array, spec, described, sampled=stream)
        background = {"white": 255, "black": 0}[options.background]
        source = ArrayImages(path, parts, layout, channels, values, options.fit, background, image_size, array)
        if options.fit == "crop" and max(layout.sides) > _LONG * min(layout.sides):
            logger.info(
                "%s: images of %d x %d pixels keep only their central squares; --data.fit pad or stretch keeps the "
                "whole",
                *(printable(described), *layout.sides),
            )
        if labels.note:
            logger.log(logging.INFO if labels.names else logging.WARNING, "%s", printable(labels.note))
        others = {name: one.shape for name, one in file.arrays.items() if name not in {part.name for part in parts}}
        unused = {name: shape for name, shape in others.items() if name not in used}
        return ImageSet(
            images=source if stream else read_all(source),
            labels=labels.numbers,
            class_names=labels.names,
            paths=[f"{printable(path.name)}#{index}" for index in range(len(array))],
            description=_description(source, described, labels, used)
            + ("; read when needed" if stream else "")
            + (f"; not used: {printable(listed_arrays(unused, 4))}" if unused else ""),
            settled={"range": settled_range(spec, array.dtype, values)},
            # Opened again when it is asked for, so that an array that has been read whole does not stay in memory.
            originals=attrs.evolve(source, array=None),
        )

    def load_inputs(self, inputs: Sequence[Path], image_size: int) -> ImageSet:
        """Read files of arrays, in their order; the option ``path`` does not count.

        The paths of the images begin with those of the files: ``scans/a.npy#3``.

        Arguments:
            inputs: Files that exist, at least one.
            image_size: R, in pixels.

        Raises:
            InvalidInput: As `load`; or if the files have different numbers of channels.
        """
        sets = []
        for path in inputs:
            loaded = self._of_file(path).load(image_size, None, False)
            above = str(path)[: len(str(path)) - len(path.name)]
            sets.append(attrs.evolve(loaded, paths=[f"{printable(above)}{name}" for name in loaded.paths]))
        return joined(sets)

    def _of_file(self, path: Path) -> Arrays:
        """Return the same data set with another file."""
        other = Arrays(attrs.evolve(self.options, path=path))
        other.each_once = self.each_once
        return other

    def _labels(self, file: ArrayFile, parts: Sequence[Part], array: Array | JoinedArrays) -> tuple[Labels, list[str]]:
        """Return the labels, and the names of their arrays if they are beside the images."""
        options, nothing = self.options, Labels(None, [])
        key, count = options.labels_key, len(array)
        if options.labels is not None:
            path = options.labels.expanduser()
            if path.suffix.lower() in TABLES:
                values, column = read_label_table(path, key, count)
                return find_classes(values, count, f"{path}, {column}" if column else str(path)), []
            if path.suffix.lower() not in EXTENSIONS:
                raise InvalidInput(
                    f"{path}: expected labels in a file whose name ends in {', '.join((*EXTENSIONS, *TABLES))}"
                )
            return self._of_arrays(open_arrays(path), parts, array, beside=False)[0], []
        if key == "none":
            return nothing, []
        try:
            return self._of_arrays(file, parts, array, beside=True)
        except InvalidInput as error:
            if key is not None:
                raise
            return Labels(None, [], f"labels are not used: {error}"), []

    def _of_arrays(
        self, file: ArrayFile, parts: Sequence[Part], array: Array | JoinedArrays, *, beside: bool
    ) -> tuple[Labels, list[str]]:
        """Return the labels in arrays of a file, and the names of these arrays."""
        names = label_names(file, self.options.labels_key, parts, beside=beside)
        if names is None or not any(name is not None for name in names):
            return Labels(None, []), []
        lengths = [len(array)] if len(names) == 1 else [len(file_part) for file_part in _arrays_of(array)]
        described = f"{file.path}, {' + '.join(name for name in names if name)}" if file.named else str(file.path)
        found = [
            np.full(length, None, dtype=object) if name is None else file.arrays[name].read()
            for name, length in zip(names, lengths, strict=True)
        ]
        for values, length in zip(found, lengths, strict=True):
            if len(found) > 1 and (values.ndim == 0 or len(values) != length):
                raise InvalidInput(f"{described}: expected {length} labels, one an image, got shape {values.shape}")
        values = found[0] if len(found) == 1 else _in_a_row(found)
        return find_classes(values, len(array), described), [name for name in names if name]


def _arrays_of(array: Array | JoinedArrays) -> Sequence[Array]:
    return array.arrays if isinstance(array, JoinedArrays) else [array]


def _in_a_row(labels: Sequence[Array]) -> Array:
    """Return the labels of several splits in one array."""
    widths = {values.shape[1:] for values in labels if values.dtype != object}
    if len(widths) == 1 and all(values.dtype != object for values in labels):
        return np.concatenate(labels)
    joined = np.empty(sum(len(values) for values in labels), dtype=object)
    joined[:] = [value for values in labels for value in values.reshape(len(values), -1)[:, 0].tolist()]
    return joined


def _joined(file: ArrayFile, parts: Sequence[Part], described: str) -> Array | JoinedArrays:
    """Return the images of the parts as one array."""
    arrays = [file.arrays[part.name].read() for part in parts]
    return arrays[0] if len(arrays) == 1 else JoinedArrays(arrays, described)


def _description(source: ArrayImages, described: str, labels: Labels, used: Sequence[str]) -> str:
    """Describe the images in one line."""
    count, channels, size, _ = source.shape
    kind, values, layout = "grey" if channels == 1 else "colour", source.values, source.layout
    found = f"{len(labels.names)} classes" if labels.names else "no labels"
    if labels.names and used:
        found += f" (labels: {' + '.join(used)})"
    return (
        f"arrays {printable(described)}: {count} {kind} images, {layout}, values {values.low:g}..{values.high:g}, "
        f"{printable(found)}, {_FITTED[source.fit].format(*layout.sides)} {size} pixels"
    )
