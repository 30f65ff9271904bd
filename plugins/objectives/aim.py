"""AIM: reverse KL between the joints over image and latent, with a fixed prior (supplement, A.1)."""

from __future__ import annotations

from typing import Any

import attrs

from mpcc.core.contracts import Objective
from mpcc.core.method.losses import Batch, Loss, generator_loss
from mpcc.core.method.model import Model
from mpcc.core.method.phases import MPCC, EndOfIteration, Phase
from mpcc.core.method.terms import TermWeights

__all__ = ["AIM", "AdversarialInference"]


def generator_loss_without_labels(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return the generator's loss for the data term; the latent term is added if ``generator_latent`` weighs it.

    Arguments:
        model: Prior and networks.
        batch: Only its size is used, the number of z to draw.
        weights: Weights of the terms.
    """
    return generator_loss(model, batch, attrs.evolve(weights, generator_membership=0.0))


# The rows of MPCC without labels. The prior takes no step, so that all updates of the encoder are alike.
ROWS = {row.name: row for row in MPCC if isinstance(row, Phase)}
AIM: tuple[Phase | EndOfIteration, ...] = (
    ROWS["discriminator"],
    attrs.evolve(
        ROWS["generator and prior"], name="generator", trains=("generator",), loss=generator_loss_without_labels
    ),
    attrs.evolve(ROWS["encoder"], updates=lambda schedule: schedule.e_steps, real=None, real_terms=()),
    MPCC[-1],
)


class AdversarialInference(Objective):
    r"""Two variables, no membership: :math:`KL(p(x, z) \| q(x, z))` with p(z) = N(0, I).

    Example:
        >>> [row.name for row in AdversarialInference().phases()]
        ['discriminator', 'generator', 'encoder', 'average']
    """

    def __init__(self, options: Any = None) -> None:
        self.options = options

    def phases(self) -> tuple[Phase | EndOfIteration, ...]:
        """Return the four rows."""
        return AIM
