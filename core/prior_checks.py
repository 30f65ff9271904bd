"""All laws of a prior, in the order of the report."""

from __future__ import annotations

from mpcc.core.contract_report import Law
from mpcc.core.prior_cases import PriorCase
from mpcc.core.prior_gradients import GRADIENTS
from mpcc.core.prior_numerics import NUMERICS
from mpcc.core.prior_probability import PROBABILITY
from mpcc.core.prior_structure import STRUCTURE
from mpcc.core.prior_tails import ENCODER

__all__ = ["PRIOR_LAWS"]

PRIOR_LAWS: tuple[Law[PriorCase], ...] = (*STRUCTURE, *PROBABILITY, *GRADIENTS, *ENCODER, *NUMERICS)
