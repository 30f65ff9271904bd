"""The runs that a user names for a comparison: run folders, folders of seeds, patterns such as ``runs/*``."""

from __future__ import annotations

import difflib
import glob
import logging
from collections.abc import Sequence
from pathlib import Path

from mpcc.core.errors import InvalidInput
from mpcc.core.studies.compared_run import UNFINISHED, ComparedRun, read_run
from mpcc.core.studies.count_record import CountRecord, compares_counts
from mpcc.core.studies.seed_record import SeedRecord, compares_seeds
from mpcc.core.system.file_names import printable

__all__ = ["named_runs"]

logger = logging.getLogger(__name__)


def named_runs(words: Sequence[Path]) -> list[ComparedRun]:
    """Read all runs that the user's words stand for, in their order, each once.

    Arguments:
        words: Run folders, folders of seeds, or patterns of these.

    Raises:
        InvalidInput: If a word does not stand for a run.
    """
    found: dict[Path, ComparedRun] = {}
    for word in words:
        for folder in folders_of(word):
            for run in runs_in(folder):
                found.setdefault(run.folder.resolve(), run)
    return list(found.values())


def folders_of(word: Path) -> list[Path]:
    """Return the folders that a word stands for; a pattern stands for the matches that hold runs.

    Raises:
        InvalidInput: If there are none.
    """
    try:
        there = word.exists()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"RUN {str(word)!r}: cannot be read: {error}") from error
    if not there and glob.has_magic(str(word)):
        matches = [Path(name) for name in sorted(glob.glob(str(word), recursive=True))]  # noqa: PTH207
        if folders := [match for match in matches if holds_runs(match)]:
            return folders
        found = "what matches holds no run" if matches else "nothing matches"
        raise InvalidInput(f"RUN {str(word)!r}: {found}; expected run folders, such as 'runs/*'")
    if there and holds_runs(word):
        return [word]
    raise no_run(word, there=there)


def no_run(word: Path, *, there: bool) -> InvalidInput:
    """Make the error for a word that does not stand for a run, with what may have been meant.

    Arguments:
        word: The user's word.
        there: Whether there is something of that name.
    """
    expected = "expected a run folder, with config.toml, or a folder of seeds, with seeds.json"
    if not there:
        beside = [path.name for path in sorted_entries(word.parent)]
        close = difflib.get_close_matches(word.name, beside, n=1, cutoff=0.6)
        near = f": did you mean {str(word.with_name(close[0]))!r}?" if close else ""
        return InvalidInput(f"RUN {str(word)!r}: no such folder{near} ({expected})")
    inside = [path for path in sorted_entries(word) if holds_runs(path)]
    near_runs = any(holds_runs(path) for path in sorted_entries(word.parent))
    near = f" (nearest valid choice: '{word}/*')" if inside else ""
    if near_runs and not inside:
        near = f"; in quotes, the pattern '{word.parent / '*'}' stands for the runs only"
    what = "this folder does not hold a run" if word.is_dir() else "this is a file"
    return InvalidInput(f"RUN {str(word)!r}: {what}: {expected}{near}")


def sorted_entries(folder: Path) -> list[Path]:
    """Return what is in a folder, by name; nothing if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def holds_runs(folder: Path) -> bool:
    """Return whether a folder holds a run or compares seeds."""
    try:
        return (folder / "config.toml").is_file() or compares_seeds(folder) or compares_counts(folder)
    except OSError:
        return False


def runs_in(folder: Path) -> list[ComparedRun]:
    """Return the run in a folder, those of its seeds, or those of its numbers of clusters.

    Raises:
        InvalidInput: If it is a folder of seeds without any run.
    """
    if compares_counts(folder):
        inside = [folder / count.folder for count in CountRecord.read(folder).counts]
        return [run for each in inside if compares_seeds(each) for run in runs_in(each)]
    if not compares_seeds(folder):
        return [read_run(folder)]
    left: dict[str, str] = {}
    try:
        record = SeedRecord.read(folder)
    except InvalidInput as error:
        logger.warning("%s; its runs are compared all the same", error)
        names = [path.name for path in sorted_entries(folder)]
        failures: dict[str, str | None] = dict.fromkeys(name for name in names if name.startswith("seed-"))
    else:
        failures = {run.folder: run.error for run in record.runs}
        chosen = record.chosen()
        if chosen is not None and record.state_of(chosen) == "finished" and not record.train_all:
            part = [run for run in record.runs if record.state_of(run) == "compared"]
            left = {run.folder: "trained for a part, not chosen" for run in part}
    runs = [
        read_run(folder / name, error, left.get(name, UNFINISHED))
        for name, error in failures.items()
        if holds_runs(folder / name)
    ]
    if not runs:
        raise InvalidInput(f"RUN {printable(str(folder))!r}: this folder of seeds holds no run yet")
    return runs
