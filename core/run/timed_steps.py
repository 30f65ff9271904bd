"""Steps on the clock: the host waits for the device before the clock is read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

__all__ = ["Clock", "busy_machine", "load_before", "settling_iterations", "synchroniser", "timed"]

SETTLING_ON_CUDA = 6

# Returns seconds.
Clock = Callable[[], float]


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until a device has finished all its work; on the CPU, it does nothing."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def settling_iterations(device: torch.device) -> int:
    """Return the number of iterations before any measurement: on CUDA, engines first choose and record kernels."""
    return SETTLING_ON_CUDA if device.type == "cuda" else 0


def busy_machine(load: float, cores: int) -> str:
    """Return a line if other work kept a machine busy before a measurement, which then tells less.

    Arguments:
        load: Processes that ran or waited, the mean of the last minute.
        cores: How many can run at once.

    Example:
        >>> busy_machine(0.3, 2), busy_machine(5.2, 2)[:69]
        ('', 'other work kept this machine busy (load 5.2 on 2 cores): the measured')
    """
    if load < cores:
        return ""
    return (
        f"other work kept this machine busy (load {load:.1f} on {cores} core{'s' * (cores != 1)}): the measured "
        "speed is not that of the machine alone"
    )


def load_before() -> tuple[float, int]:
    """Return the load of the last minute and the number of cores; a load of 0 where the system does not tell it."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return load, cores or 1


def timed(
    step: Callable[[], object], wait: Callable[[], None] = lambda: None, clock: Clock = time.perf_counter
) -> float:
    """Return the seconds of one step.

    Arguments:
        step: What to do.
        wait: Returns when the device has finished.
        clock: Returns the time in seconds.
    """
    begin = clock()
    step()
    wait()
    return clock() - begin
