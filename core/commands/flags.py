"""The flags of all commands: fields of attrs classes, read by argparse.

A class declares the flags of a command, as `RunSettings` does for a run: each field has a type, a default and a line of
help. The parser returns the typed values as text, by section and name. They are converted once, when an object of the
class is made.
"""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import attrs

from mpcc.core.config import Layer, flag, options
from mpcc.core.config.layers import METRICS
from mpcc.core.config.options import BARE, option
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry, load_registry
from mpcc.core.studies.count_record import chosen_run

__all__ = ["CommandFlags", "Parser", "PluginFiles", "RunFiles", "Typed", "argument", "expanded"]

T = TypeVar("T")

# Names of values in help.
METAVARS = {int: "INT", float: "FLOAT", Path: "PATH", str: "TEXT", bool: ""}


def argument(help: str) -> Any:
    """Declare a required argument of a command, which has no flag."""
    return option(None, help, positional=True)


@attrs.frozen(slots=False)
class CommandFlags:
    """Flags of every command, which the entry point reads."""

    traceback: bool = option(False, "show the traceback of an error")


@attrs.frozen(slots=False)
class PluginFiles(CommandFlags):
    """Files with plugins."""

    plugin: tuple[Path, ...] = option((), "load a one-file plugin, a Python file with hooks; may be repeated")
    registry: tuple[Path, ...] = option(
        (), "load a registry file of your own, in addition to those of $MPCC_REGISTRY; may be repeated"
    )

    def load(self, *layers: Layer) -> Registry:
        """Load the installed plugins, and those from the files that layers and flags name."""
        return load_registry(
            plugins=[*(path for layer in layers for path in layer.plugins), *self.plugin],
            registries=[*(path for layer in layers for path in layer.registries), *self.registry],
        )


@attrs.frozen(slots=False)
class RunFiles(CommandFlags):
    """A run folder and one of its checkpoints."""

    run: Path = argument("run folder that mpcc-run has written; of a folder of seeds, the chosen run is taken")
    checkpoint: Path | None = option(None, "checkpoint of the run; by default its newest, checkpoints/last.pt")

    @property
    def folder(self) -> Path:
        """The run folder; of a folder in which seeds are compared, that of the chosen run.

        Raises:
            InvalidInput: If no run has been chosen yet.
        """
        return chosen_run(self.run)

    @property
    def source(self) -> Path:
        """The file of the checkpoint."""
        return self.checkpoint or self.folder / "checkpoints" / "last.pt"


@attrs.frozen
class Typed:
    """The typed values, as text.

    Attributes:
        own: Flags of the command itself, by name.
        tables: Flags of the configuration, by section and name.
        rest: Words that are not flags of the command.
    """

    own: dict[str, Any]
    tables: dict[str, dict[str, Any]]
    rest: Sequence[str]

    def make(self, cls: type[T]) -> T:
        """Convert the values for one class of the command's own flags.

        Raises:
            InvalidInput: With the flag, the value and what was expected.
        """
        known = options.fields(cls)  # type: ignore[arg-type]  # a class can be hashed
        given = {name: self.own[name] for name in known if name in self.own}

        def where(name: str) -> str:
            return name.upper() if known[name].metadata.get("positional") else flag("run", name)

        made = options.make(cls, given, "the command", where)
        # A shell leaves the ~ of --out=~/x alone.
        paths = {name: expanded(value, where(name)) for name in given if (value := getattr(made, name)) is not None}
        return attrs.evolve(made, **paths)  # type: ignore[misc]  # every class of flags is an attrs class


def expanded(value: Any, where: str) -> Any:
    """Return a path, or each path of a tuple, with the home folder in place of ``~``; other values as they are.

    Raises:
        InvalidInput: If the user after ``~`` does not exist.
    """
    if isinstance(value, tuple):
        return tuple(expanded(each, where) for each in value)
    try:
        return value.expanduser() if isinstance(value, Path) else value
    except RuntimeError as error:
        raise InvalidInput(f"{where} {value}: {error}") from error


class Once(argparse.Action):
    """Keep the value of a flag, and refuse a second one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keep a value.

        Raises:
            InvalidInput: If the flag has a value already.
        """
        if hasattr(namespace, self.dest):
            raise InvalidInput(f"{option_string}: expected one value, got several")
        setattr(namespace, self.dest, values)


