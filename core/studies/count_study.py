"""The course of a comparison of numbers of clusters.

Each number is a comparison of seeds in a folder of its own (`mpcc.core.studies.seed_study`), which ends where the seeds
are compared. ``mpcc-run --resume`` on that folder then trains its best seed to the end, with the bits of a plain run.
The largest number comes first: it needs the most memory, and a mistake shows before anything has been trained.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import attrs

from mpcc.core.config import Layer, RunConfig, read_config
from mpcc.core.config.time_budget import SET_BY_MINUTES
from mpcc.core.errors import InvalidInput, TrainingDiverged
from mpcc.core.registry import Registry
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.studies.count_record import Count, CountRecord, Stability, clusters_of_images, iteration_of, stability_of
from mpcc.core.studies.count_tables import rows
from mpcc.core.studies.seed_record import SeedRecord, compares_seeds
from mpcc.core.studies.seed_study import compare_seeds, continue_seeds
from mpcc.core.system.resources import disk_errors

__all__ = ["compare_counts", "continue_counts"]

logger = logging.getLogger(__name__)

COMMAND = "mpcc choose-k"
# So many iterations is the least after which stability has told numbers apart.
ENOUGH = 400


def compare_counts(
    registry: Registry,
    config: RunConfig,
    folder: RunFolder,
    counts: Sequence[int],
    seeds: Sequence[int],
    part: float,
    *,
    began: float | None = None,
) -> CountRecord:
    """Compare numbers of clusters in a new folder.

    Arguments:
        registry: The plugins.
        config: The configuration of every run; its number of clusters and its seed do not matter. Minutes are those of
            the whole comparison: the first number measures what its share comes to, and the others take that.
        folder: Planned; each number gets a folder of seeds in it.
        counts: At least two, in ascending order.
        seeds: At least two.
        part: The share of a run after which everything is compared.
        began: The monotonic clock's time from which minutes count; by default now.

    Returns:
        What came of each.

    Raises:
        Stopped: If the user has stopped it, with everything saved.
        InvalidInput: If the largest number cannot begin; nothing is left then.
        TrainingDiverged: If all seeds of a number diverge before anything is saved.
        OutOfResources: If memory or disk space ran out.
    """
    record = CountRecord([Count(number) for number in counts], tuple(seeds), part)
    folder.create()
    folder.command = COMMAND
    try:
        with folder.locked():
            return _Comparison(registry, config, folder, record, began).carry_out()
    finally:
        folder.discard()


def continue_counts(registry: Registry, config: RunConfig, folder: RunFolder) -> CountRecord:
    """Go on with a comparison; what has been compared is not trained again.

    Arguments:
        registry: The plugins.
        config: The configuration from the folder.
        folder: An existing one.

    Returns:
        What came of each number.

    Raises:
        Stopped: As for `compare_counts`.
        InvalidInput: If the record cannot be read.
        OutOfResources: As for `compare_counts`.
    """
    record = CountRecord.read(folder.path)
    folder.command = COMMAND
    for count in record.counts:
        if count.failures:
            # A plugin may have been repaired; seeds that have diverged are not trained again.
            count.done = False
    with folder.locked():
        return _Comparison(registry, config, folder, record, None).carry_out()


class _Comparison:
    """The part of a comparison that one process carries out.

    Arguments:
        registry: The plugins.
        config: The configuration of every run.
        folder: The folder of the comparison, which exists.
        record: What came of each number so far.
        began: The monotonic clock's time from which minutes count; by default now.
    """

    def __init__(
        self, registry: Registry, config: RunConfig, folder: RunFolder, record: CountRecord, began: float | None
    ) -> None:
        self.registry = registry
        self.config = config
        self.folder = folder
        self.record = record
        self.began = began

    def carry_out(self) -> CountRecord:
        """Compare what is to be compared; see `compare_counts`."""
        self._save()
        for count in reversed(self.record.counts):
            if not count.done:
                self._compare(count)
        return self.record

    def _compare(self, count: Count) -> None:
        """Compare the seeds of one number, and record what came of them."""
        record, path = self.record, self.folder.path / count.folder
        logger.info("%d clusters, %d seeds", count.clusters, len(record.seeds))
        config = self.config_of(count)
        seeds = RunFolder.existing(path) if compares_seeds(path) else RunFolder.plan(path, config)
        seeds.belongs_to(self.folder)
        try:
            if seeds.kept:
                found = continue_seeds(self.registry, config, seeds, train_all=False, finish=False)
            else:
                found = compare_seeds(
                    self.registry,
                    config,
                    seeds,
                    record.seeds,
                    record.part,
                    train_all=False,
                    began=self.began,
                    finish=False,
                )
        except (TrainingDiverged, InvalidInput) as error:
            # The first number shows whether a run is possible at all.
            if not self.folder.kept:
                raise
            count.failures = dict.fromkeys(record.seeds, " ".join(str(error).split()))
            count.done = True
            logger.warning("%d clusters failed: %s", count.clusters, error)
            self._save()
            return
        finally:
            if seeds.kept:
                self.folder.keep()
        if record.iterations is None:
            self._settle(found, seeds)
        self._take(count, found, seeds)
        self._save()

    def config_of(self, count: Count) -> RunConfig:
        """Return the configuration of the runs with one number of clusters."""
        run = attrs.evolve(self.config.run, clusters=count.clusters)
        if run.minutes is not None:
            run = attrs.evolve(run, minutes=run.minutes / len(self.record.counts))
        return attrs.evolve(self.config, run=run, origins={**self.config.origins, "run.clusters": "flag"})

    def _settle(self, found: SeedRecord, seeds: RunFolder) -> None:
        """Let all numbers share what the first one came to."""
        record = self.record
        record.iterations, record.compared_at = found.iterations, found.compared_at
        record.label_scores = list(found.label_scores)
        if found.compared_at < ENOUGH:
            logger.warning(
                "everything is compared after %d iterations, which is short: clusters need some hundreds of iterations "
                "to form: raise --minutes, --iterations or --part",
                found.compared_at,
            )
        if self.config.run.minutes is None:
            return
        layer: Layer = read_config(seeds.config)
        settled: dict[str, Any] = {name: layer.tables["run"].get(name) for name in SET_BY_MINUTES}
        origins = {f"run.{name}": f"{self.config.run.minutes:g} minutes" for name in SET_BY_MINUTES}
        self.config = attrs.evolve(
            self.config,
            run=attrs.evolve(self.config.run, minutes=None, **settled),
            origins={**self.config.origins, **origins},
        )

    def _take(self, count: Count, found: SeedRecord, seeds: RunFolder) -> None:
        """Record scores, stability and failures of the seeds of a number."""
        count.spreads = found.spreads()
        count.failures = {run.seed: run.error for run in found.failed if run.error is not None}
        count.stability = self._stability(found, seeds, count)
        count.done = True

    def _stability(self, found: SeedRecord, seeds: RunFolder, count: Count) -> Stability | None:
        """Compare the clusterings of a number's seeds, unless it cannot be done; a line says so."""
        clusterings = {}
        for run in found.compared:
            path = seeds.path / run.folder
            try:
                if iteration_of(path) != found.compared_at:
                    logger.warning("%s has been trained further: the stability stays what it was", path)
                    return count.stability
                clusterings[run.seed] = clusters_of_images(path)
            except (OSError, ValueError) as error:
                raise InvalidInput(f"{path}: its results cannot be read: {error}") from error
        stability = stability_of(clusterings, count.clusters)
        if stability is None:
            logger.warning(
                "%s: stability is not known: it needs two seeds and 50 images that both have evaluated, "
                "such as with --eval-images all",
                seeds.path,
            )
        return stability

    def _save(self) -> None:
        """Write configuration, table and record, the record last.

        Raises:
            OutOfResources: If there is no room.
        """
        with disk_errors(f"{self.folder.path} could not be written"):
            if self.config.run.minutes is None:
                # Otherwise the first folder of seeds has it, as soon as minutes have come to something.
                self.folder.write_config(self.config)
            self.folder.write_table("choose-k", rows(self.record))
            self.record.write(self.folder.path)
