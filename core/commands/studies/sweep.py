"""The command ``mpcc sweep``: runs over a grid of settings, which several processes and machines can share."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs

from mpcc.core.commands.flags import Parser, PluginFiles
from mpcc.core.commands.train import SECTION_HELP, run_parser
from mpcc.core.config import (
    SECTIONS,
    Layer,
    RunConfig,
    RunSettings,
    compat_layer,
    environment_layer,
    flag,
    options,
    read_config,
    resolve,
)
from mpcc.core.config.layers import METRICS
from mpcc.core.config.options import option
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, PluginError
from mpcc.core.registry import Registry, load_registry
from mpcc.core.studies.seed_list import parse_seeds
from mpcc.core.studies.sweep.axes import Axis, folder_name, parse_axis, points
from mpcc.core.studies.sweep.one_run import layers_of, stored
from mpcc.core.studies.sweep.record import FAILED, FINISHED, SweepRun, lines, read_plan, write_plan
from mpcc.core.studies.sweep.record import write_tables as written_tables
from mpcc.core.studies.sweep.study import Sweep, own_storage
from mpcc.core.system.file_names import check_length
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.resources import disk_errors
from mpcc.core.system.whole_files import check_new

__all__ = ["SweepFlags", "sweep_command"]

PURPOSE = (
    "Train a run for every point of a grid: --over takes a flag of mpcc-run and its values, and may be repeated; all "
    "other flags of mpcc-run are the same for all runs. The grid is an Optuna study: workers, also on other machines, "
    "share its storage, and no run is carried out twice."
)
# What may differ from machine to machine.
OWN = frozenset({"device", "data_root", "download", "workers", "engine", "precision", "threads"})


@attrs.frozen(slots=False)
class SweepFlags(PluginFiles):
    """Flags that belong to the command, not to the configuration."""

    over: tuple[str, ...] = option((), "a flag and its values, such as prior=gmm,student_t; may be repeated")
    seeds: str | None = option(None, "the same as --over seed=..., also as a number or a range: 3, 0-4, 1,5")
    processes: int = option(1, "processes on this machine that carry out runs at the same time", least=1, most=256)
    storage: str | None = option(
        None,
        "address of a database that machines share, as SQLAlchemy writes it, $MPCC_SWEEP_STORAGE if not given; without "
        "both a SQLite file in the folder",
    )
    study: str | None = option(None, "name of the study in the storage, that of the folder if not given")
    config: Path | None = option(None, "configuration file, such as the config.toml of a run folder; flags override it")
    preset: str | None = option(None, "preset to start from, or none; chosen as for mpcc-run if not given")
    compat: str | None = option(None, "start from the preset DATA-paper: paper or reference, as for mpcc-run")
    out: Path | None = option(None, "new folder of the sweep on this machine")
    join: bool = option(False, "carry out runs of a study of another machine: with --storage, --study and --out")
    resume: Path | None = option(None, "go on with the sweep in this folder")
    retry: bool = option(False, "with --resume or --join: let failed runs wait once more")
    table: bool = option(False, "with --resume or --join: only print what has come of the runs so far")
    dry_run: bool = option(False, "print the runs; write nothing")

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            InvalidInput: If they do.
        """
        goes_on = self.resume is not None or self.join
        if goes_on:
            for name in ("over", "seeds", "config", "preset", "compat"):
                if getattr(self, name):
                    raise InvalidInput(f"--{name}: a sweep goes on with the runs that it has: leave out --{name}")
            if self.dry_run:
                raise InvalidInput("--dry-run: a sweep that goes on has its runs: take --table to see them")
        elif self.retry or self.table:
            raise InvalidInput(f"--{'retry' if self.retry else 'table'} belongs to --resume FOLDER or --join")
        if self.table and self.join:
            raise InvalidInput("--table prints what has come of a folder's runs: expected --resume FOLDER beside it")
        if self.resume is not None and (self.out is not None or self.join or self.study is not None):
            raise InvalidInput("--resume goes on with the study of its folder: leave out --out, --join, --study")
        if self.join and (not self.address or self.study is None or self.out is None):
            raise InvalidInput(
                "--join needs --storage, --study and --out: the study's storage and name, and a new folder"
            )
        if not goes_on and self.out is None and not self.dry_run:
            raise InvalidInput("mpcc sweep needs a folder: expected --out, such as --out runs/sweep")

    @property
    def address(self) -> str | None:
        """The address of a storage outside of the folder, or None."""
        return self.storage or os.environ.get("MPCC_SWEEP_STORAGE") or None


