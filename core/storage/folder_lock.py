"""The lock of a run folder, also on file systems that refuse locks."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from mpcc.core.errors import InvalidInput
from mpcc.core.system.output_streams import quoted

__all__ = ["locked"]

logger = logging.getLogger(__name__)

# How long to look at a file that stands in for a lock before it counts as taken, in seconds: a file that a process
# which was killed has left takes a moment to be recognised.
PATIENCE = 3.0


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder, for the length of a ``with`` block.

    The system frees the lock of a process that ends, however it ends; the empty file ``.lock`` stays. Where the file
    system refuses locks, as some network file systems do, the file ``.lock-holder`` stands in for one and a warning
    says so. It names process and machine, and another process of this machine takes it over once that process is gone.

    Raises:
        InvalidInput: If another process uses the folder.
        OSError: If a file cannot be made.
    """
    refusal, stand_in = refused(folder / ".lock"), folder / ".lock-holder"
    lock: BaseFileLock = FileLock(folder / ".lock", timeout=0)
    if refusal is not None:
        lock = SoftFileLock(stand_in, timeout=PATIENCE)
    in_use = f"run folder {folder} is in use by another run"
    try:
        lock.acquire()
    except Timeout as error:
        if refusal is None:
            raise InvalidInput(f"{in_use}: wait until it has ended, or choose another --out") from error
        raise InvalidInput(
            f"{in_use}{holder(stand_in)}: wait until it has ended; if it was killed, delete its file: "
            f"rm {quoted(stand_in)}"
        ) from error
    if refusal is not None:
        logger.warning(
            "the file system of %s refuses locks (%s): the file %s marks the folder as in use instead; "
            "if this process is killed, another machine needs it deleted before it can resume the run",
            *(folder, refusal, stand_in.name),
        )
    try:
        yield
    finally:
        # Where names can no longer be removed, a run that is saved has still ended well.
        with contextlib.suppress(OSError):
            lock.release()


def refused(path: Path) -> str | None:
    """Return why the system refuses to lock a file, or None if it does not.

    Raises:
        OSError: If the file cannot be made.
    """
    if os.name != "posix":
        return None
    import fcntl

    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # Another process holds the lock.
        return None
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(handle)
    return None


def holder(stand_in: Path) -> str:
    """Return the process that a file names, as a part of a sentence; nothing if it cannot be read."""
    try:
        number, machine, *_ = stand_in.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return ""
    return f" (process {number} on {machine})"
