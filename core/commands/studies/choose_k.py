"""The command ``mpcc choose-k``: how many clusters, from scores that need no labels."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mpcc.core.commands.dry_run import about_preset, describe
from mpcc.core.commands.flags import Parser, PluginFiles
from mpcc.core.commands.train import SECTION_HELP, declare_options
from mpcc.core.config import (
    SECTIONS,
    Layer,
    RunConfig,
    RunSettings,
    compat_layer,
    environment_layer,
    options,
    read_config,
    resolve,
)
from mpcc.core.config.layers import METRICS
from mpcc.core.config.locations import check_only_places, entries_of, places
from mpcc.core.config.options import option
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, PluginError
from mpcc.core.registry import Registry
from mpcc.core.studies.cluster_counts import parse_counts
from mpcc.core.studies.count_record import CountRecord, compares_counts, count_folder
from mpcc.core.studies.seed_list import PART, comparison_at, parse_seeds, work_in_runs
from mpcc.core.system.output_streams import quoted

if TYPE_CHECKING:
    from mpcc.core.storage.run_folder import RunFolder

__all__ = ["ChooseFlags", "choose_k"]

PURPOSE = (
    "Compare numbers of clusters: train some seeds of each for a part of a run, and rank the numbers by how alike the "
    "clusterings of different seeds are. No labels are needed. All other flags are those of mpcc-run."
)
SEEDS = "3"
# The share of a run that a fit of the prior gets to settle, before clusterings are compared.
AFTER_FIT = 0.05
# What the command compares itself.
OWN = {"clusters", "seed"}
RESUMABLE = frozenset({"device", "data_root", "download", "workers"})

logger = logging.getLogger(__name__)


@attrs.frozen(slots=False)
class ChooseFlags(PluginFiles):
    """Flags that belong to the command, not to the configuration."""

    clusters: str | None = option(None, "numbers of clusters to compare, such as 5,10,20 or 8-12")
    seeds: str = option(SEEDS, "seeds of each number: how many, or a list or range such as 0-4; at least two")
    part: float | None = option(
        None,
        f"share of the iterations after which everything is compared; {PART} if not given, or a little after a fit of "
        "the prior, if there is one",
        above=0,
        most=1,
    )
    config: Path | None = option(None, "configuration file, such as the config.toml of a run folder; flags override it")
    preset: str | None = option(None, "preset to start from, or none; chosen as for mpcc-run if not given")
    compat: str | None = option(None, "start from the preset DATA-paper: paper or reference, as for mpcc-run")
    out: Path | None = option(None, "new folder; by default a unique name below runs/")
    resume: Path | None = option(None, "go on with the comparison in this folder")
    dry_run: bool = option(False, "print the configuration and what will be done; write nothing")

    def saved(self, words: list[str]) -> Layer | None:
        """Read the configuration file of ``--config`` or of the comparison to go on with, if there is one.

        Arguments:
            words: The command line.

        Raises:
            InvalidInput: If it cannot be read, or a comparison is given other numbers, seeds or another configuration.
        """
        if self.resume is None:
            return None if self.config is None else read_config(self.config)
        if not compares_counts(self.resume):
            raise InvalidInput(
                f"--resume {self.resume}: expected a folder that mpcc choose-k has written, with choose-k.json"
            )
        for name in ("clusters", "seeds", "part", "config", "preset", "compat", "out", "dry-run"):
            if any(word == f"--{name}" or word.startswith(f"--{name}=") for word in words):
                raise InvalidInput(f"--resume goes on with what its folder compares: leave out --{name}")
        record = CountRecord.read(self.resume)
        # Minutes come to something when the first runs begin, and those have the configuration then.
        first = self.resume / count_folder(record.counts[-1].clusters) / "config.toml"
        own = self.resume / "config.toml"
        if not own.is_file() and not first.is_file():
            raise InvalidInput(f"--resume {self.resume}: no run had begun: delete it, and start the comparison anew")
        return read_config(own if own.is_file() else first)


def choose_k(words: list[str], began: float | None = None) -> int:
    """Execute ``mpcc choose-k`` and return the exit status.

    Arguments:
        words: The command line.
        began: The monotonic clock's time at which the command began, for ``--minutes``; by default now.
    """
    began = time.monotonic() if began is None else began
    typed = choose_parser().read([word for word in words if word not in ("--help", "-h")], (*SECTIONS, METRICS))
    flags = typed.make(ChooseFlags)
    asks_help = {"--help", "-h"} & {*words}
    saved = None if asks_help else flags.saved(words)
    lower = [environment_layer(), *([saved] if saved else [])]
    registry = flags.load(*lower)
    if flags.compat is not None:
        lower.append(compat_layer(registry, flags.compat))
    preset = "none" if flags.resume else flags.preset
    if typed.rest or asks_help:
        names = {section: {"name": table["name"]} for section, table in typed.tables.items() if "name" in table}
        full_parser = choose_parser(registry, resolve(registry, [*lower, Layer("flag", names)], preset))
        if not asks_help:
            full_parser.refuse(typed.rest)
        full_parser.print_help()
        return 0
    if flags.resume is not None:
        movable = places(entries_of(registry, saved.tables if saved else {}))
        check_only_places(
            typed.tables, saved.tables if saved else {}, movable, RESUMABLE, "a comparison of clusters goes on"
        )
        config = resolve(registry, [*lower, Layer("flag", typed.tables)], preset)
        return go_on(registry, config, flags.resume)
    if flags.clusters is None:
        raise InvalidInput("mpcc choose-k needs numbers to compare: expected --clusters, such as --clusters 5,10,20")
    counts, seeds = parse_counts(flags.clusters), parse_seeds(flags.seeds)
    if len(seeds) < 2:
        raise InvalidInput(
            f"--seeds {flags.seeds!r}: stability is how alike two seeds are, expected at least two; nearest valid "
            "choice: --seeds 2"
        )
    run = {**typed.tables.get("run", {}), "clusters": str(counts[-1])}
    config = resolve(registry, [*lower, Layer("flag", {**typed.tables, "run": run})], preset)
    part = flags.part or default_part(config)
    plan = plan_of(config, counts, seeds, part)
    if flags.dry_run:
        runs = len(counts) * work_in_runs(len(seeds), part, finish=False)
        describe(registry, config, flags.out, None, began, runs)
        print(f"# {plan}")
        return 0
    if line := about_preset(registry, config):
        logger.info(line)
    # The checks above do not need torch; the imports below load it.
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.studies.count_study import compare_counts

    print(plan, file=sys.stderr)
    folder = RunFolder.plan(flags.out, config)
    return told(folder, lambda: compare_counts(registry, config, folder, counts, seeds, part, began=began))


def choose_parser(registry: Registry | None = None, config: RunConfig | None = None) -> Parser:
    """Declare the flags of the command: its own, and those of ``mpcc-run`` that it does not set itself."""
    parser = Parser("mpcc choose-k", PURPOSE, "--clusters LIST [flags]", add_help=config is not None)
    parser.declare("Command", ChooseFlags)
    parser.declare_names("Plugins", SECTION_HELP)
    names = [name for name in options.fields(RunSettings) if name not in OWN]
    parser.declare("Run", RunSettings, "run", only=names, values=config and config.run)
    if registry is not None and config is not None:
        declare_options(parser, registry, config)
    return parser


def default_part(config: RunConfig) -> float:
    """Return the share of a run after which everything is compared: later than a fit of the prior, if there is one."""
    fit = config.run.prior_fit
    return PART if not fit else min(1.0, max(PART, round(fit + AFTER_FIT, 3)))


def plan_of(config: RunConfig, counts: tuple[int, ...], seeds: tuple[int, ...], part: float) -> str:
    """Return in words what a comparison will do."""
    what = f"{', '.join(map(str, counts))} clusters, {len(seeds)} seeds each"
    runs = len(counts) * work_in_runs(len(seeds), part, finish=False)
    if config.run.minutes is not None:
        return f"{what}, in {config.run.minutes:g} minutes: each for {part:g} of its iterations"
    at = comparison_at(config.run.iterations, part)
    return f"{what}: each for {at} of {config.run.iterations} iterations; {runs:.3g} times the work of one run"


def go_on(registry: Registry, config: RunConfig, resume: Path) -> int:
    """Go on with a comparison; print what came of it, and return the exit status."""
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.studies.count_study import continue_counts

    folder = RunFolder.existing(resume)
    return told(folder, lambda: continue_counts(registry, config, folder))


def told(folder: RunFolder, comparison: Callable[[], CountRecord]) -> int:
    """Carry out a comparison, print what came of it, and return the exit status.

    Arguments:
        folder: Of the comparison; it may get its name only when it is made.
        comparison: Carries it out.
    """
    from mpcc.core.run.execution import Stopped
    from mpcc.core.studies.count_tables import STABLE, lines

    try:
        record = comparison()
    except Stopped as stop:
        print(f"mpcc: {stop}", file=sys.stderr)
        return EXIT_INTERRUPTED
    print("\n".join(lines(record)))
    chosen = record.chosen()
    if chosen is not None and chosen.stability is not None and chosen.stability.mean >= STABLE:
        print(f"go on with it: mpcc-run --resume {quoted(folder.path / chosen.folder)}")
    print(f"all scores: {folder.path / 'choose-k.csv'}, {folder.path / 'choose-k.json'}")
    if chosen is None:
        print("mpcc: error: no number can be chosen, see above", file=sys.stderr)
        return PluginError.status
    if any(count.failures for count in record.counts):
        print("mpcc: error: some seeds failed, see above", file=sys.stderr)
        return PluginError.status
    return 0
