"""Errors of one line for memory and disk that run out."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

from mpcc.core.errors import InvalidInput, OutOfResources

__all__ = ["disk_errors", "memory_errors", "short_of_memory"]

# Messages of torch's allocator for the CPU and of CUDA's libraries, whose errors have no class of their own.
TEXTS = (
    *("can't allocate memory", "not enough memory"),
    *("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
# The size in messages of torch, for CUDA and for the CPU, and of NumPy.
ASKED_FOR = re.compile(r"(?:tried|unable) to allocate ([\d.]+ \w+)", re.IGNORECASE)
# A disk, a quota or a limit on the size of a file is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def short_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a device or on the host.

    Example:
        >>> short_of_memory(MemoryError()), short_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    # Commands that write files without torch come here, too.
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


@contextlib.contextmanager
def disk_errors(failure: str) -> Iterator[None]:
    """Say in one line why something could not be written.

    Arguments:
        failure: The text before the reason, e.g. ``runs/1 could not be written``.

    Raises:
        OutOfResources: If there is no room.
        InvalidInput: If the system refuses to write for another reason.
    """
    try:
        yield
    except OSError as error:
        text = f"{failure}: {error.strerror or error}"
        if error.errno in NO_ROOM:
            raise OutOfResources(f"{text}; free space there") from error
        raise InvalidInput(f"{text}; expected a path that can be written") from error


@contextlib.contextmanager
def memory_errors(doing: str, remedies: str) -> Iterator[None]:
    """Turn running out of memory into `OutOfResources`.

    Arguments:
        doing: The activity, e.g. ``training``.
        remedies: The settings to lower, with their values.

    Raises:
        OutOfResources: With the activity, the size that was asked for, and the settings to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not short_of_memory(error):
            raise
        asked = ASKED_FOR.search(" ".join(str(error).split()))
        text = f" ({asked[1]} were asked for)" if asked else ""
        raise OutOfResources(f"out of memory while {doing}{text}: {remedies}") from error
