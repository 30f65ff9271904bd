"""Ctrl-C and SIGTERM as requests: the run stops once a checkpoint can be saved; another Ctrl-C stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stop_requests"]


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Turn the first Ctrl-C or SIGTERM into an entry of the returned list; a Ctrl-C after that interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only.
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        # Schedulers and `timeout` may send SIGTERM twice: only a person who presses Ctrl-C again is in a hurry.
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            # None stands for a handler that was not set from Python and can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
