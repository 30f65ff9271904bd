"""The values of black and white: named by an option, found in a set of images, and used to make 8-bit grey levels."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np

__all__ = [
    "Extremes",
    "RangeSpec",
    "Rule",
    "ValueRange",
    "find_range",
    "known_range",
    "measure",
    "narrow_use",
    "to_levels",
]

Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# What the option takes, for messages.
EXPECTED = "type, set, percentiles, percentiles:LOW,HIGH, LOW,HIGH or one number for white"
PERCENTILES = (0.1, 99.9)
# Below this share of its range, a set is nearly of one grey level after conversion.
LEAST_USE = 0.1
# How far interpolation may take values beyond the range of floating-point images, as a share of the range.
OVERSHOOT = 0.01

_OF_TYPE = {"bool": (0.0, 1.0), "uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
_TYPES = (*_OF_TYPE, "int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "float32", "float64")


@attrs.frozen
class ValueRange:
    """The values of black and white.

    Attributes:
        low: Black.
        high: White, above black.

    Example:
        >>> str(ValueRange(90.0, 2400.5))
        '90,2400.5'
    """

    low: float
    high: float

    def __str__(self) -> str:
        return f"{_text(self.low)},{_text(self.high)}"


@attrs.frozen
class Rule:
    """How the range of one storage type is found.

    Attributes:
        kind: ``type``: the range of the type. ``set``: the smallest and the largest value of the set.
            ``percentiles``: two percentiles of the set. ``numbers``: two numbers.
        low: The lower percentile or number.
        high: The upper percentile or number.
    """

    kind: str = "type"
    low: float = 0.0
    high: float = 0.0

    def __str__(self) -> str:
        numbers = f"{_text(self.low)},{_text(self.high)}"
        if self.kind == "percentiles":
            return "percentiles" if (self.low, self.high) == PERCENTILES else f"percentiles:{numbers}"
        return numbers if self.kind == "numbers" else self.kind


@attrs.frozen
class RangeSpec:
    """The option ``range``: a rule for all storage types, and rules for single ones.

    Storage types are named as in numpy: ``uint8``, ``uint16``, ``int32``, ``float32`` and so on.

    Attributes:
        rule: For every type that has no rule of its own.
        by_type: Rules of single types.
    """

    rule: Rule = Rule()
    by_type: Mapping[str, Rule] = attrs.field(factory=dict)

    @classmethod
    def parse(cls, text: str) -> RangeSpec:
        """Read the option: ``type``, ``set``, ``percentiles``, ``percentiles:1,99``, ``LOW,HIGH``, or ``HIGH`` alone.

        Rules of single types follow after spaces: ``uint16:0,4095 float32:set``.

        Raises:
            ValueError: If the text is something else.

        Example:
            >>> spec = RangeSpec.parse("set uint8:type uint16:4095")
            >>> spec.of("float32").kind, spec.of("uint8").kind, str(spec.of("uint16"))
            ('set', 'type', '0,4095')
        """
        rule, by_type = None, {}
        for word in text.split():
            name, colon, rest = word.partition(":")
            if colon and name in _TYPES:
                if name in by_type:
                    raise ValueError(f"expected one range for {name}, got two in {text!r}")
                by_type[name] = _rule(rest, text)
            elif colon and name != "percentiles":
                near = _near(name, _TYPES)
                raise ValueError(f"expected one of {', '.join(_TYPES)} before the colon, got {text!r}{near}")
            elif rule is not None:
                raise ValueError(f"expected one range for all types, got two in {text!r}")
            else:
                rule = _rule(word, text)
        if rule is None and not by_type:
            raise ValueError(f"expected {EXPECTED}, got {text!r}")
        return cls(rule or Rule(), by_type)

    def of(self, storage: str) -> Rule:
        """Return the rule of a storage type."""
        return self.by_type.get(storage, self.rule)

    def settled(self, found: Mapping[str, ValueRange]) -> RangeSpec:
        """Return the option that gives other images the ranges that were found in a set, by storage type.

        A type with a range of its own keeps its rule ``type``, and so does a type that the set does not have.

        Example:
            >>> str(RangeSpec.parse("set").settled({"uint16": ValueRange(90.0, 2400.0)}))
            'uint16:90,2400'
        """
        if self.rule.kind == "numbers" and not self.by_type:
            return self
        measured = {
            storage: Rule("numbers", values.low, values.high)
            for storage, values in found.items()
            if not (self.of(storage).kind == "type" and storage in _OF_TYPE)
        }
        kept = {storage: rule for storage, rule in self.by_type.items() if rule.kind in ("numbers", "type")}
        return RangeSpec(self.rule if self.rule.kind == "numbers" else Rule(), {**kept, **measured})

    def __str__(self) -> str:
        words = [f"{storage}:{rule}" for storage, rule in sorted(self.by_type.items())]
        return " ".join(words if words and self.rule == Rule() else [str(self.rule), *words])


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
    return ValueRange(*_OF_TYPE[storage]) if rule.kind == "type" and storage in _OF_TYPE else None


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
    if values.dtype == np.uint8 and (values_range.low, values_range.high) == _OF_TYPE["uint8"]:
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


def _rule(word: str, text: str) -> Rule:
    """Read one rule; ``text`` is the whole option, for errors."""
    if word in ("type", "set"):
        return Rule(word)
    if word == "percentiles":
        return Rule("percentiles", *PERCENTILES)
    kind, numbers = ("percentiles", word[12:]) if word.startswith("percentiles:") else ("numbers", word)
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        near = _near(word, ("type", "set", "percentiles"))
        raise ValueError(f"expected {EXPECTED}, got {text!r}{near}") from None
    if len(values) == 1 and kind == "numbers":
        values = [0.0, *values]
    if len(values) != 2 or not all(map(math.isfinite, values)):
        raise ValueError(f"expected {EXPECTED}, got {text!r}")
    if values[0] >= values[1]:
        raise ValueError(f"expected black below white, got {text!r}")
    if kind == "percentiles" and not 0 <= values[0] < values[1] <= 100:
        raise ValueError(f"expected percentiles in 0..100, got {text!r}")
    return Rule(kind, *values)


def _near(word: str, valid: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(valid), n=1)
    return f" (nearest valid choice: {close[0]})" if close else ""


def _text(number: float) -> str:
    """Return a number so that it can be read again exactly, whole numbers without a point."""
    return str(int(number)) if number == int(number) and abs(number) < 2**53 else repr(float(number))
