"""A switch that keeps large freed blocks of memory in the process instead of giving them back to the system.

A network's activations are blocks of tens of megabytes, allocated and freed in every layer. By default glibc maps each
block anew, and the system fills it with zeros page by page. For a ReLU of 40 MB, this takes ten times as long as the
ReLU itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Iterator

__all__ = ["give_back", "kept_memory"]

# Numbers of mallopt's options (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER = 2**31 - 1
# The values that glibc's own, moving thresholds reach in a process that frees large blocks.
SETTLED = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER}

_keeping = 0
_lock = threading.Lock()


@contextlib.contextmanager
def kept_memory(wanted: bool = True) -> Iterator[None]:
    """Keep freed memory for the next allocation instead of giving it back, for the length of a ``with`` block.

    This works on Linux with glibc, unless the environment has already set the allocator; elsewhere nothing changes.
    Blocks may be nested. At the end the kept memory is given back, and the thresholds are those that glibc itself
    reaches in a process that frees large blocks.

    Arguments:
        wanted: Nothing happens if this is false.
    """
    global _keeping
    if not wanted or not adjustable():
        yield
        return
    library = ctypes.CDLL(None)
    with _lock:
        if _keeping == 0:
            set_options(library, KEPT)
        _keeping += 1
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if _keeping == 0:
                set_options(library, SETTLED)
                library.malloc_trim(0)


def give_back() -> None:
    """Let this process, such as one that was forked inside `kept_memory`, give freed memory back."""
    if adjustable():
        set_options(ctypes.CDLL(None), SETTLED)


def adjustable() -> bool:
    """Return whether the allocator is glibc's and the user has left it as it is."""
    chosen = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    chosen = chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    return platform.libc_ver()[0] == "glibc" and not chosen


def set_options(library: ctypes.CDLL, options: dict[int, int]) -> None:
    """Set options of the C library's allocator."""
    for name, value in options.items():
        library.mallopt(name, value)
