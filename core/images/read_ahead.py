"""Images in their order, a batch at a time, read ahead by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.images.stream import BatchReader, leave_signals_to_the_run

__all__ = ["in_order"]


def in_order(images: Tensor | ImageSource, batch: int, *, workers: int = 0) -> Iterator[Tensor]:
    """Yield all images, uint8, (n, D, R, R), once, in their order; the last batch may be incomplete.

    Arguments:
        images: uint8, shape (N, D, R, R).
        batch: Images in a batch.
        workers: The most processes that read ahead, two batches each, if the images are an `ImageSource`; 0 reads when
            a batch is asked for. A tensor needs none.

    Raises:
        InvalidInput: If an image cannot be read.

    Example:
        >>> [each.tolist() for each in in_order(torch.arange(5).to(torch.uint8), 2)]
        [[0, 1], [2, 3], [4]]
    """
    if isinstance(images, Tensor):
        yield from torch.split(images, batch)
        return
    # One batch is not worth a process.
    workers = min(workers, (images.shape[0] - 1) // batch)
    loader: DataLoader[Any] = DataLoader(
        BatchReader(images),
        sampler=Ranges(images.shape[0], batch),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_run,
        # Its seeds for workers would come out of the caller's random state.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        for read in loader:
            if isinstance(read, InvalidInput):
                raise read
            yield read
    except RuntimeError as error:
        if workers == 0:
            raise
        raise InvalidInput(
            f"a process that reads images ahead has ended: {' '.join(str(error).split())[:200]}; "
            "nearest valid choice: --workers 0"
        ) from error


class Ranges(Sampler[range]):
    """The indices 0..count-1 in ranges of at most ``batch``, each made when its turn comes.

    Example:
        >>> list(Ranges(5, 2))
        [range(0, 2), range(2, 4), range(4, 5)]
    """

    def __init__(self, count: int, batch: int) -> None:
        self._count, self._batch = count, batch

    def __iter__(self) -> Iterator[range]:
        for start in range(0, self._count, self._batch):
            yield range(start, min(start + self._batch, self._count))
