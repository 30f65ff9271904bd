"""A plugin under test: its class, its options, and settings for all kinds of plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs

__all__ = ["Case"]

P = TypeVar("P")


@attrs.define
class Case(Generic[P]):
    """A plugin's class, and the options and settings to build it.

    Attributes:
        cls: The class under test.
        options: Its options.
        seed: Of everything random.
        root: The data folder of a data set, or None.
        download: Whether a data set may fetch missing files.
    """

    cls: Callable[..., P]
    options: Any
    seed: int = 0
    root: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    download: bool = False

    def make(self) -> P:
        """Make the plugin from its options alone."""
        return self.cls(self.options)
