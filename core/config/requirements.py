"""What an objective brings for the rest of a configuration: a prior of its own, one cluster, no terms of another one.

Its values come after those of the preset and before those of the user. A user who asks for other values than the
required ones is refused: the system would not be the one that was named. Suggested values are for a preset that was
made for another objective, and a user may change them. A flag that the system has no use for is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpcc.core.config import options
from mpcc.core.config.layers import Layer, flag
from mpcc.core.config.settings import RunSettings
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Entry, Registry

__all__ = ["REQUIRED", "check_required", "objective_layers", "unused_flags"]

# What the origin of a value that an objective brings begins with.
REQUIRED = "objective "


def objective_layers(entry: Entry, preset: Mapping[str, Any]) -> list[Layer]:
    """Return the values that an objective suggests, unless the preset was made for it, and those that it requires.

    Arguments:
        entry: The objective.
        preset: The tables of the preset that the run starts from; empty for none.
    """
    origin = f"{REQUIRED}{entry.name}"
    # Not strict: what it suggests for one prior, another one may not have.
    suggested = [] if preset.get("objective", {}).get("name") == entry.name else [Layer(origin, entry.suggests, False)]
    return [*suggested, Layer(origin, entry.requires)]


def unused_flags(entry: Entry, layers: Sequence[Layer]) -> list[str]:
    """Return a line for each flag that an objective has no use for; in a file, all settings may stand.

    Raises:
        InvalidInput: If the objective names a setting that does not exist.
    """
    known = options.fields(RunSettings)
    for name in entry.unused:
        if name not in known:
            raise unknown_name(f"setting that {entry.described()} does not use:", name, known)
    return [
        f"{layer.spelled('run', name)} {layer.tables['run'][name]} changes nothing: the objective {entry.name} does "
        "not use it"
        for layer in layers
        if layer.origin == "flag"
        for name in entry.unused
        if layer.tables.get("run", {}).get(name) is not None
    ]


def check_required(registry: Registry, entry: Entry, layers: Sequence[Layer]) -> None:
    """Refuse values of the user that contradict those which an objective requires.

    Arguments:
        registry: Names the default objective.
        entry: The objective.
        layers: Values of the user: configuration file, choices for compatibility, flags.

    Raises:
        InvalidInput: With the value, and the one that the objective requires.
    """
    for layer in layers:
        for section, required in entry.requires.items():
            for name, value in required.items():
                given = layer.tables.get(section, {}).get(name)
                if given is None or same(given, value, section, name, layer):
                    continue
                other = "" if entry.name == registry.defaults["objective"] else registry.defaults["objective"]
                or_other = f", or {flag('objective', 'name')} {other}" if other else ""
                raise InvalidInput(
                    f"{layer.spelled(section, name)} {given}: the objective {entry.name} requires {value} "
                    f"(nearest valid choice: {flag(section, name)} {value}{or_other})"
                )


def same(given: Any, value: Any, section: str, name: str, layer: Layer) -> bool:
    """Return whether a value of the user, perhaps text, is the required one.

    Raises:
        InvalidInput: If it is no valid value at all.
    """
    known = options.fields(RunSettings) if section == "run" else {}
    if name not in known:
        return str(given) == str(value)
    return bool(options.convert(given, known[name], layer.spelled(section, name)) == value)
