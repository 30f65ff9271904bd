"""Arrays in .npy, .npz, .pt and .pth files, read without running code in them."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.system.available_memory import available_memory, in_gib
from mpcc.plugins.datasets.sources import similar_file

__all__ = ["EXTENSIONS", "Array", "OpenedArray", "open_array"]

EXTENSIONS = (".npy", ".npz", ".pt", ".pth")

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@attrs.frozen(eq=False)
class OpenedArray:
    """One array of a file.

    Attributes:
        array: Booleans, whole numbers or floating point; do not write to it.
        name: The name of the array in its file, or None if it has no name.
        others: The other arrays of the file and their shapes.
        in_file: Whether the array stays in its file, to be read part by part.
    """

    array: Array
    name: str | None
    others: Mapping[str, tuple[int, ...]]
    in_file: bool


def open_array(path: Path, name: str | None, what: str, flag: str, axes: Collection[int]) -> OpenedArray:
    """Open one array of a file. The items of a list or tuple in a .pt file are called 0, 1, ..

    Arguments:
        path: The file.
        name: The name of the array; None if it is the only array, or the only one with that many axes.
        what: The contents of the array, for messages, e.g. ``images``.
        flag: The option that names it, for messages.
        axes: The numbers of axes that it may have.

    Raises:
        InvalidInput: If the file cannot be read, or does not hold exactly one such array of numbers.
    """
    content = _content(path)
    if not isinstance(content, Mapping):
        if name is not None:
            raise InvalidInput(f"{flag} {name}: {path} is one array without a name; leave the option out")
        return OpenedArray(_numbers(path, what, content), None, {}, _stays_in(path))
    shapes = {key: tuple(value.shape) for key, value in content.items()}
    if name is None:
        fitting = [key for key, shape in shapes.items() if len(shape) in axes]
        if len(fitting) != 1:
            listed = ", ".join(f"{key} {shape}" for key, shape in sorted(shapes.items())[:8])
            raise InvalidInput(
                f"{path}: expected one array of {' or '.join(map(str, axes))} axes for the {what}, got "
                f"{listed or 'none'}; pass {flag} NAME"
            )
        (name,) = fitting
    if name not in content:
        raise unknown_name(f"value for {flag}, array of {path}:", name, content)
    value = content[name]
    array = _numbers(path, what, value.read() if isinstance(value, _Member) else value)
    return OpenedArray(array, name, {key: shape for key, shape in shapes.items() if key != name}, _stays_in(path))


def _stays_in(path: Path) -> bool:
    return path.suffix == ".npy" or (path.suffix in (".pt", ".pth") and zipfile.is_zipfile(path))


def _numbers(path: Path, what: str, value: Array | Tensor) -> Array:
    """Return a tensor or an array as an array of numbers, without a copy; refuse other contents."""
    if isinstance(value, Tensor):
        try:
            return value.detach().numpy()
        except (TypeError, RuntimeError) as error:  # bfloat16, sparse, quantized
            raise InvalidInput(
                f"{path}: expected {what} as a dense tensor of uint8, bool or floating point up to 64 bits, got "
                f"{value.dtype}, {value.layout}; save tensor.float() or tensor.to_dense() instead"
            ) from error
    if value.dtype.kind not in "biuf":
        raise InvalidInput(f"{path}: expected {what} of booleans, whole numbers or floating point, got {value.dtype}")
    return value


class _Member:
    """One array of a .npz file, whose header is known and whose contents are not read yet."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, _, self.dtype = header(file)
            self.size = archive.getinfo(name).file_size - file.tell()

    def read(self) -> Array:
        """Read the array, if it is as large as its header says and fits into memory."""
        if self.dtype.hasobject:
            raise InvalidInput(f"{self.path}: expected arrays of numbers, {self.name} holds Python objects")
        if math.prod(self.shape) * self.dtype.itemsize != self.size:
            raise _broken(self.path, f"expected {self.name} as large as its header says, got {self.size} bytes")
        if self.size > available_memory():
            raise InvalidInput(
                f"{self.path}: {self.name} takes {in_gib(self.size)} in memory, more than are available: "
                "expected a .npy file, which can be read part by part"
            )
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array: Array = archive[self.name.removesuffix(".npy")]
        except Exception as error:  # zlib, zipfile and numpy raise errors of many types
            raise _broken(self.path, f"expected the array {self.name} ({error})") from error
        return array


def _content(path: Path) -> Array | Tensor | Mapping[str, Tensor | _Member]:
    """Return the array of a file, or its arrays by name."""
    if path.suffix not in EXTENSIONS:
        raise InvalidInput(f"{path}: expected a file whose name ends in {', '.join(EXTENSIONS)}")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise InvalidInput(f"{path} {what}: expected a file of arrays{similar_file(path, EXTENSIONS)}")
    try:
        if path.suffix == ".npy":
            # np.load would also accept an archive or a pickle under this name.
            return np.lib.format.open_memmap(path, mode="r")
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _Member(path, name) for name in names}
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's own message is long and proposes to run the code in the file.
        raise _broken(path, "expected a file of tensors and nothing else") from error
    except Exception as error:  # broken files make the readers raise anything
        raise _broken(path, f"expected a {path.suffix} file ({error})") from error
    if isinstance(loaded, Tensor):
        return loaded
    if isinstance(loaded, (list, tuple)):
        loaded = {str(index): value for index, value in enumerate(loaded)}
    if not isinstance(loaded, Mapping):
        raise InvalidInput(f"{path}: expected a tensor, or several by name, got {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def _broken(path: Path, what: str) -> InvalidInput:
    return InvalidInput(f"broken file {path}: {' '.join(what.split())[:300]}; write it again")