class Help(argparse.HelpFormatter):
    """Help as wide as the terminal, without line breaks at the hyphens of names."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=32, **settings)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """The flags of one command.

    Arguments:
        command: The command that the user types.
        purpose: The purpose of the command, for help.
        usage: The words after the command, for help.
        add_help: Whether ``--help`` prints the help and exits.
    """

    def __init__(self, command: str, purpose: str | None, usage: str = "[flags]", *, add_help: bool = True) -> None:
        super().__init__(
            command,
            f"{command} {usage}",
            purpose,
            add_help=add_help,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            exit_on_error=False,
            formatter_class=Help,
        )
        self.kinds: dict[str, Any] = {}
        self.dotted: Collection[str] = ()
        self.several: str | None = None  # the argument that takes any number of words
        # argparse's own pattern for negative numbers, which are not flags, does not match -1e-5 and -inf.
        self._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)")

    def declare(
        self, title: str, cls: type | None, section: str = "", *, only: Collection[str] = (), values: Any = None
    ) -> None:
        """Declare a flag for each field of an options class.

        Arguments:
            title: Title of the group, for help.
            cls: The class; None has no fields.
            section: Section of the configuration; empty for the command's own flags.
            only: Names of the fields to declare; empty for all fields.
            values: An object of the class; help shows its values as defaults.
        """
        group, start = self.add_argument_group(title), flag(section or "run", "")
        for name, field in options.fields(cls).items():
            if only and name not in only:
                continue
            kind, default, help = field.type, getattr(values, name, None), field.metadata.get("help", "")
            if field.metadata.get("positional"):
                settings: dict[str, Any] = {"metavar": name.upper(), "help": help}
                if get_origin(kind) is tuple:
                    self.several = f"{section}.{name}"
                    settings |= {"nargs": "*", "default": argparse.SUPPRESS}
                group.add_argument(f"{section}.{name}", **settings)
                continue
            if get_origin(kind) is Literal:
                help += f" [choices: {', '.join(map(str, get_args(kind)))}]"
            if default not in (None, ()) and default is not False:
                help += f" [default: {default}]"
            spelling = start + name.replace("_", "-")
            self.kinds[spelling] = kind
            group.add_argument(
                spelling,
                dest=f"{section}.{name}",
                action="append" if get_origin(kind) is tuple else Once,
                metavar=next((METAVARS[arg] for arg in (kind, *get_args(kind)) if arg in METAVARS), "CHOICE"),
                help=help.replace("%", "%%"),
            )

    def declare_names(self, title: str, helps: dict[str, str]) -> None:
        """Declare the flags that choose a plugin, by section of the configuration."""
        group = self.add_argument_group(title)
        for section, help in helps.items():
            self.kinds[f"--{section}"] = str
            group.add_argument(f"--{section}", dest=f"{section}.name", action=Once, metavar="NAME", help=help)

    def read(self, words: Sequence[str], dotted: Collection[str] = ()) -> Typed:
        """Sort the words into flags and values.

        Arguments:
            words: The command line.
            dotted: Sections whose options, such as ``--prior.df``, depend on the plugin; any name is accepted in them.

        Raises:
            InvalidInput: If a value is missing or given twice.
        """
        self.dotted = dotted
        for word in {word.partition("=")[0] for word in words if word.startswith("--")}:
            section, dot, name = word[2:].partition(".")
            if section == METRICS:
                of_metric, dot, name = name.partition(".")
                section = f"{METRICS}.{of_metric}"
            if dot and section.partition(".")[0] in dotted and name not in ("", "name"):
                place = f"{section}.{name.replace('-', '_')}"
                self.add_argument(word, dest=place, action=Once, nargs="?", const=BARE)
        try:
            values, rest = self.parse_known_args(
                [f"{word}=true" if self.kinds.get(word) is bool else word for word in words]
            )
        except argparse.ArgumentError as error:
            name = error.argument_name or ""
            expected = options.describe(self.kinds[name]) if name in self.kinds else error.message
            raise InvalidInput(f"{name}: expected {expected}, got nothing") from error
        if self.several and all(word == "-" or not word.startswith("-") for word in rest):
            # argparse takes the words up to the next flag only.
            setattr(values, self.several, [*getattr(values, self.several, []), *rest])
            rest = []
        tables: dict[str, dict[str, Any]] = {}
        for place, value in vars(values).items():
            section, _, name = place.rpartition(".")
            tables.setdefault(section, {})[name] = value
        return Typed(tables.pop("", {}), tables, rest)

    def read_all(self, words: Sequence[str], dotted: Collection[str] = ()) -> Typed:
        """Sort the words into flags and values, and refuse all others.

        Raises:
            InvalidInput: If a word is not a flag, or for the reasons of `read`.
        """
        typed = self.read(words, dotted)
        if typed.rest:
            self.refuse(typed.rest)
        return typed

    def read_own(self, words: Sequence[str], cls: type[T]) -> T:
        """Declare the flags of one class and read a command line that has no others.

        Raises:
            InvalidInput: If a word is not a flag, or a value is not valid.
        """
        self.declare("Command", cls)
        return self.read_all(words).make(cls)

    def refuse(self, rest: Sequence[str]) -> NoReturn:
        """Refuse words that are not flags and suggest the nearest flag.

        Raises:
            InvalidInput: Always.
        """
        flags = (word for word in rest if word.startswith("-") and word != "-")
        wrong = next((word.partition("=")[0] for word in flags), None)
        if wrong is None:
            known = "--data" in self.kinds and Path(rest[0]).exists()
            hint = f" (your own images: --data {rest[0]})" if known else ""
            raise InvalidInput(f"unexpected {' '.join(rest)!r}: expected flags, each with its value{hint}")
        section, _, option = wrong.removeprefix("--").partition("-")
        if option and (f"--{section}" in self.kinds or section in self.dotted):
            chosen = "options of the chosen plugin have a dot"
            chosen += f"; choose the plugin with --{section}" if f"--{section}" in self.kinds else ""
            raise InvalidInput(f"unknown option {wrong!r}: did you mean '--{section}.{option}'? ({chosen})")
        # A list of all flags, about forty, would hide the nearest one.
        close = difflib.get_close_matches(wrong, self.kinds, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? (all flags: --help)" if close else "expected one of those that --help lists"
        raise InvalidInput(f"unknown option {wrong!r}: {hint}")

    def error(self, message: str) -> NoReturn:
        """Refuse a command line; argparse calls this method.

        Raises:
            InvalidInput: Always.
        """
        raise InvalidInput(message)
