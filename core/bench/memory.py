"""Peak memory, each figure in a process of its own: the peak of a process only ever rises.

``python -m mpcc.core.bench.memory`` reads a request from standard input, does what it says, and prints its peak.
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
    "in a fresh process: peak of its resident memory in bytes, and how far that lies above what was resident after "
    "set-up; on CUDA also the peak of allocated device memory"
)


def memory_of(
    config: RunConfig, channels: int, engine: str, *, iterations: int | None = None, images: int | None = None
) -> dict[str, Any]:
    """Measure the peak memory of training or of predicting in a fresh process.

    Arguments:
        config: A preset's values, device and threads among them.
        channels: D.
        engine: ``plain``, ``fast`` or ``fast-bf16``.
        iterations: How many to train; or
        images: how many to predict.

    Returns:
        Bytes: ``after_setup``, ``peak``, ``increase``, and ``device_peak`` on CUDA; or ``error``, a line, if the
        process failed, for want of memory perhaps.
    """
    request = {
        "tables": config.to_tables(),
        "plugins": [str(path) for path in config.plugins],
        "registries": [str(path) for path in config.registries],
        **{"channels": channels, "engine": engine, "iterations": iterations, "images": images},
    }
    # -P: files in the working folder are not to be taken for modules.
    command = [sys.executable, "-P", "-m", __name__]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"status {done.returncode}: {last}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Do what the request on standard input says and print a line of JSON."""
    print(json.dumps(measure(json.load(sys.stdin))))


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Set up, note the memory, do what is asked for, and return the peak."""
    registry = load_registry(
        plugins=[Path(each) for each in request["plugins"]], registries=[Path(each) for each in request["registries"]]
    )
    config = resolve(registry, [Layer("mpcc bench", request["tables"])], "none")
    # torch takes seconds; what is above has been checked without it.
    import torch

    from mpcc.core.bench.subject import ImagesOnDemand, Subject, predict, settling_iterations

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
    found = {"after_setup": before, "peak": peak, "increase": max(0, peak - before)}
    return found | ({"device_peak": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {})


def resident(key: str) -> int:
    """Return the process's resident memory in bytes: ``VmRSS`` now, ``VmHWM`` at its peak.

    Elsewhere than on Linux both are the peak. On Linux that of ``getrusage`` would not do: it outlives exec, so that a
    small process would be laid at the door of the large one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Let the peak start anew from what is resident now, where the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


if __name__ == "__main__":
    main()
