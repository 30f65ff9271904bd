"""Real images in a seeded, resumable order."""

from __future__ import annotations

import torch
from torch import Tensor

from mpcc.core.errors import InvalidInput

__all__ = ["ImageStream"]


class ImageStream:
    """Endless batches x ~ q(x): every epoch is a fresh permutation, and its last, incomplete batch is dropped.

    The order is a function of (seed, epoch) alone, so that two integers say where a run stands.

    Arguments:
        images: uint8, shape (N, D, R, R).
        batch: Images in a batch, at most N.
        seed: Any integer.

    Raises:
        InvalidInput: If the batch is larger than the set.

    Example:
        >>> stream = ImageStream(torch.arange(5).to(torch.uint8), batch=2, seed=0)
        >>> [stream.next().tolist() for _ in range(2)], stream.state()
        ([[4, 0], [1, 3]], {'epoch': 0, 'position': 4})
    """

    def __init__(self, images: Tensor, batch: int, seed: int) -> None:
        if batch > len(images):
            raise InvalidInput(
                f"batch {batch} is larger than the data set: expected at most its {len(images)} images "
                f"(nearest valid choice: --batch {len(images)})"
            )
        self._images = images
        self._batch = batch
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._permutation()

    def _permutation(self) -> Tensor:
        # Mixed so that neighbouring seeds don't share epochs.
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
        return torch.randperm(len(self._images), generator=generator)

    def next(self) -> Tensor:
        """Return the next batch, uint8, shape (batch, D, R, R)."""
        if self._position + self._batch > len(self._images):
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self._permutation()
        chosen = self._order[self._position : self._position + self._batch]
        self._position += self._batch
        return self._images[chosen]

    def state(self) -> dict[str, int]:
        """Return where the stream stands."""
        return {"epoch": self._epoch, "position": self._position}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a `state`."""
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._permutation()
