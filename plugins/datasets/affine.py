"""Small random affine maps of drawings: the augmentation of the Omniglot set."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["affine_map", "augment", "random_maps", "warp"]

ROTATION = 10.0  # degrees
SHIFT = 2 / 32  # of the width: two pixels of the final 32 x 32 image
SCALE = 0.1
SHEAR = 5.0  # degrees

# How many float32 images of 105 x 105 are in memory at once: about 45 MB with their sampling grids.
_CHUNK = 340


def affine_map(rotation: Tensor, shift: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    r"""Return the maps that `warp` applies, as the inverses that sampling needs.

    .. math:: p' = s \begin{pmatrix} \cos a & -\sin a \\ \sin a & \cos a \end{pmatrix}
              \begin{pmatrix} 1 & \tan b \\ 0 & 1 \end{pmatrix} p + 2 t

    moves the point p of the drawing to p'. Coordinates run from -1 to 1 over the image, x to the right and y down.

    Arguments:
        rotation: a in degrees, clockwise as seen, shape (M,).
        shift: t as a fraction of the image's width and height, shape (M, 2).
        scale: s, shape (M,).
        shear: b in degrees, shape (M,).

    Returns:
        Matrices [A | v] with p = A p' + v, shape (M, 2, 3), in the dtype of the arguments.

    Example:
        >>> one = torch.ones(1)
        >>> affine_map(rotation=0 * one, shift=torch.tensor([[0.25, 0.0]]), scale=2 * one, shear=0 * one).tolist()
        [[[0.5, 0.0, -0.25], [0.0, 0.5, 0.0]]]
    """
    angle, slant = torch.deg2rad(rotation), torch.tan(torch.deg2rad(shear))
    cos, sin = torch.cos(angle), torch.sin(angle)
    first = torch.stack([cos + slant * sin, sin - slant * cos], dim=-1)
    second = torch.stack([-sin, cos], dim=-1)
    inverse = torch.stack([first, second], dim=-2) / scale[:, None, None]
    return torch.cat([inverse, -inverse @ (2 * shift).unsqueeze(-1)], dim=-1) + 0.0  # no negative zeros


def random_maps(count: int, generator: torch.Generator) -> Tensor:
    """Draw maps uniformly: rotation within 10 degrees, shift within 1/16, scale 0.9 to 1.1, shear within 5 degrees.

    Arguments:
        count: M.
        generator: The source of randomness, on the CPU.

    Returns:
        Maps as from `affine_map`, float32, shape (M, 2, 3).

    Source:
        Method section 5.

    Example:
        >>> random_maps(4, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 2, 3])
    """
    uniform = 2 * torch.rand(count, 5, generator=generator, dtype=torch.float64) - 1
    rotation, scale, shear = uniform[:, 0] * ROTATION, 1 + uniform[:, 1] * SCALE, uniform[:, 2] * SHEAR
    return affine_map(rotation, uniform[:, 3:] * SHIFT, scale, shear).float()


def warp(drawings: Tensor, maps: Tensor) -> Tensor:
    """Apply C maps to each drawing, with bilinear interpolation; the outside of a drawing is 0.

    Arguments:
        drawings: Grey levels, float, shape (M, H, W).
        maps: As from `affine_map`, same dtype, shape (M, C, 2, 3).

    Returns:
        Shape (M, C, H, W).
    """
    count, copies = maps.shape[:2]
    height, width = drawings.shape[1:]
    x = (2 * torch.arange(width, dtype=maps.dtype, device=maps.device) + 1) / width - 1
    y = (2 * torch.arange(height, dtype=maps.dtype, device=maps.device) + 1) / height - 1
    # A term of columns plus a term of rows; affine_grid's matrix product takes several times as long.
    columns = maps[:, :, None, None, :, 0] * x[:, None]
    rows = maps[:, :, None, None, :, 1] * y[:, None, None] + maps[:, :, None, None, :, 2]
    # The C grids of a drawing are stacked to one tall grid, so the drawing need not be repeated C times.
    tall = (columns + rows).reshape(count, copies * height, width, 2)
    warped = functional.grid_sample(drawings.unsqueeze(1), tall, padding_mode="zeros", align_corners=False)
    return warped.reshape(count, copies, height, width)


def augment(drawings: Tensor, copies: int, image_size: int, generator: torch.Generator) -> Tensor:
    """Make C images of each drawing, the drawing itself and C - 1 random maps of it, and resize them.

    The maps act on the drawing at full size. Each image is resized once after that (bilinear, antialiased), so nothing
    is blurred twice. With the same generator state, a smaller C gives the first images of a larger C.

    Arguments:
        drawings: Grey levels on a background of 0, uint8, shape (M, H, W).
        copies: C.
        image_size: R, in pixels.
        generator: The source of randomness, on the CPU.

    Returns:
        uint8, shape (M, C, R, R).
    """
    count = len(drawings)
    maps = [random_maps(count, generator) for _ in range(copies - 1)]
    images = torch.empty(count, copies, image_size, image_size, dtype=torch.uint8)
    step = max(1, math.ceil(_CHUNK / copies))
    for start in range(0, count, step):
        part = slice(start, start + step)
        plain = drawings[part].float()
        full = [plain.unsqueeze(1)]
        if maps:
            full.append(warp(plain, torch.stack([copy[part] for copy in maps], dim=1)))
        small = functional.interpolate(
            torch.cat(full, dim=1), (image_size, image_size), mode="bilinear", align_corners=False, antialias=True
        )
        images[part] = small.round().clamp(0, 255).byte()
    return images
