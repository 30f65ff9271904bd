"""A short name for the contents of an image set, so that a run is not resumed on other images by mistake."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from mpcc.core.contracts import ImageSource

__all__ = ["fingerprint"]

# So many images are looked at, at equal distances: a set may be too large to be read for this.
LOOKED_AT = 64


def fingerprint(images: Tensor | ImageSource) -> str:
    """Return the SHA-256 digest of a set's shape and of the pixels of a few of its images, in hexadecimal digits.

    Other images, another order or another size give another digest; a change in an image that is not looked at is not
    seen.

    Arguments:
        images: uint8, shape (N, D, R, R).

    Example:
        >>> images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
        >>> fingerprint(images) == fingerprint(images + 1), fingerprint(images) == fingerprint(images.clone())
        (False, True)
    """
    chosen = torch.linspace(0, images.shape[0] - 1, min(LOOKED_AT, images.shape[0])).round().long()
    found = hashlib.sha256(repr(tuple(images.shape)).encode())
    found.update(images[chosen].cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
