"""Options of the built-in data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import attrs

from mpcc.core.choice_fields import check_choices
from mpcc.plugins.datasets.reading.range_option import RangeSpec

__all__ = [
    "ArraysOptions",
    "CIFAR10Options",
    "CIFAR20Options",
    "DigitsOptions",
    "FashionMNISTOptions",
    "FolderOptions",
    "MNISTOptions",
    "MemoryOptions",
    "OmniglotOptions",
    "SplitOptions",
]

# Marks an option that tells how one folder is laid out, so that it does not hold for images elsewhere.
OF_PLACE = "of_place"
FORMER_RANGES = {"auto": "type", "unit": "0,1", "symmetric": "-1,1", "bytes": "0,255"}

_LARGEST_SEED = 2**63 - 1


def _between(low: int, high: int | None = None) -> Callable[[Any, attrs.Attribute[int], int], None]:
    """Make a validator for low <= value <= high; the messages of attrs' own validators are harder to read."""

    def check(instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
        if value < low:
            raise ValueError(f"{attribute.name} must be at least {low}, got {value}")
        if high is not None and value > high:
            raise ValueError(f"{attribute.name} must be at most {high}, got {value}")

    return check


def _present_range(text: str) -> str:
    """Return a range; earlier versions had other words for some."""
    return FORMER_RANGES.get(text, text)


def _range(instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
    RangeSpec.parse(value)


def _range_field(**metadata: str) -> Any:
    """Declare the option that names the values of black and white."""
    return attrs.field(
        default="type",
        converter=_present_range,
        validator=_range,
        metadata={
            "help": "values of black and white: of the type (0 and 255, 0 and 65535; for 32 bits and floating point "
            "0 and 1, -1 and 1, 0 and 255 or those of the set), of the set, its percentiles (0.1 and 99.9, or "
            "percentiles:LOW,HIGH), two numbers LOW,HIGH, or one for white",
            **metadata,
        },
    )


def _fit_field() -> Any:
    """Declare the option for images that are not square."""
    return attrs.field(
        default="crop",
        metadata={"help": "images that are not square: cut out the centre, pad with the background, or stretch"},
    )


@attrs.frozen
class DigitsOptions:
    """Options of the data set ``digits``: none."""


@attrs.frozen(field_transformer=check_choices)
class SplitOptions:
    """Options of the published sets that have a train and a test part."""

    split: Literal["all", "train", "test"] = attrs.field(
        default="all",
        metadata={"help": "which images: all (train, then test), train, or test"},
    )


@attrs.frozen
class MNISTOptions(SplitOptions):
    """Options of the data set ``mnist``."""


@attrs.frozen
class FashionMNISTOptions(SplitOptions):
    """Options of the data set ``fashion-mnist``."""


@attrs.frozen
class CIFAR10Options(SplitOptions):
    """Options of the data set ``cifar10``."""


@attrs.frozen
class CIFAR20Options(SplitOptions):
    """Options of the data set ``cifar20``."""


@attrs.frozen(field_transformer=check_choices)
class OmniglotOptions:
    """Options of the data set ``omniglot``."""

    source: Literal["auto", "large", "small", "small1", "small2"] = attrs.field(
        default="auto",
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


@attrs.frozen(field_transformer=check_choices)
class MemoryOptions:
    """Options of the sets of a user's own files, which may be larger than memory."""

    memory: Literal["auto", "load", "stream"] = attrs.field(
        default="auto",
        kw_only=True,
        metadata={
            "help": "load all images at once, or stream: read them when they are needed; "
            "auto streams a set that would fill more than half of the free memory"
        },
    )


@attrs.frozen(field_transformer=check_choices)
class FolderOptions(MemoryOptions):
    """Options of the data set ``folder``."""

    path: Path | None = attrs.field(
        default=None,
        metadata={"help": "folder of images, or of one subfolder for each class (default: the data root itself)"},
    )
    channels: Literal["auto", "1", "3"] = attrs.field(
        default="auto",
        metadata={"help": "convert to grey (1) or to colour (3); auto keeps what the files hold and refuses a mixture"},
    )
    background: Literal["white", "black"] = attrs.field(
        default="white",
        metadata={"help": "the colour behind an image where it is transparent"},
    )
    classes: Literal["auto", "folders", "none"] = attrs.field(
        default="auto",
        metadata={
            "help": "folders: each subfolder is a class; none: take all images below the folder, without labels; "
            "auto: folders if the images are in several subfolders that are no splits, none if they are in none or "
            "one, refused if they are in both",
            OF_PLACE: True,
            "formerly": "labels",
        },
    )
    split: Literal["all", "train", "test", "val"] = attrs.field(
        default="all",
        metadata={
            "help": "read only the subfolder train (or training), test (testing) or val (valid, validation)",
            OF_PLACE: True,
        },
    )
    range: str = _range_field()
    fit: Literal["crop", "pad", "stretch"] = _fit_field()
    frames: Literal["first", "all"] = attrs.field(
        default="first",
        metadata={"help": "which images to read from files with several, such as TIFF stacks and animations"},
    )
    largest_pixels: int = attrs.field(
        default=89_478_485,
        validator=_between(1),
        metadata={"help": "refuse images with more pixels, which may be decompression bombs"},
    )
    unreadable: Literal["refuse", "skip"] = attrs.field(
        default="refuse",
        metadata={"help": "refuse the folder if an image cannot be read, or skip such images and list them"},
    )


@attrs.frozen(field_transformer=check_choices)
class ArraysOptions(MemoryOptions):
    """Options of the data set ``arrays``."""

    path: Path | None = attrs.field(
        default=None, metadata={"help": "file of images: .npy, .npz, .pt or .pth, shape as in layout"}
    )
    images_key: str | None = attrs.field(
        default=None,
        metadata={"help": "name of the images in a file of several arrays (default: the only ones with 3 or 4 axes)"},
    )
    split: Literal["all", "train", "val", "test"] = attrs.field(
        default="all",
        metadata={
            "help": "which images of a file with the arrays of several splits: all of them, joined, or one",
            OF_PLACE: True,
        },
    )
    labels: Path | None = attrs.field(
        default=None,
        metadata={
            "help": "file of the labels, one for each image: an array, or a table, .csv, .tsv or .txt "
            "(default: the labels beside the images, if there are any)"
        },
    )
    labels_key: str | None = attrs.field(
        default=None,
        metadata={
            "help": "name of the labels in the file of labels, or in the file of images if there is no file of labels; "
            "in a table, the name of a column or its number from 0; none: no labels",
            OF_PLACE: True,
        },
    )
    layout: Literal["auto", "NHW", "NHWC", "NCHW"] = attrs.field(
        default="auto",
        metadata={"help": "order of the axes: N images, H height, W width, C channels (1, 3, or 4 with transparency)"},
    )
    height: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(_between(1)),
        metadata={"help": "height of images that are stored as rows of values (default: that of a square)"},
    )
    channels: Literal["auto", "1", "3"] = attrs.field(
        default="auto",
        metadata={"help": "convert to grey (1) or to colour (3); auto keeps what the array holds; 4 become colour"},
    )
    fit: Literal["crop", "pad", "stretch"] = _fit_field()
    background: Literal["white", "black"] = attrs.field(
        default="white",
        metadata={"help": "the colour behind an image where it is transparent, and beside one that is padded"},
    )
    range: str = _range_field(formerly="value_range")
