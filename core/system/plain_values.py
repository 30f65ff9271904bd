"""Values from plugins as plain values, which JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

__all__ = ["plain_value"]

# Far deeper than any record; a value that holds itself has no end.
DEEPEST = 50


def plain_value(value: object, place: str, depth: int = 0) -> Any:
    """Return a value as numbers, texts, lists and dicts of them; nothing of it is lost.

    Tensors and arrays become nested lists, and those of one number a number; a path becomes a text, a set a sorted
    list.

    Arguments:
        value: From a plugin.
        place: The name of the value, for errors.
        depth: How many values it lies in.

    Raises:
        ValueError: Naming the place of a value that JSON cannot hold, such as a number that is not finite.

    Example:
        >>> plain_value({"worst": torch.tensor(0.5), "shape": (2, np.int64(3))}, "record")
        {'worst': 0.5, 'shape': [2, 3]}
    """
    if depth > DEEPEST:
        raise ValueError(f"{place}: expected at most {DEEPEST} values in each other")
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or isinstance(value, bool) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{place} is {float(value)}: expected a finite number")
        return float(value)
    if isinstance(value, torch.Tensor):
        dense = value.detach().cpu()
        return plain_value((dense.to_dense() if dense.is_sparse else dense).tolist(), place, depth + 1)
    if isinstance(value, (np.ndarray, np.generic)):
        listed = value.tolist()
        # NumPy has numbers that Python does not have, such as those of 128 bits; `tolist` returns them as they are.
        if not isinstance(listed, np.generic):
            return plain_value(listed, place, depth + 1)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return plain_mapping(value, place, depth + 1)
    if isinstance(value, Set):
        return plain_value(sorted(value, key=repr), place, depth + 1)
    if isinstance(value, (list, tuple)):
        return [plain_value(each, f"{place}[{index}]", depth + 1) for index, each in enumerate(value)]
    raise ValueError(
        f"{place} is a {type(value).__qualname__}, which JSON cannot hold: expected numbers, texts, lists or dicts"
    )


def plain_mapping(values: Mapping[Any, object], place: str, depth: int) -> dict[str, Any]:
    """Return a mapping as a dict of plain values; keys that are numbers become texts.

    Raises:
        ValueError: If two keys become the same text, or a key is neither a text nor a whole number.
    """
    plain: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, (str, int)):
            raise ValueError(f"{place} has a key of type {type(key).__qualname__}: expected texts")
        if str(key) in plain:
            raise ValueError(f"{place} has the key {str(key)!r} twice: as a text and as a number")
        plain[str(key)] = plain_value(value, f"{place}.{key}", depth)
    return plain
