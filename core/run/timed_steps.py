"""Steps on the clock: the host waits for the device before the clock is read."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["Clock", "settling_iterations", "synchroniser", "timed"]

SETTLING_ON_CUDA = 6

# Returns seconds.
Clock = Callable[[], float]


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until a device has finished all its work; on the CPU, it does nothing."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def settling_iterations(device: torch.device) -> int:
    """Return the number of iterations before any measurement: on CUDA, engines first choose and record kernels."""
    return SETTLING_ON_CUDA if device.type == "cuda" else 0


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
