"""Opened images, decoded to 8-bit grey or colour: value ranges, orientation, transparency, the square."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor

from mpcc.plugins.datasets.reading.image_archive import ArchiveMember
from mpcc.plugins.datasets.reading.image_metadata import turn_upright
from mpcc.plugins.datasets.reading.image_opening import LARGEST_PIXELS, UnreadableImage, each_frame
from mpcc.plugins.datasets.reading.range_option import ValueRange
from mpcc.plugins.datasets.reading.value_range import to_levels
from mpcc.plugins.datasets.resizing import fit_square

__all__ = ["Decoding", "FileImages", "kind_of", "reduced_by_pillow", "storage_type", "values_of"]

T = TypeVar("T")

_GREY = ("1", "L", "LA", "La", "F")
_BYTES = ValueRange(0, 255)
_KEY = "transparency"


@attrs.frozen
class Decoding:
    """How opened images become squares of 8 bits.

    Attributes:
        image_size: R, in pixels.
        mode: ``L`` or ``RGB``; None keeps the kind of each image; a palette is colour.
        background: The grey level behind an image where it is transparent, and beside one that is padded.
        fit: What happens to images that are not square, as in `mpcc.plugins.datasets.resizing.fit_square`.
        ranges: The values of black and white by storage type.
    """

    image_size: int
    mode: str | None = None
    background: int = 255
    fit: str = "crop"
    ranges: Mapping[str, ValueRange] = attrs.field(factory=dict)

    def decode(self, opened: Image.Image, first_mode: str) -> Image.Image:
        """Return an opened image upright, opaque, as 8-bit ``L`` or ``RGB``.

        Arguments:
            opened: At one of its frames.
            first_mode: The mode of the first frame.
        """
        opened.load()
        storage = storage_type(opened)
        if storage == "uint8":
            image = _stretched(opened, self.ranges.get(storage, _BYTES))
        else:
            image = _levels(opened, self.ranges[storage])
        image = turn_upright(image, opened)
        if image.has_transparency_data:
            over = image.convert("RGBA")
            under = Image.new("RGBA", image.size, (self.background,) * 3 + (255,))
            image = Image.alpha_composite(under, over).convert("RGB")
        return image.convert(self.mode or kind_of(opened, first_mode))

    def square(self, image: Image.Image) -> Tensor:
        """Return a decoded image as a square, uint8, shape (D, R, R)."""
        fitted = fit_square(image, self.image_size, self.fit, self.background)
        pixels = np.array(fitted).reshape(self.image_size, self.image_size, -1)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def kind_of(opened: Image.Image, first_mode: str) -> str:
    """Return whether an opened image is grey (``L``) or colour (``RGB``); no pixel is read.

    Arguments:
        opened: At one of its frames.
        first_mode: The mode of the first frame: Pillow makes the further frames of a grey GIF colour.
    """
    mode = first_mode if opened.format == "GIF" else opened.mode
    return "L" if mode in _GREY or mode.startswith("I") else "RGB"


def storage_type(opened: Image.Image) -> str:
    """Return the type in which an opened image has its values: ``uint8``, ``uint16``, ``int32`` or ``float32``.

    Values of 16 bits that Pillow widens are ``uint16``; the colours that it narrows are ``uint8``.
    """
    if opened.mode == "F":
        return "float32"
    if not opened.mode.startswith("I"):
        return "uint8"
    # Pillow's 32 bits hold the 16 bits of PNG and of netpbm files, which it scales to 65,535.
    return "uint16" if opened.mode != "I" or opened.format in ("PNG", "PPM", "JPEG2000") else "int32"


def reduced_by_pillow(opened: Image.Image) -> bool:
    """Return whether an opened image, not yet loaded, has colours of 16 bits, of which Pillow reads the upper 8."""
    modes = [tile[3] for tile in getattr(opened, "tile", [])]
    return opened.mode in ("RGB", "RGBA", "LA", "CMYK") and any(";16" in str(mode) for mode in modes)


def values_of(opened: Image.Image) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the values of an opened image, without those of transparent pixels; the shape is not kept.

    Raises:
        ValueError: If a value is not finite.
    """
    opened.load()
    if storage_type(opened) != "uint8":
        values = np.asarray(opened)
        key = opened.info.get(_KEY)
        return _finite(values[values != key] if isinstance(key, int) else values)
    image = _plain(opened)
    pixels = np.asarray(image)
    return pixels[pixels[..., -1] > 0][..., :-1] if image.mode in ("LA", "RGBA") else pixels


