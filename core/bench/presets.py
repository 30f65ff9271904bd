"""All measurements of ``mpcc bench`` in order, with a description of the machine."""

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
from mpcc.core.bench.timing import FORMULAS, Measured, Spread, flattened, interleaved, section_seconds, training_figures
from mpcc.core.config import RunConfig, options
from mpcc.core.registry import Registry
from mpcc.core.registry.attribution import attributed
from mpcc.core.run.run import Run, versions

if TYPE_CHECKING:
    from mpcc.core.bench.settings import BenchSettings

__all__ = ["measured"]

# Version of the layout of bench.json.
FORMAT = 1
# Width for architectures without such an option.
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
        registry: The plugins of the presets.
        configs: Configurations by preset.
        engines: The engines to compare.
        parts: Some of ``training``, ``loading``, ``predict``, ``posterior``.
        settings: Numbers of rounds, iterations and images.
        device: The device to compute on.

    Returns:
        The contents of ``bench.json`` without the command.
    """
    from mpcc.core.config import used

    threads, presets = torch.get_num_threads(), {}
    for name, config in configs.items():
        torch.set_num_threads(config.run.threads or threads)
        try:
            with attributed(used(registry, config)):
                presets[name] = measured_preset(registry, name, config, engines, parts, settings, device)
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
        "presets": presets,
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
    figures: dict[str, Any] = {
        "config": config.to_tables(),
        "image_shape": list(subject.shape),
        "threads": torch.get_num_threads(),
    }
    runs: dict[str, Run] = {}
    if {"training", "predict"} & {*parts}:
        runs = {engine: subject.assemble(engine) for engine in engines}
    if "training" in parts:
        figures["training"] = training(subject, runs, settings, device)
    if "loading" in parts:
        tell(name, "loading")
        figures["loading"] = inference.loading_figures(subject, settings.rounds, device)
    if "predict" in parts:
        tell(name, "predicting")
        figures["predict"] = inference.predict_figures(subject, runs, settings.predict_images, settings.rounds)
    if "posterior" in parts:
        tell(name, "posterior")
        figures["posterior"] = inference.posterior_figures(subject, device)
    return figures


def training(
    subject: Subject, runs: Mapping[str, Run], settings: BenchSettings, device: torch.device
) -> dict[str, Any]:
    """Measure the iterations of all engines in turn with the references, then memory in new processes."""
    config, wait = subject.config, synchroniser(device)
    _, size, _ = subject.shape
    batch, d_steps, e_steps = config.run.batch, config.run.d_steps, config.run.e_steps
    precisions = list(dict.fromkeys(run.trainer.engine.precision_name for run in runs.values()))
    channels = 4 * int(getattr(config.arch.options, "width", USUAL_WIDTH))
    by_name = {reference.name: reference for reference in references(device, channels, size, batch, precisions)}
    phases: dict[str, list[dict[str, float]]] = {engine: [] for engine in runs}

    def measured_engine(engine: str, run: Run) -> Measured:
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
    turns = [reference.measured(device) for reference in by_name.values()]
    turns += [measured_engine(engine, run) for engine, run in runs.items()]

    def tell_round(number: int) -> None:
        tell(subject.name, f"round {number} of {settings.rounds}")

    seconds = interleaved(turns, settings.rounds, settings.iterations, wait, tell_round)
    reference_figures: dict[str, dict[str, Any]] = {}
    for name, reference in by_name.items():
        spread = Spread.of(flattened(seconds[name]))
        reference_figures[name] = {
            **{"kind": reference.kind, "precision": reference.precision, "operations": reference.operations},
            **{"seconds": seconds[name], **spread.plain(), "rate": reference.operations / spread.median},
        }
    rates: dict[str, dict[str, float]] = {}
    for precision in precisions:
        of_precision = [figures for figures in reference_figures.values() if figures["precision"] == precision]
        matmul = next(figures["rate"] for figures in of_precision if figures["kind"] == "matmul")
        rates[precision] = {"matmul": matmul, "best": max(figures["rate"] for figures in of_precision)}
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
        "order": [turn.name for turn in turns],
        "references": reference_figures,
        "rates": rates,
        "engines": engines,
    }


def tell(preset: str, step: str) -> None:
    """Print the next step of the measurement on standard error."""
    print(f"{preset}: {step}", file=sys.stderr)


def processor() -> str:
    """Return the name of the CPU and the instructions that torch uses."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
