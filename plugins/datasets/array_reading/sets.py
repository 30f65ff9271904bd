"""Which arrays of a file are the images and which are their labels, also where each split has its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.plugins.datasets.array_reading.files import Array, ArrayFile

__all__ = [
    *("IMAGES_KEY", "LABELS_KEY", "JoinedArrays", "Part"),
    *("image_parts", "label_names", "listed_arrays", "split_name"),
]

IMAGES_KEY, LABELS_KEY = "--data.images-key", "--data.labels-key"

_SPLITS = {"training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val"}
_SPLITS |= {"testing": "test", "test": "test"}
_ORDER = ("train", "val", "test")
# Words for labels, the likeliest first.
_LABEL_WORDS = ("labels", "label", "y", "targets", "target", "classes", "class", "category")
_IMAGE_WORDS = ("images", "image", "imgs", "img", "x", "data", "inputs")
_FEWEST_PIXELS = 16  # of a row that may be a picture; shorter ones are rather one-hot labels


@attrs.frozen
class Part:
    """The images of one split.

    Attributes:
        name: The name of the array in its file, or "".
        split: ``train``, ``val`` or ``test``; "" if the name does not say.
    """

    name: str
    split: str


def split_name(name: str) -> tuple[str, str]:
    """Take the name of an array apart: what it holds, and its split, ``train``, ``val`` or ``test``, or "".

    Example:
        >>> split_name("train_images"), split_name("x_test"), split_name("valid"), split_name("latest")
        (('images', 'train'), ('x', 'test'), ('', 'val'), ('latest', ''))
    """
    words = "|".join(_SPLITS)
    known = "|".join((*_LABEL_WORDS, *_IMAGE_WORDS))
    before = re.fullmatch(rf"({words})(?:[_\-. /]+(.*)|({known})|)", name, re.IGNORECASE)
    if before:
        return (before[2] or before[3] or "").lower(), _SPLITS[before[1].lower()]
    after = re.fullmatch(rf"(?:(.*?)[_\-. /]+|({known}))({words})", name, re.IGNORECASE)
    return ((after[1] or after[2] or "").lower(), _SPLITS[after[3].lower()]) if after else (name, "")


def listed_arrays(shapes: Mapping[str, tuple[int, ...]], most: int = 8) -> str:
    """Return the names and shapes of a few arrays."""
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())[:most])


def _by_role(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the names by what they hold and by their split."""
    roles: dict[str, dict[str, str]] = {}
    for name in names:
        role, split = split_name(name)
        roles.setdefault(role, {}).setdefault(split, name)
    return roles


def image_parts(file: ArrayFile, key: str | None, split: str) -> list[Part]:
    """Choose the images of a file.

    Arguments:
        file: The file.
        key: The name of an array, or the part of its name beside the split; None if there is only one candidate.
        split: ``all``, which joins the splits that there are, or the name of one.

    Raises:
        InvalidInput: If the choice is not clear, or the file has no such array or split.
    """
    path = file.path
    if not file.named:
        if key is not None:
            raise InvalidInput(f"{IMAGES_KEY} {key}: {path} is one array without a name; leave the option out")
        if split != "all":
            raise InvalidInput(f"--data.split {split}: {path} is one array without splits: expected all")
        return [Part("", "")]
    shapes = {name: array.shape for name, array in file.arrays.items()}
    if key in shapes:
        roles = {key: {split_name(key)[1]: key}}
    elif key is not None:
        roles = {role: names for role, names in _by_role(shapes).items() if role == key.lower() and "" not in names}
        if not roles:
            raise unknown_name(f"value for {IMAGES_KEY}, array of {path}:", key, shapes)
    else:
        roles = _by_role(name for name, shape in shapes.items() if len(shape) in (3, 4)) or _by_role(
            name
            for name, shape in shapes.items()
            if len(shape) == 2 and shape[1] >= _FEWEST_PIXELS and split_name(name)[0] not in _LABEL_WORDS
        )
    if len(roles) != 1 or any(len(names) > 1 and "" in names for names in roles.values()):
        raise InvalidInput(
            f"{path}: expected one array of 3 or 4 axes for the images, got "
            f"{listed_arrays(shapes) or 'none'}; pass {IMAGES_KEY} NAME"
        )
    (by_split,) = roles.values()
    if split == "all":
        return [Part(by_split[name], name) for name in ("", *_ORDER) if name in by_split]
    if split not in by_split:
        there = [name for name in _ORDER if name in by_split]
        listed = " and ".join(there)
        raise InvalidInput(
            f"--data.split {split}: {path} has {f'the images of {listed} only' if there else 'no splits'}: "
            f"expected {' or '.join([*there, 'all'])}"
        )
    return [Part(by_split[split], split)]


