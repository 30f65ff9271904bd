"""Settings of `mpcc bench`: numbers of rounds, iterations and images."""

from __future__ import annotations

import attrs

from mpcc.core.config.options import option

__all__ = ["BenchSettings"]


@attrs.frozen
class BenchSettings:
    """Numbers of rounds, iterations and images; the flags have the same names."""

    rounds: int = option(5, "number of rounds; each measures every engine in turn", least=1)
    iterations: int = option(2, "timed iterations in each round, after one that is not timed", least=1)
    predict_images: int = option(100_000, "largest number of images whose prediction is measured for memory", least=10)
