"""How well mpcc clusters, measured as a user meets it: one command, its wall time, one result file for each seed.

    python benchmarks/accuracy.py run                          # everything in settings.toml, in that order
    python benchmarks/accuracy.py run digits --seeds 20-22
    python benchmarks/accuracy.py run digits --shared          # on a busy machine: one thread, no times
    python benchmarks/accuracy.py left
    python benchmarks/accuracy.py table [--write]
    python benchmarks/accuracy.py ranks

A result is a file NAME-SEED.json under docs/results/accuracy. What is there is skipped, so the measurement can be
interrupted at any time and goes on where it was. Before and after each run the rate of a matrix product is measured: a
machine that is busy with something else shows. With ``--shared`` a run has one thread, and its file, NAME-SEED-shared,
says that it is not timed; a run with ``--minutes`` then needs ``--iterations``, since time says nothing there.
Published sets are read from ``--data-root`` or ``MPCC_DATA``. Run folders and logs are kept under ``--work``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from baseline_methods import METHODS
from measured_run import collapsed, evaluated, grouped_latents, measure, replaced, scores_of
from proof_settings import SETTINGS, AccuracySetting, Settings, filled, read_settings
from result_files import RESULTS, read_results, seeds_of, write_result
from result_tables import COLUMNS, SHORT_COLUMNS, race_tables, rank_correlations, replace_block
from surroundings import activity, machine, now, source_state, versions

from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
WORK = Path("runs/accuracy")


def result_file(folder: Path, name: str, seed: int, *, shared: bool) -> Path:
    """Return the file of a result."""
    return folder / f"{name}-{seed}{'-shared' if shared else ''}.json"


def arguments_of(setting: AccuracySetting, seed: int, flags: argparse.Namespace) -> list[str]:
    """Return the arguments of ``mpcc-run`` for a setting and a seed, valid in the folder of the runs.

    Raises:
        InvalidInput: If a run that depends on time is to share a machine.
    """
    made = flags.work / "made"
    arguments = [word.replace(str(made), "made") for word in filled(setting, made)]
    if flags.shared:
        if "--minutes" in arguments or setting.stop:
            if flags.iterations is None:
                raise InvalidInput(
                    f"--shared {setting.name}: its length depends on the time; expected --iterations N as well"
                )
            position = arguments.index("--minutes") if "--minutes" in arguments else len(arguments)
            del arguments[position : position + 2]
        arguments = replaced(arguments, ["--threads", "1"])
    if flags.iterations is not None:
        arguments = replaced(arguments, ["--iterations", str(flags.iterations)])
    return replaced(arguments, ["--seed", str(seed)])


def run_one(setting: AccuracySetting, seed: int, flags: argparse.Namespace) -> None:
    """Train one seed of a setting and write its result.

    Raises:
        InvalidInput: If the command fails; there is no result then.
    """
    flags.work.mkdir(parents=True, exist_ok=True)
    arguments = arguments_of(setting, seed, flags)
    run = unused(flags.work / f"{setting.name}-{seed}")
    log = run.with_name(f"{run.name}.log")
    result: dict[str, Any] = {"setting": setting.name, "data": setting.data, "seed": seed, "timed": not flags.shared}
    result |= {"command": " ".join(["mpcc-run", *arguments]), "date": now(), "budget_seconds": setting.budget}
    result |= {"chosen": setting.chosen, "machine": machine(), "source": source_state()}
    words: Sequence[str] = arguments
    if setting.collapse:
        first = [*setting.collapse, *(["--threads", "1"] if flags.shared else [])]
        result |= {"first_part": " ".join(setting.collapse)}
        result |= {"collapsed": collapsed(arguments, first, run, log)}
        words = []
    result["before"] = activity(flags.rate_seconds)
    done = measure(words, run, log, setting.budget if setting.stop and not flags.shared else None)
    folder = run
    if setting.refine is not None and done.ended == "finished":
        began = time.monotonic()
        folder = evaluated(run, log, "refine", [*setting.refine, *(["--threads", "1"] if flags.shared else [])])
        done = attrs.evolve(done, seconds=done.seconds + time.monotonic() - began)
        result |= {"refined": " ".join(["mpcc refine", *setting.refine])}
    result["after"] = activity(flags.rate_seconds)
    result |= {"ended": done.ended, "wall_seconds": round(done.seconds, 1), "evaluations": done.evaluations}
    result["first_result_seconds"] = done.evaluations[0]["seconds"] if done.evaluations else None
    if done.ended == "finished":
        groups = grouped_latents(run.resolve(), seed, log.resolve()) if setting.latent_groups else None
        result |= scores_of(folder, setting.chosen_images, groups)
        result |= {"latent_groups": "k-means"} if setting.latent_groups else {}
    elif (run / "checkpoints" / "last.pt").exists() and done.ended != "diverged" and not setting.latent_groups:
        result |= scores_of(evaluated(run, log), setting.chosen_images)
    result["versions"] = {**versions(), **(result.get("versions") or {})}
    if flags.shared:
        for name in ("wall_seconds", "first_result_seconds", "training_seconds", "evaluation_seconds"):
            result.pop(name, None)
        for evaluation in result["evaluations"]:
            evaluation.pop("seconds")
    write_result(result_file(flags.results, setting.name, seed, shared=flags.shared), result)
    acc = result.get("scores", {}).get("acc")
    print(f"{setting.name}, seed {seed}: {done.ended}, {done.seconds:.0f} s, acc {acc}", flush=True)


def unused(folder: Path) -> Path:
    """Return a folder's name, with a number if a run that was interrupted has left one of that name."""
    names = (folder.with_name(f"{folder.name}-{number}" if number else folder.name) for number in range(1000))
    return next(name for name in names if not name.exists())


