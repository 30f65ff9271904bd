"""What an objective requires of the rest of a configuration: a prior of its own, one cluster, no terms of another one.

The required values come after those of the preset and before those of the user. A user who asks for others is refused:
the system would not be the one that was named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpcc.core.config import options
from mpcc.core.config.layers import Layer, flag
from mpcc.core.config.settings import RunSettings
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Entry, Registry

__all__ = ["REQUIRED", "check_required", "required_layer"]

# What the origin of a required value begins with.
REQUIRED = "objective "


def required_layer(entry: Entry) -> Layer:
    """Return the values that an objective requires."""
    return Layer(f"{REQUIRED}{entry.name}", entry.requires)


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
