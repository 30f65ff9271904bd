"""Images side by side in one picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

__all__ = ["SHOWN_SIZE", "image_grid", "shown"]

# Small images are enlarged to at least this many pixels, by whole factors.
SHOWN_SIZE = 48


def shown(images: Tensor) -> Tensor:
    """Return images that a screen can show, uint8, (N, 1 or 3, R, R); other channels are averaged."""
    if images.shape[1] in (1, 3):
        return images
    return images.float().mean(dim=1, keepdim=True).round().to(torch.uint8)


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Return images row by row in one picture, uint8, shape (3, height, width).

    Arguments:
        images: uint8, shape (N, D, R, R).
        columns: Images in a row.
    """
    factor = -(-SHOWN_SIZE // images.shape[-1])
    enlarged = F.interpolate(shown(images).float(), scale_factor=factor, mode="nearest").to(torch.uint8)
    grid: Tensor = make_grid(enlarged, nrow=columns, padding=2, pad_value=64)
    return grid
