"""What a run's checkpoint holds, and a check of it before anything is made of it or written.

A digest finds accidents. A file may still be another program's, or written by hand: what is no number where a number
belongs must not be found out after hours of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpcc.core.config import SECTIONS
from mpcc.core.errors import InvalidInput
from mpcc.core.system.toml_file import parse_toml

__all__ = ["CONTENTS", "check_contents", "saved_config"]


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _seconds(value: Any) -> bool:
    return _number(value) and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for pair in value.items() for each in pair)


def _shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(_count(each) for each in value)


def _tables(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


def _table(value: Any) -> bool:
    return isinstance(value, dict)


def _best(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or set(value) != {"name", "higher", "value", "iteration"}:
        return False
    if not _text(value["name"]) or not isinstance(value["higher"], bool):
        return False
    score, iteration = value["value"], value["iteration"]
    known = isinstance(score, float) and math.isfinite(score) and _count(iteration)
    return known or (score is None and iteration is None)


def _restarts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and set(each) == {"iteration", "from", "reason"}
        and _count(each["iteration"])
        and _count(each["from"])
        and _text(each["reason"])
        for each in value
    )


# What there is in a checkpoint, how to tell, and what it is called in an error.
CONTENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "iteration": (_count, "a whole number, 0 or more"),
    "stream": (lambda value: _table(value) and all(map(_count, value.values())), "a table of whole numbers"),
    "parts": (_tables, "a table of tables"),
    "optimizers": (_tables, "a table of tables"),
    "random": (_table, "a table"),
    "images": (_shape, "four whole numbers"),
    "fingerprint": (_text, "a text"),
    "plugins": (_texts, "a table of texts"),
    "versions": (_texts, "a table of texts"),
    "threads": (_count, "a whole number"),
    "executed": (_texts, "a table of texts"),
    "config": (_text, "a text"),
    "seconds": (_seconds, "a number, 0 or more"),
    "evaluation_seconds": (_seconds, "a number, 0 or more"),
    "best": (_best, "a score"),
    "restarts": (_restarts, "a list of restarts"),
    "hinges": (lambda value: isinstance(value, list) and all(map(_number, value)), "a list of numbers"),
    "told": (lambda value: isinstance(value, list) and all(map(_text, value)), "a list of texts"),
}


def check_contents(state: Mapping[str, Any], source: Path) -> None:
    """Check that a state is the full state of a run, as far as can be said without building the run.

    Arguments:
        state: From `mpcc.core.storage.checkpoint.load_checkpoint`.
        source: Its file, for errors.

    Raises:
        InvalidInput: If something is missing or is of another kind than it should be.
    """
    for name, (fits, expected) in CONTENTS.items():
        if name not in state:
            raise InvalidInput(f"checkpoint {source}: expected a run's full state, {name!r} is missing")
        if not fits(state[name]):
            found = repr(state[name])
            shown = found if len(found) < 60 else type(state[name]).__name__
            raise InvalidInput(f"checkpoint {source}: {name!r}: expected {expected}, got {shown}")


def saved_config(state: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Return the tables of the configuration with which a state was saved.

    Raises:
        InvalidInput: If it is no TOML, or has not the sections of a run.
    """
    content = str(state["config"]).encode("utf-8", "surrogatepass")
    tables = parse_toml(content, f"checkpoint {source}: config")
    for section in ("run", *SECTIONS):
        if not isinstance(tables.get(section), dict):
            raise InvalidInput(f"checkpoint {source}: config: expected a table [{section}]")
    return tables
