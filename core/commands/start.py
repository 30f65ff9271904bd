"""The start of the commands: Ctrl-C ends them with one line, also while modules are still being imported.

This module imports next to nothing, so that it is ready at once. `mpcc.core.commands.entry` does the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType

__all__ = ["main", "run_main"]

EXIT_INTERRUPTED = 130  # as in `mpcc.core.errors`, which is not imported here


def run_main(arguments: Sequence[str] | None = None) -> None:
    """Run the command ``mpcc-run`` and exit with its status."""
    began = time.monotonic()
    with interrupted_at_any_time("mpcc-run"):
        from mpcc.core.commands import entry

        entry.run_main(arguments, began)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command ``mpcc`` and exit with its status; ``mpcc run`` is ``mpcc-run``."""
    began = time.monotonic()
    with interrupted_at_any_time("mpcc"):
        from mpcc.core.commands import entry

        entry.main(arguments, began)


@contextlib.contextmanager
def interrupted_at_any_time(command: str) -> Iterator[None]:
    """Let Ctrl-C end the process at once while a module is being imported; otherwise it is a ``KeyboardInterrupt``.

    Libraries catch what is raised inside their imports. The interruption would be lost, or come back as another error
    of a module that was imported by half. At such a time there is nothing to be put in order.

    Arguments:
        command: The command that the user typed.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not importing(frame):
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):
            os.write(2, f"{command}: interrupted\n".encode())
        os._exit(EXIT_INTERRUPTED)

    # Jobs in the background of a script ignore Ctrl-C, and a program that calls this function may handle it itself.
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported where a signal has arrived."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