def label_names(file: ArrayFile, key: str | None, parts: Sequence[Part], *, beside: bool) -> list[str | None] | None:
    """Choose the labels of each part of the images.

    Arguments:
        file: The file of the labels.
        key: The name of an array, or the part of its name beside the split; None to decide by names and shapes.
        parts: The images.
        beside: Whether the images are in the same file. Without a key, only arrays with a usual name are then taken.

    Returns:
        The names of arrays; None for a part without labels, and None if nothing was asked for and nothing was found.

    Raises:
        InvalidInput: If the choice is not clear, or the file has no such array.
    """
    path = file.path
    if not file.named:
        if beside and key is None:
            return None
        if key is not None:
            raise InvalidInput(f"{LABELS_KEY} {key}: {path} is one array without a name; leave the option out")
        return [""]
    images = {part.name for part in parts} if beside else set()
    shapes = {name: array.shape for name, array in file.arrays.items() if name not in images}
    if key in shapes:
        return [key]
    roles = _by_role(shapes)
    if key is not None:
        if "" in roles.get(key.lower(), {"": ""}):
            raise unknown_name(f"value for {LABELS_KEY}, array of {path}:", key, file.arrays)
        wanted = key.lower()
    else:
        lists = _by_role(name for name, shape in shapes.items() if len(shape) == 1)
        usual = [word for word in _LABEL_WORDS if word in {role.lower() for role in roles}]
        if usual:
            (wanted,) = [role for role in roles if role.lower() == usual[0]][:1]
        elif beside:
            # The items of a pair have no names; the second one holds the labels.
            return ["1"] if images == {"0"} and set(shapes) == {"1"} and len(shapes["1"]) in (1, 2) else None
        elif len(lists) == 1 or len(roles) == 1:
            (wanted,) = lists if len(lists) == 1 else roles
        else:
            raise InvalidInput(
                f"{path}: expected one array of 1 axis for the labels, got {listed_arrays(shapes) or 'none'}; "
                f"pass {LABELS_KEY} NAME"
            )
    names = roles[wanted]
    if set(names) == {""}:
        return [names[""]]
    if key is not None and not any(part.split in names for part in parts):
        raise InvalidInput(
            f"{LABELS_KEY} {key}: {path} has {' and '.join(names.values())}, but no labels for the images of "
            f"{' and '.join(part.name for part in parts)}"
        )
    return [names.get(part.split) for part in parts]


class JoinedArrays:
    """Arrays of several splits as one, without a copy.

    Arguments:
        arrays: Of equal shape and type but for their lengths.
        described: A description of them, for messages.

    Raises:
        InvalidInput: If they differ.

    Example:
        >>> joined = JoinedArrays([np.arange(3), np.arange(10, 12)], "two lists")
        >>> joined[1:4].tolist(), joined[np.array([4, 0])].tolist(), joined.shape
        ([1, 2, 10], [11, 0], (5,))
    """

    def __init__(self, arrays: Sequence[Array], described: str) -> None:
        first = arrays[0]
        for other in arrays[1:]:
            if other.shape[1:] != first.shape[1:] or other.dtype != first.dtype:
                raise InvalidInput(
                    f"{described}: expected splits of equal size and type, got {first.dtype} {first.shape} and "
                    f"{other.dtype} {other.shape}; choose one with --data.split"
                )
        self.arrays = arrays
        self.starts = np.cumsum([0, *(len(array) for array in arrays)])
        self.dtype = first.dtype
        self.shape = (int(self.starts[-1]), *first.shape[1:])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: slice | Array) -> Array:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        found: Array = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for array, start, end in zip(self.arrays, self.starts[:-1], self.starts[1:], strict=True):
            here = (rows >= start) & (rows < end)
            found[here] = array[rows[here] - start]
        return found
