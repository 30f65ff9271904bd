"""Options of the built-in objectives."""

from __future__ import annotations

from typing import Literal

import attrs

from mpcc.core.choice_fields import check_choices

__all__ = ["VariationalOptions"]


@attrs.frozen(field_transformer=check_choices)
class VariationalOptions:
    """Options of the objectives ``vade`` and ``vae``."""

    likelihood: Literal["gaussian", "bernoulli", "logistic"] = attrs.field(
        default="gaussian",
        metadata={
            "help": "density of the pixels around the decoder's output: gaussian with a trained scale, bernoulli for "
            "images that are nearly black and white, logistic for the 256 grey levels"
        },
    )
