"""Options of the built-in data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs

__all__ = ["DigitsOptions", "FolderOptions", "MNISTOptions", "OmniglotOptions"]

_LARGEST_SEED = 2**63 - 1


def _between(low: int, high: int | None = None) -> Callable[[Any, attrs.Attribute[int], int], None]:
    """Make a validator for low <= value <= high; attrs' own does not say the name as a person would."""

    def check(instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
        if value < low:
            raise ValueError(f"{attribute.name} must be at least {low}, got {value}")
        if high is not None and value > high:
            raise ValueError(f"{attribute.name} must be at most {high}, got {value}")

    return check


def _one_of(*names: str) -> Callable[[Any, attrs.Attribute[str], str], None]:
    """Make a validator for a fixed set of names."""

    def check(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in names:
            raise ValueError(f"{attribute.name} must be one of {', '.join(names)}, got {value!r}")

    return check


@attrs.frozen
class DigitsOptions:
    """Options of the data set ``digits``: none."""


@attrs.frozen
class MNISTOptions:
    """Options of the data set ``mnist``."""

    split: Literal["all", "train", "test"] = attrs.field(
        default="all",
        validator=_one_of("all", "train", "test"),
        metadata={"help": "which images: all (train, then test), train, or test"},
    )


@attrs.frozen
class OmniglotOptions:
    """Options of the data set ``omniglot``."""

    source: Literal["auto", "large", "small", "small1", "small2"] = attrs.field(
        default="auto",
        validator=_one_of("auto", "large", "small", "small1", "small2"),
        metadata={
            "help": "official background set: large, small1, small2, small (both small ones), "
            "or auto (large if it is there, else the small ones that are)"
        },
    )
    classes: int = attrs.field(
        default=100, validator=_between(1), metadata={"help": "number of characters to choose; each is a class"}
    )
    class_seed: int = attrs.field(default=0, metadata={"help": "seed of the choice of characters"})
    copies: int = attrs.field(
        default=20,
        validator=_between(1),
        metadata={"help": "images made of each drawing: itself first, then random affine maps of it"},
    )
    augment_seed: int = attrs.field(
        default=0, validator=_between(0, _LARGEST_SEED), metadata={"help": "seed of the random affine maps"}
    )


@attrs.frozen
class FolderOptions:
    """Options of the data set ``folder``."""

    path: Path | None = attrs.field(
        default=None,
        metadata={"help": "folder of images, or of one subfolder a class (default: the data root itself)"},
    )
    channels: Literal["auto", "1", "3"] = attrs.field(
        default="auto",
        validator=_one_of("auto", "1", "3"),
        metadata={"help": "convert to grey (1) or to colour (3); auto keeps what the files hold and refuses a mixture"},
    )
    background: Literal["white", "black"] = attrs.field(
        default="white",
        validator=_one_of("white", "black"),
        metadata={"help": "what shows through where an image is transparent"},
    )
