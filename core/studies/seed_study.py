"""The course of a comparison of seeds.

Each seed is trained for a part of its run and evaluated there. The one with the best score that needs no labels is then
resumed, so that it ends with the bits of a plain run of that seed. Every step size depends on the iterations of the
whole run, and a shorter run would be another one.

All runs take place one after another in one process, each in a folder of its own. A run that fails is recorded, and the
others go on.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from mpcc.core.config import RunConfig
from mpcc.core.errors import InvalidInput, PluginError, TrainingDiverged
from mpcc.core.evaluation.findings import feature_request
from mpcc.core.registry import Registry
from mpcc.core.run.run import Run
from mpcc.core.run.whole_run import carry_out
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.studies.seed_list import comparison_at, work_in_runs
from mpcc.core.studies.seed_record import SeedRecord, SeedRun
from mpcc.core.studies.seed_tables import rows
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.resources import disk_errors

__all__ = ["compare_seeds", "continue_seeds"]

logger = logging.getLogger(__name__)


def compare_seeds(
    registry: Registry,
    config: RunConfig,
    folder: RunFolder,
    seeds: Sequence[int],
    part: float,
    *,
    train_all: bool,
    began: float | None = None,
    finish: bool = True,
) -> SeedRecord:
    """Compare seeds in a new folder.

    Arguments:
        registry: The plugins.
        config: The configuration of every run; its seed does not matter. Minutes are those of the whole comparison: the
            first run measures what its share comes to, and all others take its number of iterations.
        folder: Planned; each seed gets a run folder in it.
        seeds: At least one.
        part: The share of a run after which seeds are compared, unless all are trained to the end.
        train_all: Whether all are trained to the end.
        began: The monotonic clock's time from which minutes count; by default now.
        finish: Whether the chosen seed is trained to its end. If not, `continue_seeds` does that later.

    Returns:
        What came of each.

    Raises:
        Stopped: If the user has stopped it, with everything saved.
        InvalidInput: If no run can begin, or nothing can be chosen; nothing is left then.
        OutOfResources: If memory or disk space ran out.
    """
    record = SeedRecord(
        runs=[SeedRun(seed) for seed in seeds],
        iterations=config.run.iterations,
        compared_at=comparison_at(config.run.iterations, part),
        train_all=train_all,
        score=None,
        higher=True,
        label_scores={},
    )
    return _Comparison(registry, config, folder, record, part, began, finish=finish).carry_out()


def continue_seeds(
    registry: Registry, config: RunConfig, folder: RunFolder, *, train_all: bool, finish: bool = True
) -> SeedRecord:
    """Go on with a comparison; seeds that are done, or have diverged, are not trained again.

    Arguments:
        registry: The plugins.
        config: The configuration from the folder.
        folder: An existing one.
        train_all: Whether to train all seeds to the end from now on.
        finish: Whether the chosen seed is trained to its end.

    Returns:
        What came of each seed.

    Raises:
        Stopped: As for `compare_seeds`.
        InvalidInput: If the record cannot be read, or the runs are to end earlier than before.
        OutOfResources: As for `compare_seeds`.
    """
    record = SeedRecord.read(folder.path)
    if config.run.iterations < record.iterations:
        raise InvalidInput(
            f"--iterations {config.run.iterations}: the seeds in {folder.path} are trained to {record.iterations}: "
            f"nearest valid choice: --iterations {record.iterations}"
        )
    record.iterations = config.run.iterations
    record.train_all = record.train_all or train_all
    for run in record.runs:
        if not run.final:
            # A plugin may have been repaired, or images put back.
            run.error, run.status = None, 0
    return _Comparison(registry, config, folder, record, None, finish=finish).carry_out()


class _Comparison:
    """The part of a comparison that one process carries out.

    Arguments:
        registry: The plugins.
        config: The configuration of every run.
        folder: The folder of all runs.
        record: What came of each so far.
        part: The share of a run after which seeds are compared; None for a comparison that has begun.
        began: The monotonic clock's time from which minutes count; by default now.
        finish: Whether the chosen seed is trained to its end.
    """

    def __init__(
        self,
        registry: Registry,
        config: RunConfig,
        folder: RunFolder,
        record: SeedRecord,
        part: float | None,
        began: float | None = None,
        *,
        finish: bool,
    ) -> None:
        self.registry = registry
        self.config = config
        self.folder = folder
        self.record = record
        self.part = part
        self.began = began
        self.finish = finish
        # Whether a run that was to be assembled has been.
        self._assembled = True

    def carry_out(self) -> SeedRecord:
        """Train what is to be trained; see `compare_seeds`."""
        with contextlib.ExitStack() as self.held:
            if self.part is None:
                self.held.enter_context(self.folder.locked())
                self._save()
            for run in self.record.runs:
                self._train(run, lambda: self.record.counted_at)
            # If the chosen run fails on its way to the end, the next best one takes its place.
            while self.finish and (chosen := self.record.chosen()) and self.record.iterations not in chosen.scores:
                logger.info("seed %d is chosen by %s, without labels", chosen.seed, self.record.score)
                self._train(chosen, lambda: self.record.iterations)
        return self.record

    def _train(self, run: SeedRun, end: Callable[[], int]) -> None:
        """Train one seed to an iteration, unless it has been there or has failed; record what came of it.

        Arguments:
            run: The seed.
            end: Returns the iteration; the first run of a comparison may settle it.
        """
        if run.error is not None or end() in run.scores:
            return
        path, self._assembled = self.folder.path / run.folder, True
        number = 1 + self.record.runs.index(run)
        try:
            if path.is_dir() and self._take_scores(run, path, end()):
                return
            logger.info("seed %d (%d of %d)", run.seed, number, len(self.record.runs))
            folder = RunFolder.existing(path) if path.is_dir() else RunFolder.plan(path, self.config)
            self._carry_out(run, folder, end)
        except (TrainingDiverged, InvalidInput) as error:
            # What cannot be assembled for one seed, such as images that are gone, cannot be for any other.
            if not self.folder.kept or (type(error) is InvalidInput and not self._assembled):
                raise
            run.error, run.status = " ".join(str(error).split()), error.status
            run.final = isinstance(error, TrainingDiverged)
            logger.warning("seed %d failed: %s", run.seed, run.error)
        self._save()
        # Networks and optimizers refer to each other; two runs need not fit into memory.
        gc.collect()

    def _carry_out(self, run: SeedRun, folder: RunFolder, end: Callable[[], int]) -> None:
        config = attrs.evolve(self.config, run=attrs.evolve(self.config.run, seed=run.seed))
        self._assembled = False
        folder.belongs_to(self.folder)
        resumed = folder.kept

        def assembled(whole: Run) -> int:
            self._assembled = True
            if self.part is not None:
                self._begin(whole, self.part)
                folder.path = self.folder.path / run.folder
                folder.belongs_to(self.folder)
            return end()

        try:
            results = carry_out(
                self.registry,
                config,
                folder,
                resumed=resumed,
                pause=assembled,
                began=self.began,
                runs=1.0 if self.part is None else work_in_runs(len(self.record.runs), self.part, finish=self.finish),
            )
        except BaseException as error:
            if folder.kept:
                self.folder.keep()
            elif self.folder.kept and isinstance(error, KeyboardInterrupt):
                line = f"seed {run.seed} had not begun; continue with: {self.folder.resume_line}"
                raise KeyboardInterrupt(line) from error
            elif not self.folder.kept and self.part is None:
                # Nothing has been trained yet.
                self.folder.discard()
            raise
        self.folder.keep()
        run.scores[int(results["iterations"])] = {name: float(value) for name, value in results["metrics"].items()}

    def _begin(self, first: Run, part: float) -> None:
        """Make the folder, now that the first run is known to be possible, and settle what all runs share.

        Raises:
            InvalidInput: If there is no score to choose by.
        """
        # All runs take the values that "auto" stood for in the first one.
        self.config, record = first.config, self.record
        settings = self.config.run
        record.iterations = settings.iterations
        record.compared_at = comparison_at(settings.iterations, part)
        if first.best is not None:
            record.score, record.higher = first.best.name, first.best.higher
        elif not record.train_all:
            raise InvalidInput(
                f"--seeds needs a score without labels to choose by, and --best-by {settings.best_by} gives none here: "
                "expected one of the computed scores, such as --best-by kept_information, or --all"
            )
        request = feature_request(settings)
        record.label_scores = {
            score: direction == "higher"
            for name, metric in first.metrics.items()
            if metric.needs_labels
            for score, direction in metric.scores(name, request).items()
            if direction != "neither"
        }
        self.folder.create()
        self.part = None
        self.held.enter_context(self.folder.locked())
        self._save()

    def _take_scores(self, run: SeedRun, path: Path, end: int) -> bool:
        """Take the scores of a run that has been trained so far already, by a process that could not record them.

        Returns:
            Whether it has.

        Raises:
            InvalidInput: If the run has gone past the iteration without an evaluation there, or its last scores could
                not be written.
        """
        try:
            state = KeptCheckpoints(path / "checkpoints").load()[0]
        except InvalidInput:
            # To resume says what is wrong.
            return False
        done = -1 if state is None else int(state["iteration"])
        scores = evaluation_at(RunFolder(path).metrics, end)
        if done < end:
            return False
        if scores is None and done > end:
            raise InvalidInput(
                f"{path} has been trained to iteration {done} and has no scores of iteration {end}, where seeds are "
                f"compared: delete it, then: {self.folder.resume_line}"
            )
        if scores is None and end == self.record.iterations:
            last = path / "checkpoints" / "last.pt"
            raise InvalidInput(
                f"{path} has a checkpoint of its end, and no scores of it: free space and delete {quoted(last)}, then: "
                f"{self.folder.resume_line}"
            )
        if scores is None:
            return False
        run.scores[end] = scores
        self._save()
        return True

    def _save(self) -> None:
        """Write configuration, table and record, the record last.

        Raises:
            OutOfResources: If there is no room; a resumed comparison finds the scores in the run folders.
            PluginError: If a score is no finite number.
        """
        with disk_errors(f"{self.folder.path} could not be written"):
            self.folder.write_config(self.config)
            self.folder.write_table("seeds", rows(self.record))
            try:
                self.record.write(self.folder.path)
            except ValueError as error:
                raise PluginError(f"a score is not a finite number: {error}") from error


def evaluation_at(metrics: Path, iteration: int) -> dict[str, float] | None:
    """Return the scores of an iteration from ``metrics.jsonl``, or None if it has none or cannot be read."""
    try:
        for line in metrics.read_text(encoding="utf-8").splitlines():
            evaluation = json.loads(line)
            if evaluation["iteration"] == iteration:
                return {str(name): float(value) for name, value in evaluation["metrics"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None
