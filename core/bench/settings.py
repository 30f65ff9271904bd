"""What `mpcc bench` measures and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs

from mpcc.core.config.settings import at_least_one

__all__ = ["BenchSettings"]


def _setting(default: Any, validator: Any = None) -> Any:
    return attrs.field(default=default, validator=validator)


@attrs.frozen
class BenchSettings:
    """What is measured and how often; flags of the same names."""

    rounds: int = _setting(5, at_least_one)
    iterations: int = _setting(2, at_least_one)
    device: Literal["auto", "cpu", "cuda"] = _setting("auto")
    threads: int | None = _setting(None, attrs.validators.optional(at_least_one))
    data_root: Path | None = _setting(None)
    predict_images: int = _setting(100_000, attrs.validators.ge(10))
