"""A short name for the contents of an image set, so that a run is not resumed on other images by mistake."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from mpcc.core.contracts import ImageSource

__all__ = ["fingerprint"]

# The digest covers only so many images, at equal distances, because a set may be too large to be read for it.
COVERED = 64


def fingerprint(images: Tensor | ImageSource) -> str:
    """Return the SHA-256 digest of a set's shape and of the pixels of a few of its images, in hexadecimal digits.

    Other images, another order or another size give another digest. A change in an image outside of these few goes
    unnoticed.

    Arguments:
        images: uint8, shape (N, D, R, R).

    Example:
        >>> images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
        >>> fingerprint(images) == fingerprint(images + 1), fingerprint(images) == fingerprint(images.clone())
        (False, True)
    """
    chosen = torch.linspace(0, images.shape[0] - 1, min(COVERED, images.shape[0])).round().long()
    hashed = hashlib.sha256(repr(tuple(images.shape)).encode())
    hashed.update(images[chosen].cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()
