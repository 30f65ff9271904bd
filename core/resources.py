"""Memory and disk: what to say when either runs out."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import torch

from mpcc.core.errors import OutOfResources

__all__ = ["memory_errors", "no_room", "short_of_memory"]

# What torch's allocator for the CPU says; its error is no class of its own.
CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def short_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a device or on the host.

    Example:
        >>> short_of_memory(MemoryError()), short_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_ALLOCATOR)


def no_room(error: OSError) -> bool:
    """Return whether a file could not be written because a disk, a quota or a limit on its size is full."""
    return error.errno in NO_ROOM


@contextlib.contextmanager
def memory_errors(doing: str, remedies: str) -> Iterator[None]:
    """Turn running out of memory into `OutOfResources`.

    Arguments:
        doing: What was done, e.g. ``training``.
        remedies: The settings to lower, with their values.

    Raises:
        OutOfResources: With what was done, what was asked for, and what to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not short_of_memory(error):
            raise
        asked = " ".join(str(error).split()).partition(". ")[0][:160]
        raise OutOfResources(f"out of memory while {doing}{f' ({asked})' if asked else ''}: {remedies}") from error
