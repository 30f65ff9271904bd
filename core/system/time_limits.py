"""A limit on the time of a block of Python code, on any thread and on any system."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator

__all__ = ["Overdue", "time_limit"]


class Overdue(BaseException):
    """The time of a block is up. No `Exception`, so that code inside which expects errors does not swallow it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Overdue` in a ``with`` block after some time.

    The exception comes between two steps of Python code. One call of a library that does not end is not interrupted.

    Arguments:
        seconds: The limit.

    Raises:
        Overdue: When the time is up.

    Example:
        >>> with time_limit(0.01):
        ...     while True:
        ...         pass
        Traceback (most recent call last):
        mpcc.core.system.time_limits.Overdue
    """
    thread, lock, ended = ctypes.c_ulong(threading.get_ident()), threading.Lock(), threading.Event()

    def interrupt() -> None:
        with lock:
            if not ended.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Overdue))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            ended.set()
            # An exception that is still on its way is called back.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
