"""A reader of pickle files that runs no code: it returns containers, text, numbers and numeric numpy arrays.

Python's `pickle.Unpickler` calls any function that a file names, and its version in C takes memory for any index that
a file claims. This reader is a subclass of the version in Python. It calls the functions below only; they stand for the
few names of numpy that occur in plain data. It reads the files of Python 2 and 3, with protocols 0 to 5 and numpy 1
and 2. The same functions stand for these names when torch reads a file.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from mpcc.core.errors import InvalidInput

__all__ = ["ArrayInParts", "RefusedName", "load_objects", "load_pickle", "numpy_names"]

_LARGEST_FILE = 2**28  # bytes; the largest of the published sets has 156 million
_PLAIN = {dict, list, tuple, str, bytes, int, float, bool, type(None), np.ndarray}


def load_pickle(path: Path, remedy: str) -> object:
    """Read a pickle file.

    Text of Python 2 comes as bytes. Arrays are read-only. No array or text is larger than the file, even if the file
    claims so.

    Arguments:
        path: The file.
        remedy: What to do about a broken one, for the message.

    Returns:
        A dict, list, tuple, text, bytes, number or array, or any nesting of these; keys of dicts are text or numbers.

    Raises:
        InvalidInput: If the file cannot be read, is broken, or holds anything else; the message names the file and, if
            there is one, the name in it that was refused.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "batch")
        ...     _ = path.write_bytes(pickle.dumps({"data": np.arange(3), "labels": [0, 1]}))
        ...     load_pickle(path, remedy="fetch it again")
        {'data': array([0, 1, 2]), 'labels': [0, 1]}
    """
    try:
        if not path.is_file():
            raise InvalidInput(f"cannot read {path}: expected a file; {remedy}")
        size = path.stat().st_size
        if size > _LARGEST_FILE:
            raise InvalidInput(f"broken file {path}: expected at most {_LARGEST_FILE} bytes, got {size}; {remedy}")
        data = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns of a text with a wrong escape.
            return _PlainUnpickler(data).load()
    except RefusedName as error:
        raise InvalidInput(
            f"refused file {path}: expected plain data, but it calls {error}, which is not run; {remedy}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        # Python's reader raises errors of many types for a broken file; all mean the same to the user.
        known = {EOFError: "it ends too early", KeyError: f"the operation {error} is not one of plain data"}
        reason = known.get(type(error)) or " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(f"broken file {path}: expected a pickle of plain data ({reason}); {remedy}") from error


def load_objects(data: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    """Read one array of Python objects, as ``numpy.save`` pickles it.

    Arguments:
        data: A pickle.

    Returns:
        An array of texts, bytes, numbers, None, numeric arrays and lists of these, whatever its shape.

    Raises:
        RefusedName: If it holds other objects; the text is the name of the first one.
        Exception: If it is broken; the types are many.

    Example:
        >>> load_objects(pickle.dumps(np.array(["cat", None, np.arange(2)], dtype=object))).tolist()
        ['cat', None, array([0, 1])]
    """
    found = _PlainUnpickler(data, objects=True).load()
    if not isinstance(found, np.ndarray):
        raise ValueError(f"expected an array, got {type(found).__name__}")
    return found


class RefusedName(Exception):
    """A global that is not among those of plain data."""


@attrs.define(eq=False)
class ArrayInParts:
    """An array that another reader makes first and fills afterwards.

    Attributes:
        array: None until its state says what it is.
    """

    array: np.ndarray[Any, np.dtype[Any]] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self.array = _from_buffer(raw, kind, shape, "F" if fortran else "C")


def numpy_names() -> list[tuple[Any, str]]:
    """Return what stands for the names of numpy in a file of torch, as ``torch.serialization.safe_globals`` takes it.

    Arrays of the file are then `ArrayInParts`. No function of numpy is called.
    """
    functions: dict[str, Any] = {
        "multiarray._reconstruct": lambda *_: ArrayInParts(),
        "multiarray.scalar": _scalar,
        "numeric._frombuffer": _from_buffer,
    }
    names = [(value, f"numpy.{core}.{name}") for core in ("core", "_core") for name, value in functions.items()]
    # torch gives a state only to objects of a class in this list. No file has these two names.
    stateful = [(ArrayInParts, "numpy.ArrayInParts"), (_Type, "numpy.TypeInParts")]
    return [*names, (_make_type, "numpy.dtype"), (_Unused, "numpy.ndarray"), *stateful]


class _Unused:
    """Stands for ``numpy.ndarray``, which occurs as an argument only."""


def _scalar(kind: _Type, raw: Any) -> object:
    """Return one number of numpy as one of Python."""
    return _from_buffer(raw, kind, (1,), "C")[0].item()


def _with_plain_keys(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    """Return an operation of the reader that first checks the keys of a dict, which are a part of the stack."""

    def checked(reader: Any) -> None:
        if not all(isinstance(key, (str, bytes, int, float)) for key in reader.stack[keys]):
            raise ValueError("expected a dict whose keys are text or numbers")
        load(reader)

    return checked


class _PlainUnpickler(pickle._Unpickler):
    """Python's reader with its list of globals, without sets, and with checks of keys and states.

    Arguments:
        data: The contents of the file.
        objects: Whether arrays may hold objects.
    """

    stack: list[Any]
    metastack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    # The original takes memory for the size that a file claims. Bytes will do, since nothing writes into them.
    dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]
    # Python crashes when it hashes a tuple that is nested deeply enough: no sets, and no tuples as keys of dicts.
    for _code in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        del dispatch[_code[0]]
    for _code, _keys in (
        (pickle.SETITEM, slice(-2, -1)),
        (pickle.SETITEMS, slice(None, None, 2)),
        (pickle.DICT, slice(None, None, 2)),
    ):
        dispatch[_code[0]] = _with_plain_keys(dispatch[_code[0]], _keys)

    def __init__(self, data: bytes, *, objects: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._objects = objects
        self._encoded: dict[str, bytes] = {}
        self._globals: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): ...,  # an argument only
            ("numpy", "dtype"): _make_type,
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: np.empty(0, np.int8),  # its state says what it is
            ("numpy.core.multiarray", "scalar"): _scalar,
            ("numpy.core.numeric", "_frombuffer"): _from_buffer,
            ("_codecs", "encode"): self._encode,
            # Python 3 writes this for no bytes, with protocols that have none.
            ("builtins", "bytes"): lambda: b"",
            ("__builtin__", "bytes"): lambda: b"",
        }

    def load(self) -> object:
        """Read the one value of the file.

        Raises:
            Exception: If the value is not plain data; the types are many.
        """
        result = super().load()
        if self.stack or self.metastack:
            raise ValueError("its end comes too early")
        # No recursion, because nesting has no limit.
        waiting, checked = [result], set()
        while waiting:
            value = waiting.pop()
            if type(value) not in _PLAIN:
                raise ValueError("a type or a function stands where a value should be")
            nested = isinstance(value, (list, tuple, dict)) or (isinstance(value, np.ndarray) and value.dtype.hasobject)
            if nested and id(value) not in checked:
                checked.add(id(value))
                waiting.extend(value.values() if isinstance(value, dict) else getattr(value, "flat", value))
        return result

    def find_class(self, module: str, name: str) -> object:
        """Return the replacement for a name of numpy or Python that occurs in plain data.

        Raises:
            RefusedName: If it is another name.
        """
        known = self._globals.get((module.replace("numpy._core.", "numpy.core."), name))
        if known is None:
            raise RefusedName(f"{module}.{name}"[:100].encode("unicode_escape").decode("ascii"))
        return known

    def load_build(self) -> None:
        """Give a type its byte order, or an array its contents."""
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, _Type):
            value.set_order(state[1])
        elif isinstance(value, np.ndarray) and value.shape == (0,):
            _, shape, kind, fortran, raw = state
            if kind.dtype.hasobject:
                self._fill_with_objects(value, shape, bool(fortran), raw)
                return
            view = _from_buffer(raw, kind, shape, "F" if fortran else "C")
            # Setting the byte order afterwards spares numpy a copy, of which a short file could ask for many.
            native: Any = (1, view.shape, view.dtype.newbyteorder("="), bool(fortran), raw)
            value.__setstate__(native)
            if value.dtype != view.dtype:
                value.dtype = view.dtype  # type: ignore[misc]
            value.flags.writeable = False  # it may be a view of the bytes
        else:
            raise ValueError("it gives a state to an object that has none")

    dispatch[pickle.BUILD[0]] = load_build

    def _fill_with_objects(self, value: np.ndarray[Any, Any], shape: Any, fortran: bool, objects: Any) -> None:
        """Give an array its objects; it takes no more memory than their list does."""
        whole = type(shape) is tuple and all(type(length) is int and length >= 0 for length in shape)
        if not (self._objects and whole and type(objects) is list and math.prod(shape) == len(objects)):
            raise ValueError("expected arrays of plain numbers")
        state: Any = (1, shape, np.dtype(object), fortran, objects)
        value.__setstate__(state)

    def _encode(self, text: str, encoding: str) -> bytes:
        """Return bytes that Python 3 wrote as text, with protocols that have no bytes; for the same text, the same."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("expected bytes encoded as latin1")
        return self._encoded.setdefault(text, text.encode("latin-1"))


@attrs.define(eq=False)
class _Type:
    """``numpy.dtype``, before and after its state says the byte order."""

    dtype: np.dtype[Any]

    def set_order(self, order: Any) -> None:
        """Take over the byte order."""
        text: Any = order.decode("ascii") if isinstance(order, bytes) else order
        self.dtype = self.dtype.newbyteorder(text)

    def __setstate__(self, state: Any) -> None:
        self.set_order(state[1])


def _make_type(code: object, *_: object) -> _Type:
    """``numpy.dtype(code, align, copy)`` for booleans, whole numbers, floating point of up to 64 bits, and objects."""
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(text, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|O[48]", text):
        raise ValueError("expected arrays of plain numbers")
    return _Type(np.dtype(text))


def _from_buffer(raw: Any, kind: _Type, shape: Any, order: Any, axes: Any = None) -> np.ndarray[Any, np.dtype[Any]]:
    """Return bytes as an array, without a copy; the sizes that a file claims must fit them."""
    array = np.frombuffer(raw, kind.dtype).reshape(shape, order="C" if order == "K" else order)
    if shape not in (array.shape, array.size):
        raise ValueError("expected the shape of an array")
    return array if axes is None else array.transpose(axes)
