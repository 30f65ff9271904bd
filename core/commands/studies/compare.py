"""The command ``mpcc compare``: a table of runs, the settings in which they differ, their scores over seeds."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from mpcc.core.commands.flags import CommandFlags, Parser
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry
from mpcc.core.storage.table_formats import check_format
from mpcc.core.studies.comparison_curves import check_picture, draw_curves
from mpcc.core.studies.comparison_page import write_page
from mpcc.core.studies.comparison_table import LAST, chosen_scores, notes, shown_table, title_of, write_table
from mpcc.core.studies.named_runs import named_runs
from mpcc.core.studies.run_groups import differing, grouped
from mpcc.core.system.whole_files import check_new

__all__ = ["CompareFlags", "compare_runs"]

PURPOSE = (
    "Compare runs: the settings in which they differ, and their scores. Runs that differ only by their seed share a "
    "row, with mean +- standard deviation."
)
UNLIMITED = 10_000
# Between two columns, and the least width of the columns whose texts may be broken.
GAP = 2
BREAKABLE = {"run": 24, LAST: 24}


@attrs.frozen(slots=False)
class CompareFlags(CommandFlags):
    """The command's flags."""

    run: tuple[Path, ...] = option(
        (), "run folders, folders of seeds, or quoted patterns such as 'runs/*'; any number", positional=True
    )
    metrics: str | None = option(None, "scores to compare, separated by commas; by default all")
    all_settings: bool = option(
        False, "show settings that differ because --minutes has set them, or that no score depends on, too"
    )
    out: Path | None = option(None, "new file for the table: .csv, .jsonl or .parquet")
    html: Path | None = option(
        None, "new page for a browser, .html: the table, curves of the scores, links to the reports of the runs"
    )
    curves: Path | None = option(
        None, "new picture of the scores over the iterations: .png, .svg or .pdf; needs matplotlib (extra plots)"
    )


def compare_runs(words: list[str]) -> int:
    """Execute ``mpcc compare`` and return the exit status."""
    flags = Parser("mpcc compare", PURPOSE, "RUN ... [flags]").read_own(words, CompareFlags)
    if not flags.run:
        raise InvalidInput("RUN: expected run folders, such as 'runs/*', got nothing")
    check_outputs(flags)
    groups = grouped(named_runs(flags.run))
    scores = chosen_scores(groups, flags.metrics)
    settings = differing(groups, everything=flags.all_settings)
    if flags.out is not None:
        write_table(groups, scores, settings, flags.out)
    if flags.html is not None:
        write_page(groups, scores, settings, load_registry().summaries("metric"), flags.html)
    if flags.curves is not None:
        draw_curves(groups, scores, flags.curves)
    print_table(shown_table(groups, scores, settings), [title_of(name) for name in scores])
    for line in notes(groups, scores, settings):
        print(line)
    for path in (flags.out, flags.html, flags.curves):
        if path is not None:
            print(path)
    return 0


def check_outputs(flags: CompareFlags) -> None:
    """Check that the files can be written under their names.

    Raises:
        InvalidInput: With the flag and the name.
    """
    for flag, path in {"--out": flags.out, "--html": flags.html, "--curves": flags.curves}.items():
        if path is None:
            continue
        check_new(path, flag, "file")
        if not path.absolute().parent.is_dir():
            raise InvalidInput(f"{flag} {path} cannot be written: {path.absolute().parent} is not a folder")
    if flags.out is not None:
        check_format(flags.out, "--out")
    if flags.html is not None and flags.html.suffix.lower() not in (".html", ".htm"):
        nearest = flags.html.with_suffix(".html") if flags.html.name else "comparison.html"
        raise InvalidInput(
            f"--html {flags.html}: expected a name that ends in .html (nearest valid choice: --html {nearest})"
        )
    if flags.curves is not None:
        check_picture(flags.curves, "--curves")


def print_table(columns: Mapping[str, Sequence[str]], scores: Sequence[str]) -> None:
    """Print a table as wide as the terminal; into a file or a pipe, one line for each row.

    ``$COLUMNS`` sets another width. Scores for which a terminal is too narrow are left out, and a line names them. If
    it is too narrow even so, each row is a paragraph, with all scores.

    Arguments:
        columns: Texts by title.
        scores: The columns that may be left out.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else UNLIMITED
    # Names of folders may hold "[/]", which is markup for rich.
    console = Console(width=width, highlight=False, markup=False)
    shown = fitting(columns, scores, console.width)
    if not shown:
        print("\n".join(paragraphs(columns, console.width)))
        return
    table = Table(box=None, pad_edge=False)
    for title in shown:
        table.add_column(
            title, no_wrap=title not in BREAKABLE, overflow="fold", justify="right" if title in scores else "left"
        )
    for row in zip(*(columns[title] for title in shown), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
    missing = [name for name in scores if name not in shown]
    if missing:
        print(f"too wide for {', '.join(missing)}: choose scores with --metrics, or write all with --out table.csv")


def fitting(columns: Mapping[str, Sequence[str]], scores: Sequence[str], width: int) -> list[str]:
    """Return the titles of the columns that fit into a width; nothing if not even the first score fits.

    Example:
        >>> columns = {"run": ["a"], "acc": ["0.5"], "nmi": ["0.4"]}
        >>> [fitting(columns, ["acc", "nmi"], width) for width in (13, 9, 5)]
        [['run', 'acc', 'nmi'], ['run', 'acc'], []]
    """
    widths = {title: max(len(title), *map(len, texts)) + GAP for title, texts in columns.items()}
    widths |= {title: min(widths[title], most + GAP) for title, most in BREAKABLE.items() if title in widths}
    shown = list(columns)
    for name in (*reversed(scores[1:]), None):
        if sum(widths[title] for title in shown) - GAP <= width:
            return shown
        if name is not None:
            shown.remove(name)
    return []


def paragraphs(columns: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Return rows as paragraphs: the first column is a line, the others follow below it with their titles.

    Example:
        >>> paragraphs({"run": ["a"], "--lr": ["0.1"], "acc": ["0.5 +- 0.1"]}, 20)
        ['a', '  --lr 0.1', '  acc 0.5 +- 0.1']
    """
    first, *titles = columns
    lines = []
    for number, name in enumerate(columns[first]):
        items = [f"{title} {text}" for title in titles if (text := columns[title][number]) not in ("", "-")]
        # Text is broken between two items only, unless one is wider than a line.
        solid = "; ".join(item.replace(" ", "\0") for item in items)
        broken = textwrap.wrap(
            solid, width, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        lines += [name, *(line.replace("\0", " ").rstrip("; ") for line in broken)]
    return lines
