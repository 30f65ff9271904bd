"""What came of a sweep's runs, as tables and as a plot."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.storage.table_formats import write_rows
from mpcc.core.studies.comparison_table import spread_text
from mpcc.core.studies.seed_tables import aligned, blank
from mpcc.core.studies.spread import spreads
from mpcc.core.system.whole_files import whole_file, write_whole

__all__ = ["FINISHED", "SWEEP_RECORD", "SweepRun", "lines", "read_plan", "write_plan", "write_tables"]

SWEEP_RECORD = "sweep.json"
WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"
# Scores that the plot shows, the first ones of the runs.
MOST_PANELS = 4
# Groups of seeds that it shows; more of them are in the table.
MOST_GROUPS = 60


@attrs.frozen
class SweepRun:
    """One run of a sweep.

    Attributes:
        point: The values of the settings that differ, by flag.
        state: ``waiting``, ``running``, ``finished`` or ``failed``.
        scores: By name, if it has finished.
        seconds: Of the run, if it has finished.
        folder: Its run folder, on the machine that carried it out.
        host: That machine.
        error: Why it failed, or None.
        status: The exit status of that failure.
    """

    point: Mapping[str, str]
    state: str
    scores: Mapping[str, float] = attrs.field(factory=dict)
    seconds: float | None = None
    folder: str = ""
    host: str = ""
    error: str | None = None
    status: int = 0


def write_plan(folder: Path, study: str, *, own_storage: bool) -> None:
    """Write ``sweep.json``: which study the folder belongs to.

    Arguments:
        folder: The folder of the sweep.
        study: The name of the study.
        own_storage: Whether the study is in the folder; another address is not written down, it may hold a password.
    """
    content = json.dumps({"study": study, "own_storage": own_storage}, indent=2) + "\n"
    write_whole(folder / SWEEP_RECORD, content.encode())


def read_plan(folder: Path) -> tuple[str, bool]:
    """Return the name of the study of a folder, and whether it is in the folder.

    Raises:
        InvalidInput: If the folder holds no sweep.
    """
    path = folder / SWEEP_RECORD
    try:
        plain = json.loads(path.read_bytes())
        return str(plain["study"]), bool(plain["own_storage"])
    except FileNotFoundError as error:
        raise InvalidInput(
            f"--resume {folder}: expected a folder that mpcc sweep has written, with {SWEEP_RECORD}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is damaged: {error!r}") from error


def groups(runs: Sequence[SweepRun]) -> dict[tuple[tuple[str, str], ...], list[SweepRun]]:
    """Return the runs that differ by their seed alone, by the values of their other settings."""
    found: dict[tuple[tuple[str, str], ...], list[SweepRun]] = {}
    for run in runs:
        found.setdefault(tuple((name, value) for name, value in run.point.items() if name != "seed"), []).append(run)
    return found


def score_names(runs: Sequence[SweepRun]) -> list[str]:
    """Return the names of all scores in their order."""
    return list(dict.fromkeys(name for run in runs for name in run.scores))


def lines(runs: Sequence[SweepRun]) -> list[str]:
    """Return the sweep as lines: a row for each group of seeds, with mean and deviation of each score."""
    names = score_names(runs)
    axes = [name for name in runs[0].point if name != "seed"]
    table = [[*(axes or ["runs"]), "finished", *names]]
    for key, members in groups(runs).items():
        finished = [run for run in members if run.state == FINISHED]
        found = spreads([run.scores for run in finished])
        values = [value for _, value in key] or ["all"]
        scores = [spread_text(found.get(name), "{:.3f}", len(finished)) for name in names]
        table.append([*values, f"{len(finished)} of {len(members)}", *scores])
    text = aligned(table)
    for run in runs:
        if run.state == FAILED:
            named = ", ".join(f"{name} {value}" for name, value in run.point.items())
            text.append(f"failed: {named}: {run.error}")
    counts = {state: sum(run.state == state for run in runs) for state in (RUNNING, WAITING)}
    text += [f"{count} of {len(runs)} runs {state}" for state, count in counts.items() if count]
    return text


def write_tables(folder: Path, runs: Sequence[SweepRun]) -> list[Path]:
    """Write ``sweep.csv`` and, where matplotlib is installed and there are scores, ``sweep.png``; return their paths.

    Raises:
        OSError: If they cannot be written.
    """
    names = score_names(runs)
    table: list[list[Any]] = [[*runs[0].point, "state", *names, "seconds", "host", "folder", "error"]]
    for run in runs:
        scores = [blank(run.scores.get(name)) for name in names]
        end = [blank(run.seconds), run.host, run.folder, run.error or ""]
        table.append([*run.point.values(), run.state, *scores, *end])
    written = [folder / "sweep.csv"]
    with whole_file(written[0]) as file:
        write_rows(file, table)
    picture = drawn(runs, names[:MOST_PANELS])
    if picture is not None:
        written.append(folder / "sweep.png")
        write_whole(written[1], picture)
    return written


def drawn(runs: Sequence[SweepRun], names: Sequence[str]) -> bytes | None:
    """Draw scores of each group: a point for each seed, mean and deviation; None without matplotlib or scores."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    if not names:
        return None
    found = dict(itertools.islice(groups([run for run in runs if run.state == FINISHED]).items(), MOST_GROUPS))
    figure = Figure(figsize=(3.2 * len(names) + 1.5, 1.2 + 0.35 * len(found)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    labels = [", ".join(f"{name} {value}" for name, value in key) or "all" for key in found]
    for panel, name in zip(panels, names, strict=True):
        for height, members in enumerate(found.values()):
            values = [run.scores[name] for run in members if name in run.scores]
            spread = spreads([{name: value} for value in values]).get(name)
            if spread is None:
                continue
            panel.plot(values, [height] * len(values), ".", color="0.6", zorder=1)
            panel.errorbar(spread["mean"], height, xerr=spread["sd"] or 0, fmt="o", color="C0", capsize=3, zorder=2)
        panel.set_title(name)
        panel.set_yticks(range(len(labels)), labels)
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
