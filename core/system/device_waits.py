"""Where the host waits for a CUDA device: each wait leaves the device idle, and no graph can hold one."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Literal

import torch

__all__ = ["device_waits", "place", "waiting"]

# Texts of torch's warnings: the first comes whenever the mode is set, the second at each wait.
ABOUT_THE_MODE = "Synchronization debug mode is a prototype"
A_WAIT = "called a synchronizing CUDA operation"
# Their lines do not tell an author which own line made the host wait.
LIBRARIES = {"torch", "pyro", *sys.stdlib_module_names}


@contextlib.contextmanager
def waiting(mode: Literal["default", "warn", "error"]) -> Iterator[None]:
    """Say for the length of a ``with`` block what happens if the host waits for the device, then restore the old mode.

    Torch's own functions warn whenever the mode is set; this warning is left out.

    Arguments:
        mode: Of `torch.cuda.set_sync_debug_mode`, which all threads of the process share.
    """
    before = torch.cuda.get_sync_debug_mode()
    _set(mode)
    try:
        yield
    finally:
        _set(before)


def _set(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ABOUT_THE_MODE)
        torch.cuda.set_sync_debug_mode(mode)


@contextlib.contextmanager
def device_waits() -> Iterator[list[str]]:
    """Find where the host waits for the device inside a ``with`` block; nothing else changes.

    What other threads of Python do does not count; autograd's threads are none of Python. A wait in a backward pass is
    found in the function that was written in Python, or else where the pass starts. Torch does not notice
    ``torch.cuda.synchronize`` and the wait for an event.

    Yields:
        A list that is filled meanwhile: the `place` of each wait, once.
    """
    found: list[str] = []
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    with warnings.catch_warnings():
        warnings.filterwarnings("always", A_WAIT)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if not str(message).startswith(A_WAIT):
                show(message, category, *rest, **named)
            elif threading.get_ident() not in others and (at := place(callers())) not in found:
                found.append(at)

        warnings.showwarning = note
        with waiting("warn"):
            yield found


def callers() -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of this thread that lead to a warning with their lines, innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") not in (__name__, warnings.__name__):
            yield frame, frame.f_lineno
        frame = frame.f_back


def place(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the innermost line outside of libraries as ``file:line``, and the library's line if it is inside one.

    Arguments:
        frames: Frames with their lines, innermost first.

    Example:
        >>> place([(sys._getframe(), 7)]).rpartition(":")[2]
        '7'
    """
    inner = ""
    for frame, line in frames:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in LIBRARIES:
            return f"{frame.f_code.co_filename}:{line}" + (f" (in {inner})" if inner else "")
        inner = inner or f"{module}:{line}"
    return inner