def missing(settings: Sequence[AccuracySetting], flags: argparse.Namespace) -> list[tuple[AccuracySetting, int]]:
    """Return what has no result yet, in the order of the settings."""
    wanted = [
        (setting, seed)
        for setting in settings
        for seed in (seeds_of(flags.seeds) if getattr(flags, "seeds", None) else setting.seeds)
    ]
    return [
        (setting, seed)
        for setting, seed in wanted
        if not result_file(flags.results, setting.name, seed, shared=flags.shared).exists()
    ]


def run(settings: Sequence[AccuracySetting], flags: argparse.Namespace) -> int:
    """Run what has no result yet; a run that fails is told, and the others go on.

    Returns:
        The exit status: 1 if a run failed.
    """
    status = 0
    for setting, seed in missing(settings, flags):
        try:
            run_one(setting, seed, flags)
        except InvalidInput as error:
            print(f"{setting.name}, seed {seed}: {error}", file=sys.stderr, flush=True)
            status = 1
    return status


def left(settings: Settings, flags: argparse.Namespace) -> str:
    """Return what was not measured, a line for each setting; seeds of shared machines count as measured, untimed."""
    lines = []
    for setting in settings.named([]):
        names = {seed: result_file(flags.results, setting.name, seed, shared=False) for seed in setting.seeds}
        shared = {seed: result_file(flags.results, setting.name, seed, shared=True) for seed in setting.seeds}
        absent = [seed for seed in names if not names[seed].exists() and not shared[seed].exists()]
        untimed = [seed for seed in names if not names[seed].exists() and shared[seed].exists()]
        lines += [f"- {setting.name}: seeds {listed(absent)}"] if absent else []
        lines += [f"- {setting.name}: times of seeds {listed(untimed)}"] if untimed else []
    for baseline in settings.baselines:
        by_seeds: dict[str, list[str]] = {}
        for method in METHODS:
            paths = {seed: flags.baselines / f"{baseline.name}-{method}-{seed}.json" for seed in baseline.seeds}
            absent = [seed for seed, path in paths.items() if not path.exists()]
            if absent:
                by_seeds.setdefault(listed(absent), []).append(method)
        lines += [f"- baselines on {baseline.name}: {', '.join(names)}: seeds {s}" for s, names in by_seeds.items()]
    return "\n".join(lines) or "Nothing is left."