def sweep_command(words: list[str]) -> int:
    """Execute ``mpcc sweep`` and return the exit status."""
    asks_help = {"--help", "-h"} & {*words}
    parser = sweep_parser(with_help=bool(asks_help))
    typed = parser.read([word for word in words if word not in ("--help", "-h")], (*SECTIONS, METRICS))
    if asks_help:
        parser.print_help()
        return 0
    flags = typed.make(SweepFlags)
    flags.check()
    if typed.rest:
        parser.refuse(typed.rest)
    if flags.resume is not None or flags.join:
        return go_on(flags, typed.tables)
    axes = axes_of(flags)
    registry, runs = planned(flags, axes, typed.tables)
    if flags.dry_run:
        print("\n".join(" ".join(f"--{name} {value}" for name, value in point.items()) for point, _ in runs))
        print(f"# {len(runs)} runs")
        return 0
    folder = flags.out
    assert folder is not None
    check_new(folder, "--out")
    study = flags.study or folder.name
    with disk_errors(f"{folder} could not be written"):
        folder.mkdir(parents=True)
    with contextlib.ExitStack() as held:
        undo = held.enter_context(contextlib.ExitStack())
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        sweep = held.enter_context(Sweep(flags.address or own_storage(folder), study, new=True))
        sweep.fill(axes, runs)
        with disk_errors(f"{folder} could not be written"):
            write_plan(folder, study, own_storage=flags.address is None)
        undo.pop_all()
        print(f"{len(runs)} runs in {quoted(folder)}, {flags.processes} at a time", file=sys.stderr)
        own = {name: value for name, value in typed.tables.get("run", {}).items() if name in OWN}
        return carried_on(sweep, registry, folder, flags, Layer("flag", {"run": own}))


def sweep_parser(*, with_help: bool = False) -> Parser:
    """Declare the flags of the command: its own, and those of ``mpcc-run``."""
    parser = Parser("mpcc sweep", PURPOSE, "--over NAME=VALUE,VALUE --out FOLDER [flags]", add_help=with_help)
    parser.declare("Command", SweepFlags)
    parser.declare_names("Plugins", SECTION_HELP)
    parser.declare("Run", RunSettings, "run", only=[name for name in options.fields(RunSettings) if name != "seed"])
    return parser


def axes_of(flags: SweepFlags) -> list[Axis]:
    """Return the grid that the flags name; seeds are the last axis."""
    axes = [parse_axis(text) for text in flags.over]
    if flags.seeds is not None:
        axes.append(Axis("seed", tuple(map(str, parse_seeds(flags.seeds)))))
    return axes


def planned(
    flags: SweepFlags, axes: Sequence[Axis], tables: dict[str, dict[str, str]]
) -> tuple[Registry, list[tuple[dict[str, str], RunConfig]]]:
    """Return the plugins, and the points of a grid with their configurations.

    Arguments:
        flags: Of the command.
        axes: The grid.
        tables: The settings that are the same for all runs, by section and name.

    Raises:
        InvalidInput: If a configuration is not valid; nothing has been made then.
    """
    saved = None if flags.config is None else read_config(flags.config)
    lower = [environment_layer(), *([saved] if saved else [])]
    registry = flags.load(*lower)
    if flags.compat is not None:
        lower.append(compat_layer(registry, flags.compat))
    runs: list[tuple[dict[str, str], RunConfig]] = []
    seen: dict[str, str] = {}
    for point in points(axes):
        own = run_parser().read_all([f"--{name}={value}" for name, value in point.items()], (*SECTIONS, METRICS))
        if own.own:
            name = next(iter(own.own)).replace("_", "-")
            raise InvalidInput(f"--over {name}: a flag of the command cannot differ from run to run: leave it out")
        merged = {section: dict(values) for section, values in tables.items()}
        for section, values in own.tables.items():
            for name, value in values.items():
                if merged.setdefault(section, {}).setdefault(name, value) is not value:
                    raise InvalidInput(
                        f"{spelled(section, name)} is given to all runs and is in --over: leave one of them out"
                    )
        named = " ".join(f"--{name} {value}" for name, value in point.items())
        try:
            config = resolve(registry, [*lower, Layer("flag", merged)], flags.preset)
            # What a worker will make of it.
            resolve(registry, layers_of(stored(config)), "none")
        except InvalidInput as error:
            raise InvalidInput(f"the run {named}: {error}") from error
        text, folder = config.to_toml(), folder_name(point).casefold()
        check_length(Path(folder), "the run folder")
        for known, kind in ((text, "settings"), (folder, "folder")):
            if known in seen:
                raise InvalidInput(
                    f"the runs {seen[known]} and {named} would have the same {kind}: leave out one of the values"
                )
            seen[known] = named
        runs.append((point, config))
    return registry, runs


def spelled(section: str, name: str) -> str:
    """Return the flag of a setting.

    Example:
        >>> spelled("run", "prior_lr"), spelled("prior", "name"), spelled("prior", "df")
        ('--prior-lr', '--prior', '--prior.df')
    """
    return f"--{section}" if name == "name" and section != "run" else flag(section, name)


