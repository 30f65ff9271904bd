"""Whether the C library gives large blocks of memory back to the system as soon as they are free.

A network's activations are blocks of tens of megabytes that come and go with every layer. By default glibc maps each
one anew, and the system fills it with zeros page by page: for a ReLU of 40 MB that takes ten times as long as the ReLU.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

__all__ = ["kept_memory"]

# mallopt's names for numbers (malloc.h).
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER = 2**31 - 1
# Where glibc's own, moving thresholds end up in a process that frees large blocks.
SETTLED = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER}

_keeping = 0


@contextlib.contextmanager
def kept_memory(wanted: bool = True) -> Iterator[None]:
    """Keep freed memory for the next allocation instead of giving it back, for the length of a ``with`` block.

    Only on Linux with glibc; elsewhere nothing changes. Blocks may be nested. What was kept is given back at the end.

    Arguments:
        wanted: Nothing happens if this is false.
    """
    global _keeping
    if not wanted or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    if _keeping == 0:
        set_options(library, KEPT)
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        if _keeping == 0:
            set_options(library, SETTLED)
            library.malloc_trim(0)


def set_options(library: ctypes.CDLL, options: dict[int, int]) -> None:
    """Set options of the C library's allocator."""
    for name, value in options.items():
        library.mallopt(name, value)
