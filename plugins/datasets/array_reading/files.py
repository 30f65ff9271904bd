"""Arrays in .npy, .npz, .pt and .pth files, read without running code in them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.errors import InvalidInput
from mpcc.core.system.available_memory import available_memory, in_gib
from mpcc.plugins.datasets.array_reading.torch_files import load_torch
from mpcc.plugins.datasets.reading.pickles import RefusedName, load_objects
from mpcc.plugins.datasets.sources import similar_file

__all__ = ["EXTENSIONS", "Array", "ArrayFile", "StoredArray", "open_arrays"]

EXTENSIONS = (".npy", ".npz", ".pt", ".pth")

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_PICTURE_AXES = (2, 3)
_CHANNELS = (1, 3, 4)
_SCALARS = (str, bytes, bool, int, float, type(None), np.generic)


@attrs.frozen(eq=False)
class StoredArray:
    """One array of a file, which may not have been read yet.

    Attributes:
        shape: Its shape.
        in_file: Whether it stays in the file, to be read part by part.
        read: Returns it; do not write to the result.
    """

    shape: tuple[int, ...]
    in_file: bool
    read: Callable[[], Array]


@attrs.frozen(eq=False)
class ArrayFile:
    """The arrays of a file.

    Attributes:
        path: The file.
        arrays: By name; an array without a name is alone and has the name "".
    """

    path: Path
    arrays: Mapping[str, StoredArray]

    @property
    def named(self) -> bool:
        """Whether the arrays have names."""
        return "" not in self.arrays


def open_arrays(path: Path) -> ArrayFile:
    """Open the arrays of a file.

    An array of Python objects is read if they are plain: pictures of equal size, texts or numbers. So is a list of
    pictures in a .pt file. A list of pairs (picture, label) has the arrays ``images`` and ``labels``; the items of any
    other list or tuple are called 0, 1, ..

    Arguments:
        path: The file.

    Raises:
        InvalidInput: If the file cannot be read.
    """
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise InvalidInput(f"{path}: expected a file whose name ends in {', '.join(EXTENSIONS)}")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise InvalidInput(f"{path} {what}: expected a file of arrays{similar_file(path, EXTENSIONS)}")
    try:
        if extension == ".npy":
            return ArrayFile(path, {"": _npy(path)})
        if extension == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
            return ArrayFile(path, {name.removesuffix(".npy"): _member(path, name) for name in names})
        return ArrayFile(path, _of_torch(path, load_torch(path)))
    except InvalidInput:
        raise
    except Exception as error:  # broken files make the readers raise anything
        raise _broken(path, f"expected a {extension} file ({error})") from error


def _broken(path: Path, what: str) -> InvalidInput:
    return InvalidInput(f"broken file {path}: {' '.join(what.split())[:300]}; write it again")


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an array: its shape and type."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(file)
    return shape, kind


def _npy(path: Path) -> StoredArray:
    # np.load would also accept an archive or a pickle under this name.
    with path.open("rb") as file:
        _, kind = _header(file)
        if kind.hasobject:
            _check_size(path, "its array of Python objects", path.stat().st_size)
            return _of_objects(path, "", file.read())
    array = np.lib.format.open_memmap(path, mode="r")
    return StoredArray(array.shape, True, lambda: array)


def _member(path: Path, name: str) -> StoredArray:
    """Return one array of a .npz file, whose contents are not read yet."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        shape, kind = _header(file)
        size = archive.getinfo(name).file_size - file.tell()
        if kind.hasobject:
            _check_size(path, name, size)
            return _of_objects(path, f", {name.removesuffix('.npy')}", file.read())

    def read() -> Array:
        if math.prod(shape) * kind.itemsize != size:
            raise _broken(path, f"expected {name} as large as its header says, got {size} bytes")
        _check_size(path, name, size)
        try:
            with np.load(path, allow_pickle=False) as archive:
                array: Array = archive[name.removesuffix(".npy")]
        except Exception as error:  # zlib, zipfile and numpy raise errors of many types
            raise _broken(path, f"expected the array {name} ({error})") from error
        return array

    return StoredArray(shape, False, read)


def _check_size(path: Path, name: str, size: int) -> None:
    if size > available_memory():
        raise InvalidInput(
            f"{path}: {name} takes {in_gib(size)} in memory, more than are available: "
            "expected a .npy file of numbers, which can be read part by part"
        )


def _of_objects(path: Path, part: str, data: bytes) -> StoredArray:
    """Return an array of Python objects as a plain one, or as one that is refused when it is read."""
    new = "numpy.stack([numpy.asarray(item) for item in numpy.load(FILE, allow_pickle=True)])"
    if part:
        new = new.replace("=True)", f"=True)[{part.removeprefix(', ')!r}]")
    fix = f"save a plain array instead; if you trust the file: numpy.save('new.npy', {new})"
    try:
        objects = load_objects(data)
    except RefusedName as error:
        refusal = f"{path}{part}: it is an array of Python objects ({error}), which are not unpickled; {fix}"
    except Exception as error:  # Python's reader raises errors of many types for a broken file
        raise _broken(path, f"expected the objects of an array{part} ({error})") from error
    else:
        listed = objects.ravel().tolist() if objects.dtype.hasobject else []
        stacked = _stack(path, listed)
        if stacked is not None:
            return stacked
        if listed and all(isinstance(item, _SCALARS) for item in listed):
            if objects.ndim > 1 and all(isinstance(item, (bool, int, float)) for item in listed):
                objects = np.array(listed).reshape(objects.shape)  # pixels, as a table of mixed columns gives them
            return StoredArray(objects.shape, False, lambda: objects)
        refusal = f"{path}{part}: it is an array of Python objects, {_contents(listed)}"
        if not _are_pictures(listed):
            refusal += f"; {fix}"

    def refuse() -> Array:
        raise InvalidInput(refusal)

    return StoredArray((), False, refuse)


