"""Images of a network as pictures that Pillow and a screen take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["channels_last", "with_colours"]


def with_colours(images: Tensor) -> Tensor:
    """Return images of 1 or 3 channels as they are; of others the mean over the channels, which have no colours.

    Arguments:
        images: uint8, shape (N, D, R, R).
    """
    if images.shape[1] in (1, 3):
        return images
    return images.float().mean(dim=1, keepdim=True).round().to(torch.uint8)


def channels_last(images: Tensor) -> np.ndarray[Any, Any]:
    """Return images as Pillow and matplotlib take them: (N, R, R) for one channel, else (N, R, R, D).

    Arguments:
        images: uint8, shape (N, D, R, R).
    """
    array: np.ndarray[Any, Any] = images.permute(0, 2, 3, 1).contiguous().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array
