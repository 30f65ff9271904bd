"""One run of ``mpcc-run`` as a user starts it, with its wall time and the time of each evaluation."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import tomli_w
from baseline_methods import k_means
from numpy.typing import NDArray
from result_files import scores

from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, TrainingDiverged
from mpcc.core.storage.checkpoint import load_checkpoint, save_checkpoint
from mpcc.core.system.whole_files import write_whole

__all__ = [
    *("MeasuredRun", "assigned", "collapsed", "evaluated", "grouped_latents", "measure", "replaced", "scores_of"),
]

# How often a run is looked at, and how long it may take to save its state once it is interrupted (s).
INTERVAL, PATIENCE = 0.1, 600.0


@attrs.frozen
class MeasuredRun:
    """How a run went.

    Attributes:
        ended: ``finished``, or how else.
        seconds: Wall time of the command, with imports and evaluations.
        evaluations: For each one its iteration, the wall time (s) at which its scores were on the disk, the scores.
    """

    ended: str
    seconds: float
    evaluations: list[dict[str, Any]]


def program(name: str) -> str:
    """Return the installed command, which lies beside this Python."""
    return str(Path(sys.executable).with_name(name))


def measure(arguments: Sequence[str], run: Path, log: Path, stop: float | None = None) -> MeasuredRun:
    """Run ``mpcc-run`` and wait for its end.

    Arguments:
        arguments: Of the command, without those for its folder.
        run: The run folder; the command runs in the folder above it. If it exists, the run is resumed.
        log: File for what the command prints.
        stop: Seconds after which the run is interrupted, as by Ctrl-C; None to let it end.

    Raises:
        InvalidInput: If the command fails otherwise than by divergence; the message has its last line.
    """
    place = ["--resume", run.name] if run.exists() else ["--out", run.name]
    metrics = run / "metrics.jsonl"
    known = lines_of(metrics)
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [program("mpcc-run"), *arguments, *place], cwd=run.parent, stdout=output, stderr=subprocess.STDOUT
        )
        evaluations: list[dict[str, Any]] = []
        interrupted = False
        try:
            while process.poll() is None:
                time.sleep(INTERVAL)
                seconds = time.monotonic() - start
                evaluations += timed(lines_of(metrics)[len(known) + len(evaluations) :], seconds)
                if stop is not None and seconds >= stop and not interrupted:
                    process.send_signal(signal.SIGINT)
                    interrupted = True
                if stop is not None and seconds >= stop + PATIENCE:
                    process.kill()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
    seconds = time.monotonic() - start
    evaluations += timed(lines_of(metrics)[len(known) + len(evaluations) :], seconds)
    if process.returncode == 0:
        ended = "finished"
    elif interrupted and process.returncode in (EXIT_INTERRUPTED, -signal.SIGINT):
        ended = f"interrupted after {stop:g} s"
    elif process.returncode == TrainingDiverged.status:
        ended = "diverged"
    else:
        raise InvalidInput(f"mpcc-run ended with status {process.returncode}: {last_line(log)}")
    return MeasuredRun(ended, seconds, evaluations)


def lines_of(path: Path) -> list[str]:
    """Return the whole lines of a file that may not exist yet."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    except FileNotFoundError:
        return []


