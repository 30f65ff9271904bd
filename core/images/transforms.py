"""Random changes of images that leave their group as it is, see `mpcc.core.images.invariances.Invariances`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mpcc.core.images.invariances import Invariances

__all__ = ["transformed"]

# Kinds of draws, each uniform in (-1, 1): one row for each, so that a further kind does not change the others.
ROWS = 16
GEOMETRY = ("shift", "rotation", "scale", "shear", "crop", "flip")


def transformed(
    images: Tensor,
    invariances: Invariances,
    generator: torch.Generator,
    rows: Tensor | None = None,
    *,
    of: int | None = None,
) -> Tensor:
    """Return each image after a random change of its own: geometry by bilinear interpolation first, then light.

    Arguments:
        images: uint8, shape (N, D, R, R), on any device.
        invariances: The ranges of the changes.
        generator: On the CPU, so that the draws do not depend on the device of the images.
        rows: The places of these images among those that are changed together, int64, shape (N,); all by default.
        of: How many these are; N by default. An image is changed in the same way whether the others are there or not.

    Returns:
        uint8, of the same shape, on the same device.

    Example:
        >>> image = torch.full((1, 1, 2, 2), 100, dtype=torch.uint8)
        >>> transformed(image, Invariances.parse("brightness=0.5"), torch.Generator().manual_seed(0)).flatten().tolist()
        [61, 61, 61, 61]
    """
    count, channels = images.shape[:2]
    together = count if of is None else of
    draws = torch.rand(ROWS, together, generator=generator).mul_(2).sub_(1)
    colours = torch.rand(channels, together, generator=generator).mul_(2).sub_(1) if invariances.colour else None
    if rows is not None and together > count:
        draws, colours = draws[:, rows], None if colours is None else colours[:, rows]
    if images.device.type == "cuda":
        # The device copies from page-locked memory while the host goes on.
        draws = draws.pin_memory().to(images.device, non_blocking=True)
        colours = None if colours is None else colours.pin_memory().to(images.device, non_blocking=True)
    changed = images.float()
    if any(getattr(invariances, name) for name in GEOMETRY):
        grid = functional.affine_grid(affine_maps(invariances, draws), list(images.shape), align_corners=False)
        changed = functional.grid_sample(changed, grid, align_corners=False)
    if invariances.contrast:
        mean = changed.mean((1, 2, 3), keepdim=True)
        changed = mean + (changed - mean) * (1 + invariances.contrast * draws[9]).view(-1, 1, 1, 1)
    if colours is not None and channels > 1:
        changed = changed * (1 + invariances.colour * colours).t().view(count, channels, 1, 1)
    if invariances.brightness:
        changed = changed + (255 * invariances.brightness * draws[10]).view(-1, 1, 1, 1)
    return changed.round_().clamp_(0, 255).to(torch.uint8)


def affine_maps(invariances: Invariances, draws: Tensor) -> Tensor:
    """Return the map from places in the result to places in the image, shape (N, 2, 3), in torch's coordinates (-1, 1).

    Arguments:
        invariances: The ranges of the changes.
        draws: Uniform in (-1, 1), shape (rows, N).
    """
    angle = math.radians(invariances.rotation) * draws[0]
    # A picture that is cut to the share c of its side is seen enlarged by 1/c, from anywhere inside of it.
    cut = 1 - invariances.crop * draws[5].abs()
    size = cut / (1 + invariances.scale * draws[1])
    mirror = torch.where(draws[8] < 2 * invariances.flip - 1, -1.0, 1.0)
    shear = invariances.shear * draws[2]
    cosine, sine = angle.cos() * size, angle.sin() * size
    across, down = (2 * invariances.shift * draws[row] + (1 - cut) * draws[row + 3] for row in (3, 4))
    rows = [cosine * mirror, shear * cosine - sine, across, sine * mirror, shear * sine + cosine, down]
    return torch.stack(rows, dim=1).view(-1, 2, 3)
