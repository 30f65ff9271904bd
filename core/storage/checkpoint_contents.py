"""What a run's checkpoint holds, and a check of it before anything is made of it or written.

A digest finds accidents. A file may still be another program's, or written by hand: what is no number where a number
belongs must not be found out after hours of training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NewType, get_args, get_origin

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, override

from mpcc.core.config import SECTIONS
from mpcc.core.errors import InvalidInput
from mpcc.core.system.toml_file import parse_toml

__all__ = ["Contents", "check_contents", "saved_config"]

Count = NewType("Count", int)
Number = NewType("Number", float)
Seconds = NewType("Seconds", float)
Shape = NewType("Shape", list[int])

LEAVES: Mapping[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    Count: lambda value: type(value) is int and value >= 0,
    Number: lambda value: type(value) in (int, float) and math.isfinite(value),
    Seconds: lambda value: type(value) in (int, float) and 0 <= value < math.inf,
    Shape: lambda value: isinstance(value, list) and len(value) == 4 and all(map(LEAVES[Count], value)),
}


@attrs.frozen
class Best:
    """The best score so far and where it was reached, or that there is none yet."""

    name: str
    higher: bool
    value: Number | None
    iteration: Count | None

    def __attrs_post_init__(self) -> None:
        if (self.value is None) != (self.iteration is None):
            raise ValueError("expected a score with its iteration, or neither")


@attrs.frozen
class Restart:
    """A return to an earlier checkpoint."""

    iteration: Count
    origin: Count  # "from" in the file
    reason: str


def holds(expected: str) -> Any:
    """Make a field of `Contents`, with what it is called in an error."""
    return attrs.field(metadata={"expected": expected})


@attrs.frozen
class Contents:
    """What there is in a checkpoint, besides the version of its format."""

    iteration: Count = holds("a whole number, 0 or more")
    stream: dict[Any, Count] = holds("a table of whole numbers")
    parts: dict[Any, dict[Any, Any]] = holds("a table of tables")
    optimizers: dict[Any, dict[Any, Any]] = holds("a table of tables")
    random: dict[Any, Any] = holds("a table")
    images: Shape = holds("four whole numbers")
    fingerprint: str = holds("a text")
    plugins: dict[str, str] = holds("a table of texts")
    versions: dict[str, str] = holds("a table of texts")
    threads: Count = holds("a whole number")
    executed: dict[str, str] = holds("a table of texts")
    config: str = holds("a text")
    seconds: Seconds = holds("a number, 0 or more")
    evaluation_seconds: Seconds = holds("a number, 0 or more")
    best: Best | None = holds("a score")
    restarts: list[Restart] = holds("a list of restarts")
    hinges: list[Number] = holds("a list of numbers")
    told: list[str] = holds("a list of texts")


@functools.cache
def _converter() -> cattrs.Converter:
    """Make a converter that takes a value for what it is: cattrs' own makes 1 of "1" and a list of a tensor."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def is_container(kind: Any) -> bool:
        origin: Any = get_origin(kind)
        return origin in (dict, list)

    def leaf(value: Any, kind: Any) -> Any:
        if not LEAVES[kind](value):
            raise ValueError(value)
        return value

    def container(value: Any, kind: Any) -> Any:
        if not isinstance(value, get_origin(kind)):
            raise ValueError(value)
        for row in value.items() if isinstance(value, dict) else zip(value):
            for item, argument in zip(row, get_args(kind), strict=True):
                converter.structure(item, argument)
        return value

    for kind in LEAVES:
        converter.register_structure_hook(kind, leaf)
    converter.register_structure_hook_func(is_container, container)
    renamed = make_dict_structure_fn(Restart, converter, origin=override(rename="from"))
    converter.register_structure_hook(Restart, renamed)
    return converter


def check_contents(state: Mapping[str, Any], source: Path) -> None:
    """Check that a state is the full state of a run, as far as can be said without building the run.

    Arguments:
        state: From `mpcc.core.storage.checkpoint.load_checkpoint`.
        source: Its file, for errors.

    Raises:
        InvalidInput: If something is missing or is of another kind than it should be.
    """
    fields = attrs.fields_dict(Contents)
    try:
        _converter().structure({name: state[name] for name in fields if name in state}, Contents)
    except cattrs.ClassValidationError as error:
        name = error.group_exceptions()[0][0][1].name
        if name not in state:
            raise InvalidInput(f"checkpoint {source}: expected a run's full state, {name!r} is missing") from error
        found = repr(state[name])
        shown = found if len(found) < 60 else type(state[name]).__name__
        expected = fields[name].metadata["expected"]
        raise InvalidInput(f"checkpoint {source}: {name!r}: expected {expected}, got {shown}") from error


def saved_config(state: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return the tables of the configuration with which a state was saved.

    Raises:
        InvalidInput: If it is no TOML, or has not the sections of a run.
    """
    content = str(state["config"]).encode("utf-8", "surrogatepass")
    tables = parse_toml(content, f"checkpoint {source}: config")
    for section in ("run", *SECTIONS):
        # Versions before there were objectives wrote no such table; their runs had the default.
        if section == "objective" and section not in tables:
            continue
        if not isinstance(tables.get(section), dict):
            raise InvalidInput(f"checkpoint {source}: config: expected a table [{section}]")
    return tables
