"""Labels as other tools write them, converted to classes 0, 1, .. with names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.array_reading.files import Array

__all__ = ["Labels", "find_classes"]

_MISSING = -1
_NO_TEXT = ("", "nan", "na")
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,300}(\.[0-9]*)?(e[+-]?[0-9]{1,3})?\s*", re.IGNORECASE | re.ASCII)
_LARGEST_EXACT = 2.0**53  # floating point above it is not exact


@attrs.frozen(eq=False)
class Labels:
    """The classes of images.

    Attributes:
        numbers: int64, shape (N,), or None if they tell no classes apart; -1 for an image without a label.
        names: The name of each class.
        note: What a user should know about them, or "".
    """

    numbers: Tensor | None
    names: Sequence[str]
    note: str = ""


def find_classes(values: Array, count: int, described: str) -> Labels:
    """Find the classes in labels: whole numbers, also in floating point or as text; booleans; text; one-hot rows.

    Classes are numbered in the order of their names, and of their numbers if all are numbers. An image has no label if
    its label is -1, NaN, None, an empty text, or the text ``nan`` or ``NA``. Of -1 and 1 alone, -1 is a class.

    Arguments:
        values: Shape (N,), (N, 1) or (1, N), or one-hot (N, K): one 1 in each row, 0 elsewhere.
        count: N.
        described: A description of the labels, for messages.

    Raises:
        InvalidInput: If they are not one label an image.

    Example:
        >>> found = find_classes(np.array(["owl", "cat", "owl", ""]), 4, "labels.npy")
        >>> found.numbers, found.names
        (tensor([ 1,  0,  1, -1]), ['cat', 'owl'])
        >>> print(found.note)
        labels.npy: 1 of 4 images has no label: scores that need labels compare the other 3
    """
    if values.dtype.kind not in "biufUSO":
        raise InvalidInput(f"{described}: expected labels that are whole numbers, booleans or text, got {values.dtype}")
    if values.ndim == 2 and len(values) == count and values.shape[1] > 1:
        values = _from_one_hot(values, described)
    flat = values.reshape(-1)
    if flat.shape != (count,) or max(values.shape, default=0) != flat.size:
        raise InvalidInput(f"{described}: expected {count} labels, one an image, got an array of shape {values.shape}")
    keys = [_key(value, index, described) for index, value in enumerate(_unpacked(flat))]
    if {isinstance(key, str) for key in keys if key is not None} == {True, False}:
        keys = [None if key is None else str(key) for key in keys]  # numbers among texts
    keys = _whole_numbers(keys, described)
    if {key for key in keys if key is not None} != {_MISSING, 1}:
        keys = [None if type(key) is int and key == _MISSING else key for key in keys]
        for index, key in enumerate(keys):
            if isinstance(key, int) and key < 0:
                raise InvalidInput(
                    f"{described}: expected labels of 0 or more, or -1 for an image without a label, got {key} at "
                    f"index {index}"
                )
    return _numbered(keys, described)


def _from_one_hot(values: Array, described: str) -> Array:
    """Return the place of the 1 in each row."""
    if values.dtype.kind not in "biuf":
        raise InvalidInput(f"{described}: expected one label an image, got {values.shape[1]} columns of text")
    wrong = ~(((values == 0) | (values == 1)).all(axis=1) & ((values == 1).sum(axis=1) == 1))
    if wrong.any():
        index = int(np.argmax(wrong))
        row = values[index]
        start = ", ".join(f"{value:g}" for value in row[:5].astype(np.float64)) + (", .." if len(row) > 5 else "")
        several = ((row == 0) | (row == 1)).all() and (row == 1).sum() != 1
        remedy = (
            "an image with several labels, or none, has no class: choose one column"
            if several
            else "for probabilities take labels.argmax(axis=1)"
        )
        raise InvalidInput(
            f"{described}: expected labels of shape (N,), (N, 1), or one-hot rows of {values.shape[1]}, got "
            f"[{start}] in row {index}; {remedy}"
        )
    places: Array = values.argmax(axis=1)
    return places


def _unpacked(values: Array) -> list[Any]:
    """Return labels as values of Python."""
    if values.dtype.kind == "S":
        return [bytes(value) for value in values]
    return list(values.tolist())


def _key(value: Any, index: int, described: str) -> int | bool | str | None:
    """Return a label as a whole number, a truth value or a text; None if there is none."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{described}: expected text in UTF-8, got {value!r} at index {index}") from error
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return None if value.strip().lower() in _NO_TEXT else value
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= _LARGEST_EXACT:
        return int(value)
    if isinstance(value, float):
        raise InvalidInput(
            f"{described}: expected labels that are whole numbers, got {value:g} at index {index}; values that are no "
            "classes have to be grouped first"
        )
    raise InvalidInput(f"{described}: expected a number or a text at index {index}, got {type(value).__name__}")


def _whole_numbers(keys: list[int | bool | str | None], described: str) -> list[int | bool | str | None]:
    """Return texts as numbers, if all of them are numbers."""
    texts = [key for key in keys if isinstance(key, str)]
    if not texts or not all(_NUMBER.fullmatch(text) for text in texts):
        return keys
    return [
        _key(int(key) if key.strip().lstrip("+-").isdecimal() else float(key), index, described)
        if isinstance(key, str)
        else key
        for index, key in enumerate(keys)
    ]


def _numbered(keys: Sequence[int | bool | str | None], described: str) -> Labels:
    """Number the classes in their order."""
    classes: list[Any] = sorted({key for key in keys if key is not None}, key=lambda key: (isinstance(key, str), key))
    names = [printable(str(key)) for key in classes]
    if len(classes) < 2:
        what = f"only the class {names[0]!r}" if names else "no labels"
        return Labels(None, [], f"{described} has {what}, which is no labelling: the images count as unlabelled")
    number_of = {key: number for number, key in enumerate(classes)}
    numbers = torch.tensor([_MISSING if key is None else number_of[key] for key in keys], dtype=torch.int64)
    missing = int((numbers == _MISSING).sum())
    note = ""
    if missing:
        note = (
            f"{described}: {missing} of {len(keys)} images {'has' if missing == 1 else 'have'} no label: scores that "
            f"need labels compare the other {len(keys) - missing}"
        )
    elif set(classes) == {_MISSING, 1}:
        note = f"{described} has the labels -1 and 1: both are classes"
    return Labels(numbers, names, note)