def go_on(flags: SweepFlags, tables: dict[str, dict[str, str]]) -> int:
    """Go on with a sweep, or join one that another machine has made; return the exit status.

    Arguments:
        flags: Of the command.
        tables: Settings of this machine.
    """
    for section, values in tables.items():
        for name in values:
            if section != "run" or name not in OWN:
                known = ", ".join(f"--{each.replace('_', '-')}" for each in sorted(OWN))
                raise InvalidInput(
                    f"{spelled(section, name)}: a sweep goes on with the settings that it has; on this machine may "
                    f"differ: {known}"
                )
    if flags.resume is not None:
        folder = flags.resume
        study, own = read_plan(folder)
        if own and flags.storage:
            raise InvalidInput(f"--resume {folder}: its study is in the folder: leave out --storage")
        address = own_storage(folder) if own else flags.address
        if address is None:
            raise InvalidInput(f"--resume {folder}: its study {study!r} is in another storage: expected --storage")
    else:
        assert flags.out is not None
        assert flags.study is not None
        folder, study, address = flags.out, flags.study, flags.address or ""
        check_new(folder, "--out")
    with Sweep(address, study, new=False) as sweep:
        if flags.join:
            with disk_errors(f"{folder} could not be written"):
                folder.mkdir(parents=True)
                write_plan(folder, study, own_storage=False)
        if flags.retry:
            print(f"{sweep.retry()} failed runs wait once more", file=sys.stderr)
        if flags.table:
            return told(sweep, folder)
        layers = sweep.configs
        registry = load_registry(
            plugins=[*dict.fromkeys([*(path for layer in layers for path in layer.plugins), *flags.plugin])],
            registries=[*dict.fromkeys([*(path for layer in layers for path in layer.registries), *flags.registry])],
        )
        return carried_on(sweep, registry, folder, flags, Layer("flag", tables))


def carried_on(sweep: Sweep, registry: Registry, folder: Path, flags: SweepFlags, own: Layer) -> int:
    """Carry out waiting runs with some workers; print what came of all, and return the exit status.

    Arguments:
        sweep: The sweep.
        registry: The plugins.
        folder: Of the sweep on this machine.
        flags: Of the command.
        own: Settings of this machine.
    """
    # The checks above do not need torch; the import below loads it.
    from mpcc.core.run.execution import Stopped

    if flags.processes == 1:
        try:
            sweep.work(registry, folder, own)
        except (Stopped, KeyboardInterrupt) as stop:
            print(": ".join(["mpcc: interrupted", *map(str, stop.args)]), file=sys.stderr)
            told(sweep, folder)
            return EXIT_INTERRUPTED
        return told(sweep, folder)
    words = [sys.executable, "-m", "mpcc", "sweep", "--resume", str(folder)]
    for name, value in own.tables.get("run", {}).items():
        words += [f"--{name.replace('_', '-')}", value]
    for kind in ("plugin", "registry"):
        words += [word for path in getattr(flags, kind) for word in (f"--{kind}", str(path))]
    threads = os.environ.get("OMP_NUM_THREADS") or str(shared_threads(flags.processes))
    variables = {**os.environ, "OMP_NUM_THREADS": threads}
    if flags.address:
        variables["MPCC_SWEEP_STORAGE"] = flags.address
    workers = [subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL) for _ in range(flags.processes)]
    try:
        for worker in workers:
            worker.wait()
    except BaseException as stop:
        # A terminal's Ctrl-C has reached the workers, too, and they save their runs; a scheduler's signal has not. A
        # second signal changes nothing.
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        if not isinstance(stop, KeyboardInterrupt):
            raise
        told(sweep, folder)
        return EXIT_INTERRUPTED
    status = told(sweep, folder)
    if all(run.state in (FINISHED, FAILED) for run in sweep.runs()):
        return status
    if any(worker.returncode == EXIT_INTERRUPTED for worker in workers):
        return EXIT_INTERRUPTED
    print("mpcc: error: a worker ended before all runs had, see above", file=sys.stderr)
    return PluginError.status


def shared_threads(workers: int) -> int:
    """Return how many threads each of some workers gets."""
    return max(1, len(os.sched_getaffinity(0)) // workers if hasattr(os, "sched_getaffinity") else 1)


def told(sweep: Sweep, folder: Path) -> int:
    """Print what came of the runs so far, write it into the folder, and return the exit status."""
    runs: list[SweepRun] = sweep.runs()
    print("\n".join(lines(runs)))
    with disk_errors(f"{folder} could not be written"):
        print(f"all scores: {', '.join(map(str, written_tables(folder, runs)))}")
    if any(run.state not in (FINISHED, FAILED) for run in runs):
        print(f"go on: mpcc sweep --resume {quoted(folder)}")
    failed = [run for run in runs if run.state == FAILED]
    if failed:
        print(f"mpcc: error: {len(failed)} of {len(runs)} runs failed, see above", file=sys.stderr)
    return max((run.status or 2 for run in failed), default=0)
