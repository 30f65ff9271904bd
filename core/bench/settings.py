"""What `mpcc bench` measures and how often."""

from __future__ import annotations

import attrs

from mpcc.core.config.options import option

__all__ = ["BenchSettings"]


@attrs.frozen
class BenchSettings:
    """What is measured and how often; flags of the same names."""

    rounds: int = option(5, "how often each engine has its turn", least=1)
    iterations: int = option(2, "timed iterations in each round, after one that is not timed", least=1)
    predict_images: int = option(
        100_000, "the most images that memory is measured for when their clusters are predicted", least=10
    )
