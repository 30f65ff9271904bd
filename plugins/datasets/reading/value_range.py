"""The values of black and white: found in a set of images by its option, and used to make 8-bit grey levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import attrs
import numpy as np

from mpcc.plugins.datasets.reading.range_option import OF_TYPE, RangeSpec, ValueRange

__all__ = [
    "Extremes",
    "find_range",
    "known_range",
    "measure",
    "narrow_use",
    "to_levels",
]

Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Below this share of its range, a set is nearly of one grey level after conversion.
LEAST_USE = 0.1
# How far interpolation may take values beyond the range of floating-point images, as a share of the range.
OVERSHOOT = 0.01


@attrs.frozen
class Extremes:
    """The smallest and the largest value of images, both infinite the wrong way round if there are none."""

    low: float = math.inf
    high: float = -math.inf

    def joined(self, other: Extremes) -> Extremes:
        """Return the extremes of both."""
        return Extremes(min(self.low, other.low), max(self.high, other.high))


def measure(parts: Iterable[Values]) -> Extremes:
    """Return the extremes of all values.

    Raises:
        ValueError: If a value is not finite.

    Example:
        >>> measure([np.array([3, 5]), np.array([[4.5]])])
        Extremes(low=3.0, high=5.0)
    """
    found = Extremes()
    for part in parts:
        if part.size:
            # The extremes of a part are finite only if all of its values are.
            low, high = float(part.min()), float(part.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(f"expected finite values, got {low if not math.isfinite(low) else high}")
            found = found.joined(Extremes(low, high))
    return found


def known_range(spec: RangeSpec, storage: str) -> ValueRange | None:
    """Return the values of black and white if they don't depend on the images, or None."""
    rule = spec.of(storage)
    if rule.kind == "numbers":
        return ValueRange(rule.low, rule.high)
    return ValueRange(*OF_TYPE[storage]) if rule.kind == "type" and storage in OF_TYPE else None


def find_range(spec: RangeSpec, storage: str, parts: Callable[[], Iterable[Values]]) -> ValueRange:
    """Return the values of black and white for images of one storage type.

    For ``type``, a type of 8 or 16 bits without sign has its range. The other types do not tell what is white. Their
    range is the first of 0..1, -1..1 (floating point only) and 0..255 that holds all values and of which they use at
    least a tenth; if there is none, it goes from the smallest to the largest value.

    Arguments:
        spec: The option.
        storage: The storage type of the images, such as ``uint16``.
        parts: Gives all values in parts; called once for each pass: not at all for a known range, once for extremes,
            twice for percentiles.

    Raises:
        ValueError: If a value is not finite, or the set has no two values to be black and white.

    Example:
        >>> find_range(RangeSpec.parse("set"), "uint16", lambda: [np.array([90, 2400], np.uint16)])
        ValueRange(low=90.0, high=2400.0)
    """
    rule, known = spec.of(storage), known_range(spec, storage)
    if known is not None:
        return known
    if rule.kind == "percentiles":
        low, high = _percentiles(parts, storage, (rule.low, rule.high))
        if low >= high:
            raise ValueError(
                f"the percentiles {rule.low:g} and {rule.high:g} of all {storage} values are both {low:g}: expected "
                "two different values for black and white; pass --data.range set or --data.range LOW,HIGH"
            )
        return ValueRange(low, high)
    found = measure(parts())
    if rule.kind == "type":
        usual = _usual_range(storage, found)
        if usual is not None:
            return usual
    if found.low >= found.high:
        raise ValueError(
            f"all {storage} values are {found.low:g}: expected two different values for black and white; pass "
            "--data.range LOW,HIGH"
        )
    return ValueRange(found.low, found.high)


def narrow_use(found: Extremes, values: ValueRange) -> str:
    """Return how little of a range a set uses, in words, or nothing if it uses a tenth or more.

    Example:
        >>> narrow_use(Extremes(90.0, 2400.0), ValueRange(0.0, 65535.0))
        'values 90..2400 use 3.5% of the range 0..65535, about 10 of 256 grey levels'
    """
    low, high = (min(max(value, values.low), values.high) for value in (found.low, found.high))
    share = (high - low) / (values.high - values.low)
    if found.low > found.high or share >= LEAST_USE:
        return ""
    levels = max(1, round(share * 255) + 1)
    return (
        f"values {found.low:g}..{found.high:g} use {100 * share:.2g}% of the range {values.low:g}..{values.high:g}, "
        f"about {levels} of 256 grey levels"
    )


def to_levels(values: Values, values_range: ValueRange) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the nearest of 256 grey levels for each value, uint8, same shape; what is beyond the range is clipped.

    Example:
        >>> to_levels(np.array([-2.0, -1.0, 0.0, 1.0]), ValueRange(-1.0, 1.0)).tolist()
        [0, 0, 128, 255]
    """
    if values.dtype == np.uint8 and (values_range.low, values_range.high) == OF_TYPE["uint8"]:
        return values
    # Always in float64, so that every type of file gives the same levels.
    scaled = (values.astype(np.float64) - values_range.low) * (255 / (values_range.high - values_range.low))
    levels: np.ndarray[Any, np.dtype[np.uint8]] = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return levels


def _usual_range(storage: str, found: Extremes) -> ValueRange | None:
    """Return the usual range that holds the values of a type without a range of its own, or None."""
    floating = storage.startswith("float")
    usual = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)] if floating else [(0.0, 255.0)]
    holding = []
    for low, high in usual:
        beyond = OVERSHOOT * (high - low) if floating else 0.0
        if low - beyond <= found.low and found.high <= high + beyond:
            holding.append(ValueRange(low, high))
    constant = found.low == found.high
    return next((values for values in holding if constant or not narrow_use(found, values)), None)


def _percentiles(parts: Callable[[], Iterable[Values]], storage: str, percents: tuple[float, float]) -> list[float]:
    """Return percentiles of all values: each is the value of the nearest rank.

    The values become whole numbers of 32 bits in the same order. One pass counts their upper halves, which finds the
    upper half of each percentile. The second counts the lower halves below that one.
    """
    upper = np.zeros(2**16, dtype=np.int64)
    for part in parts():
        upper += np.bincount((_keys(part) >> 16).ravel(), minlength=2**16)
    count = int(upper.sum())
    ranks = [round(percent / 100 * (count - 1)) for percent in percents]
    halves = [int(np.searchsorted(upper.cumsum(), rank, side="right")) for rank in ranks]
    lower = {half: np.zeros(2**16, dtype=np.int64) for half in halves}
    for part in parts():
        keys = _keys(part)
        for half, counts in lower.items():
            counts += np.bincount((keys[keys >> 16 == half] & 0xFFFF).ravel(), minlength=2**16)
    found = []
    for rank, half in zip(ranks, halves, strict=True):
        rest = rank - int(upper[:half].sum())
        key = (half << 16) + int(np.searchsorted(lower[half].cumsum(), rest, side="right"))
        found.append(_value(key))
    return found


def _keys(part: Values) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return whole numbers of 32 bits in the order of the values, which are rounded to float32."""
    with np.errstate(over="ignore"):
        values = part.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite values of float32, got {part[~np.isfinite(values)].ravel()[0]}")
    # + 0 makes -0 a 0. As whole numbers, positive floats have their order, and negative ones the opposite order.
    bits = (values + np.float32(0)).view(np.uint32)
    keys: np.ndarray[Any, np.dtype[np.uint32]] = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(2**31))
    return keys


def _value(key: int) -> float:
    """Return the value of a key."""
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.uint32(bits).view(np.float32))
