"""Runs that are killed at random moments and resumed: do all end with the weights of an uninterrupted run?

    python benchmarks/killed_runs.py --kills 50 --out runs/killed

One run on the digits is not interrupted. Then the same command is started many times and killed with SIGKILL: every
tenth time while it starts, every third time while it writes a checkpoint, else at a random moment of its training or
evaluations. It is resumed with ``mpcc-run --resume`` and runs to its end. Every tensor and number of its last
checkpoint (parameters, averages, optimizers, random states, position in the data, best score) and every byte of its
evaluations must then equal those of the uninterrupted run. The exit status is 1 if any of them differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mpcc.core.storage.checkpoint import load_checkpoint

# Evaluations and checkpoints are frequent, so that kills hit them too.
COMMAND = ["--data", "digits", "--eval-every", "10", "--checkpoint-every", "2", "--log-every", "5", "--threads", "1"]
SAME_FILES = ("metrics.jsonl", "assignments.csv", "posterior.npy", "clusters.png", "samples.png", "config.toml")
# Entries that differ between any two runs.
CLOCKS = {"seconds", "evaluation_seconds"}


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start ``mpcc-run`` in a process of its own."""
    command = "from mpcc.core.commands.entry import run_main; run_main()"
    return subprocess.Popen(
        [sys.executable, "-c", command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a process that should succeed.

    Raises:
        RuntimeError: If it does not, with its standard error.
    """
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"mpcc-run ended with {process.returncode}: {errors}")


def parts(folder: Path) -> list[Path]:
    """Return the files of a run's checkpoints that are being written."""
    return list((folder / "checkpoints").glob("*.part"))


def killed(folder: Path, arguments: list[str], moment: str, delay: float) -> str:
    """Start a run and kill it; return what it was doing.

    Arguments:
        folder: The run folder.
        arguments: The arguments of the command.
        moment: ``starting``, ``saving`` or ``running``.
        delay: Seconds after the start, or, unless ``starting``, after the folder has appeared.
    """
    process = start(*arguments)
    if moment != "starting":
        wait_for(lambda: (folder / "config.toml").exists(), process)
    end = time.monotonic() + delay
    wait_for(lambda: time.monotonic() >= end, process)
    if moment == "saving":
        wait_for(lambda: bool(parts(folder)), process)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if not alive:
        return "after its end"
    if parts(folder):
        return "while it wrote a checkpoint"
    if not (folder / "config.toml").exists():
        return "before it had written anything"
    if not (folder / "checkpoints" / "last.pt").exists():
        return "before its first checkpoint"
    return "between checkpoints"


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    """Wait until something is true, or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.0005)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts and lists with their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in CLOCKS:
                yield from flat(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flat(item, f"{name}[{index}]")
    else:
        yield name, value


def differences(folder: Path, expected: Path) -> list[str]:
    """Return the names of values and files that differ between two finished runs."""
    ours, theirs = (dict(flat(load_checkpoint(run / "checkpoints" / "last.pt"))) for run in (folder, expected))
    different = sorted(ours.keys() ^ theirs.keys())
    for name in ours.keys() & theirs.keys():
        value, other = ours[name], theirs[name]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        different += [] if same else [name]
    return different + [name for name in SAME_FILES if (folder / name).read_bytes() != (expected / name).read_bytes()]


def killed_and_resumed(folder: Path, arguments: list[str], iterations: int, moment: str, delay: float) -> str:
    """Kill a run once and bring it to its end; return what it was doing when it was killed."""
    activity = killed(folder, [*arguments, "--out", str(folder)], moment, delay)
    newest = folder / "checkpoints" / "last.pt"
    if newest.exists() and load_checkpoint(newest)["iteration"] == iterations:
        return activity
    if (folder / "config.toml").exists():
        finish(start("--resume", str(folder)))
    else:
        # Nothing had been written yet, so nothing is lost.
        shutil.rmtree(folder, ignore_errors=True)
        finish(start(*arguments, "--out", str(folder)))
    return activity


def main() -> None:
    """Kill, resume, compare; print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many runs to kill, once each")
    parser.add_argument("--iterations", type=int, default=40, help="iterations of each run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/killed"), help="new folder for the runs")
    flags, further = parser.parse_known_args()
    flags.out.mkdir(parents=True)
    arguments = [*COMMAND, "--iterations", str(flags.iterations), *further]
    expected = flags.out / "uninterrupted"
    began = time.monotonic()
    process = start(*arguments, "--out", str(expected))
    wait_for(lambda: (expected / "config.toml").exists(), process)
    starting = time.monotonic() - began
    finish(process)
    running = time.monotonic() - began - starting
    print(f"uninterrupted: {starting:.1f} s until its folder appeared, {running:.1f} s after that", flush=True)
    moments = random.Random(flags.seed)
    activities: Counter[str] = Counter()
    wrong = 0
    for kill in range(flags.kills):
        moment = "starting" if kill % 10 == 9 else "saving" if kill % 3 == 0 else "running"
        delay = moments.uniform(0, starting if moment == "starting" else 0.9 * running)
        folder = flags.out / f"killed-{kill}"
        activity = killed_and_resumed(folder, arguments, flags.iterations, moment, delay)
        different = differences(folder, expected)
        activities[activity] += 1
        wrong += bool(different)
        verdict = f"DIFFERS in {', '.join(different[:5])}" if different else "the same"
        print(f"kill {kill + 1}: {delay:.2f} s, {activity}: {verdict}", flush=True)
        if not different:
            shutil.rmtree(folder)
    print(f"{flags.kills - wrong} of {flags.kills} killed runs ended with the weights of the uninterrupted run")
    for activity, count in activities.most_common():
        print(f"  killed {activity}: {count}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
