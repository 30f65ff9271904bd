"""The reference of all commands, written from the parsers that the commands themselves read their flags with."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from unittest import mock

from sphinx.application import Sphinx

from mpcc.core.commands.entry import COMMANDS, main
from mpcc.core.commands.flags import Parser
from mpcc.core.config import SECTIONS
from mpcc.core.registry import load_registry

__all__ = ["command_reference", "setup"]

PLACE = "<!-- The site has the list of all flags here. -->"
# Commands below a command.
BELOW = {"plugins": ("check", "new")}


def setup(app: Sphinx) -> dict[str, bool]:
    """Let the page with the mark have the reference in its place; Sphinx calls this function."""
    app.connect("source-read", fill_in)
    return {"parallel_read_safe": True}


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the reference into the source of a page that has the mark."""
    if PLACE in source[0]:
        source[0] = source[0].replace(PLACE, command_reference())


def command_reference() -> str:
    """Return the reference as Markdown: a section for each command, and one for the options of all plugins."""
    lines: list[str] = []
    for name in COMMANDS:
        for words in ([name], *([name, below] for below in BELOW.get(name, ()))):
            lines += section(parser_of(words))
    return "\n".join([*lines, *plugin_options()])


def parser_of(words: list[str]) -> Parser:
    """Return the parser with which a command prints its help.

    Arguments:
        words: The command, such as ``["plugins", "check"]``.
    """
    seen: list[Parser] = []

    def keep(parser: Parser) -> None:
        seen.append(parser)

    with (
        mock.patch.object(Parser, "print_help", keep),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        main([*words, "--help"])
    (parser,) = seen
    return parser


def section(parser: Parser) -> Iterator[str]:
    """Yield the lines of a command: its purpose, its usage, and each group of its flags."""
    yield from (f"## {parser.prog}", "", plain(parser.description or ""), "", "```text")
    yield from (f"{parser.usage}", "```", "")
    yield from flags(parser, parser.prog)


def flags(parser: Parser, program: str) -> Iterator[str]:
    """Yield the lines of all flags of a parser, by group."""
    yield from (f"```{{program}} {program}", "```", "")
    for group in parser._action_groups:  # argparse has no public way to them
        shown = [action for action in group._group_actions if "--help" not in action.option_strings]
        if not shown:
            continue
        yield from (f"**{plain(group.title or '')}**", "")
        for action in shown:
            name = action.option_strings[-1] if action.option_strings else ""
            value = action.metavar if isinstance(action.metavar, str) else ""
            yield from (
                f"```{{option}} {name} {value}".rstrip(),
                plain((action.help or "").replace("%%", "%")),
                "```",
                "",
            )


def plugin_options() -> Iterator[str]:
    """Yield the lines of the options of every built-in plugin that has some, by kind."""
    registry = load_registry(())
    yield from ("## Options of plugins", "")
    for part, kind in SECTIONS.items():
        for name in registry.names(kind):
            parser = Parser("mpcc-run", None, add_help=False)
            cls = registry.entry(kind, name).options_class()
            parser.declare(f"--{part} {name}", cls, part, values=cls and cls())
            yield from flags(parser, f"mpcc-run --{part} {name}")


def plain(text: str) -> str:
    """Return text for Markdown in which no character has another meaning.

    Example:
        >>> plain("q(y|x) in *.npy")
        'q(y\\|x) in \\*.npy'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)
