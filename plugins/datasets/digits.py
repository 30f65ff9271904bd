"""The 1,797 handwritten digits that come with scikit-learn: nothing to download, enough to try things on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.plugins.datasets.options import DigitsOptions
from mpcc.plugins.datasets.resizing import resize_images

__all__ = ["Digits"]


class Digits(Dataset):
    """Optical recognition of handwritten digits, test part: 8 x 8 grey images, ten classes.

    Source:
        E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998; ``sklearn.datasets.load_digits``.

    Example:
        >>> digits = Digits(DigitsOptions()).load(image_size=32, root=None, download=False)
        >>> tuple(digits.images.shape), digits.labels[:5].tolist()
        ((1797, 1, 32, 32), [0, 1, 2, 3, 4])
    """

    channels = 1

    def __init__(self, options: DigitsOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read the whole set from scikit-learn's own files; ``root`` and ``download`` do not matter.

        The grey levels 0..16 become 0..255. Images are in scikit-learn's order.

        Arguments:
            image_size: R, in pixels.
            root: Ignored.
            download: Ignored.

        Returns:
            uint8 images, shape (1797, 1, R, R), and their labels 0..9.
        """
        grey, labels = load_digits(return_X_y=True)
        pixels = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        resized = "" if image_size == 8 else f", resized from 8 to {image_size} pixels"
        return ImageSet(
            images=resize_images(torch.from_numpy(pixels), image_size),
            labels=torch.from_numpy(labels.astype(np.int64)),
            class_names=tuple("0123456789"),
            paths=tuple(f"digits#{index}" for index in range(len(pixels))),
            description=f"digits: {len(pixels)} images of scikit-learn{resized}",
        )
