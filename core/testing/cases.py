"""A plugin under test: its class, its options, and settings for all kinds of plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import attrs

from mpcc.core.errors import InvalidInput

__all__ = ["Case", "SizeRefused"]

P = TypeVar("P")


class SizeRefused(Exception):
    """A plugin refuses a size that a law needs, such as an odd J, with an InvalidInput; that is its right."""

    def __init__(self, size: str, error: InvalidInput) -> None:
        super().__init__(f"it refuses {size}: {error}")


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
    # The limit of each law, in seconds.
    law_seconds: ClassVar[float] = 120.0

    def try_out(self) -> None:
        """Build the plugin, to learn whether it refuses its options."""
        self.make()

    def make(self) -> P:
        """Make the plugin from its options alone."""
        return self.cls(self.options)
