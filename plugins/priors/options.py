"""Options of the built-in priors."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mpcc.core.choice_fields import check_choices
from mpcc.core.mixture_options import MixtureOptions

__all__ = [
    "CauchyOptions",
    "GaussianMixtureOptions",
    "GumbelOptions",
    "LaplaceOptions",
    "LogisticOptions",
    "LowRankOptions",
    "StudentTOptions",
]

positive = attrs.validators.gt(0.0)
SMALLEST_DF, LARGEST_DF = 0.5, 1e9


def _usable_df(_: Any, field: Any, value: float) -> None:
    """Check degrees of freedom against what float32 can carry."""
    if not value >= SMALLEST_DF:
        reason = "with less, samples leave the range of float32"
        raise ValueError(f"{field.name!r} must be >= {SMALLEST_DF}: {value} ({reason})")
    if not value <= LARGEST_DF:
        reason = "with more, float32 cannot tell it from a Gaussian; choose --prior gmm"
        raise ValueError(f"{field.name!r} must be <= {LARGEST_DF:g}: {value:g} ({reason})")


def _input_map(default: str) -> Any:
    return attrs.field(default=default, metadata=attrs.fields(MixtureOptions).input_map.metadata)


@attrs.frozen(field_transformer=check_choices)
class GaussianMixtureOptions(MixtureOptions):
    """Options of the prior ``gmm``."""

    variances: Literal["consistent", "reference"] = attrs.field(
        default="consistent",
        metadata={
            "help": "one scale for sampling, density and entropy; or three, as in the authors' code, for replaying it",
            "departures": ("reference",),
        },
    )


@attrs.frozen(field_transformer=check_choices)
class StudentTOptions(MixtureOptions):
    """Options of the prior ``student_t``."""

    input_map: Literal["identity", "asinh"] = _input_map("asinh")
    df: float = attrs.field(
        default=3.0,
        validator=_usable_df,
        metadata={"help": "degrees of freedom nu, or their start if they are learned; 0.5 to 1e9"},
    )
    learn_df: bool = attrs.field(default=False, metadata={"help": "train nu"})
    df_floor: float = attrs.field(
        default=1.0, validator=_usable_df, metadata={"help": "lower bound of a learned nu, at least 0.5"}
    )

    def __attrs_post_init__(self) -> None:
        if self.learn_df and self.df <= self.df_floor:
            raise ValueError(f"df must be above df_floor to be learned, got {self.df} and {self.df_floor}")


@attrs.frozen(field_transformer=check_choices)
class CauchyOptions(MixtureOptions):
    """Options of the prior ``cauchy``."""

    input_map: Literal["identity", "asinh"] = _input_map("asinh")


@attrs.frozen
class LaplaceOptions(MixtureOptions):
    """Options of the prior ``laplace``."""


@attrs.frozen
class LogisticOptions(MixtureOptions):
    """Options of the prior ``logistic``."""


@attrs.frozen(field_transformer=check_choices)
class GumbelOptions(MixtureOptions):
    """Options of the prior ``gumbel``."""

    encoder: Literal["laplace", "logistic"] = attrs.field(default="laplace", metadata={"help": "family of q(z|x)"})


@attrs.frozen
class LowRankOptions(MixtureOptions):
    """Options of the prior ``lowrank_gmm``."""

    rank: int = attrs.field(
        default=2, validator=attrs.validators.ge(1), metadata={"help": "columns of the covariance factor W"}
    )
    initial_factor: float = attrs.field(
        default=0.1,
        # Far larger numbers would leave the range of float32 when they are squared.
        validator=attrs.validators.and_(positive, attrs.validators.le(100.0)),
        metadata={"help": "standard deviation of the starting W, at most 100"},
    )
