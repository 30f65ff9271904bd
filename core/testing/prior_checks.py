"""All laws of a prior, in the order of the report."""

from __future__ import annotations

from mpcc.core.testing.prior.cases import PriorCase
from mpcc.core.testing.prior.gradients import GRADIENTS
from mpcc.core.testing.prior.numerics import NUMERICS
from mpcc.core.testing.prior.probability import PROBABILITY
from mpcc.core.testing.prior.structure import STRUCTURE
from mpcc.core.testing.prior.tails import ENCODER
from mpcc.core.testing.report import Law

__all__ = ["PRIOR_LAWS"]

PRIOR_LAWS: tuple[Law[PriorCase], ...] = (*STRUCTURE, *PROBABILITY, *GRADIENTS, *ENCODER, *NUMERICS)
