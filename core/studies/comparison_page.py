"""A comparison of runs as a page for a browser: the table, curves of the scores, and links to the reports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from mpcc.core.report.charts import Panel, hue, panel
from mpcc.core.report.pages import rendered
from mpcc.core.report.report_page import REPORT_FILE, meaning_of
from mpcc.core.studies.compared_run import Setting
from mpcc.core.studies.comparison_curves import curves_of, label_of
from mpcc.core.studies.comparison_table import notes, shown_table, title_of
from mpcc.core.studies.run_groups import RunGroup
from mpcc.core.system.file_names import printable
from mpcc.core.system.whole_files import new_file

__all__ = ["write_page"]


def write_page(
    groups: Sequence[RunGroup],
    scores: Sequence[str],
    settings: Sequence[Setting],
    meanings: Mapping[str, str],
    path: Path,
) -> None:
    """Write the comparison as one page, which loads nothing.

    Arguments:
        groups: The runs.
        scores: Those that are compared.
        settings: Those that are shown.
        meanings: What each metric says, in a phrase, by its name.
        path: A new file.

    Raises:
        InvalidInput: If the file cannot be written.
    """
    shown, first = shown_table(groups, scores, settings), [title_of(name) for name in scores]
    # Scores first: on a narrow screen, settings may be out of sight.
    order = [next(iter(shown)), *first, *list(shown)[1:]]
    columns = {title: shown[title] for title in order}
    explained = [(name, meaning) for name in scores if (meaning := meaning_of(name, meanings))]
    page = rendered(
        "comparison.html",
        titles=list(columns),
        numbers=set(first),
        rows=list(zip(*columns.values(), strict=True)),
        links=[reports(group, path) for group in groups],
        hues=[hue(number) for number in range(len(groups))],
        labels=[label_of(group, groups) for group in groups],
        notes=notes(groups, scores, settings),
        explained=explained,
        panels=panels(groups, scores),
    )
    with new_file(path) as file:
        file.write(page)


def reports(group: RunGroup, page: Path) -> list[tuple[str, str]]:
    """Return the runs of a group that have a report: the name of the folder, and the address from the page's folder."""
    found = []
    for run in group.runs:
        report = run.folder / REPORT_FILE
        if report.is_file():
            address = os.path.relpath(report.absolute(), page.absolute().parent)
            found.append((printable(run.folder.name), quote(os.fsencode(address.replace(os.sep, "/")))))
    return found


def panels(groups: Sequence[RunGroup], scores: Sequence[str]) -> list[Panel]:
    """Return a panel for each score, with a curve for each run; the runs of a group have one colour."""
    lines = [(number, curves) for number, group in enumerate(groups) for curves in curves_of(group, scores)]
    found = []
    for score in scores:
        drawn = [(number, curves[score]) for number, curves in lines if score in curves]
        if drawn:
            found.append(panel(score, drawn))
    return found