def _levels(opened: Image.Image, values_range: ValueRange) -> Image.Image:
    """Return 8-bit grey for values of other types; the one that means transparent becomes so."""
    values = _finite(np.asarray(opened))
    image = Image.fromarray(to_levels(values, values_range))
    key = opened.info.get(_KEY)
    if isinstance(key, int):
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
        image = Image.merge("LA", (image, alpha))
    return image


def _finite(values: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(f"expected finite values, got {values[~np.isfinite(values)][0]} at row {row}, column {column}")
    return values


def _stretched(opened: Image.Image, values_range: ValueRange) -> Image.Image:
    """Return an 8-bit image with another range of its colours; transparency is left as it is."""
    if values_range == _BYTES:
        return _from_lab(opened) if opened.mode == "LAB" else opened
    image = _plain(opened)
    table = to_levels(np.arange(256), values_range).tolist()
    transparent = image.mode in ("LA", "RGBA")
    bands = len(image.getbands()) - transparent
    return image.point(table * bands + list(range(256)) * transparent)


def _plain(opened: Image.Image) -> Image.Image:
    """Return an 8-bit image as one of L, LA, RGB, RGBA."""
    if opened.mode == "LAB":
        return _from_lab(opened)
    grey = opened.mode in _GREY
    if opened.has_transparency_data:
        image = opened.convert("RGBA")
        return Image.merge("LA", (image.getchannel("R"), image.getchannel("A"))) if grey else image
    return opened.convert("L" if grey else "RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    """Return RGB for CIELAB, which Pillow converts with profiles only."""
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    assert converted is not None
    return converted


@attrs.frozen(eq=False)
class FileImages:
    """Images in files, read on demand: an `mpcc.core.contracts.ImageSource`, and `mpcc.core.contracts.Originals`.

    Arguments:
        files: The file of each image, or the member of an archive.
        frames: The frame of each image; None if it is the only one that is read from its file.
        decoding: How they are decoded; its mode is not None.
        largest_pixels: Images with more pixels are refused.
    """

    files: tuple[str | ArchiveMember, ...]
    frames: tuple[int | None, ...]
    decoding: Decoding
    largest_pixels: int = LARGEST_PIXELS

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D, R, R)."""
        size = self.decoding.image_size
        return len(self.files), 1 if self.decoding.mode == "L" else 3, size, size

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Read images, uint8, shape (n, D, R, R), for indices of shape (n,).

        Raises:
            UnreadableImage: If one cannot be read.
        """
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = self._read(index, self._square)
        return images

    def original(self, index: int) -> Path | bytes | Tensor:
        """Return the file of an image, the content of its member, or the pixels of its frame, uint8, (D, H, W).

        Raises:
            UnreadableImage: If a member or a frame cannot be read.
        """
        if self.frames[index] is not None:
            image = self._read(index, self.decoding.decode)
            return torch.from_numpy(np.array(image).reshape(image.height, image.width, -1)).permute(2, 0, 1)
        file = self.files[index]
        if isinstance(file, str):
            return Path(file)
        try:
            return file.read_bytes()
        except Exception as error:  # a damaged archive makes its reader raise anything
            raise UnreadableImage(file, str(error)) from error

    def _read(self, index: int, work: Callable[[Image.Image, str], T]) -> T:
        """Do some work with one opened image."""
        file = self.files[index]
        place = Path(file) if isinstance(file, str) else file
        (result,) = each_frame(place, [self.frames[index] or 0], work, self.largest_pixels)
        if isinstance(result, UnreadableImage):
            raise result
        return result

    def _square(self, opened: Image.Image, first_mode: str) -> Tensor:
        return self.decoding.square(self.decoding.decode(opened, first_mode))
