"""The seeds that a user names, and the share of a run after which they are compared."""

from __future__ import annotations

import contextlib
import math
import re

from mpcc.core.errors import InvalidInput

__all__ = ["PART", "as_ranges", "comparison_at", "parse_seeds", "work_in_runs"]

# The share of a run after which seeds are compared, if the user names none.
PART = 0.4
MOST_SEEDS = 1000
LARGEST_SEED = 2**63 - 1
SEEDS = r"([0-9]{1,19})(?: ?- ?([0-9]{1,19}))?"
EXAMPLES = "a number of seeds such as 5, a range such as 0-4, or a list such as 3,7,9"


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read seeds: a number n for the seeds 0 to n-1, or ranges and single seeds separated by commas.

    Raises:
        InvalidInput: With the nearest valid text.

    Example:
        >>> parse_seeds("3"), parse_seeds("0-2,7"), parse_seeds("7,")
        ((0, 1, 2), (0, 1, 2, 7), (7,))
    """
    where = f"--seeds {text!r}"
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    elif len(parts) == 1 and re.fullmatch(r"[0-9]+", parts[0]):
        parts = [f"0-{int(parts[0][:20]) - 1}"]
        if parts == ["0--1"]:
            raise InvalidInput(f"{where}: expected at least one seed; nearest valid choice: --seeds 1")
    seeds: list[int] = []
    for position, part in enumerate(parts):
        match = re.fullmatch(SEEDS, part)
        before, after = parts[:position], parts[position + 1 :]
        if match is None:
            raise InvalidInput(f"{where}: expected {EXAMPLES}, got {part!r}{nearest_to([*map(repaired, parts)])}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InvalidInput(f"{where}: a range rises{nearest_to([*before, f'{last}-{first}', *after])}")
        if last > LARGEST_SEED:
            nearest = [*before, str(LARGEST_SEED), *after]
            raise InvalidInput(f"{where}: a seed is at most 2**63 - 1{nearest_to(nearest)}")
        if (room := MOST_SEEDS - len(seeds)) < last - first + 1:
            nearest = [*before, *([f"{first}-{first + room - 1}"] if room else [])]
            raise InvalidInput(f"{where}: expected at most {MOST_SEEDS} seeds{nearest_to(nearest)}")
        seeds += range(first, last + 1)
    distinct = list(dict.fromkeys(seeds))
    if len(distinct) < len(seeds):
        twice = next(seed for seed in distinct if seeds.count(seed) > 1)
        # A single number would say how many.
        nearest = as_ranges(distinct) if len(distinct) > 1 else [f"{distinct[0]},"]
        raise InvalidInput(f"{where}: seed {twice} is named twice{nearest_to(nearest)}")
    return tuple(seeds)


def as_ranges(seeds: list[int]) -> list[str]:
    """Return seeds as ranges and single seeds.

    Example:
        >>> as_ranges([0, 1, 2, 7, 3])
        ['0-2', '7', '3']
    """
    ranges: list[list[int]] = []
    for seed in seeds:
        if ranges and ranges[-1][1] == seed - 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return [f"{first}-{last}" if first < last else f"{first}" for first, last in ranges]


def repaired(part: str) -> str:
    """Return a part of a list, or the numbers in it if it is not valid; nothing if there are none.

    Example:
        >>> repaired("0-4"), repaired("1..4"), repaired("3.5.9"), repaired("all")
        ('0-4', '1-4', '3,5,9', '')
    """
    if re.fullmatch(SEEDS, part):
        return part
    numbers = [int(number) for number in dict.fromkeys(re.findall(r"[0-9]{1,18}", part))]
    between = "-" if len(numbers) == 2 and numbers[0] < numbers[1] else ","
    return between.join(map(str, numbers))


def nearest_to(parts: list[str]) -> str:
    """Return seeds as the end of an error, if they are valid; else nothing.

    Example:
        >>> nearest_to(["1-4", "", "9"]), nearest_to(["0"]), nearest_to(["4-1"])
        ('; nearest valid choice: --seeds 1-4,9', '; nearest valid choice: --seeds 0,', '')
    """
    text = ",".join(filter(None, parts))
    for choice in (text, f"{text},") if text else ():
        with contextlib.suppress(InvalidInput):
            parse_seeds(choice)
            return f"; nearest valid choice: --seeds {choice}"
    return ""


def comparison_at(iterations: int, part: float) -> int:
    """Return the iteration after which seeds are compared: the share ``part`` of all, rounded up.

    Example:
        >>> comparison_at(1500, 0.4), comparison_at(1, 0.4), comparison_at(10, 1.0)
        (600, 1, 10)
    """
    # 0.07 * 100 is a little more than 7.
    return min(iterations, max(1, math.ceil(round(iterations * part, 6))))


def work_in_runs(seeds: int, part: float, *, finish: bool = True) -> float:
    """Return how many whole runs a comparison costs: a part of each, and the rest of one.

    Arguments:
        seeds: How many there are.
        part: The share of a run that each of them gets.
        finish: Whether one of them gets the rest of its run.

    Example:
        >>> work_in_runs(5, 0.4), work_in_runs(5, 1.0), work_in_runs(5, 0.4, finish=False)
        (2.6, 5.0, 2.0)
    """
    return round(seeds * part + (1 - part) * finish, 9)
