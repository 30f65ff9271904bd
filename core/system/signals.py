"""The signals with which a user, a scheduler or a closing terminal ends a process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["END_SIGNALS", "ends_interrupt", "handled", "handlers_put_back"]

# Ctrl-C, `kill` and schedulers, and a terminal that closes, which Windows does not have.
END_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextlib.contextmanager
def handled(handle: Callable[[int, FrameType | None], None], signals: tuple[int, ...] = END_SIGNALS) -> Iterator[None]:
    """Handle signals for the length of a ``with`` block, on the main thread; other threads get none from Python.

    A closing terminal stays ignored if it is ignored already, as ``nohup`` asks.

    Arguments:
        handle: Gets the number of a signal and the frame.
        signals: Their numbers.
    """
    old = {}
    if threading.current_thread() is threading.main_thread():
        for number in signals:
            if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) != signal.SIG_IGN:
                old[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in old.items():
            # None stands for a handler that was not set from Python and can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def handlers_put_back() -> Iterator[None]:
    """Put back the handlers of these signals after a ``with`` block in which a library sets its own."""
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python and can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def ends_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a ``with`` block as Ctrl-C does, so that nothing is left half-written."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled(interrupt, tuple(number for number in END_SIGNALS if number != signal.SIGINT)):
        yield
