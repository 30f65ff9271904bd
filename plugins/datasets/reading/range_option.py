"""The option ``range`` of data sets: which values are black and white. A configuration checks it without numpy."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping

import attrs

__all__ = ["OF_TYPE", "RangeSpec", "Rule", "ValueRange"]

# What the option takes, for messages.
EXPECTED = "type, set, percentiles, percentiles:LOW,HIGH, LOW,HIGH or one number for white"
PERCENTILES = (0.1, 99.9)
# The ranges of the types that tell what is black and white.
OF_TYPE = {"bool": (0.0, 1.0), "uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
_TYPES = (*OF_TYPE, "int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "float32", "float64")


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
            if not (self.of(storage).kind == "type" and storage in OF_TYPE)
        }
        kept = {storage: rule for storage, rule in self.by_type.items() if rule.kind in ("numbers", "type")}
        return RangeSpec(self.rule if self.rule.kind == "numbers" else Rule(), {**kept, **measured})

    def __str__(self) -> str:
        words = [f"{storage}:{rule}" for storage, rule in sorted(self.by_type.items())]
        return " ".join(words if words and self.rule == Rule() else [str(self.rule), *words])


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
