"""The grid of a sweep: which settings take which values."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import attrs

from mpcc.core.errors import InvalidInput

__all__ = ["Axis", "folder_name", "parse_axis", "points"]

# More runs than this are hardly meant.
MOST_RUNS = 10_000
EXAMPLE = "--over prior=gmm,student_t"


@attrs.frozen
class Axis:
    """One setting and its values.

    Attributes:
        name: The flag of ``mpcc-run`` without its hyphens, such as ``prior``, ``clusters`` or ``prior.df``.
        values: Its values as the user writes them, all different.
    """

    name: str
    values: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """Read ``NAME=VALUE,VALUE``; a value with a comma in it cannot be given.

    Raises:
        InvalidInput: If it is something else.

    Example:
        >>> parse_axis("clusters=10,20")
        Axis(name='clusters', values=('10', '20'))
    """
    name, _, listed = text.removeprefix("--").partition("=")
    values = tuple(filter(None, (value.strip() for value in listed.split(","))))
    if not re.fullmatch(r"[a-z][a-z0-9-]*(\.[a-z0-9_-]+)*", name) or not values:
        raise InvalidInput(f"--over {text!r}: expected a flag of mpcc-run and its values, such as {EXAMPLE}")
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise InvalidInput(
            f"--over {text!r}: {twice} is named twice; nearest valid choice: --over "
            f"{name}={','.join(dict.fromkeys(values))}"
        )
    if name in ("out", "resume", "config", "preset", "compat", "seeds", "plugin", "registry"):
        hint = "--seeds 0-2" if name == "seeds" else f"--{name}, the same for all runs"
        raise InvalidInput(f"--over {text!r}: {name} cannot differ from run to run; nearest valid choice: {hint}")
    return Axis(name, values)


def points(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Return all points of the grid, the last axis fastest: for each, the value of every axis by name.

    Raises:
        InvalidInput: If there are no axes, two of one name, or far too many points.

    Example:
        >>> points([Axis("prior", ("gmm", "cauchy")), Axis("seed", ("0", "1"))])[1]
        {'prior': 'gmm', 'seed': '1'}
    """
    names = [axis.name for axis in axes]
    if not axes:
        raise InvalidInput(f"a sweep needs settings that differ: expected --seeds or {EXAMPLE}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInput(f"--over {twice}: named twice; expected all its values in one list, such as {EXAMPLE}")
    if (count := math.prod(len(axis.values) for axis in axes)) > MOST_RUNS:
        raise InvalidInput(f"{count:,} runs: expected at most {MOST_RUNS:,}; leave out values")
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def folder_name(point: dict[str, str]) -> str:
    """Return the name of a run's folder.

    Example:
        >>> folder_name({"prior": "gmm", "prior.df": "3", "seed": "0"})
        'prior-gmm-prior.df-3-seed-0'
    """
    return "-".join(f"{name}-{re.sub('[^A-Za-z0-9_.-]+', '_', value)}" for name, value in point.items())
