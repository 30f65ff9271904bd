"""Real images in a seeded, resumable order, from memory or read ahead by worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.images import transforms
from mpcc.core.images.augmentation import Augmentation
from mpcc.core.images.invariances import Invariances
from mpcc.core.images.read_ahead import read_ahead
from mpcc.core.system import ranks

__all__ = ["ImageStream"]


class ImageStream:
    """Endless batches x ~ q(x): every epoch is a fresh permutation, and its last, incomplete batch is dropped.

    The order depends only on (seed, epoch), and the augmentation of a batch only on (seed, epoch, position). Two
    integers thus say where a run stands, and worker processes change only the speed.

    Arguments:
        images: uint8, shape (N, D, R, R).
        batch: Images in a batch, at most N; if several ranks train, each gets its part of it.
        seed: Any integer.
        augmentation: Applied to every batch; none by default.
        invariances: What changes in the transformed copies that `take` makes on request; nothing by default.
        workers: Processes that read ahead if the images are an `ImageSource`. With 0, a batch is read when it is asked
            for. A tensor needs no workers.
        device: Where batches are used. Images that fit into a quarter of a GPU's free memory are kept there.

    Raises:
        InvalidInput: If the batch is larger than the set, or the images too small for the augmentation.

    Attributes:
        seed: As given.

    Example:
        >>> stream = ImageStream(torch.arange(5).to(torch.uint8), batch=2, seed=0)
        >>> [stream.next().tolist() for _ in range(2)], stream.state()
        ([[4, 0], [1, 3]], {'epoch': 0, 'position': 4})
    """

    def __init__(
        self,
        images: Tensor | ImageSource,
        batch: int,
        seed: int,
        *,
        augmentation: Augmentation | None = None,
        invariances: Invariances | None = None,
        workers: int = 0,
        device: torch.device | None = None,
    ) -> None:
        count = images.shape[0]
        if batch > count:
            raise InvalidInput(
                f"batch {batch} is larger than the data set: expected at most its {count} images "
                f"(nearest valid choice: --batch {count})"
            )
        self._augmentation = augmentation or Augmentation()
        self._augmentation.check(images.shape[-1])
        self._invariances = invariances or Invariances()
        self._images = images
        self.seed = seed
        self._order = BatchOrder(count, batch, seed)
        self._workers = 0 if isinstance(images, Tensor) else workers
        self._pinned = device is not None and device.type == "cuda"
        if self._pinned and isinstance(images, Tensor) and self._augmentation.identity and fits(images, device):
            self._images = images.to(device)
        self._ahead: Iterator[Tensor] | None = None

    def __len__(self) -> int:
        """Return how many images there are."""
        return int(self._images.shape[0])

    def next(self) -> Tensor:
        """Return this rank's part of the next batch, uint8, (batch / ranks, D, R, R), on the CPU or on the device.

        Raises:
            InvalidInput: If an image cannot be read.
        """
        chosen = self._order.next()
        if isinstance(self._images, Tensor) and self._images.device.type == "cuda":
            # A copy from pageable memory would make the host wait.
            return self._images.index_select(0, chosen.pin_memory().to(self._images.device, non_blocking=True))
        batch = self._images[chosen] if self._workers == 0 else self._read_ahead()
        if not self._augmentation.identity:
            epoch, end = self._order.epoch, self._order.position
            batch = self._augmentation(batch, seeded(self.seed, epoch, end), self._order.own, of=self._order.batch)
        return batch

    def take(self, count: int, *, transformed: bool = False) -> Tensor:
        """Return the next batches in one tensor, (count, batch, D, R, R), in page-locked memory for a GPU.

        Arguments:
            count: Number of batches.
            transformed: Whether randomly transformed copies of all batches follow: (2 count, batch, D, R, R). The
                changes depend only on (seed, epoch, position).

        Raises:
            InvalidInput: If an image cannot be read.
        """
        batches = torch.stack([self.next() for _ in range(count)])
        if transformed:
            # The batches of a position and their copies differ in the seed from the augmentation of the position.
            generator = seeded(self.seed + 1, self._order.epoch, self._order.position)
            copies = transforms.transformed(
                batches.flatten(0, 1),
                self._invariances,
                generator,
                self._order.rows(count),
                of=count * self._order.batch,
            )
            batches = torch.cat([batches, copies.view_as(batches)])
        # The device copies from page-locked memory while the host goes on.
        return batches.pin_memory() if self._pinned and batches.device.type == "cpu" else batches

    def some(self, count: int) -> Iterator[Tensor]:
        """Yield batches of different images, chosen by the seed alone, as they are; the stream stays where it is.

        Arguments:
            count: How many images in all; all of them if there are fewer.

        Yields:
            uint8, shape (batch, D, R, R); the last one may be smaller.

        Raises:
            InvalidInput: If an image cannot be read.
        """
        chosen = torch.randperm(len(self), generator=seeded(self.seed + 2, 0))[:count].sort().values
        for part in torch.split(chosen, self._order.batch):
            # Images may be on a GPU, or be read from files here.
            yield self._images[part.to(self._images.device) if isinstance(self._images, Tensor) else part]

    def _read_ahead(self) -> Tensor:
        if self._ahead is None:
            # The order has already moved past the batch that is wanted, so the workers begin one batch earlier.
            ahead = self._order.one_batch_ago()
            self._ahead = read_ahead(self._images, EndlessOrder(ahead), self._workers)
        try:
            return next(self._ahead)
        except InvalidInput:
            self.close()
            raise

    def state(self) -> dict[str, int]:
        """Return the epoch and the position of the stream."""
        return {"epoch": self._order.epoch, "position": self._order.position}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a `state`."""
        self.close()
        self._order.seek(state["epoch"], state["position"])

    def close(self) -> None:
        """End the worker processes, if there are any; they start again with the next batch."""
        # The workers end when their iterator is deleted.
        self._ahead = None


