"""Arrays of images in the usual layouts and types, converted to uint8 (n, D, H, W)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
from PIL import Image

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.array_reading.files import Array
from mpcc.plugins.datasets.array_reading.sets import JoinedArrays
from mpcc.plugins.datasets.reading.range_option import RangeSpec, ValueRange
from mpcc.plugins.datasets.reading.value_range import Extremes, find_range, measure, narrow_use, to_levels

__all__ = ["Layout", "find_layout", "find_values", "settled_range", "to_bytes", "with_channels"]

logger = logging.getLogger(__name__)

_CHUNK = 2**24  # values that are checked at a time
# Far beyond any measurement, so that no calculation overflows.
_LARGEST, _NARROWEST = 1e38, 1e-200
_SAMPLE = 64  # images that show how much of its range a set uses
_FEWEST_PIXELS = 16  # of a row that is taken for a square picture
# How far rounding may take a value out of its range, as a share of the range: far less than half of one of 255 steps.
_ROUNDING = 1e-4
_CHOICES = "--data.range set, percentiles or LOW,HIGH"
_DEVIATIONS = 10.0  # normalised pixels are seldom further from 0
# Types in which tools write the same values.
_ALIKE = (("float16", "float32", "float64"), ("int16", "uint16", "int32", "uint32", "int64", "uint64"))
_KNOWN = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.0, 65535.0))


@attrs.frozen
class Layout:
    """The order of the values of images.

    Attributes:
        axes: ``NHW``, ``NHWC`` or ``NCHW``.
        sizes: The length of each axis but the first.
        flat: Whether an image is a row of values.
    """

    axes: str
    sizes: tuple[int, ...]
    flat: bool = False

    def size(self, axis: str) -> int:
        """Return the length of an axis, 1 if it is not there."""
        return self.sizes[self.axes.index(axis) - 1] if axis in self.axes else 1

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W)."""
        return self.size("H"), self.size("W")

    @property
    def channels(self) -> int:
        """D; transparency is no channel."""
        return 3 if self.size("C") == 4 else self.size("C")

    def __str__(self) -> str:
        order = f"rows of {math.prod(self.sizes)} values as {self.axes[1:]}" if self.flat else self.axes
        return f"{order}, RGBA" if self.size("C") == 4 else order


def find_layout(shape: tuple[int, ...], given: str, height: int | None, described: str) -> Layout:
    """Find the order of the axes.

    Arguments:
        shape: The shape of the array.
        given: ``NHW``, ``NHWC``, ``NCHW``, or ``auto``, which takes the axis of 1 or 3, else of 4, for the channels.
        height: H, for images that are rows of values; None for squares.
        described: A description of the array, for messages.

    Raises:
        InvalidInput: If the shape has another number of axes, no images, channels other than 1, 3 or 4, or two axes
            that may be the channels; or if rows are no squares.

    Example:
        >>> for shape in ((10, 28, 28), (10, 3, 32, 32), (10, 784)):
        ...     print(find_layout(shape, "auto", None, "x.npy"))
        NHW
        NCHW
        rows of 784 values as HW
    """
    wrong = (
        f"{described}: expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1, 3, or 4 with "
        f"transparency, or rows (N, H x W), got {shape}"
    )
    if 0 in shape:
        raise InvalidInput(f"{described}: expected at least one image of at least one pixel, got shape {shape}")
    if len(shape) == 2 and (height is not None or given != "auto" or shape[1] >= _FEWEST_PIXELS):
        return _of_rows(shape[1], given, height, f"{described}: images are rows of {shape[1]} values")
    if height is not None:
        raise InvalidInput(f"{wrong}; --data.height is for rows of values")
    if given == "auto":
        if len(shape) == 3 and shape[2] in (1, 3, 4):
            raise InvalidInput(
                f"{wrong}, which may be a single image; pass --data.layout NHW if it is many, save image[None] if one"
            )
        given = "NHW" if len(shape) == 3 else "NCHW"
        if len(shape) == 4:
            channels = (1, 3) if {shape[1], shape[3]} & {1, 3} else (4,)
            if shape[1] in channels and shape[3] in channels:
                raise InvalidInput(
                    f"{wrong}, whose channels are unclear; pass --data.layout NHWC or --data.layout NCHW"
                )
            if {shape[1], shape[3]} & {*channels}:
                given = "NHWC" if shape[3] in channels else "NCHW"
            else:
                # Images have more rows and columns than channels.
                given = "NHWC" if shape[3] <= shape[1] else "NCHW"
    elif len(shape) != len(given):
        raise InvalidInput(f"{wrong}; --data.layout {given} does not fit")
    if len(shape) != len(given):
        raise InvalidInput(wrong)
    layout = Layout(given, tuple(shape[1:]))
    if layout.size("C") not in (1, 3, 4):
        few = "1" if layout.size("C") == 2 else "3"
        some = f"images[:, :{few}]" if given == "NCHW" else f"images[..., :{few}]"
        raise InvalidInput(f"{wrong}; save the channels that count, such as {some}, in a new file")
    return layout


