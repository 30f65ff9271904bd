"""A user's own arrays of images, with or without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.memory import read_all, streams
from mpcc.plugins.datasets.options import ArraysOptions
from mpcc.plugins.datasets.reading.array_files import Array, open_array
from mpcc.plugins.datasets.reading.array_values import ValueRange, find_layout, find_range, to_bytes
from mpcc.plugins.datasets.resizing import resize_images

__all__ = ["ArrayImages", "Arrays"]

_IN_PARTS = "expected a .npy file, or a .pt file of torch 1.6 or newer"
_IMAGES, _LABELS = "--data.images-key", "--data.labels-key"


@attrs.define(eq=False)
class ArrayImages:
    """Images of one array, converted on demand: an `mpcc.core.contracts.ImageSource`.

    A copy in another process opens the file again, because the array is not pickled.

    Arguments:
        path: The file.
        name: The name of the array in the file, or None.
        layout: The order of the axes.
        values: The values of black and white.
        image_size: R, in pixels.
        array: The array.
    """

    path: Path
    name: str | None
    layout: str
    values: ValueRange
    image_size: int
    array: Array | None

    def __getstate__(self) -> dict[str, object]:
        return {**{field.name: getattr(self, field.name) for field in attrs.fields(type(self))}, "array": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def opened(self) -> Array:
        """Return the array; a copy in another process opens the file first."""
        if self.array is None:
            self.array = open_array(self.path, self.name, "images", _IMAGES, (3, 4)).array
        return self.array

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D, R, R)."""
        shape = self.opened().shape
        channels = shape[self.layout.index("C")] if "C" in self.layout else 1
        return shape[0], channels, self.image_size, self.image_size

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Read images, uint8, shape (n, D, R, R), for indices of shape (n,)."""
        images = to_bytes(self.opened()[indices.numpy()], self.layout, self.values)
        return resize_images(torch.from_numpy(images), self.image_size)


class Arrays(Dataset):
    """Images in one array, and their labels, if there are any, in another: .npy, .npz, .pt or .pth.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1 or 3, of uint8, bool or floating point. Values become
    the nearest of 256 grey levels. Then each image is resized so that the shorter side is R (bilinear, antialiased when
    it shrinks) and cut to the central square. Labels are whole numbers of 0 or more. Each label that occurs is a class,
    named by its number.

    No code in a file is run: pickled objects are refused. With the option ``memory``, the same images are read from a
    .npy or .pt file on demand, and the file must not change meanwhile. Floating-point images are read once before, to
    check that they are finite and in range. A .npz file is read whole.
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
            uint8 images, shape (N, 1 or 3, R, R), and labels if they were named.

        Raises:
            InvalidInput: If a file, an array or a value in it is not as described above.
        """
        options = self.options
        if options.path is None:
            raise InvalidInput("data set arrays needs a file of images: pass --data.path FILE")
        # Absolute: the working directory of a run may change.
        path = options.path.expanduser().absolute()
        images = open_array(path, options.images_key, "images", _IMAGES, (3, 4))
        described = str(path) if images.name is None else f"{path}, {images.name}"
        layout = find_layout(images.array.shape, options.layout, described)
        labels, class_names = self._read_labels(path, len(images.array))
        values = find_range(images.array, options.value_range, described)
        source = ArrayImages(path, images.name, layout, values, image_size, images.array)
        if options.memory == "stream" and not images.in_file:
            raise InvalidInput(f"--data.memory stream: {path} cannot be read part by part: {_IN_PARTS}")
        choice, remedy = (options.memory, "pass --data.memory stream") if images.in_file else ("load", _IN_PARTS)
        stream = streams(choice, source.shape, "the images of the array", remedy)
        return ImageSet(
            images=source if stream else read_all(source),
            labels=labels,
            class_names=class_names,
            paths=[f"{printable(path.name)}#{index}" for index in range(len(images.array))],
            description=_description(source, described, class_names)
            + ("; read when needed" if stream else "")
            + ("" if labels is not None or not images.others else f"; not used: {_listed(images.others)}"),
        )

    def _read_labels(self, path: Path, count: int) -> tuple[Tensor | None, list[str]]:
        """Return labels 0, 1, .., int64 (N,), and what they are called; or None if no option names them."""
        options = self.options
        if options.labels is None and options.labels_key is None:
            return None, []
        file = path if options.labels is None else options.labels.expanduser()
        opened = open_array(file, options.labels_key, "labels", _LABELS, (1,))
        numbers, described = opened.array, str(file) if opened.name is None else f"{file}, {opened.name}"
        if numbers.dtype.kind not in "iu":
            raise InvalidInput(f"{described}: expected labels that are whole numbers, got {numbers.dtype}")
        if numbers.shape != (count,):
            raise InvalidInput(f"{described}: expected labels of shape ({count},), one an image, got {numbers.shape}")
        if numbers.min() < 0:
            index = int(np.argmax(numbers < 0))
            raise InvalidInput(f"{described}: expected labels of 0 or more, got {numbers[index]} at index {index}")
        names, labels = np.unique(numbers, return_inverse=True)
        return torch.from_numpy(labels.astype(np.int64)), [str(name) for name in names]


def _description(source: ArrayImages, described: str, class_names: Sequence[str]) -> str:
    """Describe the images in one line."""
    count, channels, size, _ = source.shape
    shape = source.opened().shape
    height, width = (shape[source.layout.index(axis)] for axis in "HW")
    kind = "grey" if channels == 1 else "colour"
    return (
        f"arrays {printable(described)}: {count} {kind} images, {source.layout}, values "
        f"{source.values}, {f'{len(class_names)} classes' if class_names else 'no labels'}, central squares of "
        f"{height} x {width} pixels, resized to {size} pixels"
    )


def _listed(arrays: Mapping[str, tuple[int, ...]]) -> str:
    """Return the names and shapes of a few arrays."""
    return printable(", ".join(f"{name} {shape}" for name, shape in list(arrays.items())[:4]))
