"""The first update whose loss or gradient is not finite: it and all that follow are left out, and it can be named.

On CUDA all is decided on the device, in the middle of an iteration that may be one CUDA graph: the optimizers are
given a flag, as mixed precision gives it to them, and step over every update from the moment that it is set. The
parameters stay those before that update, however much later the host looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

__all__ = ["Breakdown", "FiniteGuard"]

# A breakdown is one number, so that finding the first one needs no branch: iteration, update, and a bit for each
# quantity that was not finite, the loss first and then the gradient of each part that the update trains.
UPDATES, BITS = 2**20, 4


@attrs.frozen
class Breakdown:
    """An update that could not be carried out.

    Attributes:
        iteration: From 1.
        update: Its number in the iteration, from 0, in the order of the schedule.
        phase: ``discriminator``, ``generator`` or ``encoder``.
        loss: Whether its loss was not finite.
        gradients: The parts whose gradient was not finite.
    """

    iteration: int
    update: int
    phase: str
    loss: bool
    gradients: tuple[str, ...]

    def __str__(self) -> str:
        """Say what was not finite, and where."""
        parts = [*(["the loss"] if self.loss else []), *(f"the gradient of the {part}" for part in self.gradients)]
        return (
            f"{' and '.join(parts)} {'is' if len(parts) == 1 else 'are'} not finite in the {self.phase} step "
            f"(update {self.update + 1} of iteration {self.iteration})"
        )


class FiniteGuard:
    """Watches the updates of a trainer.

    Arguments:
        optimizers: All of them; each is told when to step over its updates.
        device: Where the parameters are.

    Attributes:
        norms: Euclidean norm of the last gradient of each part, by name, scalars on the device.
    """

    def __init__(self, optimizers: Iterable[Optimizer], device: torch.device) -> None:
        self.norms: dict[str, Tensor] = {}
        self._updates: list[tuple[str, tuple[str, ...]]] = []
        self._broken = torch.zeros((), device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)
        self._iteration = torch.zeros((), dtype=torch.int64, device=device)
        # There to look costs nothing: what follows is for the update that breaks down.
        self._on_host = device.type == "cpu"
        self._bits = 2 ** torch.arange(BITS, device=device)
        for optimizer in optimizers:
            # What a gradient scaler sets: a fused step does nothing where it is 1 (torch.optim.Adam).
            optimizer.found_inf = self._broken  # type: ignore[attr-defined]

    @torch.no_grad()
    def begin(self) -> None:
        """Count an iteration; its updates follow."""
        self._iteration.add_(1)
        self._updates = []

    @torch.no_grad()
    def watch(self, phase: str, loss: Tensor, gradients: Mapping[str, Sequence[Tensor]]) -> None:
        """Look at the loss and the gradients of an update, before its optimizers step.

        Arguments:
            phase: Which kind of update it is.
            loss: Its objective, a scalar.
            gradients: Of each part that it trains, `BITS` - 1 at most.
        """
        update = len(self._updates)
        # A part may have no gradient in a phase; its optimizer then leaves it as it is.
        self._updates.append((phase, tuple(part for part, each in gradients.items() if each)))
        norms = {part: get_total_norm(each) for part, each in gradients.items() if each}
        self.norms |= norms
        if self._on_host and all(math.isfinite(each) for each in (loss, *norms.values())):
            return
        quantities = torch.stack([loss.detach().float(), *(norm.float() for norm in norms.values())])
        found = quantities.isfinite().logical_not_().mul(self._bits[: len(quantities)]).sum()
        number = ((self._iteration * UPDATES + update) << BITS) + found
        now = (found > 0) & (self._broken == 0)
        self._first.copy_(torch.where(now, number, self._first))
        self._broken.copy_(torch.maximum(self._broken, now.to(self._broken.dtype)))

    def breakdown(self) -> Breakdown | None:
        """Return the first update that could not be carried out, or None; on CUDA, the host waits for the device."""
        number = int(self._first)
        if number == 0:
            return None
        iteration, update = divmod(number >> BITS, UPDATES)
        phase, parts = self._updates[update]
        bits = [bool(number >> bit & 1) for bit in range(BITS)]
        return Breakdown(
            iteration, update, phase, bits[0], tuple(part for part, bad in zip(parts, bits[1:], strict=False) if bad)
        )

    @torch.no_grad()
    def reset(self, iteration: int) -> None:
        """Forget everything; so many iterations are done."""
        self._broken.zero_()
        self._first.zero_()
        self._iteration.fill_(iteration)
