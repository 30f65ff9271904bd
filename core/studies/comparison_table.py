"""A comparison of runs as tables: texts for the terminal, values for a file, and what a reader has to know besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mpcc.core.config import flag
from mpcc.core.errors import unknown_name
from mpcc.core.storage.table_formats import FORMATS
from mpcc.core.studies.compared_run import Setting
from mpcc.core.studies.run_groups import FOLLOWING, RunGroup, differing, image_sets
from mpcc.core.studies.seed_list import as_ranges
from mpcc.core.studies.spread import spreads
from mpcc.core.system.file_names import printable
from mpcc.core.system.whole_files import new_file

__all__ = ["LAST", "chosen_scores", "name_of", "notes", "shown_table", "title_of", "write_table"]

# The last column of the terminal's table: warnings, or why a run has no scores.
LAST = "remarks"
# The columns of a file that are not named after a setting or a score, with the types of their values.
BEFORE = {"run": str, "runs": int, "seeds": str}
AFTER = {"iterations": float, "minutes": float, "clusters_used": float, "clusters": int}
END = {"warnings": str, "problem": str}
# Names that a column of a score may not have; the formats write the last two with a fixed number of digits.
TAKEN = {*BEFORE, *AFTER, *END, LAST, "clusters used", "confidence", "reconstruction_error"}


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


def title_of(score: str) -> str:
    """Return the title of a score's column: its name, unless another column has it.

    Example:
        >>> title_of("acc"), title_of("iterations")
        ('acc', 'metrics.iterations')
    """
    return f"metrics.{score}" if score in TAKEN else score


def name_of(group: RunGroup) -> str:
    """Return the name of a row: the run folder, or the folder of several seeds."""
    first, *others = group.runs
    folders = {run.folder.parent for run in group.runs}
    if others and len(folders) == 1 and all(run.folder.name == f"seed-{run.seed}" for run in group.runs):
        return printable(str(first.folder.parent))
    return printable(str(first.folder)) + (f" and {len(others)} more" if others else "")


def shown_table(groups: Sequence[RunGroup], scores: Sequence[str], settings: Sequence[Setting]) -> dict[str, list[str]]:
    """Return the columns of the terminal's table: a title and a text for each group.

    Arguments:
        groups: The runs.
        scores: Those that are compared.
        settings: Those that are shown.
    """
    columns: dict[str, Callable[[RunGroup], str]] = {"run": name_of}
    columns |= {flag(*each): partial(shown_setting, setting=each) for each in settings}
    columns |= {
        "seeds": seeds_text,
        "iterations": partial(quantity_text, name="iterations", form="{:,.0f}"),
        "minutes": partial(quantity_text, name="minutes", form="{:.2f}"),
        "clusters used": used_text,
    }
    columns |= {title_of(name): partial(score_text, name=name) for name in scores}
    columns[LAST] = remarks
    return {title: [text(group) for group in groups] for title, text in columns.items()}


def shown_setting(group: RunGroup, setting: Setting) -> str:
    """Return a value of a setting, or nothing."""
    return setting_text(group, setting) or ""


def seeds_text(group: RunGroup) -> str:
    """Return the seeds, as `mpcc-run --seeds` takes them."""
    return ",".join(as_ranges(group.seeds))


def quantity_text(group: RunGroup, name: str, form: str) -> str:
    """Return mean and standard deviation of a quantity."""
    return spread_text(group.quantities().get(name), form, 1)


def score_text(group: RunGroup, name: str) -> str:
    """Return mean and standard deviation of a score."""
    return spread_text(group.spreads().get(name), "{:.3f}", len(group.runs))


def setting_text(group: RunGroup, setting: Setting) -> str | None:
    """Return the value of a setting, or those of the runs if minutes have set it; None if there is none."""
    values = [group.settings[setting]] if setting in group.settings else []
    for run in () if values else group.runs:
        values.append({**run.settings, **run.others}.get(setting))
    texts = dict.fromkeys(text for value in values if (text := value_text(value)) is not None)
    return " or ".join(texts) or None


def value_text(value: Any) -> str | None:
    """Return a value as a user writes it; None if there is none."""
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
    used = quantity_text(group, "used", "{:.3g}")
    return used if group.runs[0].clusters is None else f"{used} of {group.runs[0].clusters}"


def remarks(group: RunGroup) -> str:
    """Return why there are no scores of the end, and the names of the warnings, with how many runs have them."""
    several = len(group.runs) > 1
    warnings = ", ".join(
        name + (f" ({count} of {len(group.runs)})" if several else "") for name, count in group.warnings().items()
    )
    return "; ".join(filter(None, (printable(group.problem or ""), warnings)))


def notes(groups: Sequence[RunGroup], scores: Sequence[str], settings: Sequence[Setting]) -> list[str]:
    """Return lines below the table: which settings it leaves out, which runs saw different images, the baseline.

    Arguments:
        groups: The runs.
        scores: The scores that are compared.
        settings: The settings that are shown.
    """
    by_minutes = any(("run", "minutes") in group.settings for group in groups)
    everything = differing(groups, everything=True) if by_minutes else ()
    hidden = [each for each in everything if each in FOLLOWING and each not in settings]
    lines = [f"--all-settings shows {', '.join(flag(*each) for each in hidden)}, too"] if hidden else []
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


def write_table(groups: Sequence[RunGroup], scores: Sequence[str], settings: Sequence[Setting], path: Path) -> None:
    """Write the comparison as a table, a row for each group; the ending of the name is that of a format.

    A group of several runs has means, and for each score its standard deviation in a column ``NAME_sd``.

    Arguments:
        groups: The runs.
        scores: Those that are compared.
        settings: Those that are written.
        path: A new file.

    Raises:
        InvalidInput: If the file cannot be written.
    """
    titles = {name: title_of(name) for name in scores}
    types: dict[str, type] = {**BEFORE, **{flag(*each): str for each in settings}, **AFTER}
    types.update({title: float for name in scores for title in (titles[name], f"{titles[name]}_sd")})
    types.update(END)
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