def _are_pictures(items: Sequence[object]) -> bool:
    return bool(items) and all(isinstance(item, (np.ndarray, Tensor)) and item.ndim in _PICTURE_AXES for item in items)


def _contents(items: Sequence[Any]) -> str:
    """Say what is in a list that is no array."""
    if _are_pictures(items):
        shapes = list(dict.fromkeys(str(tuple(item.shape)) for item in items))
        return (
            f"{len(items)} pictures of {len(shapes)} sizes, such as {' and '.join(shapes[:2])}: expected equal sizes; "
            "resize them, or save them as image files and use --data folder"
        )
    kinds = list(dict.fromkeys(type(item).__name__ for item in items))
    return f"{len(items)} of {', '.join(kinds[:4]) or 'nothing'}: expected pictures of equal size, texts or numbers"


def _stack(path: Path, items: Sequence[Any]) -> StoredArray | None:
    """Return pictures of equal shape and type as one array, or None."""
    if not _are_pictures(items):
        return None
    arrays = [_dense(path, item) if isinstance(item, Tensor) else item for item in items]
    first = arrays[0]
    if any(array.shape != first.shape or array.dtype != first.dtype for array in arrays):
        return None
    return StoredArray((len(arrays), *first.shape), False, lambda: np.stack(arrays))


def _dense(path: Path, tensor: Tensor) -> Array:
    """Return a tensor as an array, without a copy if numpy has its type."""
    try:
        plain = tensor.detach()
        if plain.is_floating_point() and plain.dtype not in (torch.float16, torch.float32, torch.float64):
            plain = plain.float()  # bfloat16 and smaller ones, which numpy does not have
        return plain.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized
        raise InvalidInput(
            f"{path}: expected a dense tensor of booleans, whole numbers or floating point, got {tensor.dtype}, "
            f"{tensor.layout}; save tensor.float() or tensor.to_dense() instead"
        ) from error


def _of_torch(path: Path, loaded: object) -> Mapping[str, StoredArray]:
    """Return the arrays in the value of a .pt file."""
    whole = _one_array(path, loaded)
    if whole is not None:
        return {"": whole}
    if isinstance(loaded, Mapping):
        named = {str(key): _one_array(path, value) for key, value in loaded.items()}
        return {name: array for name, array in named.items() if array is not None}
    if not isinstance(loaded, (list, tuple)):
        raise InvalidInput(f"{path}: expected a tensor, or several by name, got {type(loaded).__name__}")
    if loaded and all(isinstance(item, (list, tuple)) and len(item) == 2 for item in loaded):
        return _of_pairs(path, loaded)
    named = {str(number): _one_array(path, value) for number, value in enumerate(loaded)}
    found = {name: array for name, array in named.items() if array is not None}
    if not found or (_are_pictures(loaded) and not _are_sets(loaded)):
        raise InvalidInput(f"{path}: it is a {type(loaded).__name__} of {_contents(loaded)}")
    return found


def _of_pairs(path: Path, pairs: Sequence[Sequence[Any]]) -> Mapping[str, StoredArray]:
    """Return the arrays of a list of pairs (picture, label), or of two or three pairs (pictures, labels)."""
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    splits = {2: ("train", "test"), 3: ("train", "val", "test")}.get(len(pairs), ())
    several = [getattr(item, "ndim", 0) > 0 for item in second]
    if splits and all(several) and all(len(x) == len(y) > 1 for x, y in pairs):
        sides = {"images": first, "labels": second}
        arrays = {
            f"{split}_{side}": _one_array(path, value)
            for side, values in sides.items()
            for split, value in zip(splits, values, strict=True)
        }
    else:
        arrays = {"images": _one_array(path, first), "labels": _one_array(path, second)}
    if any(array is None for array in arrays.values()):
        raise InvalidInput(
            f"{path}: it is a list of pairs, whose first items are {_contents(first)}; the second items must be labels"
        )
    return {name: array for name, array in arrays.items() if array is not None}


def _are_sets(items: Sequence[Any]) -> bool:
    """Tell whether items with as many axes as a picture may be sets, such as one of each split, or rows and labels."""
    if len(items) == 2 and len(items[0]) == len(items[1]) and items[0].shape != items[1].shape:
        return True
    return all(item.ndim == 3 and not {item.shape[0], item.shape[2]} & {*_CHANNELS} for item in items)


def _one_array(path: Path, value: Any) -> StoredArray | None:
    """Return a value as one array, or None if it is none."""
    if isinstance(value, np.ndarray):
        return StoredArray(value.shape, False, lambda: value)
    if isinstance(value, Tensor):
        kept = value.dtype in (torch.float16, torch.float32, torch.float64) or not value.is_floating_point()
        return StoredArray(tuple(value.shape), kept and zipfile.is_zipfile(path), lambda: _dense(path, value))
    if not isinstance(value, (list, tuple)) or not value:
        return None
    items = [item.item() if isinstance(item, (Tensor, np.ndarray)) and _size(item) == 1 else item for item in value]
    if all(isinstance(item, _SCALARS) for item in items):
        listed = np.empty(len(items), dtype=object)
        listed[:] = items
        return StoredArray(listed.shape, False, lambda: listed)
    return None if _are_pictures(items) and _are_sets(items) else _stack(path, items)


def _size(item: Tensor | Array) -> int:
    return math.prod(item.shape)
