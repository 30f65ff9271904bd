"""Arrays of images in the usual layouts and types, converted to uint8 (n, D, H, W)."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.reading.array_files import Array

__all__ = ["ValueRange", "find_layout", "find_range", "to_bytes"]

_CHUNK = 2**24  # values that are checked at a time
# How far rounding may take a value out of its range: far less than half of one of 255 steps.
_ROUNDING = 1e-4
# Whole numbers up to 16 may be dark bytes, or the grey levels of several well-known sets.
_DARK = 16.0

_BOUNDS = {"unit": (0.0, 1.0), "symmetric": (-1.0, 1.0), "bytes": (0.0, 255.0)}


def find_layout(shape: tuple[int, ...], given: str, described: str) -> str:
    """Return the order of the axes: ``NHW``, ``NHWC`` or ``NCHW``.

    Arguments:
        shape: The shape of the array.
        given: One of these, or ``auto``, which takes the axis of 1 or 3 for the channels.
        described: A description of the array, for messages.

    Raises:
        InvalidInput: If the shape has another number of axes, no images, channels other than 1 or 3, or two axes that
            may be the channels.

    Example:
        >>> find_layout((10, 28, 28), "auto", "x.npy"), find_layout((10, 3, 32, 32), "auto", "x.npy")
        ('NHW', 'NCHW')
    """
    wrong = f"{described}: expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3, got {shape}"
    if given == "auto":
        channels = (1, 3)
        if len(shape) == 3 and shape[2] in channels:
            raise InvalidInput(f"{wrong}, which may be a single image; pass --data.layout NHW if it is many")
        if len(shape) == 4 and shape[1] in channels and shape[3] in channels:
            raise InvalidInput(f"{wrong}, whose channels are unclear; pass --data.layout NHWC or --data.layout NCHW")
        last = "NHWC" if len(shape) == 4 and shape[3] in channels else "NCHW"
        given = "NHW" if len(shape) == 3 else last
    elif len(shape) != len(given):
        raise InvalidInput(f"{wrong}; --data.layout {given} does not fit")
    if len(shape) != len(given) or ("C" in given and shape[given.index("C")] not in (1, 3)):
        raise InvalidInput(wrong)
    if 0 in shape:
        raise InvalidInput(f"{described}: expected at least one image of at least one pixel, got shape {shape}")
    return given


@attrs.frozen
class ValueRange:
    """The values of black and white in an array.

    Attributes:
        low: Black.
        high: White.
    """

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


def find_range(array: Array, given: str, described: str) -> ValueRange:
    """Return the values of black and white; this reads floating-point arrays once.

    Arguments:
        array: Images.
        given: ``unit``, ``symmetric`` or ``bytes``; ``auto`` decides by type and extremes.
        described: A description of the array, for messages.

    Raises:
        InvalidInput: If the type is not uint8, bool or floating point, a value is not finite or out of range, or
            ``auto`` cannot decide.
    """
    kind = array.dtype
    if kind == np.uint8 or kind == np.bool_:
        fit = "bytes" if kind == np.uint8 else "unit"
        if given not in ("auto", fit):
            raise InvalidInput(f"{described}: --data.value-range {given} does not fit {kind}: expected auto or {fit}")
        return ValueRange(*_BOUNDS[fit])
    if kind.kind != "f":
        raise InvalidInput(
            f"{described}: expected images of uint8, bool or floating point, got {kind}; convert them, for example "
            "with images.astype('uint8') if they are in 0..255"
        )
    low, high = _extremes(array, described)
    if given == "auto":
        given = _range_of(low, high, described)
    black, white = _BOUNDS[given]
    if low < black - _ROUNDING or high > white + _ROUNDING:
        raise InvalidInput(
            f"{described}: expected values in {black:g}..{white:g} (value range {given}), got {low:g}..{high:g}"
        )
    return ValueRange(black, white)


def _range_of(low: float, high: float, described: str) -> str:
    """Return the name of the range that fits the extremes."""
    if low >= -1 - _ROUNDING and high <= 1 + _ROUNDING:
        # A set in -1..1 nearly always has a value below 0.
        return "symmetric" if low < -_ROUNDING else "unit"
    if low >= -_ROUNDING and _DARK < high <= 255 + _ROUNDING:
        return "bytes"
    why = "may be dark bytes or another range" if low >= 0 and high <= _DARK else "is outside of all three"
    raise InvalidInput(
        f"{described}: expected values in 0..1, -1..1 or 0..255, got {low:g}..{high:g}, which {why}; scale them, "
        "or pass --data.value-range bytes if 255 is white"
    )


def _extremes(array: Array, described: str) -> tuple[float, float]:
    """Return the smallest and the largest value; refuse values that are not finite."""
    low, high = np.inf, -np.inf
    step = max(1, _CHUNK // int(np.prod(array.shape[1:])))
    for start in range(0, len(array), step):
        part = array[start : start + step]
        # The extremes of a part are finite only if all of its values are.
        least, most = float(part.min()), float(part.max())
        if not (np.isfinite(least) and np.isfinite(most)):
            where = tuple(int(axis) for axis in np.argwhere(~np.isfinite(part))[0])
            index = (start + where[0], *where[1:])
            raise InvalidInput(f"{described}: expected finite values, got {part[where]} at index {list(index)}")
        low, high = min(low, least), max(high, most)
    return low, high


def to_bytes(images: Array, layout: str, values: ValueRange) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return images as uint8, shape (n, D, H, W), contiguous.

    Arguments:
        images: n images of an array.
        layout: As from `find_layout`.
        values: As from `find_range`.

    Example:
        >>> to_bytes(np.array([[[-1.0, 0.0, 1.0]]]), "NHW", ValueRange(-1.0, 1.0)).tolist()
        [[[[0, 128, 255]]]]
    """
    if layout == "NHW":
        images = images[:, None]
    elif layout == "NHWC":
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8:
        # Always in float64, so that every type of file gives the same bytes.
        scaled = (images.astype(np.float64) - values.low) * (255 / (values.high - values.low))
        images = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(images)
