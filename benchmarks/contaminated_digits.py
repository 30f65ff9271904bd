"""A one-file plugin: scikit-learn's digits among images of noise, or with some of them corrupted.

Load it with ``mpcc-run --plugin benchmarks/contaminated_digits.py --data contaminated_digits --preset digits``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import torch
from sklearn.datasets import load_digits

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.hookspecs import Register, hookimpl

__all__ = ["ContaminatedDigits", "ContaminatedDigitsOptions", "register_datasets"]


@attrs.frozen
class ContaminatedDigitsOptions:
    """Options of the data set ``contaminated_digits``."""

    kind: Literal["noise", "corrupted"] = attrs.field(
        default="noise",
        metadata={"help": "noise: adds images of uniform pixels; corrupted: replaces half the pixels of some digits"},
    )
    fraction: float = attrs.field(
        default=0.1,
        validator=[attrs.validators.ge(0.0), attrs.validators.le(1.0)],
        metadata={"help": "noise images for each digit, or the share of digits that are corrupted"},
    )
    contamination_seed: int = attrs.field(default=0, metadata={"help": "random seed of the contamination"})


class ContaminatedDigits(Dataset):
    """The 1,797 digits, 8x8, with contamination.

    Noise images come after the digits and have the label 10; a corrupted digit keeps its label, and its path says so.
    """

    def __init__(self, options: ContaminatedDigitsOptions) -> None:
        self.options = options

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Make the set; ``root`` and ``download`` do not matter.

        Raises:
            InvalidInput: If the architecture does not take 8x8 pixels.
        """
        if image_size != 8:
            raise InvalidInput(
                f"contaminated_digits has 8x8 images, got an architecture for {image_size} pixels; pass --arch biggan8"
            )
        random = np.random.default_rng(self.options.contamination_seed)
        grey, labels = load_digits(return_X_y=True)
        images = np.rint(grey * (255 / 16)).astype(np.uint8)
        paths = [f"digits#{index}" for index in range(len(images))]
        chosen = random.permutation(len(images))[: round(self.options.fraction * len(images))]
        if self.options.kind == "corrupted":
            noisy = random.random((len(chosen), images.shape[1])) < 0.5
            images[chosen] = np.where(noisy, random.integers(0, 256, noisy.shape), images[chosen])
            for index in chosen:
                paths[index] = f"corrupted#{index}"
        else:
            images = np.concatenate([images, random.integers(0, 256, (len(chosen), images.shape[1]), dtype=np.uint8)])
            labels = np.concatenate([labels, np.full(len(chosen), 10)])
            paths += [f"noise#{index}" for index in range(len(chosen))]
        return ImageSet(
            images=torch.from_numpy(images.astype(np.uint8)).view(-1, 1, 8, 8),
            labels=torch.from_numpy(labels.astype(np.int64)),
            class_names=[*"0123456789", "noise"],
            paths=paths,
            description=f"digits, {len(chosen)} images of {self.options.kind} among {len(images)}",
        )


@hookimpl
def register_datasets(register: Register) -> None:
    """Register the data set."""
    register(
        "contaminated_digits",
        "contaminated_digits:ContaminatedDigits",
        summary="Digits among noise images, or with some of them corrupted.",
        options="contaminated_digits:ContaminatedDigitsOptions",
    )