def timed(lines: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """Return evaluations with the time at which they were seen."""
    read = [json.loads(line) for line in lines]
    kept = ("acc", "nmi", "kept_information")
    return [
        {"iteration": line["iteration"], "seconds": round(seconds, 1)}
        | {name: round(line["metrics"][name], 4) for name in kept if name in line["metrics"]}
        for line in read
    ]


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


# What the folder of a command is called, after the name of the run.
FOLDERS = {"evaluate": "evaluation", "refine": "refined"}


def evaluated(run: Path, log: Path, command: str = "evaluate", words: Sequence[str] = ()) -> Path:
    """Evaluate or refine the last checkpoint of a run, and return the folder with the results.

    Arguments:
        run: The run folder.
        log: File for what the command prints.
        command: ``evaluate`` or ``refine``.
        words: Further arguments.

    Raises:
        InvalidInput: If that is impossible.
    """
    out = run.with_name(f"{run.name}-{FOLDERS[command]}")
    with log.open("a", encoding="utf-8") as output:
        done = subprocess.run(
            [program("mpcc"), command, run.name, "--out", out.name, *words],
            cwd=run.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if done.returncode != 0:
        raise InvalidInput(f"mpcc {command} ended with status {done.returncode}: {last_line(log)}")
    return out


def assigned(folder: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return index, cluster and class of each evaluated image, from ``assignments.csv``; -1 for an unknown class."""
    with (folder / "assignments.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    labels = [row.get("label") or "" for row in rows]
    number = {label: position for position, label in enumerate(sorted(set(labels) - {""}))}
    columns = (
        [int(row["index"]) for row in rows],
        [int(row["cluster"]) for row in rows],
        [number.get(label, -1) for label in labels],
    )
    first, second, third = (np.array(column, np.int64) for column in columns)
    return first, second, third


def grouped_latents(run: Path, seed: int, log: Path) -> NDArray[np.int64]:
    """Return clusters of a run's images, found in its latents by k-means with as many groups as there are classes.

    Arguments:
        run: A run folder, with ``assignments.csv``.
        seed: Of k-means.
        log: File for what ``mpcc predict`` prints.

    Returns:
        Shape (N,), a cluster for each image of the data set.

    Raises:
        InvalidInput: If the latents cannot be had.
    """
    table, latents = (run / "latents" / name for name in ("predictions.csv", "latents.npy"))
    table.parent.mkdir(exist_ok=True)
    words = ["predict", str(run), "--out", str(table), "--latents", str(latents)]
    with log.open("a", encoding="utf-8") as output:
        done = subprocess.run([program("mpcc"), *words], cwd=run.parent, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise InvalidInput(f"mpcc predict ended with status {done.returncode}: {last_line(log)}")
    _, _, labels = assigned(run)
    return k_means(np.load(latents), len(set(labels.tolist()) - {-1}), seed, 0.0)[0]


def scores_of(folder: Path, chosen_images: int, groups: NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Return what a result says about the scores of an evaluation.

    Arguments:
        folder: With ``results.json`` and ``assignments.csv``.
        chosen_images: How many images, the first ones, do not count for the score of the rest.
        groups: Clusters in place of the run's, one for each image of the data set.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    index, found, labels = assigned(folder)
    if groups is not None:
        found = groups[index]
        results["clusters"] = {"total": len(set(groups.tolist())), "used": len(set(found.tolist()))}
    content: dict[str, Any] = {
        "scores": results["metrics"] | scores(found, labels),
        "images": {name: results["evaluated"][name] for name in ("images", "of")},
        "clusters": results["clusters"],
        # An evaluation afterwards looks for no warnings.
        "warnings": [warning["name"] for warning in results["health"]["warnings"]] if "health" in results else None,
        "iterations": results["iterations"],
        "training_seconds": results["seconds"] - results["evaluation_seconds"] if "seconds" in results else None,
        "evaluation_seconds": results["evaluation_seconds"],
        "threads": results.get("threads"),
        "engine": results.get("engine"),
        "versions": results.get("versions"),
    }
    rest = index >= chosen_images
    if chosen_images and rest.any():
        content["rest"] = {"from": chosen_images, "images": int(rest.sum()), **scores(found[rest], labels[rest])}
    return content


def replaced(arguments: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return arguments in which a flag that others give too has their value.

    Example:
        >>> replaced(["--data", "digits", "--download", "--lr", "1"], ["--lr", "2", "--seed", "3"])
        ['--data', 'digits', '--download', '--lr', '2', '--seed', '3']
    """
    given: dict[str, list[str]] = {}
    for words in (arguments, others):
        name = ""
        for word in words:
            if word.startswith("--"):
                name = word
                given[name] = []
            else:
                given[name].append(word)
    return [word for name, values in given.items() for word in (name, *values)]


def described(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the configuration that ``mpcc-run`` would use.

    Raises:
        InvalidInput: If the run could not begin.
    """
    done = subprocess.run(
        [program("mpcc-run"), *arguments, "--dry-run"], cwd=folder, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode != 0:
        raise InvalidInput(f"mpcc-run --dry-run ended with status {done.returncode}: {done.stderr.strip()}")
    return tomllib.loads(done.stdout)


def collapsed(arguments: Sequence[str], others: Sequence[str], run: Path, log: Path) -> dict[str, Any]:
    """Train a run into a collapse, and prepare its folder so that it can be resumed with the arguments themselves.

    Arguments:
        arguments: Of the run that will go on.
        others: Those that replace some of them in the first part.
        run: The run folder, which is made.
        log: File for what the commands print.

    Returns:
        What the first part led to: iterations, clusters in use, the share of the largest one, acc.

    Raises:
        InvalidInput: If a command fails.
    """
    first = replaced(arguments, others)
    measure(first, run, log)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    before, after = (described(words, run.parent) for words in (first, arguments))
    tables = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    for section, values in after.items():
        if isinstance(values, dict):
            changed = {name: value for name, value in values.items() if before[section].get(name) != value}
            dropped = before[section].keys() - values.keys()
            tables[section] = {name: tables[section][name] for name in tables[section].keys() - dropped} | changed
    # The checkpoint and the folder now say that the run has had these settings from the beginning.
    config = tomli_w.dumps(tables)
    last = run / "checkpoints" / "last.pt"
    save_checkpoint(last, {**load_checkpoint(last), "config": config})
    write_whole(run / "config.toml", config.encode())
    sizes = results["clusters"]["sizes"]
    return {
        "iterations": results["iterations"],
        "clusters_used": results["clusters"]["used"],
        "largest_share": max(sizes) / sum(sizes),
        "acc": results["metrics"].get("acc"),
    }
