"""MPCC: reverse KL between the joints over image, latent and cluster (supplement, A.2, eq. 2)."""

from __future__ import annotations

from typing import Any

from mpcc.core.contracts import Objective
from mpcc.core.method.phases import MPCC, EndOfIteration, Phase

__all__ = ["MatchingPriorsAndConditionals"]


class MatchingPriorsAndConditionals(Objective):
    """The objective of the paper; its rows are `mpcc.core.method.phases.MPCC`.

    Example:
        >>> [row.name for row in MatchingPriorsAndConditionals().phases()]
        ['discriminator', 'generator and prior', 'encoder and prior', 'encoder', 'average']
    """

    def __init__(self, options: Any = None) -> None:
        self.options = options

    def phases(self) -> tuple[Phase | EndOfIteration, ...]:
        """Return the five rows."""
        return MPCC
