"""The command ``mpcc plugins``: list the installed plugins, check one against its contract, or write a new one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import attrs

from mpcc.core.commands.flags import CommandFlags, Parser, PluginFiles, argument, expanded
from mpcc.core.config import options
from mpcc.core.config.layers import DATA_VARIABLE
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput, PluginError, unknown_name
from mpcc.core.registry import KINDS, Entry, Registry

__all__ = ["CheckFlags", "ListFlags", "NewFlags", "plugins_command", "print_plugins"]

LIST = "List all plugins: name, kind, summary, origin, version, load error."
CHECK = "Check a plugin against its contract and print a report; status 1 if a law is broken."
NEW = "Write a project with a working plugin of that kind, its tests and packaging."
EXIT_LAW_BROKEN = 1
# Below this width of a terminal, in characters, the table has fewer columns.
NARROW = 100
UNLIMITED = 10_000
COLUMNS = ("name", "kind", "summary", "origin", "version", "error")


@attrs.frozen(slots=False)
class ListFlags(PluginFiles):
    """Flags of ``mpcc plugins list``."""

    json: bool = option(False, "print JSON")


@attrs.frozen(slots=False)
class CheckFlags(PluginFiles):
    """Flags of ``mpcc plugins check``."""

    name: str = argument("name of the plugin")
    kind: str | None = option(None, "its kind, such as prior; needed if plugins of several kinds have the name")
    data_root: Path | None = option(
        None, "folder of the data sets, for a data set that has files; $MPCC_DATA if not given"
    )
    seed: int = option(0, "seed of everything random in the laws", least=0)
    law_seconds: float | None = option(
        None, "time limit of each law; 120 seconds if not given, an hour for a data set", above=0
    )


@attrs.frozen(slots=False)
class NewFlags(CommandFlags):
    """Flags of ``mpcc plugins new``."""

    kind: str = argument("prior, architecture, dataset, metric or objective")
    name: str = argument("name that users will type")
    out: Path = option(Path(), "folder for the new project's folder; by default the current one")


def plugins_command(words: list[str]) -> int:
    """Execute ``mpcc plugins`` and return the exit status."""
    commands = {"list": list_plugins, "check": check_plugin, "new": new_plugin}
    if not words or words[0].startswith("-"):
        return list_plugins(words)
    if words[0] not in commands:
        raise unknown_name("command", f"plugins {words[0]}", [f"plugins {name}" for name in commands])
    return commands[words[0]](words[1:])


def list_plugins(words: list[str]) -> int:
    """Print a table of all plugins, or JSON."""
    usage = "[list] [flags]\n       mpcc plugins check NAME [flags]\n       mpcc plugins new KIND NAME [flags]"
    flags = Parser("mpcc plugins", LIST, usage).read_own(words, ListFlags)
    registry = flags.load()
    if flags.json:
        print(json.dumps(plugin_rows(registry), indent=2))
    else:
        print_plugins(registry)
    return 0


def check_plugin(words: list[str]) -> int:
    """Print a report on a plugin."""
    flags = Parser("mpcc plugins check", CHECK, "NAME [flags]").read_own(words, CheckFlags)
    registry = flags.load()
    entry = find(registry, flags.name, flags.kind)
    from mpcc.core.testing import Finding, examine

    named = os.environ.get(DATA_VARIABLE)
    root = flags.data_root or (expanded(Path(named), f"${DATA_VARIABLE}") if named else None)
    out = sys.stdout
    print(entry.described())

    def tell(finding: Finding) -> None:
        # The law itself may print to standard error only.
        print(finding.line(), file=out, flush=True)

    report = examine(entry.kind, entry.name, registry, root=root, seed=flags.seed, seconds=flags.law_seconds, tell=tell)
    print(report.summary())
    return 0 if report.passed else EXIT_LAW_BROKEN


def new_plugin(words: list[str]) -> int:
    """Write a project with a plugin."""
    flags = Parser("mpcc plugins new", NEW, "KIND NAME [flags]").read_own(words, NewFlags)
    from mpcc.core.commands.scaffold import create_project

    project = create_project(flags.kind, flags.name, flags.out)
    print(f"{project}: the {flags.kind} {flags.name!r} works as it is; next:")
    print(f"  pip install -e {project}")
    print(f"  mpcc plugins check {flags.name} --kind {flags.kind}")
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
    kinds = [known_kind for known_kind in KINDS if name in registry.entries[known_kind]]
    if len(kinds) > 1:
        raise InvalidInput(f"{name!r} is the name of a {' and of a '.join(kinds)}: expected --kind {kinds[0]}")
    if not kinds:
        raise registry.unknown("plugin", name, {known.name for known in registry.all_entries()})
    return registry.entry(kinds[0], name)


def plugin_rows(registry: Registry) -> list[dict[str, str | None]]:
    """Return one row for every registered name and every plugin that failed to load."""
    rows: list[tuple[str | None, ...]] = []
    for entry in registry.all_entries():
        claims = [claim.distribution for claim in registry.entries[entry.kind][entry.name]]
        error = f"claimed by {' and '.join(claims)}" if len(claims) > 1 else options_error(entry)
        origin = "built-in" if entry.origin == "built-in" else entry.distribution
        rows.append((entry.name, entry.kind, entry.summary, origin, entry.version, error))
    for broken in registry.broken:
        error = f"{broken.error} ({broken.file})"
        rows.append((broken.origin, None, "", broken.distribution, broken.version, error))
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def options_error(entry: Entry) -> str | None:
    """Return the error in the options class of a third party's entry, or None."""
    if entry.origin == "built-in":
        return None
    try:
        options.fields(entry.options_class())
    except PluginError as error:
        return str(error)
    return None


def print_plugins(registry: Registry) -> None:
    """Print the table of plugins, as wide as the terminal; into a file or a pipe, one line for each plugin.

    ``$COLUMNS`` sets another width. A narrow table has no columns of origin, version and error; what differs from the
    built-in plugins stands below the summary.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else UNLIMITED
    # Plugins may write "[/]", which is markup for rich.
    console = Console(width=width, highlight=False, markup=False)
    rows = plugin_rows(registry)
    narrow = console.width < NARROW
    shown = COLUMNS[:3] if narrow else COLUMNS if any(row["error"] for row in rows) else COLUMNS[:-1]
    table = Table(box=None, pad_edge=False)
    for column in shown:
        title, style = ("load error", "red") if column == "error" else (column, None)
        table.add_column(title, style=style, no_wrap=column not in ("summary", "error"), overflow="fold")
    for row in rows:
        cells = [Text(row[column] or "") for column in shown]
        if narrow and row["origin"] != "built-in":
            cells[-1].append(f" ({row['origin']} {row['version']})".removeprefix("" if row["summary"] else " "))
        if narrow and row["error"]:
            cells[-1].append(f"\n{row['error']}", style="red")
        table.add_row(*cells)
    console.print(table)
