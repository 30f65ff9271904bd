"""Images in memory, as a data set reads them: what Python hands over takes the path of a file of arrays."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpcc.core.config import Layer, used
from mpcc.core.config.asked_images import asked_by_paths
from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry
from mpcc.core.registry.attribution import attributed
from mpcc.core.run.prediction import load_images

__all__ = ["as_array", "image_file", "read_images"]


def as_array(images: Any) -> np.ndarray[Any, Any]:
    """Return images as an array of numbers on the CPU; what is an array already is not copied.

    Raises:
        InvalidInput: If they are no array of numbers.
    """
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu().numpy()
    try:
        array = np.asarray(images)
    except ValueError as error:  # nested lists of different lengths
        raise InvalidInput(
            "images: expected an array of images of one size, got a list of different sizes (nearest valid choice: a "
            "folder or a list of files, whose images are resized)"
        ) from error
    if array.dtype.kind not in "biuf":
        raise InvalidInput(f"images: expected an array of numbers, got the type {array.dtype}")
    return array


@contextlib.contextmanager
def image_file(images: Any) -> Iterator[Path]:
    """Write images to a temporary file, ``images.npy``, for the length of a ``with`` block.

    Arguments:
        images: An array or a tensor.
    """
    with tempfile.TemporaryDirectory(prefix="mpcc-") as folder:
        path = Path(folder) / "images.npy"
        np.save(path, as_array(images), allow_pickle=False)
        yield path


def read_images(registry: Registry, run: Layer, images: Any, channels: int) -> ImageSet:
    """Convert images as ``mpcc predict`` converts those of a file of arrays.

    A run that was trained on arrays or a folder hands on its options, such as the range of values and the fit.

    Arguments:
        registry: The plugins.
        run: The run's configuration.
        images: (N, H, W), (N, H, W, C) or (N, C, H, W), or rows of H W values; or what ``mpcc predict`` takes: the path
            of a folder, an image, an archive or a file of arrays, or a list of paths.
        channels: D, in training.

    Raises:
        InvalidInput: If they cannot be read, or have another number of channels.
    """
    # The data set is found by the name of the file; what it holds in memory does not outlive the file.
    named = named_paths(images)
    with contextlib.ExitStack() as files:
        path = None if named else files.enter_context(image_file(images))
        try:
            words = named if path is None else [path]
            asked = asked_by_paths(registry, run, {"data": {"memory": "load"}}, words)
            with attributed(used(registry, asked.config)):
                return load_images(asked, channels)
        except InvalidInput as error:
            if path is None:
                raise
            # There is no flag here that would convert them.
            kind = "grey" if channels == 1 else "colour"
            text = str(error).replace(f"nearest valid choice: --data.channels {channels}", f"convert them to {kind}")
            raise InvalidInput(text.replace(str(path), "images")) from error


def named_paths(images: Any) -> list[Path]:
    """Return the paths that are given in place of images: one, or a list of them; nothing if it is something else."""
    given = [images] if isinstance(images, str | Path) else images
    if not isinstance(given, list | tuple) or not given or not all(isinstance(each, str | Path) for each in given):
        return []
    return [Path(each).expanduser() for each in given]
