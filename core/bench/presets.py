"""All measurements of ``mpcc bench`` in order, with a description of the machine."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mpcc.core.bench import inference
from mpcc.core.bench.memory import RULE, memory_of
from mpcc.core.bench.reference import references
from mpcc.core.bench.subject import Subject
from mpcc.core.bench.timing import FORMULAS, Measured, interleaved, section_seconds, training_figures
from mpcc.core.config import RunConfig, options, used
from mpcc.core.method.phases import real_batches
from mpcc.core.method.training import Trainer
from mpcc.core.registry import Registry
from mpcc.core.registry.attribution import attributed
from mpcc.core.run.run import Run, versions
from mpcc.core.run.timed_steps import settling_iterations, synchroniser

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
    threads, presets = torch.get_num_threads(), {}
    for name, config in configs.items():
        torch.set_num_threads(config.run.threads or threads)
        try:
            with attributed(used(registry, config)):
                subject = Subject.of(name, registry, config, reading="loading" in parts)
                presets[name] = measured_preset(subject, engines, parts, settings, device)
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
    subject: Subject, engines: Sequence[str], parts: Sequence[str], settings: BenchSettings, device: torch.device
) -> dict[str, Any]:
    """Measure the parts of one preset."""
    needs_runs = {"training", "predict"} & {*parts}
    runs = {engine: subject.assemble(engine) for engine in engines} if needs_runs else {}
    measurements: dict[str, Callable[[], dict[str, Any]]] = {
        "training": partial(training, subject, runs, settings, device),
        "loading": partial(inference.loading_figures, subject, settings.rounds, device),
        "predict": partial(inference.predict_figures, subject, runs, settings.predict_images, settings.rounds),
        "posterior": partial(inference.posterior_figures, subject, device),
    }
    figures: dict[str, Any] = {"config": subject.config.to_tables(), "image_shape": list(subject.shape)}
    figures["threads"] = torch.get_num_threads()
    for part, measure in measurements.items():
        if part in parts:
            tell(subject.name, part)
            figures[part] = measure()
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
    compared = references(device, channels, size, batch, precisions)
    phases: dict[str, list[dict[str, float]]] = {engine: [] for engine in runs}
    turns = [reference.measured(device) for reference in compared]
    for engine, run in runs.items():
        trainer = run.trainer
        with trainer.engine.active():
            for _ in range(settling_iterations(device)):
                trainer.iterate()
        after_round = partial(append_sections, phases[engine], trainer, wait)
        turns.append(Measured(engine, trainer.iterate, trainer.engine.active, after_round))

    def tell_round(number: int) -> None:
        tell(subject.name, f"round {number} of {settings.rounds}")

    seconds = interleaved(turns, settings.rounds, settings.iterations, wait, tell_round)
    reference_figures = {reference.name: reference.figures(seconds[reference.name]) for reference in compared}
    rates: dict[str, dict[str, float]] = {}
    for precision in precisions:
        of_precision = [figures for figures in reference_figures.values() if figures["precision"] == precision]
        matmul = next(figures["rate"] for figures in of_precision if figures["kind"] == "matmul")
        rates[precision] = {"matmul": matmul, "best": max(figures["rate"] for figures in of_precision)}
    summary = subject.summary()
    operations = summary.operations_per_iteration
    trainer = next(iter(runs.values())).trainer
    images = batch * real_batches(trainer.phases, trainer.schedule)
    engines = training_figures({engine: seconds[engine] for engine in runs}, phases, rates, operations, images)
    for engine, run in runs.items():
        tell(subject.name, f"memory of {engine}")
        memory = memory_of(config, subject.channels, engine, iterations=settings.iterations + 1)
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


def append_sections(phases: list[dict[str, float]], trainer: Trainer, wait: Callable[[], None]) -> None:
    """Carry out one more iteration of a trainer and append the seconds of its sections."""
    phases.append(section_seconds(trainer, wait))


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
