"""What `mpcc bench` measures and how often."""

from __future__ import annotations

import attrs

from mpcc.core.config.options import option
from mpcc.core.config.settings import at_least_one

__all__ = ["BenchSettings"]


@attrs.frozen
class BenchSettings:
    """What is measured and how often; flags of the same names."""

    rounds: int = option(5, "how often each engine has its turn", validator=at_least_one)
    iterations: int = option(2, "timed iterations in each round, after one that is not timed", validator=at_least_one)
    predict_images: int = option(
        100_000,
        "the most images that memory is measured for when their clusters are predicted",
        validator=attrs.validators.ge(10),
    )
