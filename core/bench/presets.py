"""All measurements of ``mpcc bench`` in order, and what has to be known of the machine to read them."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mpcc.core.bench import inference
from mpcc.core.bench.memory import RULE, memory_of
from mpcc.core.bench.reference import references
from mpcc.core.bench.subject import Subject, settling_iterations, synchroniser
from mpcc.core.bench.timing import FORMULAS, Measured, Spread, interleaved, section_seconds, training_figures
from mpcc.core.config import RunConfig, options
from mpcc.core.registry import Registry
from mpcc.core.registry.attribution import attributed
from mpcc.core.run.run import Run, versions

if TYPE_CHECKING:
    from mpcc.core.bench.settings import BenchSettings

__all__ = ["measured"]

# Of the layout of bench.json.
FORMAT = 1
# For architectures without such an option.
USUAL_WIDTH = 16


def measured(
    registry: Registry,
    configs: Mapping[str, RunConfig],
    engines: Sequence[str],
    parts: Sequence[str],
    settings: BenchSettings,
    device: torch.device,
) -> dict[str, Any]:
    """Measure the parts of all presets.

    Arguments:
        registry: Their plugins.
        configs: Values by preset.
        engines: What is compared.
        parts: Which of ``training``, ``loading``, ``predict``, ``posterior``.
        settings: Rounds and iterations.
        device: Where to compute.

    Returns:
        The contents of ``bench.json`` but the command.
    """
    from mpcc.core.config import used

    threads, found = torch.get_num_threads(), {}
    for name, config in configs.items():
        torch.set_num_threads(config.run.threads or threads)
        try:
            with attributed(used(registry, config)):
                found[name] = measured_preset(registry, name, config, engines, parts, settings, device)
        finally:
            torch.set_num_threads(threads)
    return {
        "format": FORMAT,
        "date": datetime.datetime.now(tz=datetime.UTC).astimezone().isoformat(timespec="seconds"),
        "machine": {
            "processor": processor(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "system": platform.platform(),
        },
        "versions": versions(),
        "settings": options.plain(settings),
        "engines": list(engines),
        "parts": list(parts),
        "formulas": FORMULAS | inference.FORMULAS | {"memory": RULE},
        "presets": found,
    }


def measured_preset(
    registry: Registry,
    name: str,
    config: RunConfig,
    engines: Sequence[str],
    parts: Sequence[str],
    settings: BenchSettings,
    device: torch.device,
) -> dict[str, Any]:
    """Measure the parts of one preset."""
    subject = Subject.of(name, registry, config, reading="loading" in parts)
    found: dict[str, Any] = {
        "config": config.to_tables(),
        "image_shape": list(subject.shape),
        "threads": torch.get_num_threads(),
    }
    runs: dict[str, Run] = {}
    if {"training", "predict"} & {*parts}:
        runs = {engine: subject.assemble(engine) for engine in engines}
    if "training" in parts:
        found["training"] = training(subject, runs, settings, device)
    if "loading" in parts:
        tell(name, "loading")
        found["loading"] = inference.loading_figures(subject, settings.rounds, device)
    if "predict" in parts:
        tell(name, "predicting")
        found["predict"] = inference.predict_figures(subject, runs, settings.predict_images, settings.rounds)
    if "posterior" in parts:
        tell(name, "posterior")
        found["posterior"] = inference.posterior_figures(subject, device)
    return found


def training(
    subject: Subject, runs: Mapping[str, Run], settings: BenchSettings, device: torch.device
) -> dict[str, Any]:
    """Measure iterations under all engines in turn with the references, then memory in processes of its own."""
    config, wait = subject.config, synchroniser(device)
    _, size, _ = subject.shape
    batch, d_steps, e_steps = config.run.batch, config.run.d_steps, config.run.e_steps
    precisions = list(dict.fromkeys(run.trainer.engine.precision_name for run in runs.values()))
    channels = 4 * int(getattr(config.arch.options, "width", USUAL_WIDTH))
    machine = {each.name: each for each in references(device, channels, size, batch, precisions)}
    phases: dict[str, list[dict[str, float]]] = {engine: [] for engine in runs}

    def turn(engine: str, run: Run) -> Measured:
        trainer = run.trainer
        return Measured(
            engine,
            trainer.iterate,
            trainer.engine.active,
            lambda: phases[engine].append(section_seconds(trainer, wait)),
        )

    for run in runs.values():
        with run.trainer.engine.active():
            for _ in range(settling_iterations(device)):
                run.trainer.iterate()
    turns = [each.measured(device) for each in machine.values()] + [turn(*each) for each in runs.items()]

    def told_round(at: int) -> None:
        tell(subject.name, f"round {at} of {settings.rounds}")

    seconds = interleaved(turns, settings.rounds, settings.iterations, wait, told_round)
    told: dict[str, dict[str, Any]] = {}
    for name, reference in machine.items():
        spread = Spread.of([each for one in seconds[name] for each in one])
        told[name] = {
            **{"kind": reference.kind, "precision": reference.precision, "operations": reference.operations},
            **{"seconds": seconds[name], **spread.plain(), "rate": reference.operations / spread.median},
        }
    rates: dict[str, dict[str, float]] = {}
    for precision in precisions:
        of_precision = [each for each in told.values() if each["precision"] == precision]
        matmul = next(each["rate"] for each in of_precision if each["kind"] == "matmul")
        rates[precision] = {"matmul": matmul, "best": max(each["rate"] for each in of_precision)}
    summary = subject.summary()
    operations = summary.operations_per_iteration
    engines = training_figures({engine: seconds[engine] for engine in runs}, phases, rates, operations, batch * d_steps)
    for engine, run in runs.items():
        tell(subject.name, f"memory of {engine}")
        iterations = settings.iterations + 1
        memory = memory_of(config, subject.channels, engine, iterations=iterations)
        engines[engine] |= {"record": run.trainer.engine.record(), "memory": memory}
    return {
        "data": "synthetic",
        **{"batch": batch, "d_steps": d_steps, "e_steps": e_steps},
        **{"operations_per_iteration": operations, "operations_counted": summary.counted},
        "order": [each.name for each in turns],
        "references": told,
        "rates": rates,
        "engines": engines,
    }


def tell(preset: str, what: str) -> None:
    """Say on standard error what comes next."""
    print(f"{preset}: {what}", file=sys.stderr)


def processor() -> str:
    """Return the name of the CPU and the instructions that torch uses."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
