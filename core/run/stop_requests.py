"""Ctrl-C, SIGTERM and SIGHUP as requests: the run stops once a checkpoint is saved; another Ctrl-C stops it at once.

SIGHUP comes from a terminal that closes. A run that was started with ``nohup`` ignores it, and goes on.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mpcc.core.run.ranks.environment import launched
from mpcc.core.system.signals import handled

__all__ = ["stop_requests"]

# torchrun passes a Ctrl-C on to its processes, which have it from the terminal already; seconds.
PASSED_ON = 3


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Turn the first of these signals into an entry of the returned list; a Ctrl-C after that interrupts at once."""
    received: list[int] = []
    first = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        # Schedulers and `timeout` may send SIGTERM twice: only a person who presses Ctrl-C again is in a hurry.
        if received and number == signal.SIGINT and time.monotonic() - first > PASSED_ON:
            raise KeyboardInterrupt
        first = time.monotonic() if not received and launched() else first
        received.append(number)

    with handled(handle):
        yield received
