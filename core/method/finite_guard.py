"""The finite guard finds the first update whose loss or gradient is not finite, and skips it and all later updates.

On CUDA the decision is made on the device, because the iteration may be one CUDA graph. The optimizers share a flag,
the one that mixed precision uses, and skip their steps once it is set. The parameters therefore stay as they were
before the broken update, even if the host looks much later. What was not finite stays in a table until the next
iteration begins, so that an update costs only a few operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Breakdown", "FiniteGuard"]

# A breakdown is encoded as one number, which needs no branch on the device: iteration, update, and a bit for each
# quantity that was not finite: the loss, the latents, and the gradients of the trained parts.
UPDATES, BITS = 2**16, 6
NONE = 2**62
# Updates of an iteration that the table has room for at first.
ROOM = 16


@attrs.frozen
class Breakdown:
    """An update that could not be carried out.

    Attributes:
        iteration: Number of the iteration, from 1.
        update: Number of the update in the iteration, from 0, in the order of the phases.
        phase: Name of the phase.
        loss: Whether the loss was not finite.
        gradients: The parts whose gradient was not finite.
        latents: Whether a sample of z was not finite. Its cause comes before the loss and the gradients.
    """

    iteration: int
    update: int
    phase: str
    loss: bool
    gradients: tuple[str, ...]
    latents: bool = False

    def __str__(self) -> str:
        """Say what was not finite, and where."""
        where = f"in the {self.phase} step (update {self.update + 1} of iteration {self.iteration})"
        if self.latents:
            return f"a sample of z that the prior drew is not finite {where}"
        parts = [*(["the loss"] if self.loss else []), *(f"the gradient of the {part}" for part in self.gradients)]
        return f"{' and '.join(parts)} {'is' if len(parts) == 1 else 'are'} not finite {where}"


class FiniteGuard:
    """Watches the updates of a trainer.

    Arguments:
        optimizers: All optimizers; each skips its steps after a breakdown.
        device: The device of the parameters.

    Attributes:
        norms: Euclidean norm of the last gradient of each part, by name, scalars on the device.
    """

    def __init__(self, optimizers: Iterable[Optimizer], device: torch.device) -> None:
        self.norms: dict[str, Tensor] = {}
        self._updates: list[tuple[str, bool, tuple[str, ...]]] = []
        self._broken = torch.zeros((), device=device)
        self._first = torch.zeros((), dtype=torch.int64, device=device)
        self._iteration = torch.zeros((), dtype=torch.int64, device=device)
        # A row for each update of the last iteration: its loss, its largest latent and its norms; zeros elsewhere.
        self._quantities = torch.zeros(ROOM, BITS, device=device)
        self._one = torch.ones((), device=device)
        # On the CPU, the check of a healthy update is free.
        self._on_host = device.type == "cpu"
        self._bits = 2 ** torch.arange(BITS, device=device)
        for optimizer in optimizers:
            # A gradient scaler sets the same attribute; a fused step does nothing where it is 1 (torch.optim.Adam).
            optimizer.found_inf = self._broken  # type: ignore[attr-defined]

    @torch.no_grad()
    def begin(self) -> None:
        """Begin the next iteration, before its updates."""
        self._note_first()
        self._iteration.add_(1)
        self._updates = []

    def _note_first(self) -> None:
        """Write down the first broken update of the last iteration, unless there was one before."""
        if self._on_host and not self._broken:
            return
        bits = self._quantities.isfinite().logical_not_().mul(self._bits).sum(1)
        updates = torch.arange(len(bits), device=bits.device)
        numbers = ((self._iteration * UPDATES + updates) << BITS) + bits
        first = torch.where(bits > 0, numbers, NONE).amin()
        self._first.copy_(torch.where((self._first == 0) & (first < NONE), first, self._first))

    @torch.no_grad()
    def watch(
        self, phase: str, loss: Tensor, gradients: Mapping[str, Sequence[Tensor]], latents: Tensor | None = None
    ) -> None:
        """Check the loss and the gradients of an update, before its optimizers step.

        Arguments:
            phase: Name of its phase.
            loss: Its objective, a scalar.
            gradients: The gradients of each part that it trains; at most `BITS` - 2 parts.
            latents: The z that its loss was computed from, if there are any.
        """
        update = len(self._updates)
        # A part may have no gradient in a phase; its optimizer then leaves it as it is.
        watched = tuple(part for part, of_part in gradients.items() if of_part)
        self._updates.append((phase, latents is not None, watched))
        together = [gradient for part in watched for gradient in gradients[part]]
        each = torch.stack(torch._foreach_norm(together)) if together else torch.empty(0)
        of_parts = torch.split(each, [len(gradients[part]) for part in watched])
        norms = {part: torch.linalg.vector_norm(of_part) for part, of_part in zip(watched, of_parts, strict=True)}
        self.norms |= norms
        if self._on_host and all(math.isfinite(quantity) for quantity in (loss, *norms.values())):
            return
        if update == len(self._quantities):
            self._quantities = torch.cat([self._quantities, torch.zeros_like(self._quantities)])
        largest = [] if latents is None else [torch.linalg.vector_norm(latents.detach(), ord=math.inf)]
        quantities = torch.stack([quantity.detach().float() for quantity in (loss, *largest, *norms.values())])
        # One kernel, which gradient scalers use: it sets the flag if a value is not finite, and multiplies by 1.
        torch._amp_foreach_non_finite_check_and_unscale_([quantities], self._broken, self._one)
        self._quantities[update, : len(quantities)].copy_(quantities)

    @torch.no_grad()
    def breakdown(self) -> Breakdown | None:
        """Return the first broken update, or None; on CUDA, the host waits for the device."""
        self._note_first()
        number = int(self._first)
        if number == 0:
            return None
        iteration, update = divmod(number >> BITS, UPDATES)
        phase, with_latents, parts = self._updates[update]
        loss, *others = (bool(number >> bit & 1) for bit in range(BITS))
        latents = others.pop(0) if with_latents else False
        gradients = tuple(part for part, bad in zip(parts, others, strict=False) if bad)
        return Breakdown(iteration, update, phase, loss, gradients, latents)

    @torch.no_grad()
    def reset(self, iteration: int) -> None:
        """Forget any breakdown and set the number of iterations done."""
        self._broken.zero_()
        self._first.zero_()
        self._quantities.zero_()
        self._iteration.fill_(iteration)
