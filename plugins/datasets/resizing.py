"""Resize 8-bit images as Pillow does, the reference of method section 5."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["fit_square", "resize_images"]


def resize_images(images: Tensor, image_size: int, fit: str = "crop", background: int = 255) -> Tensor:
    """Resize images to R x R, bilinear, antialiased when they shrink; images of this size are returned as they are.

    Arguments:
        images: uint8, shape (N, D, H, W).
        image_size: R, in pixels.
        fit: What happens to images that are not square, as in `fit_square`.
        background: The grey level beside an image that is padded.

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
        resized[index] = np.asarray(fit_square(Image.fromarray(plane), image_size, fit, background))
    return torch.from_numpy(resized).reshape(count, channels, image_size, image_size)


def fit_square(image: Image.Image, image_size: int, fit: str = "crop", background: int = 255) -> Image.Image:
    """Make an image R x R.

    Arguments:
        image: 8 bits, grey or colour.
        image_size: R, in pixels.
        fit: ``crop``: resize the shorter side to R and cut out the centre. ``pad``: resize the longer side to R and
            put the image into the centre of a square. ``stretch``: resize each side to R.
        background: The grey level of that square.

    Example:
        >>> [fit_square(Image.new("RGB", (400, 30)), 8, fit).size for fit in ("crop", "pad", "stretch")]
        [(8, 8), (8, 8), (8, 8)]
    """
    if fit == "pad" and image.width != image.height:
        return _padded(image, image_size, background)
    box = (0, 0, *image.size)
    if fit == "crop":
        # Only the R x R pixels that are needed are computed.
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
    return image.resize((image_size, image_size), Image.Resampling.BILINEAR, box=box)


def _padded(image: Image.Image, image_size: int, background: int) -> Image.Image:
    longer = max(image.size)
    width, height = (max(1, round(side * image_size / longer)) for side in image.size)
    square = Image.new(image.mode, (image_size, image_size), (background,) * len(image.getbands()))
    inside = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(inside, ((image_size - width) // 2, (image_size - height) // 2))
    return square
