"""Rows of features as images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpcc.core.errors import InvalidInput

__all__ = ["as_images"]

AXES = (2, 3)  # of one image


def as_images(array: np.ndarray[Any, Any], image_shape: str | Sequence[int] | None = None) -> np.ndarray[Any, Any]:
    """Return rows of features as images; what are images already is returned as it is.

    Arguments:
        array: Shape (N, F), (N, H, W) or four axes.
        image_shape: The shape of an image of F values. None takes a row for a square; ``"auto"`` fills it up to the
            next square, with the smallest value of its row.

    Returns:
        Shape (N, H, W), or (N, *image_shape).

    Raises:
        InvalidInput: If the features do not have that shape.

    Example:
        >>> as_images(np.arange(6.0)[None], "auto")[0].tolist()
        [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [0.0, 0.0, 0.0]]
        >>> as_images(np.zeros((5, 12)), (3, 2, 2)).shape
        (5, 3, 2, 2)
    """
    if array.ndim > 2:
        return array
    count, features = array.shape
    if image_shape is None or image_shape == "auto":
        side = math.isqrt(features)
        if side * side == features:
            return array.reshape(count, side, side)
        if image_shape is None:
            raise InvalidInput(
                f"X has {features} features, which are no square image: expected image_shape=(height, width), or "
                'image_shape="auto" to pad rows to a square'
            )
        side += 1
        filled = np.broadcast_to(array.min(axis=1, keepdims=True), (count, side * side - features))
        return np.concatenate([array, filled], axis=1).reshape(count, side, side)
    if isinstance(image_shape, str) or len(image_shape) not in AXES:
        raise InvalidInput(f'image_shape {image_shape!r}: expected "auto" or two or three numbers, such as (28, 28)')
    shape = tuple(int(length) for length in image_shape)
    if math.prod(shape) != features:
        raise InvalidInput(f"image_shape {shape}: expected {features} values, as many as X has features")
    return array.reshape(count, *shape)
