"""What it costs to train in two processes of one thread instead of one process with two threads, on this machine.

    python benchmarks/several_processes.py measure --out FILE.json [-- FLAGS OF MPCC-RUN]
    python benchmarks/several_processes.py table FILE.json
    python benchmarks/several_processes.py model [FILE.json]

``measure`` lets both take turns, and the medians of all iterations count. It counts the bytes that each process hands
in to be reduced in an iteration, by phase, and how long the reductions take over the loopback, the wait for the other
process included. ``model`` computes what a training with more processes would take from the sizes of the reductions and
from the latency and the rate of a network: it is a plan, not a result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from surroundings import activity, machine, now, source_state, versions

from mpcc.core.commands.train import run_parser
from mpcc.core.config import SECTIONS, Layer, resolve
from mpcc.core.registry import load_registry
from mpcc.core.run.assembly import build_model, build_trainer, fitted, load_data
from mpcc.core.run.ranks.environment import launched
from mpcc.core.system import ranks
from mpcc.core.system.randomness import seed_everything

__all__ = ["Network", "main", "reduction_seconds"]

PROCESSES = 2
WARM_UP = 3


@attrs.frozen
class Network:
    """A network between processes.

    Attributes:
        name: For the table.
        latency: Seconds that a message takes, however small.
        rate: Bytes a second that a process can send.
    """

    name: str
    latency: float
    rate: float


# Orders of magnitude from the vendors' sheets: NVLink within a machine, InfiniBand and Ethernet between machines.
NETWORKS = (
    Network("NVLink, 450 GB/s", 5e-6, 450e9),
    Network("400 Gbit/s", 10e-6, 50e9),
    Network("10 Gbit/s", 50e-6, 1.25e9),
)


def reduction_seconds(size: float, processes: int, network: Network) -> float:
    """Return the seconds of a reduction by a tree (small) or a ring (large), whichever is faster.

    A tree takes 2 log2 P messages of the whole size; a ring 2 (P - 1) messages of a P-th each.

    Arguments:
        size: Bytes that each process hands in.
        processes: P.
        network: Latency and rate.

    Example:
        >>> slow = Network("slow", latency=1.0, rate=10.0)
        >>> reduction_seconds(0, 4, slow), reduction_seconds(1000, 2, slow), reduction_seconds(1000, 1, slow)
        (4.0, 102.0, 0.0)
    """
    if processes == 1:
        return 0.0
    steps = 2 * (processes - 1).bit_length()
    tree = steps * (network.latency + size / network.rate)
    rounds = 2 * (processes - 1)
    return min(tree, rounds * (network.latency + size / processes / network.rate))


def timed(flags: Sequence[str], iterations: int, out: Path) -> None:
    """Train as one of the processes that measure, and write what this one found."""
    registry = load_registry()
    typed = run_parser().read(list(flags), SECTIONS)
    joined = ranks.joined(cuda=False) if launched() else contextlib.nullcontext(ranks.current())
    with joined as together:
        torch.set_num_threads(PROCESSES if together.alone else 1)
        config = resolve(registry, [Layer("flag", typed.tables)])
        data = load_data(config)
        config = fitted(config, len(data))
        seed_everything(config.run.seed)
        model = build_model(config, data.images.shape[1], torch.device("cpu"))
        trainer = build_trainer(config, model, data.images)
        spent = []
        with trainer.engine.active():
            for _ in range(WARM_UP):
                trainer.iterate()
            together.bytes.clear()
            together.calls.clear()
            together.seconds.clear()
            for _ in range(iterations):
                began = time.perf_counter()
                trainer.iterate()
                spent.append(time.perf_counter() - began)
        found = {
            "seconds": spent,
            "bytes": {name: count / iterations for name, count in together.bytes.items()},
            "reduced_in": {name: seconds / iterations for name, seconds in together.seconds.items()},
            "calls": {name: count / iterations for name, count in together.calls.items()},
        }
    if together.first:
        out.write_text(json.dumps(found), encoding="utf-8")


def measure(flags: Sequence[str], rounds: int, iterations: int) -> dict[str, Any]:
    """Let one process and several take turns; return what was found."""
    found: dict[str, list[dict[str, Any]]] = {"one": [], "several": []}
    before = activity(1.0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name in sorted(found, reverse=bool(number % 2)):
                out = Path(folder) / f"{name}-{number}.json"
                start = [sys.executable]
                if name == "several":
                    start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
                words = [__file__, "timed", "--iterations", str(iterations), "--out", str(out), "--", *flags]
                threads = str(PROCESSES if name == "one" else 1)
                subprocess.run([*start, *words], check=True, env={**os.environ, "OMP_NUM_THREADS": threads})
                found[name].append(json.loads(out.read_text(encoding="utf-8")))
    seconds = {name: [each for part in parts for each in part["seconds"]] for name, parts in found.items()}
    several = found["several"]
    return {
        "flags": list(flags),
        "date": now(),
        "machine": machine(),
        "versions": versions(),
        "source": source_state(),
        "before": before,
        "after": activity(1.0),
        "rounds": rounds,
        "iterations": iterations,
        "one": statistics.median(seconds["one"]),
        "several": statistics.median(seconds["several"]),
        "bytes": several[0]["bytes"],
        "calls": several[0]["calls"],
        "reduced_in": {
            name: statistics.median(part["reduced_in"][name] for part in several) for name in several[0]["bytes"]
        },
    }


def table(found: Mapping[str, Any]) -> str:
    """Return the table of a measurement."""
    one, several = found["one"], found["several"]
    lines = [
        f"`{' '.join(found['flags'])}`: {1000 * one:.1f} ms an iteration with two threads, {1000 * several:.1f} ms "
        f"with two processes, {several / one:.2f} of it",
        "",
        "| reduced | calls an iteration | bytes an iteration | ms an iteration |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {found['calls'][name]:.0f} | {size:,.0f} | {1000 * found['reduced_in'][name]:.2f} |"
        for name, size in found["bytes"].items()
    ]
    total = sum(found["bytes"].values()), sum(found["reduced_in"].values())
    lines += [f"| together | {sum(found['calls'].values()):.0f} | {total[0]:,.0f} | {1000 * total[1]:.2f} |"]
    return "\n".join(lines)


def model(found: Mapping[str, Any], alone: float, counts: Sequence[int]) -> str:
    """Return the table of the model: the share of an iteration that is left for computing, by network and processes.

    Arguments:
        found: A measurement, whose reductions count.
        alone: Seconds that an iteration computes in each process.
        counts: Numbers of processes.
    """
    lines = [f"| processes | {' | '.join(each.name for each in NETWORKS)} |", f"| --- |{' --- |' * len(NETWORKS)}"]
    for count in counts:
        shares = []
        for network in NETWORKS:
            reduced = sum(
                calls * reduction_seconds(found["bytes"][name] / calls, count, network)
                for name, calls in found["calls"].items()
            )
            shares.append(f"{1000 * reduced:.1f} ms, {alone / (alone + reduced):.0%}")
        lines.append(f"| {count:,} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, or print what a measurement says."""
    words = list(sys.argv[1:] if words is None else words)
    flags = words[words.index("--") + 1 :] if "--" in words else ["--data", "digits"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["measure", "table", "model", "timed"])
    parser.add_argument("file", nargs="?", type=Path, help="of a measurement")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--alone", type=float, default=0.015, help="model: seconds of an iteration without reductions")
    given = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    if given.action == "timed":
        timed(flags, given.iterations, given.out)
    elif given.action == "measure":
        found = measure(flags, given.rounds, given.iterations)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(table(found))
    else:
        found = json.loads(given.file.read_text(encoding="utf-8"))
        counts = [2**power for power in (1, 3, 5, 7, 10)]
        print(table(found) if given.action == "table" else model(found, given.alone, counts))


if __name__ == "__main__":
    main()
