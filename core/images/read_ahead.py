"""Batches of images that worker processes read ahead."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.system.allocator import give_back
from mpcc.core.system.signals import END_SIGNALS

__all__ = ["in_order", "read_ahead"]


def in_order(
    images: Tensor | ImageSource, batch: int, *, workers: int = 0, index: int = 0, of: int = 1
) -> Generator[Tensor, None, None]:
    """Yield all images, uint8, (n, D, R, R), once, in their order; the last batch may be incomplete.

    Of several that share the images, each gets some of the batches, and no image is read twice.

    Arguments:
        images: uint8, shape (N, D, R, R).
        batch: Images in a batch.
        workers: The most processes that read ahead, two batches each, if the images are an `ImageSource`. With 0, a
            batch is read when it is asked for. A tensor needs no workers.
        index: The number among those that share the images, from 0; batch k belongs to number k mod ``of``.
        of: How many share them.

    Raises:
        InvalidInput: If an image cannot be read.

    Example:
        >>> [batch.tolist() for batch in in_order(torch.arange(5).to(torch.uint8), 2)]
        [[0, 1], [2, 3], [4]]
        >>> [batch.tolist() for batch in in_order(torch.arange(5).to(torch.uint8), 2, index=1, of=2)]
        [[2, 3]]
    """
    if isinstance(images, Tensor):
        yield from torch.split(images, batch)[index::of]
        return
    batches = Ranges(images.shape[0], batch, index, of)
    # One batch is not worth a process.
    yield from read_ahead(images, batches, min(workers, max(0, len(batches) - 1)))


def read_ahead(images: Tensor | ImageSource, batches: Sampler[Any], workers: int) -> Iterator[Tensor]:
    """Yield batches of images, uint8, (n, D, R, R), that worker processes read ahead, two batches each.

    The processes start with the first batch, and end when the iterator does.

    Arguments:
        images: uint8, shape (N, D, R, R).
        batches: The indices of each batch.
        workers: How many processes; with 0, a batch is read when it is asked for.

    Raises:
        InvalidInput: If an image cannot be read, or a worker process has ended.
    """
    loader: DataLoader[Any] = DataLoader(
        BatchReader(images),
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_signals_to_the_run,
        # Without this generator, the seeds of the workers would be drawn from the caller's random state.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        for batch in loader:
            if isinstance(batch, InvalidInput):
                raise batch
            yield batch
    except RuntimeError as error:
        if workers == 0:
            raise
        # The system may have killed a process when memory was short, for example.
        raise InvalidInput(
            f"a process that reads images ahead has ended: {' '.join(str(error).split())[:200]}; "
            "nearest valid choice: --workers 0"
        ) from error


class BatchReader(Dataset[Any]):
    """Reads whole batches in a worker process; errors for the user come back as values, not tracebacks."""

    def __init__(self, images: Tensor | ImageSource) -> None:
        self._images = images

    def __getitem__(self, indices: list[int]) -> Tensor | InvalidInput:
        try:
            return self._images[torch.tensor(indices)]
        except InvalidInput as error:
            return InvalidInput(str(error))
        except OSError as error:
            file = f" {error.filename}" if error.filename else ""
            return InvalidInput(f"cannot read{file}: {error.strerror or error}")


class Ranges(Sampler[range]):
    """The indices 0..count-1 in ranges of at most ``batch``, each made when its turn comes.

    Arguments:
        count: How many indices.
        batch: The most indices in a range.
        index: The first range, from 0.
        of: The distance to the next range, if several share them.

    Example:
        >>> list(Ranges(5, 2)), list(Ranges(5, 2, 1, 2))
        ([range(0, 2), range(2, 4), range(4, 5)], [range(2, 4)])
    """

    def __init__(self, count: int, batch: int, index: int = 0, of: int = 1) -> None:
        self._count, self._batch = count, batch
        self._starts = range(index * batch, count, of * batch)

    def __iter__(self) -> Iterator[range]:
        for start in self._starts:
            yield range(start, min(start + self._batch, self._count))

    def __len__(self) -> int:
        return len(self._starts)


def leave_signals_to_the_run(worker: int) -> None:
    """Ignore signals that a terminal or a scheduler sends to all processes: the run decides when workers end."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    give_back()
