"""Sheets of pictures: samples with one row per cluster, reconstructions beside their images (supplement, E)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

from mpcc.core.evaluation.evaluation import Pictures

__all__ = ["RECONSTRUCTION_COLUMNS", "SHOWN_SIZE", "reconstruction_sheet", "sample_sheet"]


# Small images are enlarged to at least this many pixels, by whole factors.
SHOWN_SIZE = 32


RECONSTRUCTION_COLUMNS = 20


def sample_sheet(pictures: Pictures) -> Tensor:
    """Return samples as one picture with a row for each cluster, uint8, shape (3, height, width)."""
    return _sheet(pictures.samples.flatten(0, 1), columns=pictures.samples.shape[1])


def reconstruction_sheet(pictures: Pictures) -> Tensor:
    """Return real images (odd columns) beside their reconstructions (even), uint8, shape (3, height, width)."""
    pairs = torch.stack([pictures.originals, pictures.reconstructions], dim=1).flatten(0, 1)
    return _sheet(pairs, columns=min(RECONSTRUCTION_COLUMNS, len(pairs)))


def _sheet(images: Tensor, columns: int) -> Tensor:
    if images.shape[1] not in (1, 3):
        # Other numbers of channels have no colours: the mean over the channels is shown.
        images = images.float().mean(dim=1, keepdim=True).to(torch.uint8)
    factor = -(-SHOWN_SIZE // images.shape[-1])
    enlarged = F.interpolate(images.float(), scale_factor=factor, mode="nearest").to(torch.uint8)
    sheet: Tensor = make_grid(enlarged, nrow=columns, padding=2, pad_value=64)
    return sheet
