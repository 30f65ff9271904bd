"""Whether the images of a set are held in memory or read when they are needed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.system.available_memory import available_memory, in_gib

__all__ = ["read_all", "streams"]

_CHUNK = 2**26  # bytes of images that are decoded at a time


def streams(
    choice: str,
    shape: tuple[int, ...],
    data: str,
    remedy: str = "pass --data.memory stream",
    *,
    each_once: bool = False,
) -> bool:
    """Decide whether a set is streamed.

    Arguments:
        choice: ``stream``, ``load``, or ``auto``: stream what would fill more than half of the available memory.
        shape: (N, D, R, R), of bytes.
        data: A name for the set, for the message.
        remedy: What to do if it does not fit, for the message.
        each_once: Whether each image is wanted once only; ``auto`` then streams every set.

    Raises:
        InvalidInput: If it is to be loaded and does not fit.

    Example:
        >>> streams("auto", (10, 1, 8, 8), "ten images"), streams("auto", (10**12, 3, 64, 64), "very many")
        (False, True)
    """
    if choice == "stream" or (choice == "auto" and each_once):
        return True
    needed, available = math.prod(shape), available_memory()
    if choice == "load" and needed > available:
        raise InvalidInput(
            f"{data} take {in_gib(needed)} in memory: expected at most the {in_gib(available)} that are available; "
            f"{remedy}"
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
