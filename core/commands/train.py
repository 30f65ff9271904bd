"""The command ``mpcc-run``: from its arguments to a finished run.

The command line is read once. Options that depend on the plugin, such as ``--prior.df``, are accepted unchecked. Once
the plugins are known, `resolve` checks these options with all layers. torch is imported only after all checks.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.commands.dry_run import about_preset, describe
from mpcc.core.commands.flags import Parser, PluginFiles
from mpcc.core.commands.studies.seeds import go_on_with_seeds, plan_of_seeds, train_seeds
from mpcc.core.config import (
    RESUMABLE,
    SECTIONS,
    Layer,
    RunConfig,
    RunSettings,
    compat_layer,
    environment_layer,
    read_config,
    resolve,
)
from mpcc.core.config.layers import METRICS
from mpcc.core.config.locations import check_only_places, entries_of, places
from mpcc.core.config.options import option
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, OutOfResources, RankLost, TrainingDiverged
from mpcc.core.registry import Registry
from mpcc.core.run.ranks.environment import (
    earlier_folder,
    follows,
    launched,
    let_the_first_end,
    of_all,
    told_by_launcher,
)
from mpcc.core.studies.count_record import CountRecord, compares_counts, count_folder
from mpcc.core.studies.seed_list import PART, parse_seeds, work_in_runs
from mpcc.core.studies.seed_record import compares_seeds
from mpcc.core.system.output_streams import quoted

__all__ = ["SECTION_HELP", "RunFlags", "declare_options", "run_command", "run_parser"]

PURPOSE = "Cluster images: train generator, encoder and mixture prior together, and write a run folder."
SECTION_HELP = {
    "prior": "prior p(y) p(z|y)",
    "arch": "architecture of the three networks",
    "data": "data set",
    "objective": "updates of an iteration",
}
HELP = {"--help", "-h"}
# Flags with which the command only prints.
PRINTING = HELP | {"--version", "--dry-run"}

logger = logging.getLogger(__name__)
# Settings that may change when a comparison of seeds goes on: not those that would change its scores.
SEEDS_RESUMABLE = RESUMABLE - {"best_by", "eval_images", "features", "feature_weights", "generated_images", "minutes"}


def _name(instance: Any, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value == "":
        raise ValueError(f"expected a name, got {value!r}")


@attrs.frozen(slots=False)
class RunFlags(PluginFiles):
    """Flags that belong to the command, not to the configuration."""

    config: Path | None = option(None, "configuration file, such as the config.toml of a run folder; flags override it")
    preset: str | None = option(
        None,
        "preset to start from, or none; by default that of the configuration file, or the one made for data set, "
        "objective, architecture and device",
        validator=_name,
    )
    compat: str | None = option(
        None,
        "start from the preset DATA-paper, without terms of our own: paper for the paper's settings, reference for "
        "those of the authors' published code",
        validator=_name,
    )
    out: Path | None = option(None, "new run folder; by default a unique name below runs/")
    resume: Path | None = option(None, "continue the run in this folder from its newest checkpoint")
    seeds: str | None = option(
        None,
        "compare seeds, such as 5 for 0 to 4, or 0-4, or 3,7,9: each is trained for a part, then the best by a score "
        "without labels to the end",
    )
    all: bool = option(False, "with --seeds train every seed to the end, for mean and spread of all scores")
    part: float | None = option(
        None,
        f"with --seeds the share of the iterations after which seeds are compared; {PART} if not given",
        above=0,
        most=1,
    )
    devices: int | None = option(
        None,
        "train in so many processes of this machine, one for each GPU, or for a part of the cores; each takes its "
        "part of --batch",
        least=1,
    )
    dry_run: bool = option(
        False,
        "print the configuration with the origin of each value, the layers and the time needed here; write nothing",
    )
    version: bool = option(False, "print the version")

    def saved(self) -> Layer | None:
        """Read the configuration file of ``--config`` or of the resumed run, if there is one.

        Raises:
            InvalidInput: If it cannot be read, or a resumed run is given another configuration.
        """
        if self.resume is None:
            return None if self.config is None else read_config(self.config)
        if self.config or self.preset or self.compat:
            raise InvalidInput(
                "--resume continues with the run's own configuration: leave out --config, --preset and --compat"
            )
        if compares_counts(self.resume):
            raise InvalidInput(
                f"--resume {self.resume}: this folder compares numbers of clusters: expected one of its folders, such "
                f"as {self.resume / count_folder(CountRecord.read(self.resume).counts[0].clusters)}, or mpcc choose-k "
                f"--resume {quoted(self.resume)}"
            )
        # Only a resumed run needs the imports of this module.
        from mpcc.core.run.saved_run import config_file

        return read_config(config_file(self.resume, f"--resume {self.resume}"))

    def seed_list(self, tables: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
        """Return the seeds to compare, or nothing.

        Arguments:
            tables: The typed values of the configuration.

        Raises:
            InvalidInput: If flags contradict each other.
        """
        if self.resume is not None and (self.seeds is not None or self.part is not None):
            name = "--seeds" if self.seeds is not None else "--part"
            raise InvalidInput(f"--resume goes on with the seeds of its folder: leave out {name}")
        seed = tables.get("run", {}).get("seed")
        if self.seeds is None:
            if self.part is not None or (self.all and not (self.resume and compares_seeds(self.resume))):
                given = f"--part {self.part:g}" if self.part is not None else "--all"
                raise InvalidInput(f"{given} belongs to --seeds: expected both, such as --seeds 5 {given}")
            if seed is not None and re.fullmatch(r"[0-9]+(?:[-,][0-9]+)+", seed):
                raise InvalidInput(f"--seed {seed}: expected a whole number; to compare several seeds: --seeds {seed}")
            return ()
        if seed is not None:
            raise InvalidInput(f"--seeds {self.seeds} and --seed {seed} contradict each other: leave one of them out")
        if self.all and self.part is not None:
            raise InvalidInput("--all trains every seed to the end: leave out --part")
        return parse_seeds(self.seeds)


def run_command(arguments: list[str], began: float | None = None) -> int:
    """Execute ``mpcc-run`` and return the exit status.

    Arguments:
        arguments: The command line.
        began: The monotonic clock's time at which the command began, for ``--minutes``; by default now.
    """
    began = time.monotonic() if began is None else began
    if not follows():
        return run_words(arguments, began)
    # The first process says the same.
    logging.getLogger("mpcc").setLevel(logging.CRITICAL)
    if not PRINTING.isdisjoint(arguments):
        return 0
    try:
        status = run_words(arguments, began)
    except InvalidInput as error:
        if let_the_first_end():
            # Only this process has met it, such as on a machine without the images.
            print(f"mpcc-run: error: process {of_all()}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    if status:
        let_the_first_end()
    return status


def run_words(arguments: list[str], began: float) -> int:
    """Execute ``mpcc-run`` in this process, or start the processes that do; return the exit status."""
    if "--version" in arguments:
        from importlib import metadata

        print(f"mpcc {metadata.version('mpcc')}")
        return 0
    typed = run_parser().read([word for word in arguments if word not in HELP], (*SECTIONS, METRICS))
    flags = typed.make(RunFlags)
    if launched() and flags.devices is not None:
        raise InvalidInput(f"--devices {flags.devices}: torchrun has started the processes: leave out --devices")
    if flags.resume is None and not follows() and (earlier := earlier_folder(flags.out)) is not None:
        return run_words(["--resume", str(earlier)], began)
    seeds, part = flags.seed_list(typed.tables), 1.0 if flags.all else flags.part or PART
    saved = flags.saved()
    lower = [environment_layer(), *([saved] if saved else [])]
    registry = flags.load(*lower)
    if flags.compat is not None:
        lower.append(compat_layer(registry, flags.compat))
    # A run folder's configuration is complete: a preset, which may have changed since, must not add to it.
    preset = "none" if flags.resume else flags.preset
    if typed.rest or HELP & {*arguments}:
        names = {section: {"name": table["name"]} for section, table in typed.tables.items() if "name" in table}
        full_parser = run_parser(registry, resolve(registry, [*lower, Layer("flag", names)], preset))
        if not HELP & {*arguments}:
            full_parser.refuse(typed.rest)
        from mpcc.core.commands.plugins import print_plugins

        full_parser.print_help()
        print_plugins(registry)
        return 0
    if flags.resume is not None:
        movable = places(entries_of(registry, saved.tables if saved else {}))
        may_change = SEEDS_RESUMABLE if compares_seeds(flags.resume) else RESUMABLE
        check_only_places(typed.tables, saved.tables if saved else {}, movable, may_change, "a run is resumed")
    config = resolve(registry, [*lower, Layer("flag", typed.tables)], preset)
    if seeds:
        origins = {**config.origins, "run.seed": "flag"}
        config = attrs.evolve(config, run=attrs.evolve(config.run, seed=seeds[0]), origins=origins)
    starts_several = flags.devices is not None and flags.devices > 1
    if (starts_several or launched()) and (seeds or (flags.resume is not None and compares_seeds(flags.resume))):
        raise InvalidInput(
            "--seeds trains in one process: expected one device (nearest valid choice: mpcc sweep --seeds, with "
            "--processes N)"
        )
    if flags.dry_run:
        if flags.devices is not None:
            check_processes(config, flags.devices)
        runs = work_in_runs(len(seeds), part) if seeds else 1.0
        describe(registry, config, flags.out, flags.resume, began, runs)
        if seeds:
            print(f"# {plan_of_seeds(config, seeds, part)}")
        if flags.devices is not None and flags.devices > 1:
            print(f"# the speed was measured in one process: --devices {flags.devices} may be faster or slower")
        return 0
    if starts_several:
        return launch_processes(config, flags, arguments)
    if flags.resume is not None and compares_seeds(flags.resume):
        return go_on_with_seeds(registry, config, flags.out, flags.resume, train_all=flags.all)
    if seeds:
        if line := about_preset(registry, config):
            logger.info(line)
        return train_seeds(registry, config, flags.out, seeds, part, train_all=flags.all, began=began)
    return train(registry, config, flags.out, flags.resume, began)


def check_processes(config: RunConfig, devices: int) -> None:
    """Check that a run can be trained by so many processes of this machine.

    Raises:
        InvalidInput: If it cannot.
    """
    from mpcc.core.run.ranks.launcher import check_devices
    from mpcc.core.run.ranks.shares import check_share

    check_devices(devices, config.run.device)
    check_share(config.run.batch, devices)


def launch_processes(config: RunConfig, flags: RunFlags, arguments: list[str]) -> int:
    """Train in several processes of this machine; return the exit status.

    Arguments:
        config: The configuration.
        flags: Those of the command.
        arguments: The command line.
    """
    from mpcc.core.run.ranks.launcher import launch, without_devices
    from mpcc.core.storage.run_folder import RunFolder

    devices = flags.devices or 1
    check_processes(config, devices)
    words = without_devices(arguments)
    folder = flags.resume or RunFolder.plan(flags.out, config).path
    if flags.resume is None and flags.out is None:
        words += ["--out", str(folder)]
    advice = f"continue with: mpcc-run --resume {quoted(folder)} --devices {devices}"
    return launch(["run", *words], devices, advice)


def run_parser(registry: Registry | None = None, config: RunConfig | None = None) -> Parser:
    """Declare the flags of ``mpcc-run``.

    Arguments:
        registry: The plugins; without it, the parser has neither their options nor help.
        config: Names the plugins whose options are declared, and gives the default values in help.
    """
    parser = Parser("mpcc-run", PURPOSE, add_help=config is not None)
    parser.declare("Command", RunFlags)
    helps = dict(SECTION_HELP)
    if registry is not None and config is not None:
        for section, kind in SECTIONS.items():
            chosen = getattr(config, section).name
            helps[section] += f": {', '.join(registry.names(kind))} [default: {chosen}]"
    parser.declare_names("Plugins", helps)
    parser.declare("Run", RunSettings, "run", values=config and config.run)
    if registry is not None and config is not None:
        declare_options(parser, registry, config)
    return parser


def declare_options(parser: Parser, registry: Registry, config: RunConfig) -> None:
    """Declare the flags of the plugins that a configuration names."""
    for section, kind in SECTIONS.items():
        choice = getattr(config, section)
        cls = registry.entry(kind, choice.name).options_class()
        parser.declare(f"Options of --{section} {choice.name}", cls, section, values=choice.options)
    for section, values in config.metrics.items():
        parser.declare(f"Options of the metric {section.partition('.')[2]}", type(values), section, values=values)


def train(registry: Registry, config: RunConfig, out: Path | None, resume: Path | None, began: float) -> int:
    """Assemble and execute a run, alone or as one of several processes; return the exit status.

    Arguments:
        registry: The plugins.
        config: The configuration.
        out: The run folder that the user named, if any.
        resume: The run folder to be resumed, or None.
        began: The monotonic clock's time at which the command began.
    """
    if resume is not None and out is not None:
        raise InvalidInput("--resume writes into the run's own folder: leave out --out")
    if not launched():
        return train_here(registry, config, out, resume, began)
    # The checks above do not need torch; the imports below load it.
    import torch

    from mpcc.core.system import ranks

    with ranks.joined(cuda=config.run.device != "cpu" and torch.cuda.is_available()) as together:
        # The first process may go on with a run whose configuration the others have not read.
        tables, run, origins = together.told((config.to_tables(), config.run, dict(config.origins)))
        if not together.first:
            return help_to_train(registry, tables, run, origins, began, f"process {of_all()}")
        try:
            return train_here(registry, config, out, resume, began)
        except RankLost as error:
            if told_by_launcher():
                return error.status
            raise


def train_here(registry: Registry, config: RunConfig, out: Path | None, resume: Path | None, began: float) -> int:
    """Assemble and execute a run in this process; the arguments are those of `train`."""
    from mpcc.core.reporting.verdict import verdict
    from mpcc.core.run.execution import Stopped
    from mpcc.core.run.whole_run import carry_out
    from mpcc.core.storage.run_folder import RunFolder

    folder = RunFolder.existing(resume) if resume else RunFolder.plan(out, config)
    try:
        results = carry_out(
            registry,
            config,
            folder,
            resumed=resume is not None,
            began=began,
            remark=lambda: about_preset(registry, config),
        )
    except Stopped as stop:
        print(f"mpcc-run: {stop}", file=sys.stderr)
        return EXIT_INTERRUPTED
    scores = " ".join(f"{name} {value:.3f}" for name, value in results["metrics"].items())
    print(f"{folder.path}: {results['iterations']} iterations in {results['seconds']:.0f} s {scores}".rstrip())
    print(verdict(results, quoted(folder.path), warm=config.run.init_from is not None).line)
    print(f"look at {folder.to_look_at()}")
    return 0


def help_to_train(
    registry: Registry,
    tables: Mapping[str, Mapping[str, Any]],
    run: RunSettings,
    origins: Mapping[str, str],
    began: float,
    name: str,
) -> int:
    """Take part in a run of the first process; return the exit status.

    Arguments:
        registry: The plugins.
        tables: The plugins and their options, as the first process has them.
        run: Its settings.
        origins: Where its values come from.
        began: The monotonic clock's time at which the command began.
        name: Of this process, for errors.
    """
    from mpcc.core.run.whole_run import follow_run

    try:
        plugins = {section: table for section, table in tables.items() if section != "run"}
        config = resolve(registry, [Layer("first process", plugins)], "none")
        follow_run(registry, attrs.evolve(config, run=run, origins=dict(origins)), began=began)
    except RankLost as error:
        return error.status  # the first process says so
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (InvalidInput, OutOfResources, TrainingDiverged) as error:
        print(f"mpcc-run: error: {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.status
    return 0