def listed(seeds: Sequence[int]) -> str:
    """Return seeds as a text.

    Example:
        >>> listed([20, 21, 22, 25])
        '20-22, 25'
    """
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and parts[-1][-1] == seed - 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def tables(settings: Settings, flags: argparse.Namespace, *, short: bool) -> str:
    """Return the tables of all results.

    Arguments:
        settings: All of them.
        flags: Names the folders of the results.
        short: Only the rows of the README.
    """
    order = {
        setting.name: (setting.title, setting.data) for setting in settings.accuracy if setting.readme or not short
    }
    columns = SHORT_COLUMNS if short else COLUMNS
    return race_tables(order, read_results(flags.results), read_results(flags.baselines), columns)


def whole_page(settings: Settings, flags: argparse.Namespace) -> str:
    """Return all tables, the rank correlations, and what is left: the block of docs/results.md."""
    parts = [tables(settings, flags, short=False)]
    results = read_results(flags.results)
    if results:
        parts += [
            "## Scores without labels against acc",
            "Spearman's rank correlation across seeds.",
            rank_correlations(results),
        ]
    return "\n\n".join([part for part in [*parts, "## Not measured yet", left(settings, flags)] if part])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", allow_abbrev=False, help="measure what has no result yet")
    running.add_argument("names", nargs="*", help="settings; all of them if there is no name")
    running.add_argument("--seeds", nargs="+", help="numbers and ranges such as 20-29 [those of the setting]")
    running.add_argument("--shared", action="store_true", help="the machine is busy: one thread, no times")
    running.add_argument("--iterations", type=int, help="with --shared: in place of the time that a run depends on")
    running.add_argument("--data-root", type=Path, help="folder of published sets [MPCC_DATA]")
    running.add_argument("--work", type=Path, default=WORK, help=f"folder of runs, logs and made sets [{WORK}]")
    running.add_argument("--rate-seconds", type=float, default=1.0, help="time to measure the machine's rate [1]")
    commands.add_parser("left", allow_abbrev=False, help="list what has no result")
    table = commands.add_parser("table", allow_abbrev=False, help="print the results in Markdown")
    table.add_argument("--write", action="store_true", help="write them into README.md and docs/results.md")
    table.add_argument("--pages", type=Path, default=ROOT, help="folder of README.md and docs/results.md")
    table.add_argument("--short", action="store_true", help="only the rows of the README")
    commands.add_parser("ranks", allow_abbrev=False, help="how scores without labels agree with acc across seeds")
    for command in commands.choices.values():
        command.add_argument("--results", type=Path, default=RESULTS / "accuracy", help="folder of the results")
        command.add_argument("--baselines", type=Path, default=RESULTS / "baselines", help="folder of the baselines")
        command.add_argument("--settings", type=Path, default=SETTINGS, help="file of the settings")
    flags = parser.parse_args(arguments)
    try:
        settings = read_settings(flags.settings)
        if flags.command == "run":
            # The runs work in another folder.
            root = flags.data_root or os.environ.get("MPCC_DATA")
            if root:
                os.environ["MPCC_DATA"] = str(Path(root).absolute())
            if flags.iterations is not None and not flags.shared:
                raise InvalidInput("--iterations replaces a time, expected --shared beside it")
            return run(settings.named(flags.names), flags)
        if flags.command == "left":
            print(left(settings, flags))
        elif flags.command == "ranks":
            print(rank_correlations(read_results(flags.results)))
        elif flags.write:
            short = tables(settings, flags, short=True)
            if short:
                replace_block(flags.pages / "README.md", "short", short)
            replace_block(flags.pages / "docs" / "results.md", "all", whole_page(settings, flags))
        else:
            print(tables(settings, flags, short=flags.short))
    except InvalidInput as error:
        print(f"accuracy.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    # A request to end leaves no run behind: it is passed on to the run, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
