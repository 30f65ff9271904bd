"""Resize 8-bit images as Pillow does, the reference of method section 5."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["central_square", "resize_images"]


def resize_images(images: Tensor, image_size: int) -> Tensor:
    """Resize images to R x R, bilinear, antialiased when they shrink; images of this size are returned as they are.

    If images are not square, the shorter side becomes R and the centre is kept.

    Arguments:
        images: uint8, shape (N, D, H, W).
        image_size: R, in pixels.

    Returns:
        uint8, shape (N, D, R, R), contiguous.

    Source:
        Method section 5; ``PIL.Image.resize``, which rounds to 8 bits after each of its two passes.

    Example:
        >>> step = torch.tensor([[0, 255]], dtype=torch.uint8).expand(1, 1, 2, 2)
        >>> resize_images(step, 4)[0, 0, 0].tolist()
        [0, 64, 191, 255]
    """
    count, channels, height, width = images.shape
    if height == width == image_size:
        return images.contiguous()
    planes = images.reshape(-1, height, width).numpy()
    resized = np.empty((len(planes), image_size, image_size), dtype=np.uint8)
    for index, plane in enumerate(planes):
        resized[index] = np.asarray(central_square(Image.fromarray(plane), image_size))
    return torch.from_numpy(resized).reshape(count, channels, image_size, image_size)


def central_square(image: Image.Image, image_size: int) -> Image.Image:
    """Resize the shorter side to R and cut out the centre, in one pass that computes R x R pixels only.

    Example:
        >>> central_square(Image.new("RGB", (400, 30)), 8).size
        (8, 8)
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)
