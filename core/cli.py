"""The commands ``mpcc-run`` and ``mpcc``.

``mpcc-run`` parses twice: first the few flags that choose plugins and files, then all of them, with a signature that is
built from the options of the chosen plugins. torch is imported only after everything has been checked.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import attrs
import cyclopts
from cyclopts import Group, Parameter
from rich.console import Console
from rich.table import Table

from mpcc.core import options
from mpcc.core.config import RESUMABLE, SECTIONS, Layer, RunConfig, RunSettings, flag, read_config, resolve
from mpcc.core.errors import InvalidInput, TrainingDiverged, unknown_name
from mpcc.core.registry import Registry, load_registry

__all__ = ["main", "run_main"]

EXIT_INVALID = 2
EXIT_DIVERGED = 3
EXIT_INTERRUPTED = 130
DATA_VARIABLE = "MPCC_DATA"
COMMAND_GROUP = "Command"

# Flags that belong to the command, not to the configuration.
COMMAND_FLAGS: dict[str, tuple[str, Any, str]] = {
    "config": (
        "--config",
        Path | None,
        "configuration file, such as the config.toml of a run folder; flags override it",
    ),
    "preset": ("--preset", str | None, "preset to start from, that of the data set by default; none for no preset"),
    "out": ("--out", Path | None, "run folder, a new one; by default a unique name below runs/"),
    "resume": ("--resume", Path | None, "continue the run in this folder from its newest checkpoint"),
    "dry_run": ("--dry-run", bool, "print the configuration and where each value comes from; write nothing"),
    "traceback": ("--traceback", bool, "show the traceback of an error"),
    "version": ("--version", bool, "print the version"),
}
SECTION_HELP = {"prior": "prior p(y) p(z|y)", "arch": "architecture of the three networks", "data": "data set"}


def run_main(arguments: Sequence[str] | None = None) -> None:
    """Run the command ``mpcc-run`` and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(guarded("mpcc-run", given, lambda: run_command(given)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command ``mpcc`` and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(guarded("mpcc", given, lambda: mpcc_command(given)))


def guarded(command: str, arguments: Sequence[str], action: Callable[[], int]) -> int:
    """Turn what goes wrong into one line on standard error and an exit status.

    Returns:
        0, 2 for invalid input, 3 for diverged training, 130 after an interruption.
    """
    try:
        return action()
    except (InvalidInput, TrainingDiverged, cyclopts.CycloptsError) as error:
        if "--traceback" in arguments:
            traceback.print_exc()
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_DIVERGED if isinstance(error, TrainingDiverged) else EXIT_INVALID
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (a pager, head) has gone; nothing is left to be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run_command(arguments: list[str]) -> int:
    """Do what ``mpcc-run`` was asked for and return the exit status."""
    if "--version" in arguments:
        print(f"mpcc {metadata.version('mpcc')}")
        return 0
    registry = load_registry()
    early = early_flags(arguments)
    resume = early["resume"]
    if resume is not None and (early["config"] or early["preset"]):
        raise InvalidInput("--resume continues with the run's own configuration: leave out --config and --preset")
    path = Path(resume) / "config.toml" if resume else Path(early["config"]) if early["config"] else None
    if resume is not None and path is not None and not path.is_file():
        raise InvalidInput(f"--resume {resume}: expected a run folder with config.toml")
    lower = [environment_layer()] + ([read_config(path)] if path else [])
    named = {section: {"name": early[section]} for section in SECTIONS if early[section]}
    # A run folder's configuration is complete: nothing may come in from a preset that has changed since.
    preset = "none" if resume else early["preset"]
    base = resolve(registry, [*lower, Layer("flag", named)], preset)
    signature, places = full_signature(registry, base)
    app = command_line(signature)
    if "--help" in arguments or "-h" in arguments:
        app.help_print([])
        print_plugins(registry)
        return 0
    typed = parse(app, arguments)
    command = {name: typed.pop(name) for name in list(typed) if name in COMMAND_FLAGS}
    tables: dict[str, dict[str, Any]] = {}
    for parameter, value in typed.items():
        section, name = places[parameter]
        tables.setdefault(section, {})[name] = value
    if resume is not None:
        check_resumable(tables)
    config = resolve(registry, [*lower, Layer("flag", tables)], preset)
    config = absolute_root(config)
    if command.get("dry_run"):
        print(config.to_toml(origins=True), end="")
        return 0
    return train(registry, config, command.get("out"), Path(resume) if resume else None)


def train(registry: Registry, config: RunConfig, out: Path | None, resume: Path | None) -> int:
    """Assemble and execute a run; return the exit status."""
    if resume is not None and out is not None:
        raise InvalidInput("--resume writes into the run's own folder: leave out --out")
    # From here on torch is needed; the names above have been checked without it.
    from mpcc.core.run import Run, Stopped, execute
    from mpcc.core.run_folder import RunFolder

    folder = RunFolder.existing(resume) if resume else RunFolder.plan(out, config)
    run = Run.assemble(registry, config)
    if resume:
        run.resume(folder)
    else:
        folder.create()
    print(
        f"{run.data.description or config.data.name}: {len(run.data)} images; run folder {folder.path}", file=sys.stderr
    )
    try:
        results = execute(run, folder, resumed=resume is not None)
    except Stopped as stop:
        print(f"mpcc-run: {stop}", file=sys.stderr)
        return EXIT_INTERRUPTED
    scores = " ".join(f"{name} {value:.3f}" for name, value in results["metrics"].items())
    print(f"{folder.path}: {results['iterations']} iterations in {results['seconds']:.0f} s {scores}".rstrip())
    return 0


def early_flags(arguments: list[str]) -> dict[str, str | None]:
    """Read the flags that decide which options exist; all others are left for the full parser."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    names = [*SECTIONS, "config", "preset", "resume"]
    for name in names:
        parser.add_argument(f"--{name}", nargs="?")
    found, _ = parser.parse_known_args(arguments)
    return {name: getattr(found, name) for name in names}


def environment_layer() -> Layer:
    """Return what the environment says: the data root."""
    root = os.environ.get(DATA_VARIABLE)
    return Layer(f"${DATA_VARIABLE}", {"run": {"data_root": root}} if root else {})


def absolute_root(config: RunConfig) -> RunConfig:
    """Make the data root absolute, so that config.toml works from any folder."""
    root = config.run.data_root
    return config if root is None else attrs.evolve(config, run=attrs.evolve(config.run, data_root=root.absolute()))


def check_resumable(tables: dict[str, dict[str, Any]]) -> None:
    """Refuse flags that would change what a resumed run computes.

    Raises:
        InvalidInput: Naming the flag and those that may be given.
    """
    for section, values in tables.items():
        for name in values:
            if section != "run" or name not in RESUMABLE:
                allowed = ", ".join(flag("run", name) for name in sorted(RESUMABLE))
                raise InvalidInput(
                    f"{flag(section, name)} cannot change when a run is resumed: expected one of {allowed}"
                )


def full_signature(registry: Registry, base: RunConfig) -> tuple[inspect.Signature, dict[str, tuple[str, str]]]:
    """Build the signature of all flags, with the values of the lower layers as defaults.

    Returns:
        The signature, and the section and name of the configuration that each parameter stands for.
    """
    parameters: list[inspect.Parameter] = []
    places: dict[str, tuple[str, str]] = {}

    def add(name: str, kind: Any, default: Any, spelled: str, help: str, group: Group, convert: Any = None) -> None:
        annotation = Annotated[
            kind,
            Parameter(
                name=spelled,
                help=help,
                group=group,
                converter=convert,
                negative="",
                show_default=default not in (None, False),
                show_choices=True,
            ),
        ]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )

    def add_options(section: str, cls: type, values: Any, group: Group) -> None:
        for name, field in options.fields(cls).items():
            spelled = flag(section, name)
            parameter = f"{section}__{name}"
            places[parameter] = (section, name)
            default = getattr(values, name)
            add(parameter, field.type, default, spelled, field.metadata.get("help", ""), group, strict(field, spelled))

    plugins = Group("Plugins", sort_key=1)
    for section, kind in SECTIONS.items():
        places[f"{section}__name"] = (section, "name")
        help = f"{SECTION_HELP[section]}: {', '.join(registry.names(kind))}"
        add(f"{section}__name", str, getattr(base, section).name, f"--{section}", help, plugins)
    add_options("run", RunSettings, base.run, Group("Run", sort_key=2))
    for section, kind in SECTIONS.items():
        choice = getattr(base, section)
        cls = registry.entry(kind, choice.name).options_class()
        if cls is not None:
            add_options(section, cls, choice.options, Group(f"Options of --{section} {choice.name}", sort_key=3))
    command = Group(COMMAND_GROUP, sort_key=0)
    for name, (spelled, kind, help) in COMMAND_FLAGS.items():
        add(name, kind, False if kind is bool else None, spelled, help, command)
    return inspect.Signature(parameters), places


def strict(field: attrs.Attribute[Any], spelled: str) -> Callable[[Any, Sequence[cyclopts.Token]], Any]:
    """Return a converter for cyclopts, whose own turn 1.5 into the whole number 2 and let nan pass."""

    def convert(_: Any, tokens: Sequence[cyclopts.Token]) -> Any:
        (token,) = tokens
        value = token.value if token.implicit_value is cyclopts.UNSET else token.implicit_value
        return options.convert(value, field, spelled)

    return convert


def command_line(signature: inspect.Signature) -> cyclopts.App:
    """Return the parser of ``mpcc-run``."""

    def mpcc_run(**_: Any) -> None:
        """Cluster images: train generator, encoder and mixture prior together, and write a run folder."""

    mpcc_run.__signature__ = signature  # type: ignore[attr-defined]
    app = cyclopts.App(
        name="mpcc-run",
        help=mpcc_run.__doc__,
        help_format="plaintext",
        help_flags=["--help", "-h"],
        version_flags=[],
    )
    app.default(mpcc_run)
    app["--help"].group = Group(COMMAND_GROUP, sort_key=0)
    return app


def parse(app: cyclopts.App, arguments: list[str]) -> dict[str, Any]:
    """Return the flags that were typed, converted.

    Raises:
        InvalidInput: For an unknown flag or a bad value.
    """
    try:
        _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except cyclopts.UnknownOptionError as error:
        known = [name for argument in app.assemble_argument_collection() for name in argument.names]
        raise unknown_name("option", error.token.keyword or error.token.value, known) from error
    except cyclopts.CoercionError as error:
        cause = error.__cause__
        if isinstance(cause, InvalidInput):
            raise cause from error
        raise
    return dict(bound.arguments)


def mpcc_command(arguments: list[str]) -> int:
    """Do what ``mpcc`` was asked for and return the exit status."""
    app = cyclopts.App(
        name="mpcc",
        help="Look at what is installed. To train, use mpcc-run.",
        version=f"mpcc {metadata.version('mpcc')}",
        help_format="plaintext",
    )
    app.command(list_plugins, name="plugins")
    result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    return int(result or 0)


def list_plugins(*, as_json: Annotated[bool, Parameter(name="--json", negative="", help="print JSON")] = False) -> int:
    """List all plugins: name, kind, summary, origin, version, load error."""
    registry = load_registry()
    if as_json:
        print(json.dumps(plugin_rows(registry), indent=2))
    else:
        print_plugins(registry)
    return 0


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
                        "error": clash,
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


def print_plugins(registry: Registry) -> None:
    """Print the table of plugins."""
    rows = plugin_rows(registry)
    table = Table("name", "kind", "summary", "origin", "version", box=None, pad_edge=False)
    failed = [row for row in rows if row["error"]]
    if failed:
        table.add_column("load error", style="red")
    for row in rows:
        cells = [str(row[key] or "") for key in ("name", "kind", "summary", "origin", "version")]
        table.add_row(*cells, *([str(row["error"] or "")] if failed else []))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
