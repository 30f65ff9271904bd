"""Milliseconds of an iteration by engine and precision, and the kernels that take them.

    python benchmarks/gpu/engines.py --out OUT --seconds 300 --presets mnist-paper,cifar10-paper

Each row is on the disk as soon as it is measured, in OUT/engines.json. OUT/kernels-PRESET-ENGINE.txt lists the kernels
of an iteration by their time. Training is on random images, so no data set is needed.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import attrs
import torch
from torch.profiler import ProfilerActivity, profile

from mpcc.core.bench.subject import Subject
from mpcc.core.config import Layer, resolve
from mpcc.core.engines.fast import WARM_UP
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry

__all__ = ["Case", "cases", "kernels", "main", "timed"]

PRESETS = "mnist-paper,omniglot-paper,cifar10-paper,mnist,digits"
PROFILED = 3


@attrs.frozen
class Case:
    """An engine as `mpcc bench` names it, and whether an iteration is one graph."""

    engine: str
    graph: bool = True

    @property
    def name(self) -> str:
        """The engine, and ``eager`` where an iteration is no graph."""
        return self.engine if self.graph else f"{self.engine}-eager"


def cases(first: bool) -> list[Case]:
    """Return what is measured; all of it only for the first preset, because the host takes long without a graph."""
    graphs = [Case("fast-tf32"), Case("fast-bf16"), Case("fast"), Case("fast-tf32-triton"), Case("fast-bf16-triton")]
    return [*graphs, Case("fast-tf32", graph=False), Case("plain", graph=False)] if first else graphs


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(trainer: Trainer, seconds: float) -> dict[str, float]:
    """Return milliseconds of an iteration: the median if the host waits for each, and the mean if it does not.

    Arguments:
        trainer: Its iterations must have settled.
        seconds: How long to measure each way.
    """
    device, waited = trainer.model.device, []
    begin = time.perf_counter()
    while len(waited) < 3 or time.perf_counter() - begin < seconds:
        at = time.perf_counter()
        trainer.iterate()
        synchronize(device)
        waited.append(time.perf_counter() - at)
    begin = time.perf_counter()
    for _ in waited:
        trainer.iterate()
    host = time.perf_counter() - begin
    synchronize(device)
    whole = time.perf_counter() - begin
    waited.sort()
    return {
        "median_ms": 1e3 * waited[len(waited) // 2],
        "unwaited_ms": 1e3 * whole / len(waited),
        "host_ms": 1e3 * host / len(waited),
        "iterations": len(waited),
    }


def kernels(trainer: Trainer, file: Path) -> dict[str, float]:
    """Write the kernels of an iteration by their time; return their number and the milliseconds that they take."""
    activities = [ProfilerActivity.CPU]
    cuda = trainer.model.device.type == "cuda"
    if cuda:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, acc_events=True) as seen:
        for _ in range(PROFILED):
            trainer.iterate()
        synchronize(trainer.model.device)
    wanted = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    found: dict[str, list[float]] = defaultdict(list)
    for event in seen.events():
        if event.device_type == wanted:
            found[event.name].append(event.time_range.elapsed_us())
    with file.open("w", encoding="utf-8") as lines:
        for name, times in sorted(found.items(), key=lambda item: -sum(item[1])):
            print(f"{sum(times) / PROFILED:10.1f} us {len(times) / PROFILED:8.1f} x  {name[:160]}", file=lines)
    every = [duration for times in found.values() for duration in times]
    return {"kernels": len(every) / PROFILED, "busy_ms": sum(every) / PROFILED / 1e3}


def measured(subject: Subject, case: Case, out: Path, seconds: float) -> dict[str, Any]:
    """Return the row of a preset under an engine."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer = subject.assemble(case.engine).trainer
    trainer.engine.capturable = trainer.engine.capturable and case.graph
    with trainer.engine.active():
        begin = time.perf_counter()
        for _ in range(2 * WARM_UP):
            trainer.iterate()
        synchronize(trainer.model.device)
        row: dict[str, Any] = {"settling_s": time.perf_counter() - begin}
        row |= timed(trainer, seconds)
        row["peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
        row["notes"] = list(getattr(trainer.engine, "notes", []))
        row |= kernels(trainer, out / f"kernels-{subject.name}-{case.name}.txt")
    return row


def main() -> None:
    """Measure until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presets", default=PRESETS)
    parser.add_argument("--engines", help="only these, as mpcc bench names them")
    parser.add_argument("--seconds", type=float, default=300, help="no further row begins after so many")
    parser.add_argument("--each", type=float, default=2, help="seconds of measuring a row, twice")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    began, registry, rows = time.monotonic(), load_registry(), {}
    for index, preset in enumerate(given.presets.split(",")):
        layer = Layer("bench", {"run": {"device": given.device}})
        subject = Subject.of(preset, registry, resolve(registry, [layer], preset), reading=False)
        for case in cases(index == 0):
            if given.engines and case.name not in given.engines.split(","):
                continue
            name = f"{preset} {case.name}"
            if time.monotonic() - began > given.seconds:
                print(f"{name}: the time is up", flush=True)
                continue
            try:
                rows[name] = measured(subject, case, given.out, given.each)
            except Exception as error:  # The next row counts, too.
                rows[name] = {"error": f"{type(error).__name__}: {error}"}
            print(name, rows[name], flush=True)
            (given.out / "engines.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
            gc.collect()


if __name__ == "__main__":
    main()