class BatchOrder:
    """Which images make up each batch.

    Arguments:
        count: N, the number of images.
        batch: Images in a batch, at most N.
        seed: Any integer.

    Attributes:
        batch: Images in a batch, of all ranks together.
        own: Which of them are those of this rank.
        epoch: The epoch of the last batch.
        position: Where that batch ended in the permutation of its epoch.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count, self.batch, self._seed = count, batch, seed
        self.own = ranks.current().part(batch)
        self.seek(0, 0)

    def seek(self, epoch: int, position: int) -> None:
        """Go on after ``position`` images of an epoch."""
        self.epoch, self.position = epoch, position
        self._permutation = torch.randperm(self._count, generator=seeded(self._seed, epoch))

    def next(self) -> Tensor:
        """Return the indices of this rank's part of the next batch, int64, shape (batch / ranks,)."""
        if self.position + self.batch > self._count:
            self.seek(self.epoch + 1, 0)
        self.position += self.batch
        begin = self.position - self.batch
        return self._permutation[begin + self.own.start : begin + self.own.stop]

    def rows(self, count: int) -> Tensor | None:
        """Return the places of this rank's images in ``count`` batches, one after another; None if all are its own."""
        if self.own == slice(0, self.batch):
            return None
        return torch.arange(count * self.batch).view(count, -1)[:, self.own].flatten()

    def one_batch_ago(self) -> BatchOrder:
        """Return the same order, one batch earlier."""
        earlier = BatchOrder(self._count, self.batch, self._seed)
        earlier.seek(self.epoch, self.position - self.batch)
        return earlier


class EndlessOrder(Sampler[list[int]]):
    """The indices of one batch after another, as lists for a DataLoader: a pickled slice carries its whole epoch."""

    def __init__(self, order: BatchOrder) -> None:
        self._order = order

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield self._order.next().tolist()


def fits(images: Tensor, device: torch.device | None) -> bool:
    """Return whether images may be kept on a CUDA device; most memory is for networks, activations and graphs."""
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() <= free // 4


def seeded(seed: int, epoch: int, position: int | None = None) -> torch.Generator:
    """Return a generator for an epoch, or for the batch of an epoch that ends at a position."""
    # Mixed so that neighbouring seeds don't share epochs.
    mixed = seed * 1_000_003 + epoch
    if position is not None:
        mixed = (mixed * 1_000_033 + position) * 1_000_037
    return torch.Generator().manual_seed(mixed % 2**63)
