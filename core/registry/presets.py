"""What each preset was made for: a data set, an architecture, an objective and a kind of device.

A preset says so in its field ``for``; its architecture and its objective are those that it chooses itself::

    [presets.birds]
    for = { data = "birds", device = "cpu" }
    arch = { name = "biggan16", width = 8 }

Without ``device`` it was made for every device, without an objective for the default one. Without ``for``, a preset
with the name of a data set was made for that data set, and any other one is chosen by its name only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from mpcc.core.errors import InvalidInput, unknown_name

__all__ = ["DEVICES", "Purpose", "check_fields", "check_preset", "check_purposes_differ", "purpose_of"]

# Kinds of device, and how a message names them.
DEVICES = {"cpu": "on a CPU", "cuda": "on CUDA"}
FIELDS = ("data", "device")
TABLES = ("for", "run", "prior", "arch", "data", "objective")


@attrs.frozen
class Purpose:
    """What a preset was made for.

    Attributes:
        data: A data set; None for a preset that is chosen by its name only.
        arch: An architecture; None for any.
        device: One of `DEVICES`; None for any.
        objective: An objective; None for the default one, and for others that have no preset of their own.

    Example:
        >>> str(Purpose("mnist", "biggan16", "cpu")), str(Purpose("mnist", None, None, "vade"))
        ('mnist with biggan16 on a CPU', 'mnist by vade')
    """

    data: str | None
    arch: str | None
    device: str | None
    objective: str | None = None

    def __str__(self) -> str:
        """Return it in words."""
        arch, objective = (f"with {self.arch}" if self.arch else "", f"by {self.objective}" if self.objective else "")
        return " ".join(filter(None, [self.data or "", arch, objective, DEVICES.get(self.device or "", "")]))


def purpose_of(name: str, preset: Mapping[str, Any], datasets: Collection[str]) -> Purpose:
    """Return what a preset was made for.

    Arguments:
        name: Of the preset.
        preset: Its tables.
        datasets: The names of all data sets.
    """
    given = preset.get("for", {"data": name} if name in datasets else {})
    arch, objective = (preset.get(section, {}).get("name") for section in ("arch", "objective"))
    return Purpose(
        given.get("data"),
        arch if isinstance(arch, str) else None,
        given.get("device"),
        objective if isinstance(objective, str) else None,
    )


def check_preset(name: object, preset: object) -> None:
    """Check the form of a preset that a plugin registers.

    Raises:
        InvalidInput: If its name is no name, or a field or a value is not valid.
    """
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
        raise InvalidInput(f"preset name {name!r}: expected letters, digits, '-' and '_'")
    if not isinstance(preset, Mapping):
        raise InvalidInput(f"preset {name!r}: expected tables such as {{'run': {{'clusters': 12}}}}, got {preset!r}")
    check_fields(preset, f"preset {name!r}:")


def check_fields(preset: Mapping[str, Any], spelled: str) -> None:
    """Check the fields of a preset.

    Arguments:
        preset: Its tables.
        spelled: The preset and its file, for errors.

    Raises:
        InvalidInput: If a field or a value is not valid.
    """
    for field, value in preset.items():
        if field not in ("source", *TABLES):
            raise unknown_name(f"field of {spelled}", field, ("source", *TABLES))
        if field in TABLES and not isinstance(value, Mapping):
            raise InvalidInput(f"{spelled} expected a table {field} = {{ ... }}, got {value!r}")
        if field == "for":
            check_purpose(value, spelled)


def check_purpose(value: Mapping[str, Any], spelled: str) -> None:
    """Check the form of a field ``for``.

    Arguments:
        value: The table.
        spelled: The preset and its file, for errors.

    Raises:
        InvalidInput: If it lacks the data set, or a field or a value is not valid.
    """
    for field, entry in value.items():
        if field == "arch":
            raise InvalidInput(f'{spelled} for.arch = {entry!r}: expected it in arch = {{ name = "NAME" }}')
        if field not in FIELDS:
            raise unknown_name(f"field of for in {spelled}", field, FIELDS)
        if not isinstance(entry, str) or not entry:
            expected = "the name of a data set" if field == "data" else f"one of {', '.join(DEVICES)}"
            raise InvalidInput(f"{spelled} for.{field}: expected {expected}, got {entry!r}")
        if field == "device" and entry not in DEVICES:
            raise unknown_name(f"for.device in {spelled}", entry, DEVICES)
    if "data" not in value:
        raise InvalidInput(f'{spelled} for: expected the name of a data set, as in for = {{ data = "NAME" }}')


def check_purposes_differ(
    presets: Mapping[str, Mapping[str, Any]], owners: Mapping[str, str], datasets: Collection[str]
) -> None:
    """Refuse two presets that were made for the same: which one would be taken is nowhere said.

    Arguments:
        presets: All presets by name.
        owners: The file of each.
        datasets: The names of all data sets.

    Raises:
        InvalidInput: With the names of both.
    """
    first: dict[Purpose, str] = {}
    for name, preset in presets.items():
        purpose = purpose_of(name, preset, datasets)
        if purpose.data is None:
            continue
        if purpose in first:
            both = f"{first[purpose]!r} of {owners[first[purpose]]} and {name!r} of {owners[name]}"
            raise InvalidInput(
                f"presets {both} were both made for {purpose}: expected another for or another arch.name in one of them"
            )
        first[purpose] = name