def _of_rows(values: int, given: str, height: int | None, rows: str) -> Layout:
    """Return the layout of images that are rows of values."""
    axes = "NHW" if given == "auto" else given
    channels = 3 if "C" in axes else 1
    pixels = values // channels
    if height is None:
        height = math.isqrt(pixels)
        if height * height * channels != values:
            side = math.isqrt(values // 3)
            if given == "auto" and side * side * 3 == values:
                raise InvalidInput(
                    f"{rows}, which may be {side} x {side} pixels of 3 channels: pass --data.layout NCHW if the "
                    "channels follow each other, as in CIFAR, or --data.layout NHWC if they alternate"
                )
            of = f" of {channels} channels" if channels > 1 else ""
            raise InvalidInput(f"{rows}, which are no square{of}: pass --data.height H")
    width, rest = divmod(pixels, height)
    if rest or width * height * channels != values:
        raise InvalidInput(f"{rows}: expected --data.height to divide {pixels} pixels, got {height}")
    return Layout(axes, {"NHW": (height, width), "NHWC": (height, width, 3), "NCHW": (3, height, width)}[axes], True)


def settled_range(spec: RangeSpec, kind: np.dtype[Any], values: ValueRange) -> str:
    """Return the option that gives other images of a type, or of types alike, the range that was found.

    Example:
        >>> settled_range(RangeSpec.parse("type"), np.dtype("float32"), ValueRange(0.0, 1.0))
        'float16:0,1 float32:0,1 float64:0,1'
    """
    storage = _storage(kind)
    if spec.settled({storage: values}) == spec:
        return str(spec)
    alike = next((types for types in _ALIKE if storage in types), (storage,))
    return str(spec.settled(dict.fromkeys(alike, values)))


def _storage(kind: np.dtype[Any]) -> str:
    """Return the storage type of an array; extended floating point counts as float64."""
    name = kind.newbyteorder("=").name
    return "float64" if kind.kind == "f" and kind.itemsize > 8 else name


def find_values(array: Array | JoinedArrays, spec: RangeSpec, described: str, *, sampled: bool) -> ValueRange:
    """Return the values of black and white; a message tells what a user should know about them.

    Floating-point images are read once, because all of their values must be finite.

    Arguments:
        array: Images.
        spec: The option.
        described: A description of the array, for messages.
        sampled: Whether the use of a known range is judged by a few images.

    Raises:
        InvalidInput: If the type is not boolean, whole numbers or floating point, a value is not finite, or the values
            are all equal and tell no range.
    """
    kind = array.dtype
    if kind.kind not in "biuf":
        raise InvalidInput(f"{described}: expected images of booleans, whole numbers or floating point, got {kind}")
    storage = _storage(kind)
    floating = measure(_parts(array, described)) if kind.kind == "f" else None
    try:
        values = find_range(spec, storage, lambda: _parts(array, described))
    except ValueError as error:
        raise InvalidInput(f"{described}: {error}") from error
    if not _NARROWEST < values.high - values.low < _LARGEST:
        raise InvalidInput(
            f"{described}: expected black and white between {_NARROWEST:g} and {_LARGEST:g} apart, got "
            f"{values.low:g} and {values.high:g}"
        )
    found = floating or _extremes(array, values, described, sampled=sampled)
    _tell(spec, storage, found, values, described)
    return values


def _extremes(array: Array | JoinedArrays, values: ValueRange, described: str, *, sampled: bool) -> Extremes:
    """Return the extremes of all images; of a few, if they use enough of the range or no more are to be read."""
    chosen = np.unique(np.linspace(0, len(array) - 1, _SAMPLE).round().astype(np.int64))
    found = Extremes()
    for index in chosen:
        found = found.joined(measure([array[index : index + 1]]))
    if sampled or not narrow_use(found, values):
        return found
    return measure(_parts(array, described))


def _tell(spec: RangeSpec, storage: str, found: Extremes, values: ValueRange, described: str) -> None:
    """Say what a user should know about a range that no option named, or of which little is used."""
    described = printable(described)
    rule, width = spec.of(storage).kind, values.high - values.low
    seen, range_ = f"{described}: values {found.low:g}..{found.high:g}", f"{values.low:g}..{values.high:g}"
    beyond = max(values.low - found.low, found.high - values.high)
    if rule == "type" and (values.low, values.high) not in _KNOWN:
        usual = "0..1, -1..1 and 0..255" if storage.startswith("float") else "0..255"
        normalised = ""
        if storage.startswith("float") and found.low < 0 and max(-found.low, found.high) <= _DEVIATIONS:
            normalised = ", as if normalised by mean and deviation"
        logger.warning(
            "%s do not fit and fill the usual range %s%s: the smallest becomes black and the largest white; %s "
            "chooses others",
            *(seen, usual, normalised, _CHOICES),
        )
        return
    if rule == "type" and beyond > _ROUNDING * width:
        logger.info("%s go a little beyond %s and are clipped", seen, range_)
    narrow = narrow_use(found, values)
    if narrow:
        logger.warning("%s: %s; %s uses more of them", described, narrow, _CHOICES)


def _parts(array: Array | JoinedArrays, described: str) -> Iterator[Array]:
    """Yield all values in parts; refuse values that are not finite."""
    step = max(1, _CHUNK // math.prod(array.shape[1:]))
    for start in range(0, len(array), step):
        part = array[start : start + step]
        # The extremes of a part are bounded only if all of its values are.
        if part.dtype.kind == "f" and not (float(part.min()) > -_LARGEST and float(part.max()) < _LARGEST):
            wrong = ~(np.abs(part.astype(np.longdouble)) < _LARGEST)
            where = tuple(int(axis) for axis in np.argwhere(wrong)[0])
            index = [start + where[0], *where[1:]]
            what = "finite values" if not np.isfinite(part[where]) else f"values below {_LARGEST:g}"
            raise InvalidInput(f"{described}: expected {what}, got {part[where]} at index {index}")
        yield part


def to_bytes(
    images: Array, layout: Layout, values: ValueRange, background: int = 255
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return images as uint8, shape (n, D, H, W), contiguous.

    Arguments:
        images: n images of an array.
        layout: As from `find_layout`.
        values: As from `find_values`.
        background: The grey level behind transparent pixels.

    Example:
        >>> to_bytes(np.array([[[-1.0, 0.0, 1.0]]]), Layout("NHW", (1, 3)), ValueRange(-1.0, 1.0)).tolist()
        [[[[0, 128, 255]]]]
    """
    levels = to_levels(images.reshape(len(images), *layout.sizes), values)
    if layout.axes == "NHW":
        levels = levels[:, None]
    elif layout.axes == "NHWC":
        levels = levels.transpose(0, 3, 1, 2)
    if layout.size("C") == 4:
        levels = np.stack([_opaque(image, background) for image in levels.transpose(0, 2, 3, 1)]).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(levels)


def _opaque(image: np.ndarray[Any, np.dtype[np.uint8]], background: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Put a picture with transparency, uint8 (H, W, 4), on a background, as the data set ``folder`` does."""
    over = Image.fromarray(np.ascontiguousarray(image))
    under = Image.new("RGBA", over.size, (background, background, background, 255))
    return np.asarray(Image.alpha_composite(under, over).convert("RGB"))


def with_channels(images: np.ndarray[Any, np.dtype[np.uint8]], channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return images, uint8 (n, D, H, W), with 1 or 3 channels, as the data set ``folder`` converts them.

    Example:
        >>> with_channels(np.array([[[[255]], [[0]], [[0]]]], dtype=np.uint8), 1).tolist()
        [[[[76]]]]
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    pictures = (Image.fromarray(np.ascontiguousarray(image)) for image in images.transpose(0, 2, 3, 1))
    return np.stack([np.asarray(picture.convert("L")) for picture in pictures])[:, None]
