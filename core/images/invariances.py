"""What leaves the group of an image unchanged, as a user names it: ``shift,rotation=10,brightness``.

The names and their ranges are here, without torch, so that a configuration can check them; `transforms` makes the
changes.
"""

from __future__ import annotations

from typing import Any

import attrs

from mpcc.core.errors import unknown_name

__all__ = ["Invariances"]

NONE = "none"


def _change(default: float, most: float, meaning: str) -> Any:
    """Declare a kind of change: the range that its bare name stands for, the largest range, and its meaning."""
    return attrs.field(default=0.0, metadata={"default": default, "most": most, "help": meaning})


@attrs.frozen
class Invariances:
    """The largest change of each kind; 0 means that this change is not made.

    Every change is drawn uniformly between its range and the opposite, independently for each image. What comes into
    the picture from outside of it is black.

    Attributes:
        shift: Share of the side, in both directions.
        rotation: Degrees.
        scale: Share by which the picture grows or shrinks.
        shear: Tangent of the angle.
        crop: Share of the side that may be cut away; the rest is enlarged to the whole side.
        flip: Probability that the picture is mirrored left to right.
        brightness: Share of the range of pixels that is added.
        contrast: Share by which differences to the picture's mean grow or shrink.
        colour: Share by which each channel grows or shrinks on its own; nothing happens to one channel.

    Example:
        >>> chosen = Invariances.parse("shift, rotation=10")
        >>> chosen.shift, chosen.rotation, chosen.flip, str(chosen)
        (0.125, 10.0, 0.0, 'shift=0.125,rotation=10')
    """

    shift: float = _change(0.125, 1, "share of the side")
    rotation: float = _change(12.0, 180, "degrees")
    scale: float = _change(0.1, 0.9, "share")
    shear: float = _change(0.15, 2, "tangent of the angle")
    crop: float = _change(0.25, 0.9, "share of the side")
    flip: float = _change(0.5, 1, "probability")
    brightness: float = _change(0.15, 1, "share of the range of pixels")
    contrast: float = _change(0.25, 1, "share")
    colour: float = _change(0.2, 1, "share")

    @classmethod
    def parse(cls, text: str) -> Invariances:
        """Read names separated by commas, each with ``=RANGE`` or with its default range; ``none`` for no change.

        Raises:
            ValueError: If a name does not exist, is given twice, or its range is not a number that it can have.
        """
        fields = {field.name: field.metadata for field in attrs.fields(cls)}
        ranges: dict[str, float] = {}
        for word in [] if text.strip() == NONE else text.split(","):
            name, _, number = (part.strip() for part in word.partition("="))
            if name not in fields:
                raise unknown_name("change", name, [NONE, *fields])
            if name in ranges:
                raise ValueError(f"{name} is given twice")
            most = fields[name]["most"]
            try:
                ranges[name] = float(number) if "=" in word else fields[name]["default"]
            except ValueError:
                raise ValueError(f"{name}: expected a number ({fields[name]['help']}), got {number!r}") from None
            if not 0 < ranges[name] <= most:
                raise ValueError(f"{name} must be above 0 and at most {most:g} ({fields[name]['help']}), got {number}")
        return cls(**ranges)

    @classmethod
    def usual(cls) -> str:
        """Return all changes with their default ranges, as a user would type them."""
        return ",".join(f"{field.name}={field.metadata['default']:g}" for field in attrs.fields(cls))

    def __str__(self) -> str:
        """Return a text that `parse` reads as equal changes."""
        ranges = {name: value for name, value in attrs.asdict(self).items() if value}
        return ",".join(f"{name}={value:g}" for name, value in ranges.items()) or NONE

    def __bool__(self) -> bool:
        """Whether there is any change."""
        return any(attrs.astuple(self))
