"""The numbers of clusters that a user wants compared."""

from __future__ import annotations

import re

from mpcc.core.errors import InvalidInput

__all__ = ["parse_counts"]

MOST_COUNTS = 50
LARGEST_COUNT = 10**6
COUNTS = r"([0-9]{1,9})(?: ?- ?([0-9]{1,9}))?"
EXAMPLES = "a list such as 5,10,20, or a range such as 8-12"


def parse_counts(text: str) -> tuple[int, ...]:
    """Read numbers of clusters: single numbers and ranges, separated by commas.

    Returns:
        At least two different numbers, in ascending order.

    Raises:
        InvalidInput: With the nearest valid text, if there is one.

    Example:
        >>> parse_counts("20,5,10"), parse_counts("8-10,20")
        ((5, 10, 20), (8, 9, 10, 20))
    """
    where = f"--clusters {text!r}"
    counts: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(COUNTS, part)
        if match is None:
            numbers = sorted({int(number) for number in re.findall(r"[0-9]{1,9}", text)} - {0, 1})
            nearest = ",".join(map(str, numbers)) if len(numbers) > 1 else "5,10,20"
            raise InvalidInput(
                f"{where}: expected {EXAMPLES}, got {part!r}; nearest valid choice: --clusters {nearest}"
            )
        first, last = sorted((int(match[1]), int(match[2] or match[1])))
        if first < 2 or last > LARGEST_COUNT:
            raise InvalidInput(f"{where}: expected numbers from 2 to {LARGEST_COUNT}, got {part!r}")
        if last - first >= MOST_COUNTS:
            raise InvalidInput(f"{where}: expected at most {MOST_COUNTS} numbers, got {part!r}, which are more")
        counts |= set(range(first, last + 1))
    if len(counts) > MOST_COUNTS:
        raise InvalidInput(f"{where}: expected at most {MOST_COUNTS} numbers, got {len(counts)}")
    if len(counts) < 2:
        only = next(iter(counts), 10)
        nearest = f"{max(2, only // 2)},{only},{2 * only}" if only > 3 else f"{only},{2 * only}"
        raise InvalidInput(
            f"{where}: expected at least two different numbers to compare; nearest valid choice: --clusters {nearest}"
        )
    return tuple(sorted(counts))
