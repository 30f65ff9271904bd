"""Peak memory; each figure is measured in a new process, because the peak of a process never falls.

``python -m mpcc.core.bench.memory`` reads a request from standard input, executes it, and prints its peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mpcc.core.config import Layer, RunConfig, resolve
from mpcc.core.registry import load_registry

__all__ = ["main", "measure", "memory_of"]

RULE = (
    "in a new process: peak of its resident memory in bytes, and its increase over the resident memory after set-up; "
    "on CUDA also the peak of allocated device memory"
)


def memory_of(
    config: RunConfig, channels: int, engine: str, *, iterations: int | None = None, images: int | None = None
) -> dict[str, Any]:
    """Measure the peak memory of training or of prediction in a new process.

    Arguments:
        config: A preset's values, including device and threads.
        channels: D.
        engine: ``plain``, ``fast``, or ``fast-`` and another precision.
        iterations: Number of iterations to train, or None to predict.
        images: Number of images to predict, or None to train.

    Returns:
        Bytes: ``after_setup``, ``peak``, ``increase``, and ``device_peak`` on CUDA. If the process failed, perhaps
        because memory ran out: ``error``, one line.
    """
    request = {
        "tables": config.to_tables(),
        "plugins": [str(path) for path in config.plugins],
        "registries": [str(path) for path in config.registries],
        **{"channels": channels, "engine": engine, "iterations": iterations, "images": images},
    }
    # With -P, Python does not import files of the working folder.
    command = [sys.executable, "-P", "-m", __name__]
    process = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if process.returncode != 0:
        last_line = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"status {process.returncode}: {last_line}"}
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Execute the request on standard input and print a line of JSON."""
    print(json.dumps(measure(json.load(sys.stdin))))


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Execute a request and return the memory after set-up and at the peak."""
    registry = load_registry(
        plugins=[Path(path) for path in request["plugins"]], registries=[Path(path) for path in request["registries"]]
    )
    config = resolve(registry, [Layer("mpcc bench", request["tables"])], "none")
    # Loading torch takes seconds; the checks above do not need it.
    import torch

    from mpcc.core.bench.subject import ImagesOnDemand, Subject, predict
    from mpcc.core.run.timed_steps import settling_iterations

    subject = Subject(config.data.name, registry, config, request["channels"])
    trainer = subject.assemble(request["engine"]).trainer
    device, images = trainer.model.device, request["images"]
    source = None if images is None else ImagesOnDemand(images, *subject.shape[:2])
    forget_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = resident("VmRSS")
    with trainer.engine.active():
        if source is None:
            for _ in range(request["iterations"] + settling_iterations(device)):
                trainer.iterate()
        else:
            predict(trainer.model, source)
        peak = resident("VmHWM")
    figures = {"after_setup": before, "peak": peak, "increase": max(0, peak - before)}
    return figures | ({"device_peak": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {})


def resident(key: str) -> int:
    """Return the process's resident memory in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    On other systems than Linux, both are the peak. On Linux, the peak of ``getrusage`` is unusable: it survives exec,
    and a small process would report the peak of the large process that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Reset the peak to the memory that is resident now, if the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


if __name__ == "__main__":
    main()
