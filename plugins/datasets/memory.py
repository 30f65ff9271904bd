"""Whether the images of a set are held in memory or read when they are needed."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput

__all__ = ["available_memory", "read_all", "streams"]

_CHUNK = 2**26  # bytes of images that are decoded at a time


def available_memory() -> int:
    """Return how many bytes a process may take before the machine, or its container, has none left.

    Linux says what it would free of its caches; elsewhere it is what is free now, or all there is if not even that is
    known.
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


def streams(choice: str, shape: tuple[int, ...], data: str, remedy: str = "pass --data.memory stream") -> bool:
    """Decide whether a set is streamed.

    Arguments:
        choice: ``stream``, ``load``, or ``auto``: stream what would fill more than half of the available memory.
        shape: (N, D, R, R), of bytes.
        data: What the set is, for the message.
        remedy: What to do if it does not fit, for the message.

    Raises:
        InvalidInput: If it is to be loaded and does not fit.

    Example:
        >>> streams("auto", (10, 1, 8, 8), "ten images"), streams("auto", (10**12, 3, 64, 64), "very many")
        (False, True)
    """
    if choice == "stream":
        return True
    needed, available = math.prod(shape), available_memory()
    if choice == "load" and needed > available:
        raise InvalidInput(
            f"{data} take {needed / 2**30:.1f} GiB in memory: expected at most the {available / 2**30:.1f} GiB that "
            f"are available; {remedy}"
        )
    return choice == "auto" and needed > available / 2


def read_all(source: ImageSource) -> Tensor:
    """Read a whole set into memory, in order, a part at a time.

    Returns:
        uint8, shape (N, D, R, R), contiguous.
    """
    count, *rest = source.shape
    images = torch.empty(source.shape, dtype=torch.uint8)
    step = max(1, _CHUNK // math.prod(rest))
    for start in range(0, count, step):
        images[start : start + step] = source[torch.arange(start, min(start + step, count))]
    return images
