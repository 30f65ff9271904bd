"""The processes that share a training, called ranks, and sums over them that pass gradients on.

`torch.distributed` does the work. A process that trains alone is rank 0 of 1: every sum is then its argument, and
nothing is imported or communicated. Ranks call the functions below in the same order; one that does not come makes the
others wait until `TIMEOUT`.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mpcc.core.errors import InvalidInput, RankLost

__all__ = ["TIMEOUT", "Ranks", "before_leaving", "current", "joined", "reductions_to", "take_gpu"]

# An evaluation of the first rank, for which the others wait, may take long.
TIMEOUT = timedelta(hours=2)


@attrs.frozen
class Ranks:
    """The ranks of a training, as seen from one of them.

    Attributes:
        size: How many there are.
        index: The number of this one, from 0.
        on_machine: Its number among those of its machine, from 0; that of its GPU.
        bytes: Bytes that this rank has handed in to be reduced, by what they were.
        calls: How often.
        seconds: How long that took the host, by what they were.

    Example:
        >>> alone = Ranks()
        >>> alone.first, alone.part(4), alone.summed(torch.tensor([1.0, 2.0]))
        (True, slice(0, 4, None), tensor([1., 2.]))
    """

    size: int = 1
    index: int = 0
    on_machine: int = 0
    bytes: Counter[str] = attrs.field(factory=Counter, eq=False)
    calls: Counter[str] = attrs.field(factory=Counter, eq=False)
    seconds: defaultdict[str, float] = attrs.field(factory=lambda: defaultdict(float), eq=False)

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and talks to the user."""
        return self.index == 0

    def part(self, count: int) -> slice:
        """Return the rows of this rank, of ``count`` rows that belong to all; ``count`` is a multiple of the size.

        Example:
            >>> [Ranks(2, index).part(6) for index in range(2)]
            [slice(0, 3, None), slice(3, 6, None)]
        """
        share = count // self.size
        return slice(self.index * share, (self.index + 1) * share)

    def summed(self, values: Tensor, what: str = "sums") -> Tensor:
        """Return the sum over the ranks of a tensor of one shape; a gradient of the sum reaches all of them.

        Arguments:
            values: Any shape, the same on all ranks.
            what: The name under which bytes are counted.
        """
        if self.alone:
            return values
        total: Tensor = Sum.apply(values, self, what)
        return total

    def stacked(self, values: Tensor, what: str) -> Tensor:
        """Return the values of all ranks, shape (ranks, ...), with gradients; the others' places are sums with 0."""
        rows = [values if index == self.index else torch.zeros_like(values) for index in range(self.size)]
        return self.summed(torch.stack(rows), what)

    def average(self, tensors: Sequence[Tensor], what: str) -> None:
        """Replace tensors by their means over the ranks, with one reduction for all.

        Arguments:
            tensors: On one device, without gradients, of the same shapes on all ranks.
            what: The name under which bytes are counted.
        """
        if self.alone or not tensors:
            return
        dtype = max((tensor.dtype for tensor in tensors), key=lambda each: torch.finfo(each).bits)
        flat = torch.cat([tensor.detach().reshape(-1).to(dtype) for tensor in tensors])
        self.reduce(flat, what)
        flat.div_(self.size)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view(tensor.shape))

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors the values that they have on the first rank."""
        with self._together():
            for tensor in [] if self.alone else tensors:
                torch.distributed.broadcast(tensor.detach(), 0)

    def told(self, value: Any) -> Any:
        """Return the first rank's value, any object that can be pickled."""
        if self.alone:
            return value
        held = [value]
        with self._together():
            torch.distributed.broadcast_object_list(held, 0)
        return held[0]

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all ranks in their order, any objects that can be pickled."""
        held: list[Any] = [value]
        if not self.alone:
            held = [None] * self.size
            with self._together():
                torch.distributed.all_gather_object(held, value)
        return held

    def collected(self, value: Any) -> list[Any]:
        """Return the values of all ranks on the first one, and nothing on the others."""
        if self.alone:
            return [value]
        held: list[Any] | None = [None] * self.size if self.first else None
        with self._together():
            torch.distributed.gather_object(value, held, 0)
        return held or []

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Turn the errors of a communication that fails into one of one line.

        Raises:
            RankLost: If another process has ended or cannot be reached.
        """
        try:
            yield
        except RuntimeError as error:
            cause = next(iter(str(error).strip().splitlines()), "no reason given")
            raise RankLost(
                f"process {self.index} of {self.size} has lost the others: one of them has ended, or cannot be reached "
                f"({cause})"
            ) from error

    def reduce(self, values: Tensor, what: str) -> None:
        """Replace a tensor by its sum over the ranks, or hand it to the function of `reductions_to`.

        Arguments:
            values: Contiguous, without gradients, of the same shape on all ranks.
            what: The name under which bytes are counted.
        """
        if _taker is None:
            self.carry_out(values, what)
        else:
            _taker(values, what)

    def carry_out(self, values: Tensor, what: str) -> None:
        """Do what `reduce` does, at once in any case."""
        began = time.perf_counter()
        with self._together():
            torch.distributed.all_reduce(values)
        self.count(what, values.numel() * values.element_size())
        self.seconds[what] += time.perf_counter() - began

    def count(self, what: str, size: int) -> None:
        """Count a reduction of so many bytes."""
        self.bytes[what] += size
        self.calls[what] += 1


