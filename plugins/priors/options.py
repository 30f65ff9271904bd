"""Options of the built-in priors."""

from __future__ import annotations

import attrs

__all__ = ["GaussianMixtureOptions"]


@attrs.frozen
class GaussianMixtureOptions:
    """Options of the prior ``gmm``."""

    scale_floor: float = attrs.field(
        default=0.5,
        validator=attrs.validators.ge(0.0),
        metadata={"help": "smallest standard deviation of a component; the scale is floor + exp(raw / 2)"},
    )
    initial_raw_scale: float = attrs.field(
        default=1.0, metadata={"help": "starting value of every raw scale (a log-variance above the floor)"}
    )
