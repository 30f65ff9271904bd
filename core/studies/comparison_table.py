"""A comparison of runs as tables: texts for the terminal, values for a file, and what a reader has to know besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpcc.core.config import flag
from mpcc.core.errors import unknown_name
from mpcc.core.storage.table_formats import FORMATS
from mpcc.core.studies.run_groups import RunGroup, differing, image_sets
from mpcc.core.studies.seed_list import as_ranges
from mpcc.core.studies.spread import spreads
from mpcc.core.system.file_names import printable
from mpcc.core.system.whole_files import new_file

__all__ = ["LAST", "chosen_scores", "name_of", "notes", "shown_table", "write_table"]

# The last column of the terminal's table: warnings, or why a run has no scores.
LAST = "remarks"
# The columns of a file that are not named after a setting or a score, with the types of their values.
BEFORE = {"run": str, "runs": int, "seeds": str}
AFTER = {"iterations": float, "minutes": float, "clusters_used": float, "clusters": int}
END = {"warnings": str, "problem": str}
# Names that a column of a score may not have; the formats write the last two with a fixed number of digits.
TAKEN = {*BEFORE, *AFTER, *END, "confidence", "reconstruction_error"}


def chosen_scores(groups: Sequence[RunGroup], wanted: str | None) -> list[str]:
    """Return the names of the scores to be compared.

    Arguments:
        groups: The runs.
        wanted: Names separated by commas, of scores or of metrics with several scores such as ``occupancy``; None for
            all scores.

    Raises:
        InvalidInput: If runs have scores, and none has this one.
    """
    known = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.scores))
    if wanted is None or not known:
        return known
    chosen: list[str] = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        found = [each for each in known if each == name] or [each for each in known if each.startswith(f"{name}_")]
        if not found:
            raise unknown_name("score in --metrics", name, known)
        chosen += found
    if not chosen:
        raise unknown_name("score in --metrics", wanted, known)
    return list(dict.fromkeys(chosen))


def name_of(group: RunGroup) -> str:
    """Return the name of a row: the run folder, or the folder of several seeds."""
    first, *others = group.runs
    folders = {run.folder.parent for run in group.runs}
    if others and len(folders) == 1 and all(run.folder.name == f"seed-{run.seed}" for run in group.runs):
        return printable(str(first.folder.parent))
    return printable(str(first.folder)) + (f" and {len(others)} more" if others else "")


def shown_table(groups: Sequence[RunGroup], scores: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of the terminal's table: a title and a text for each group."""
    settings = differing(groups)
    columns: dict[str, Callable[[RunGroup], str]] = {"run": name_of}
    columns |= {flag(*each): lambda group, each=each: setting_text(group, each) or "" for each in settings}
    columns["seeds"] = lambda group: ",".join(as_ranges(group.seeds))
    columns |= {
        "iterations": lambda group: spread_text(group.quantities().get("iterations"), "{:,.0f}", 1),
        "minutes": lambda group: spread_text(group.quantities().get("minutes"), "{:.2f}", 1),
        "clusters used": used_text,
    }
    columns |= {
        name: lambda group, name=name: spread_text(group.spreads().get(name), "{:.3f}", len(group.runs))
        for name in scores
    }
    columns[LAST] = remarks
    return {title: [text(group) for group in groups] for title, text in columns.items()}


def setting_text(group: RunGroup, setting: tuple[str, str]) -> str | None:
    """Return a value of a setting as a user writes it; None if there is none."""
    value = group.settings.get(setting)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return None if value is None else f"{value:g}" if isinstance(value, float) else printable(str(value))


def spread_text(spread: Mapping[str, Any] | None, form: str, runs: int) -> str:
    """Return mean and standard deviation, or a single value.

    Arguments:
        spread: From `spreads`; None if there is no value.
        form: How a number is written.
        runs: How many runs there are; if fewer have the value, the text says how many.

    Example:
        >>> spread_text({"mean": 0.5, "sd": 0.1, "n": 2}, "{:.2f}", 3), spread_text(None, "{:.2f}", 3)
        ('0.50 +- 0.10 (n=2)', '-')
    """
    if spread is None:
        return "-"
    text = form.format(spread["mean"]).replace("-0.000", "0.000")
    if spread["sd"]:
        text += f" +- {form.format(spread['sd'])}"
    elif spread["n"] > 1 and runs > 1:
        text += f" +- {form.format(0)}"
    return text + (f" (n={spread['n']})" if spread["n"] < runs else "")