class Sum(torch.autograd.Function):
    """The sum over ranks. Its gradient is the sum of the ranks' gradients, as each of them uses it."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, ranks: Ranks, what: str) -> Tensor:
        """Return the sum."""
        ctx.ranks, ctx.what = ranks, what  # type: ignore[attr-defined]
        total = values.detach().clone(memory_format=torch.contiguous_format)
        ranks.reduce(total, what)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the sum of the gradients."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        ctx.ranks.reduce(total, ctx.what)  # type: ignore[attr-defined]
        return total, None, None


_current = Ranks()
_taker: Callable[[Tensor, str], None] | None = None
_before_leaving: list[weakref.WeakMethod[Callable[[], None]]] = []


@contextlib.contextmanager
def reductions_to(taker: Callable[[Tensor, str], None]) -> Iterator[None]:
    """Hand all reductions to a function that decides when they are carried out, for the length of a ``with`` block.

    Arguments:
        taker: Takes a tensor that is due to be replaced by its sum over the ranks, and the name of what it is.
    """
    global _taker
    before, _taker = _taker, taker
    try:
        yield
    finally:
        _taker = before


def before_leaving(action: Callable[[], None]) -> None:
    """Call a method once before this process leaves the ranks that it has joined, unless its object is gone by then."""
    _before_leaving.append(weakref.WeakMethod(action))


def take_gpu(on_machine: int) -> None:
    """Let this process compute on the GPU of its number among the processes of its machine.

    Raises:
        InvalidInput: If the machine has fewer GPUs.
    """
    if on_machine >= torch.cuda.device_count():
        raise InvalidInput(
            f"this machine has {torch.cuda.device_count()} GPUs for more processes: expected one each (nearest "
            f"valid choice: --devices {torch.cuda.device_count()})"
        )
    torch.cuda.set_device(on_machine)


def current() -> Ranks:
    """Return the ranks of the training that this process takes part in; by default it is alone."""
    return _current


@contextlib.contextmanager
def joined(*, cuda: bool) -> Iterator[Ranks]:
    """Join the ranks that torchrun has started, for the length of a ``with`` block.

    Arguments:
        cuda: Whether they compute on GPUs, one each.

    Raises:
        InvalidInput: If the machine has fewer GPUs than ranks.
    """
    global _current
    on_machine = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        take_gpu(on_machine)
    # Tensors on the CPU, such as decisions, must not make GPUs wait.
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    before, _current = (
        _current,
        Ranks(torch.distributed.get_world_size(), torch.distributed.get_rank(), on_machine),
    )
    try:
        yield _current
    finally:
        try:
            while _before_leaving:
                if action := _before_leaving.pop()():
                    action()
        finally:
            _current = before
            torch.distributed.destroy_process_group()
