"""Intervals: a number of iterations or a length of time after which an action is due."""

from __future__ import annotations

import re

import attrs

__all__ = ["Interval"]

SECONDS = {"s": 1, "min": 60, "h": 3600}


@attrs.frozen
class Interval:
    """A number of iterations or a length of time; one of the two is None.

    Attributes:
        iterations: At least 1.
        seconds: More than 0.

    Example:
        >>> Interval.parse(500).due(done=1000, seconds=3.0), Interval.parse("10min").due(done=7, seconds=600.0)
        (True, True)
    """

    iterations: int | None
    seconds: float | None

    @classmethod
    def parse(cls, value: int | str) -> Interval:
        """Read an interval: a whole number, or a number with ``s``, ``min`` or ``h``.

        Raises:
            ValueError: If the value is neither, or not above 0.
        """
        if isinstance(value, int):
            if value < 1:
                raise ValueError(f"must be at least 1 iteration, got {value}")
            return cls(value, None)
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|min|h)", value)
        if match is None or float(match[1]) == 0:
            raise ValueError(f"must be a number of iterations, or a time such as 90s, 10min or 2h, got {value!r}")
        return cls(None, float(match[1]) * SECONDS[match[2]])

    def due(self, done: int, seconds: float) -> bool:
        """Return whether the action is due.

        Arguments:
            done: Iterations so far.
            seconds: Seconds since the last time.
        """
        if self.iterations is not None:
            return done % self.iterations == 0
        return self.seconds is not None and seconds >= self.seconds
