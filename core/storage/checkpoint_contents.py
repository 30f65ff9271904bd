"""What a run's checkpoint holds, and a check of it before it is used.

A digest finds accidents. A file may still come from another program, or be written by hand. A text in place of a
number must be found at once, not after hours of training.
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
from mpcc.core.config.layers import flat
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


def holds(expected: str, default: Any = attrs.NOTHING) -> Any:
    """Make a field of `Contents`, with the words for its type in an error."""
    return attrs.field(default=default, metadata={"expected": expected})


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
    # Earlier versions had no time budgets.
    budget: dict[str, Number] = holds("a table of numbers", attrs.Factory(dict))
    # Earlier versions did not keep them.
    gradient_norms: dict[str, list[Number]] = holds("a table of lists of numbers", attrs.Factory(dict))
    # Earlier versions never fitted the prior.
    prior_fitted: bool = holds("true or false", False)
    # Earlier versions counted a fit that could not be made as one.
    fit_decided: bool = holds("true or false", False)
    # Earlier versions fitted it once.
    refit_decided: bool = holds("true or false", False)


@functools.cache
def _converter() -> cattrs.Converter:
    """Make a converter that checks values and changes none: cattrs' own makes 1 of "1" and a list of a tensor."""
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
    """Check that a state is the full state of a run, as far as possible without building the run.

    Arguments:
        state: From `mpcc.core.storage.checkpoint.load_checkpoint`.
        source: Its file, for errors.

    Raises:
        InvalidInput: If an entry is missing or has the wrong type.
    """
    fields = attrs.fields_dict(Contents)
    try:
        _converter().structure({name: state[name] for name in fields if name in state}, Contents)
    except cattrs.ClassValidationError as error:
        name = error.group_exceptions()[0][0][1].name
        if name not in state:
            raise InvalidInput(f"checkpoint {source}: {name!r} is missing: expected a checkpoint of a run") from error
        text = repr(state[name])
        shown = text if len(text) < 60 else type(state[name]).__name__
        expected = fields[name].metadata["expected"]
        raise InvalidInput(f"checkpoint {source}: {name!r}: expected {expected}, got {shown}") from error


def saved_config(state: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return the tables of the configuration with which a state was saved.

    Raises:
        InvalidInput: If the configuration is not TOML, or lacks a section of a run.
    """
    content = str(state["config"]).encode("utf-8", "surrogatepass")
    tables = flat(parse_toml(content, f"checkpoint {source}: config"))
    for section in ("run", *SECTIONS):
        # Versions without objectives wrote no such table; their runs used the default.
        if section == "objective" and section not in tables:
            continue
        if not isinstance(tables.get(section), dict):
            raise InvalidInput(f"checkpoint {source}: config: expected a table [{section}]")
    return tables
