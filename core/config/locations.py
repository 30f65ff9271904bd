"""Options that only say where files are: images may move to another disk or machine between two uses of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from mpcc.core.config import options
from mpcc.core.config.config import RunConfig
from mpcc.core.config.layers import SECTIONS, flag
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Entry, Registry

__all__ = ["Places", "check_only_places", "entries_of", "hint_if_moved", "locations", "places"]

# Options by section and name.
Places = Collection[tuple[str, str]]


def locations(section: str, cls: type | None) -> list[str]:
    """Return the names of the options of a plugin that only say where files are.

    The metadata ``location`` of a field decides: ``option(None, "...", location=True)``. Without it, the paths of a
    data set count.

    Arguments:
        section: The section of the configuration that names the plugin, such as ``data``.
        cls: Its options class.
    """
    return [
        name
        for name, field in options.fields(cls).items()
        if field.metadata.get("location", section == "data" and Path in (field.type, *get_args(field.type)))
    ]


def places(entries: Mapping[str, Entry]) -> Places:
    """Return the options that only say where files are, of plugins by section."""
    return {(section, name) for section, entry in entries.items() for name in locations(section, entry.options_class())}


def entries_of(registry: Registry, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """Return the plugins that the tables of a run name, by section; those that are not installed are left out."""
    found = {}
    for section, kind in SECTIONS.items():
        name = tables.get(section, {}).get("name")
        with contextlib.suppress(InvalidInput):
            found.update({section: registry.entry(kind, name)} if isinstance(name, str) else {})
    return found


def check_only_places(
    tables: Mapping[str, Mapping[str, Any]],
    saved: Mapping[str, Mapping[str, Any]],
    movable: Places,
    settings: Collection[str],
    when: str,
) -> None:
    """Refuse flags that would make a run another one.

    Arguments:
        tables: Values of flags by section and name.
        saved: The run's configuration. A flag with the value that it has there changes nothing.
        movable: The options that only say where files are.
        settings: Names of the settings that may change.
        when: The occasion, for the error.

    Raises:
        InvalidInput: With the flag and the flags that may be given.
    """
    allowed = {*(("run", name) for name in settings), *movable}
    for section, values in tables.items():
        for name, value in values.items():
            # Flags are text, and a file has true and 1.
            same = str(value).lower() == str(saved.get(section, {}).get(name, "")).lower()
            if same or (section, name) in allowed:
                continue
            remedy = "leave it out"
            if (section, name) == ("data", "name") and ("data", "path") in allowed and there(Path(str(value))):
                remedy = f"nearest valid choice: {flag('data', 'path')} {value}"
            choices = ", ".join(sorted(flag(*place) for place in allowed))
            raise InvalidInput(f"{flag(section, name)} cannot change when {when}: {remedy} (may change: {choices})")


@contextlib.contextmanager
def hint_if_moved(config: RunConfig) -> Iterator[None]:
    """Add to an error in a ``with`` block which files have moved, if any have, and how to name their new place.

    Raises:
        InvalidInput: The error.
    """
    try:
        yield
    except InvalidInput as error:
        entries = {section: getattr(config, section).entry for section in SECTIONS}
        values = {place: getattr(getattr(config, place[0]).options, place[1]) for place in places(entries)}
        gone = {flag(*place): value for place, value in values.items() if isinstance(value, Path) and not there(value)}
        # An error that does not name a missing file has another cause.
        if type(error) is not InvalidInput or not any(str(path) in str(error) for path in gone.values()):
            raise
        flags = " ".join(f"{name} PATH" for name in sorted(gone))
        raise InvalidInput(f"{error}; if it has been moved, name its new place with {flags}") from error


def there(path: Path) -> bool:
    """Return whether a path exists, or the system cannot tell."""
    try:
        return path.exists()
    except OSError:
        return True
