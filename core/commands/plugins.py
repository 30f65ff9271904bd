"""The command ``mpcc`` and its ``plugins``: list what is installed, check a plugin against its contract, write one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mpcc.core.commands.plugin_flags import PluginFiles, RegistryFiles
from mpcc.core.errors import InvalidInput, PluginError, unknown_name
from mpcc.core.registry import KINDS, Entry, Registry, load_registry

__all__ = ["print_plugins"]

EXIT_LAW_BROKEN = 1


def list_plugins(
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="print JSON")] = False,
    plugin: PluginFiles = None,
    registry: RegistryFiles = None,
) -> int:
    """List all plugins: name, kind, summary, origin, version, load error."""
    found = load_registry(plugins=plugin or (), registries=registry or ())
    if as_json:
        print(json.dumps(plugin_rows(found), indent=2))
    else:
        print_plugins(found)
    return 0


def check_plugin(
    name: Annotated[str, Parameter(help="name of the plugin")],
    *,
    kind: Annotated[
        str | None, Parameter(help="its kind: prior, architecture, dataset or metric; needed if several have the name")
    ] = None,
    data_root: Annotated[
        Path | None, Parameter(help="folder of the data sets, for a data set that has files", env_var="MPCC_DATA")
    ] = None,
    plugin: PluginFiles = None,
    registry: RegistryFiles = None,
) -> int:
    """Check a plugin against its contract and print a report; status 1 if a law is broken."""
    found = load_registry(plugins=plugin or (), registries=registry or ())
    entry = find(found, name, kind)
    from mpcc.core.testing import examine

    report = examine(entry.kind, entry.name, found, root=data_root)
    print(entry.described())
    for line in report.lines():
        print(line)
    return 0 if report.passed else EXIT_LAW_BROKEN


def new_plugin(
    kind: Annotated[str, Parameter(help="prior, architecture, dataset or metric")],
    name: Annotated[str, Parameter(help="what users will type")],
    *,
    out: Annotated[Path, Parameter(help="folder in which the project's folder is made")] = Path(),
) -> int:
    """Write a project with a working plugin of that kind, its tests and packaging."""
    from mpcc.core.commands.scaffold import create_project

    project = create_project(kind, name, out)
    print(f"{project}: a {kind} {name!r} that works; next:")
    print(f"  pip install -e {project}")
    print(f"  mpcc plugins check {name} --kind {kind}")
    return 0


def find(registry: Registry, name: str, kind: str | None) -> Entry:
    """Look a name up among all kinds.

    Raises:
        InvalidInput: If there is no such name or kind, or several kinds have the name and none was given.
    """
    if kind is not None:
        if kind not in KINDS:
            raise unknown_name("--kind", kind, KINDS)
        return registry.entry(kind, name)
    kinds = [each for each in KINDS if name in registry.entries[each]]
    if len(kinds) > 1:
        raise InvalidInput(f"{name!r} is the name of a {' and of a '.join(kinds)}: expected --kind {kinds[0]}")
    if not kinds:
        error = unknown_name("plugin", name, {name for by_name in registry.entries.values() for name in by_name})
        if registry.broken:
            raise InvalidInput(f"{error}; not loaded: {'; '.join(broken.described() for broken in registry.broken)}")
        raise error
    return registry.entry(kinds[0], name)


def plugin_rows(registry: Registry) -> list[dict[str, str | None]]:
    """Return one row for every registered name and every plugin that failed to load."""
    rows: list[dict[str, str | None]] = []
    for kind, by_name in registry.entries.items():
        for name, claims in by_name.items():
            for entry in claims:
                clash = (
                    "claimed by " + " and ".join(claim.distribution for claim in claims) if len(claims) > 1 else None
                )
                rows.append(
                    {
                        "name": name,
                        "kind": kind,
                        "summary": entry.summary,
                        "origin": entry.distribution if entry.origin != "built-in" else "built-in",
                        "version": entry.version,
                        "error": clash or options_error(entry),
                    }
                )
    for broken in registry.broken:
        rows.append(
            {
                "name": broken.origin,
                "kind": None,
                "summary": "",
                "origin": broken.distribution,
                "version": broken.version,
                "error": f"{broken.error} ({broken.file})",
            }
        )
    return rows


def options_error(entry: Entry) -> str | None:
    """Return why the options of a third party's entry cannot be used, if they cannot."""
    if entry.origin == "built-in":
        return None
    from mpcc.core.config import options

    try:
        cls = entry.options_class()
        if cls is not None:
            options.fields(cls)
    except PluginError as error:
        return str(error)
    return None


def print_plugins(registry: Registry) -> None:
    """Print the table of plugins."""
    rows = plugin_rows(registry)
    table = Table("name", "kind", "summary", "origin", "version", box=None, pad_edge=False)
    failed = [row for row in rows if row["error"]]
    if failed:
        table.add_column("load error", style="red")
    for row in rows:
        # What plugins say of themselves is text: "[/]" in it is none of rich's marks.
        shown = ("name", "kind", "summary", "origin", "version", *(["error"] if failed else []))
        table.add_row(*(escape(str(row[key] or "")) for key in shown))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
