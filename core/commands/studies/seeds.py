"""``mpcc-run --seeds``: what a comparison of seeds will do, and what came of it, in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mpcc.core.config import RunConfig
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, PluginError
from mpcc.core.registry import Registry
from mpcc.core.reporting.pace import counted
from mpcc.core.studies.seed_list import comparison_at, work_in_runs
from mpcc.core.studies.seed_record import SeedRecord
from mpcc.core.studies.seed_tables import lines, scores_in_words
from mpcc.core.system.output_streams import quoted

__all__ = ["go_on_with_seeds", "plan_of_seeds", "train_seeds"]


def plan_of_seeds(config: RunConfig, seeds: Sequence[int], part: float) -> str:
    """Return in words what a comparison of seeds will do.

    Arguments:
        config: The configuration of every run. Its minutes are those of the whole comparison.
        seeds: The seeds.
        part: The share of a run that each of them gets.
    """
    named = ", ".join(map(str, seeds[:10])) + (" and others" if len(seeds) > 10 else "")
    then = "" if part == 1 else ", then the best one to the end"
    if config.run.minutes is not None:
        minutes = counted(config.run.minutes, "minute")
        return f"{len(seeds)} seeds ({named}) in {minutes}: each for {part:g} of its iterations{then}"
    iterations = config.run.iterations
    at = comparison_at(iterations, part)
    cost = work_in_runs(len(seeds), at / iterations)
    return (
        f"{len(seeds)} seeds ({named}): each for {at} of {iterations} iterations{then}; "
        f"{cost:.3g} times the work of one run"
    )


def train_seeds(
    registry: Registry,
    config: RunConfig,
    out: Path | None,
    seeds: Sequence[int],
    part: float,
    *,
    train_all: bool,
    began: float,
) -> int:
    """Compare seeds; print what came of it, and return the exit status.

    Arguments:
        registry: The plugins.
        config: The configuration of every run. Its minutes are those of the whole comparison.
        out: The folder that the user named, if any.
        seeds: The seeds.
        part: The share of a run after which they are compared.
        train_all: Whether all are trained to the end.
        began: The monotonic clock's time at which the command began.
    """
    # The checks above do not need torch; the imports below load it.
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.studies.seed_study import compare_seeds

    print(plan_of_seeds(config, seeds, part), file=sys.stderr)
    folder = RunFolder.plan(out, config)
    return told(
        lambda: compare_seeds(registry, config, folder, seeds, part, train_all=train_all, began=began),
        lambda: folder.path,
        warm=config.run.init_from is not None,
    )


def go_on_with_seeds(registry: Registry, config: RunConfig, out: Path | None, resume: Path, *, train_all: bool) -> int:
    """Go on with a comparison of seeds; print what came of it, and return the exit status.

    Arguments:
        registry: The plugins.
        config: The configuration of every run.
        out: Must be None.
        resume: The folder of the comparison.
        train_all: Whether all are trained to the end from now on.

    Raises:
        InvalidInput: If another folder is named.
    """
    if out is not None:
        raise InvalidInput("--resume writes into the run's own folder: leave out --out")
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.studies.seed_study import continue_seeds

    folder = RunFolder.existing(resume)
    return told(
        lambda: continue_seeds(registry, config, folder, train_all=train_all),
        lambda: folder.path,
        warm=config.run.init_from is not None,
    )


def told(comparison: Callable[[], SeedRecord], place: Callable[[], Path], *, warm: bool) -> int:
    """Carry out a comparison, print what came of it, and return the exit status.

    Arguments:
        comparison: Carries it out.
        place: Returns its folder, which may get its name only when it is made.
        warm: Whether the runs start from the weights of another one.
    """
    from mpcc.core.reporting.verdict import verdict
    from mpcc.core.run.execution import Stopped

    try:
        record = comparison()
    except Stopped as stop:
        print(f"mpcc-run: {stop}", file=sys.stderr)
        return EXIT_INTERRUPTED
    print("\n".join(lines(record)))
    chosen, folder = record.chosen(), place()
    if chosen is not None:
        path = folder / chosen.folder
        print(f"chosen by {record.score}, without labels: seed {chosen.seed}")
        if len(equal := record.best()) > 1:
            print(f"{len(equal)} seeds share the best {record.score}: it cannot tell them apart, the first is taken")
        print(f"{path}: {record.iterations} iterations {scores_in_words(chosen.scores[record.iterations])}".rstrip())
        results = json.loads((path / "results.json").read_text(encoding="utf-8"))
        print(verdict(results, quoted(folder), warm=warm).line)
        print(f"use it: mpcc evaluate {quoted(path)}, mpcc predict {quoted(path)}")
    print(f"all scores: {folder / 'seeds.csv'}, {folder / 'seeds.json'}")
    if chosen is None and record.score is not None and len(record.failed) < len(record.runs):
        print(f"mpcc-run: error: no seed can be chosen: none has a score {record.score}", file=sys.stderr)
        return PluginError.status
    if not record.failed:
        return 0
    names = ", ".join(str(run.seed) for run in record.failed)
    print(
        f"mpcc-run: error: {len(record.failed)} of {len(record.runs)} seeds failed ({names}), see above",
        file=sys.stderr,
    )
    return max(run.status for run in record.failed)
