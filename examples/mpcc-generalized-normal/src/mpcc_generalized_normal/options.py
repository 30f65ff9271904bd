"""Options of the prior ``generalized_normal``."""

from __future__ import annotations

import attrs
from mpcc.core.mixture_options import MixtureOptions

__all__ = ["LARGEST_SHAPE", "SMALLEST_SHAPE", "GeneralizedNormalOptions"]

# Below, float32 loses the sampler's small values, G^(1/beta); above, the density is a box and its gradient a wall.
SMALLEST_SHAPE, LARGEST_SHAPE = 0.5, 8.0


@attrs.frozen
class GeneralizedNormalOptions(MixtureOptions):
    """Options of all mixtures, and the shape."""

    shape: float = attrs.field(
        default=1.5,
        validator=[attrs.validators.ge(SMALLEST_SHAPE), attrs.validators.le(LARGEST_SHAPE)],
        metadata={"help": "beta: 1 is a Laplace, 2 a normal; its start if it is learned"},
    )
    learn_shape: bool = attrs.field(default=False, metadata={"help": "train beta, one for the whole prior"})
    shape_floor: float = attrs.field(
        default=1.0,
        validator=[attrs.validators.ge(SMALLEST_SHAPE), attrs.validators.lt(LARGEST_SHAPE)],
        metadata={"help": "lower bound of a learned beta"},
    )

    def __attrs_post_init__(self) -> None:
        if self.learn_shape and not self.shape_floor < self.shape < LARGEST_SHAPE:
            raise ValueError(
                f"a learned shape must start between {self.shape_floor} and {LARGEST_SHAPE}, got {self.shape}"
            )
