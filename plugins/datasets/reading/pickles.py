"""A reader of pickle files that runs no code: it returns containers, text, numbers and numeric numpy arrays.

Python's `pickle.Unpickler` calls any function that a file names, and its version in C takes memory for any index that
a file claims. This reader is a subclass of the version in Python. It carries out the operations of plain data only. The
few names of numpy that occur in such data stand for functions below. It reads the files of Python 2 and 3, with
protocols 0 to 5 and numpy 1 and 2.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from mpcc.core.errors import InvalidInput

__all__ = ["load_pickle"]

_LARGEST_FILE = 2**30  # bytes; the largest of the published sets has 156 million
_MOST_OPERATIONS = 4_000_000  # each of which may make an object; a published file has some 200,000
_PLAIN = {dict, list, tuple, str, bytes, int, float, bool, type(None), np.ndarray}
# Left out: persistent ids, extension codes, instances of classes, sets, buffers outside the file.
_OPERATIONS = """
    PROTO FRAME STOP MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT
"""


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
    except _RefusedName as error:
        raise InvalidInput(
            f"refused file {path}: expected plain data, but it calls {error}, which is not run; {remedy}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        # Python's reader raises errors of many types for a broken file; all mean the same to the user.
        reason = "it ends too early" if isinstance(error, EOFError) else " ".join(str(error).split())[:200]
        reason = reason or type(error).__name__
        raise InvalidInput(f"broken file {path}: expected a pickle of plain data ({reason}); {remedy}") from error


class _RefusedName(Exception):
    """A global that is not among those of plain data."""


class _Dispatch(dict[int, Callable[[Any], None]]):
    """The functions that carry out operations; the reader looks one up for every operation in the file."""

    left = _MOST_OPERATIONS

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it has more than {_MOST_OPERATIONS} operations")
        if code not in self:
            raise ValueError(f"the operation {bytes([code])!r} is not one of plain data")
        return super().__getitem__(code)


class _PlainUnpickler(pickle._Unpickler):
    """Python's reader, in which every operation that could do harm is left out or replaced.

    Arguments:
        data: The contents of the file.
    """

    stack: list[Any]
    metastack: list[Any]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        # In the oldest protocols an array is text. It is turned into bytes, and these may be copied once more.
        self._budget = 2 * len(data)
        known = pickle._Unpickler.dispatch
        codes = [getattr(pickle, name)[0] for name in _OPERATIONS.split()]
        replaced: dict[int, Callable[[Any], None]] = {
            # The original takes memory for the size that a file claims. Bytes will do, since nothing writes into them.
            pickle.BYTEARRAY8[0]: known[pickle.BINBYTES8[0]],
            pickle.DICT[0]: _PlainUnpickler.load_dict,
            pickle.SETITEM[0]: _PlainUnpickler.load_setitem,
            pickle.SETITEMS[0]: _PlainUnpickler.load_setitems,
            pickle.BUILD[0]: _PlainUnpickler.load_build,
        }
        self.dispatch = _Dispatch({code: known[code] for code in codes} | replaced)  # type: ignore[misc]

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
            if isinstance(value, (list, tuple, dict)) and id(value) not in checked:
                checked.add(id(value))
                waiting.extend(value.values() if isinstance(value, dict) else value)
        return result

    def find_class(self, module: str, name: str) -> object:
        """Return the replacement for a name of numpy or Python that occurs in plain data.

        Raises:
            _RefusedName: If it is another name.
        """
        known = {
            ("numpy", "ndarray"): ...,  # an argument only
            ("numpy", "dtype"): _make_type,
            ("numpy.core.multiarray", "_reconstruct"): lambda *_: np.empty(0, np.int8),  # its state says what it is
            ("numpy.core.multiarray", "scalar"): lambda kind, raw: _from_buffer(raw, kind, (1,), "C")[0].item(),
            ("numpy.core.numeric", "_frombuffer"): _from_buffer,
            ("_codecs", "encode"): self._encode,
            # Python 3 writes this for no bytes, with protocols that have none.
            ("builtins", "bytes"): lambda: b"",
            ("__builtin__", "bytes"): lambda: b"",
        }
        replacement = known.get((module.replace("numpy._core.", "numpy.core."), name))
        if replacement is None:
            raise _RefusedName(f"{module}.{name}"[:100].encode("unicode_escape").decode("ascii"))
        return replacement

    def load_dict(self) -> None:
        """Make a dict of keys and values."""
        values = self.pop_mark()
        self.append({})
        self._fill(values)

    def load_setitem(self) -> None:
        """Set one value in a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        """Set several values in a dict."""
        self._fill(self.pop_mark())

    def load_build(self) -> None:
        """Give a type its byte order, or an array its contents."""
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, _Type):
            value.set_order(*state[1:5])
        elif isinstance(value, np.ndarray) and value.shape == (0,):
            _, shape, kind, fortran, raw = state
            view = _from_buffer(raw, kind, shape, "F" if fortran else "C")
            self._spend(len(raw))
            checked: Any = (1, view.shape, view.dtype, bool(fortran), raw)
            value.__setstate__(checked)
            value.flags.writeable = False  # it may be a view of the bytes
        else:
            raise ValueError("it gives a state to an object that has none")

    def _fill(self, values: list[Any]) -> None:
        """Set alternating keys and values; hashing a key that is nested deeply enough would crash Python."""
        into, keys = self.stack[-1], values[::2]
        if type(into) is not dict or not all(isinstance(key, (str, bytes, int, float)) for key in keys):
            raise ValueError("expected a dict whose keys are text or numbers")
        into.update(zip(keys, values[1::2], strict=True))

    def _encode(self, text: str, encoding: str) -> bytes:
        """Return bytes that Python 3 wrote as text, with protocols that have no bytes."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("expected bytes encoded as latin1")
        self._spend(len(text))
        return text.encode("latin-1")

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise ValueError("it unpacks to more than the file holds")


@attrs.define(eq=False)
class _Type:
    """``numpy.dtype``, before and after its state says the byte order."""

    dtype: np.dtype[Any]

    def set_order(self, order: Any, *structure: object) -> None:
        """Take over the byte order of a type without subarray, names and fields."""
        if any(part is not None for part in structure):
            raise ValueError("expected arrays of numbers, got structured ones")
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|"):
            raise ValueError("a type of numbers has no such byte order")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


def _make_type(code: object, *_: object) -> _Type:
    """``numpy.dtype(code, align, copy)`` for booleans, whole numbers and floating point of up to 64 bits."""
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(text, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
        raise ValueError("expected arrays of plain numbers")
    return _Type(np.dtype(text))


def _from_buffer(
    raw: object, kind: object, shape: object, order: object, axes: object = None
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return bytes as an array, without a copy; the sizes that a file claims must fit them."""
    if not isinstance(raw, bytes) or not isinstance(kind, _Type):
        raise ValueError("expected the bytes and the type of an array")
    sizes = (shape,) if type(shape) is int else shape
    if not isinstance(sizes, tuple) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("expected the shape of an array")
    # A product of many factors would be a number of millions of digits.
    if len(sizes) > 32 or any(size > len(raw) for size in sizes if raw):
        raise ValueError("expected an array as large as its bytes")
    expected = math.prod(sizes) * kind.dtype.itemsize
    if expected != len(raw):
        raise ValueError(f"expected {expected} bytes for an array, got {len(raw)}")
    flat = np.frombuffer(raw, dtype=kind.dtype)
    if order == "K":
        if not isinstance(axes, tuple) or not all(type(axis) is int for axis in axes):
            raise ValueError("expected the order of the axes")
        return flat.reshape(sizes).transpose(axes)
    if order not in ("C", "F"):
        raise ValueError("expected an order of rows or columns")
    return flat.reshape(sizes, order="F" if order == "F" else "C")
