"""The options that the mixtures of `mpcc.core.mixture` share, without torch: for ``--help`` and listings."""

from __future__ import annotations

from typing import Literal

import attrs

from mpcc.core.choice_fields import check_choices

__all__ = ["MixtureOptions"]

positive = attrs.validators.gt(0.0)


@attrs.frozen(field_transformer=check_choices)
class MixtureOptions:
    """Options of a mixture of components with a location and a scale in each dimension.

    A subclass adds its own fields, each with a type, a default and one line of help; a field of the same name replaces
    the default here.
    """

    scale_floor: float = attrs.field(
        default=0.5,
        validator=attrs.validators.ge(0.0),
        metadata={"help": "smallest scale of a component; the scale is floor + exp(raw / 2)"},
    )
    initial_raw_scale: float = attrs.field(
        default=1.0,
        validator=attrs.validators.and_(attrs.validators.ge(-100.0), attrs.validators.le(100.0)),
        metadata={"help": "starting value of every raw scale, between -100 and 100"},
    )
    locations: Literal["orthogonal", "normal", "uniform"] = attrs.field(
        default="orthogonal",
        metadata={
            "help": "start of the locations: rows or columns of an orthogonal matrix, N(0, 1), or uniform on (-1, 1)"
        },
    )
    location_scale: float = attrs.field(
        default=1.0, validator=positive, metadata={"help": "factor on the starting locations"}
    )
    weights: Literal["uniform", "trainable"] = attrs.field(
        default="uniform", metadata={"help": "weights phi of the clusters: uniform, or trained from uniform"}
    )
    input_map: Literal["identity", "asinh"] = attrs.field(
        default="identity",
        metadata={"help": "monotone map of z in front of the generator: asinh tames the outliers of heavy tails"},
    )
