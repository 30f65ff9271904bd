"""Random crops and mirror images of the real images in training; off unless the user asks for them.

The paper uses none (supplement, C). Evaluation never does.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from mpcc.core.errors import InvalidInput

__all__ = ["Augmentation"]


@attrs.frozen
class Augmentation:
    """What happens to each real image before the discriminator sees it.

    Attributes:
        crop: Each image is shifted by up to this many pixels in both directions, uniformly; the border is
            filled with the image's own reflection, so that no frame of one colour is learned.
        flip: Whether half of the images, chosen at random, are mirrored left to right.
    """

    crop: int = 0
    flip: bool = False

    @property
    def identity(self) -> bool:
        """Whether nothing happens."""
        return self.crop == 0 and not self.flip

    def check(self, image_size: int) -> None:
        """Check that the images are large enough.

        Raises:
            InvalidInput: If a shift may be as large as the image.
        """
        if self.crop >= image_size:
            raise InvalidInput(
                f"--augment-crop {self.crop}: expected less than the image size of {image_size} pixels "
                f"(nearest valid choice: --augment-crop {image_size - 1})"
            )

    def __call__(
        self, images: Tensor, generator: torch.Generator, part: slice | None = None, *, of: int | None = None
    ) -> Tensor:
        """Return augmented images.

        Arguments:
            images: Of any type, shape (N, D, R, R).
            generator: On the CPU, so that the draws do not depend on the device of the images.
            part: The places of these images in the batch that they are a part of; by default they are all of it.
            of: How many images that batch has.

        Example:
            >>> row = torch.arange(4, dtype=torch.uint8).expand(1, 1, 4, 4)
            >>> Augmentation(crop=2)(row, torch.Generator().manual_seed(0))[0, 0, 0].tolist()
            [2, 3, 2, 1]
        """
        if self.identity:
            return images
        count, size = len(images), images.shape[-1]
        own, together = (slice(count), count) if part is None else (part, of or count)
        rows, columns = (torch.arange(size).expand(count, size) for _ in range(2))
        if self.crop:
            shifts = torch.randint(-self.crop, self.crop + 1, (2, together, 1), generator=generator)[:, own]
            rows, columns = (
                reflected(index + shift, size) for index, shift in zip((rows, columns), shifts, strict=True)
            )
        if self.flip:
            mirrored = torch.randint(2, (together, 1), generator=generator)[own].bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
        which = torch.arange(count)[:, None, None]
        moved = (index.to(images.device) for index in (which, rows[:, :, None], columns[:, None, :]))
        chosen_image, row, column = moved
        # Indexing leaves the channels last.
        return images.permute(0, 2, 3, 1)[chosen_image, row, column].permute(0, 3, 1, 2).contiguous()


def reflected(index: Tensor, size: int) -> Tensor:
    """Reflect indices outside of 0..size-1, by less than ``size``, back into this range without repeating the edge.

    Example:
        >>> reflected(torch.tensor([-2, -1, 0, 3, 4]), 4).tolist()
        [2, 1, 0, 3, 2]
    """
    last = size - 1
    return last - (last - index.abs()).abs()
