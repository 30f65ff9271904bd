"""Ctrl-C, SIGTERM and SIGHUP as requests: the run stops once a checkpoint is saved; another Ctrl-C stops it at once.

SIGHUP comes from a terminal that closes. A run that was started with ``nohup`` ignores it, and goes on.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mpcc.core.system.signals import handled

__all__ = ["stop_requests"]


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Turn the first of these signals into an entry of the returned list; a Ctrl-C after that interrupts at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        # Schedulers and `timeout` may send SIGTERM twice: only a person who presses Ctrl-C again is in a hurry.
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    with handled(handle):
        yield received
