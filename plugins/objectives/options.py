"""Options of the built-in objectives."""

from __future__ import annotations

from typing import Literal

import attrs

from mpcc.core.choice_fields import check_choices

__all__ = ["VAEOptions", "VaDEOptions"]


@attrs.frozen(field_transformer=check_choices)
class VAEOptions:
    """Options of the objective ``vae``."""

    likelihood: Literal["gaussian", "bernoulli", "logistic"] = attrs.field(
        default="gaussian",
        metadata={
            "help": "density of the pixels around the decoder's output: gaussian with a trained scale, bernoulli for "
            "images that are nearly black and white, logistic for the 256 grey levels"
        },
    )


@attrs.frozen(field_transformer=check_choices)
class VaDEOptions(VAEOptions):
    """Options of the objective ``vade``."""

    pretraining: int = attrs.field(
        default=0,
        validator=attrs.validators.ge(0),
        metadata={"help": "first iterations, which train encoder and decoder as an autoencoder; 0 for none"},
    )