def used_text(group: RunGroup) -> str:
    """Return how many clusters have images, of how many."""
    used = spread_text(group.quantities().get("used"), "{:.3g}", 1)
    return used if group.runs[0].clusters is None else f"{used} of {group.runs[0].clusters}"


def remarks(group: RunGroup) -> str:
    """Return why there are no scores, or the names of the warnings, with the number of runs that have them."""
    if group.problem is not None:
        return printable(group.problem)
    several = len(group.runs) > 1
    return ", ".join(
        name + (f" ({count} of {len(group.runs)})" if several else "") for name, count in group.warnings().items()
    )


def notes(groups: Sequence[RunGroup], scores: Sequence[str]) -> list[str]:
    """Return lines below the table: which runs saw different images, and what the baseline reaches.

    Arguments:
        groups: The runs.
        scores: The scores that are compared.
    """
    lines = []
    sets = image_sets(groups)
    if len(sets) > 1:
        parts = [
            f"{', '.join(name_of(group) for group in members)}: {printable(images.description or 'not described')}"
            + (f", {'x'.join(map(str, images.shape))}" if images.shape else "")
            for images, members in sets
        ]
        lines.append(f"The runs saw different images, so their scores cannot be compared: {'; '.join(parts)}")
    for _, members in sets:
        for clusters in dict.fromkeys(group.runs[0].clusters for group in members):
            lines += baseline_lines([group for group in members if group.runs[0].clusters == clusters], scores)
    return lines


def baseline_lines(groups: Sequence[RunGroup], scores: Sequence[str]) -> list[str]:
    """Return a line about the baseline of groups with the same images and as many clusters; none without one."""
    runs = [run for group in groups for run in group.runs]
    found = spreads([{name: value for name, value in run.baseline.items() if name in scores} for run in runs])
    told = [f"{name} {spread_text(each, '{:.3f}', len(runs))}" for name, each in found.items()]
    for group in groups:
        agreement = spreads([{"of": run.agreement} for run in group.runs if run.agreement is not None]).get("of")
        if agreement is not None:
            told.append(f"agreement with {name_of(group)} {spread_text(agreement, '{:.3f}', len(group.runs))}")
    return [f"k-means on the pixels, {runs[0].clusters} clusters: {', '.join(told)}"] if told else []


def write_table(groups: Sequence[RunGroup], scores: Sequence[str], path: Path) -> None:
    """Write the comparison as a table, a row for each group; the ending of the name is that of a format.

    A group of several runs has means, and for each score its standard deviation in a column ``NAME_sd``.

    Raises:
        InvalidInput: If the file cannot be written.
    """
    settings = differing(groups)
    titles = {name: f"metrics.{name}" if name in TAKEN else name for name in scores}
    types = {**BEFORE, **{flag(*each): str for each in settings}, **AFTER}
    types |= {title: float for name in scores for title in (titles[name], f"{titles[name]}_sd")} | END
    columns: dict[str, list[Any]] = {name: [] for name in types}
    for group in groups:
        found, quantities = group.spreads(), group.quantities()
        row: dict[str, Any] = {
            "run": name_of(group),
            "runs": len(group.runs),
            "seeds": ",".join(as_ranges(group.seeds)),
        }
        row |= {flag(*each): setting_text(group, each) for each in settings}
        means = {"iterations": "iterations", "minutes": "minutes", "used": "clusters_used"}
        row |= {title: quantities[name]["mean"] for name, title in means.items() if name in quantities}
        row["clusters"] = group.runs[0].clusters
        for name in scores:
            for title, kind in ((titles[name], "mean"), (f"{titles[name]}_sd", "sd")):
                row[title] = found.get(name, {}).get(kind)
        row |= {"warnings": ",".join(group.warnings()), "problem": group.problem}
        for name, values in columns.items():
            values.append(row.get(name))
    with new_file(path) as file:
        table = FORMATS[path.suffix.lower()](file, types)
        table.write(columns)
        table.close()
