"""How much memory is available, and an error of one line for a request that exceeds it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mpcc.core.errors import InvalidInput

__all__ = ["available_memory", "in_gib", "require_memory"]


def available_memory() -> int:
    """Return how many bytes a process may take before the machine, or its container, has none left.

    On Linux the number includes caches that the system would free. Elsewhere it is the memory that is free now, or the
    whole memory if the system does not tell.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    available = page * os.sysconf("SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # another system, or a very old one
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        available = 1024 * kilobytes
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        available = min(available, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return available


def in_gib(size: int) -> str:
    """Return a number of bytes in GiB, however large.

    Example:
        >>> in_gib(3 * 2**29), in_gib(10**400)
        ('1.5 GiB', 'more than 2**63 bytes')
    """
    return f"{size / 2**30:.1f} GiB" if size < 2**63 else "more than 2**63 bytes"


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Check that something fits into memory before any of it is made.

    Arguments:
        needed: The least number of bytes that it takes.
        what: Its name, in the plural, for the message.
        remedy: What to do if it does not fit, for the message.

    Raises:
        InvalidInput: If it does not fit.
    """
    available = available_memory()
    if needed > available:
        raise InvalidInput(
            f"{what} take {in_gib(needed)} in memory: expected at most the {in_gib(available)} that are available; "
            f"{remedy}"
        )
