"""The flags of ``mpcc-run``: read once for the plugins, then all of them, built from the options of those plugins."""

from __future__ import annotations

import argparse
import difflib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import cyclopts
from cyclopts import Group, Parameter

from mpcc.core.config import SECTIONS, RunConfig, RunSettings, flag, options
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry

__all__ = ["COMMAND_FLAGS", "command_line", "early_flags", "file_flags", "full_signature", "parse"]

COMMAND_GROUP = "Command"

# Flags that belong to the command, not to the configuration.
COMMAND_FLAGS: dict[str, tuple[str, Any, str]] = {
    "config": (
        "--config",
        Path | None,
        "configuration file, such as the config.toml of a run folder; flags override it",
    ),
    "preset": (
        "--preset",
        str | None,
        "preset to start from, none for none; by default that of --config or of the data set",
    ),
    "compat": (
        "--compat",
        str | None,
        "repeat the choices of another implementation: reference for the authors' published code",
    ),
    "plugin": ("--plugin", list[Path] | None, "load a one-file plugin, a Python file with hooks; may be repeated"),
    "registry": (
        "--registry",
        list[Path] | None,
        "load a registry file of your own, beside those of $MPCC_REGISTRY; may be repeated",
    ),
    "out": ("--out", Path | None, "run folder, a new one; by default a unique name below runs/"),
    "resume": ("--resume", Path | None, "continue the run in this folder from its newest checkpoint"),
    "dry_run": ("--dry-run", bool, "print the configuration and where each value comes from; write nothing"),
    "traceback": ("--traceback", bool, "show the traceback of an error"),
    "version": ("--version", bool, "print the version"),
}
SECTION_HELP = {
    "prior": "prior p(y) p(z|y)",
    "arch": "architecture of the three networks",
    "data": "data set",
    "objective": "which updates make an iteration",
}


def early_flags(arguments: list[str]) -> dict[str, str | None]:
    """Read the flags that decide which options exist; all others are left for the full parser.

    Raises:
        InvalidInput: If one of them is empty, which would otherwise mean the current folder or nothing at all.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    expected = {
        **dict.fromkeys([*SECTIONS, "preset", "compat"], "a name"),
        **dict.fromkeys(["config", "out", "resume"], "a path"),
    }
    for name in expected:
        parser.add_argument(f"--{name}", nargs="?")
    found, _ = parser.parse_known_args(arguments)
    for name, what in expected.items():
        if getattr(found, name) == "":
            raise InvalidInput(f"--{name}: expected {what}, got ''")
    return {name: getattr(found, name) for name in expected}


def file_flags(arguments: list[str]) -> dict[str, list[Path]]:
    """Read the flags that name files with plugins, ``plugins`` and ``registries``, from any command line.

    Raises:
        InvalidInput: If one of them has no value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--plugin", nargs="?", action="append", dest="plugins", default=[])
    parser.add_argument("--registry", nargs="?", action="append", dest="registries", default=[])
    found, _ = parser.parse_known_args(arguments)
    for key, name in (("plugins", "plugin"), ("registries", "registry")):
        if any(not value for value in getattr(found, key)):
            raise InvalidInput(f"--{name}: expected a file, got nothing")
    return {key: [Path(value) for value in values] for key, values in vars(found).items()}


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
                json_list=False,
                show_default=default is not None and default is not False,
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
    except cyclopts.CycloptsError as error:
        raise in_one_line(app, error) from error
    return dict(bound.arguments)


def in_one_line(app: cyclopts.App, error: cyclopts.CycloptsError) -> InvalidInput:
    """Say what is wrong with the flags as everywhere else: the flag, what was expected, what was given."""
    if isinstance(error.__cause__, InvalidInput):
        return error.__cause__
    names = [name for argument in app.assemble_argument_collection() for name in argument.names]
    token = getattr(error, "token", None)
    given = "" if token is None else token.keyword or token.value
    if isinstance(error, cyclopts.UnknownOptionError):
        # Some forty flags would bury the nearest one.
        close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? (all flags: --help)" if close else "expected one of those that --help lists"
        return InvalidInput(f"unknown option {given!r}: {hint}")
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return InvalidInput(f"unexpected {' '.join(error.unused_tokens or [])!r}: expected flags, each with its value")
    spelled = error.argument.names[0] if error.argument is not None else given
    expected = "a value" if error.argument is None else options.describe(error.argument.hint)
    if isinstance(error, cyclopts.MissingArgumentError):
        return InvalidInput(f"{spelled}: expected {expected}, got nothing")
    if isinstance(error, cyclopts.RepeatArgumentError):
        return InvalidInput(f"{spelled}: expected one value, got several")
    if token is not None:
        return InvalidInput(f"{spelled}: expected {expected}, got {token.value!r}")
    return InvalidInput(str(error))
