"""A reader of pickle files that runs nothing: containers, text, numbers and numeric numpy arrays, or an error.

Python's own reader calls whatever a file names. This one is a small machine of its own for the operations that such
data needs; the few names of numpy that occur in it stand for functions below. It reads what Python 2 and 3 write with
protocols 0 to 5 and numpy 1 and 2.
"""

from __future__ import annotations

import codecs
import io
import math
import pickletools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from mpcc.core.errors import InvalidInput

__all__ = ["load_pickle"]

_LARGEST_FILE = 2**30  # bytes; the largest of the published sets has 156 million


def load_pickle(path: Path, remedy: str) -> object:
    """Read a pickle file.

    Text of Python 2 comes as bytes. Arrays are read-only views of what was read. Nothing larger than the file is made
    of it, whatever sizes it claims.

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
        return _Machine(len(data)).run(data)
    except _RefusedName as error:
        raise InvalidInput(
            f"refused file {path}: expected plain data, but it wants to use {error}, which is not run; {remedy}"
        ) from error
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInput(f"broken file {path}: expected a pickle of plain data ({reason}); {remedy}") from error


class _RefusedName(Exception):
    """A global that is not among those of plain data."""


_MARK = object()


@attrs.define(eq=False)
class _Type:
    """``numpy.dtype``, before and after its state says the byte order."""

    dtype: np.dtype[Any]


@attrs.define(eq=False)
class _EmptyArray:
    """What ``_reconstruct`` makes, until its state turns it into an array; `slots` are where the memo has it."""

    slots: list[int] = attrs.field(factory=list)


@attrs.frozen(eq=False)
class _Global:
    """A name that plain data uses, and what stands for calling it; None for one that is an argument only."""

    make: Callable[..., object] | None


class _Machine:
    """Carries out the operations of a pickle, each of which is written out here.

    Arguments:
        budget: How many bytes may be made beyond views of the file.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        array, scalar, buffer = _Global(_empty_array), _Global(_scalar), _Global(_from_buffer)
        self._globals = {
            "numpy ndarray": _Global(None),
            "numpy dtype": _Global(_make_type),
            "_codecs encode": _Global(self._encode),
            "__builtin__ bytes": _Global(_no_bytes),
            "builtins bytes": _Global(_no_bytes),
        }
        for package in ("numpy.core", "numpy._core"):
            self._globals[f"{package}.multiarray _reconstruct"] = array
            self._globals[f"{package}.multiarray scalar"] = scalar
            self._globals[f"{package}.numeric _frombuffer"] = buffer

    def run(self, data: bytes) -> object:
        for name, argument in _operations(data):
            if name == "STOP":
                result = self._stack.pop()
                if self._stack:
                    raise ValueError("its end comes too early")
                _check_complete(result)
                return result
            self._step(name, argument)
        raise ValueError("it ends without an end mark")

    def _step(self, name: str, argument: Any) -> None:
        push, pop = self._stack.append, self._stack.pop
        match name:
            case "PROTO" if argument > 5:
                raise ValueError(f"expected protocol 0 to 5, got {argument}")
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                push(argument.encode("latin-1"))
            case "BYTEARRAY8":
                push(bytes(argument))
            case _ if name in _VALUES:
                push(argument)
            case "MARK":
                push(_MARK)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                push({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(reversed([self._value() for _ in range(int(name[-1]))])))
            case "TUPLE":
                push(tuple(self._since_mark()))
            case "LIST":
                push(self._since_mark())
            case "DICT":
                push(_pairs({}, self._since_mark()))
            case "APPEND":
                _is(list, self._stack[-2]).append(pop())
            case "APPENDS":
                values = self._since_mark()
                _is(list, self._stack[-1]).extend(values)
            case "SETITEM":
                value, key = self._value(), self._value()
                _pairs(_is(dict, self._stack[-1]), [key, value])
            case "SETITEMS":
                values = self._since_mark()
                _pairs(_is(dict, self._stack[-1]), values)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._remember(argument)
            case "MEMOIZE":
                self._remember(len(self._memo))
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(self._find(argument))
            case "STACK_GLOBAL":
                attribute, module = _is(str, pop()), _is(str, pop())
                push(self._find(f"{module} {attribute}"))
            case "REDUCE":
                arguments, function = _is(tuple, pop()), pop()
                if not isinstance(function, _Global) or function.make is None:
                    raise ValueError("it calls what is no function")
                push(function.make(*arguments))
            case "BUILD":
                state = _is(tuple, pop())
                push(self._with_state(pop(), state))
            case _:
                # Persistent ids, extension codes, instances of classes, buffers out of the file.
                raise ValueError(f"the operation {name} is not one of plain data")

    def _value(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def _since_mark(self) -> list[Any]:
        """Pop everything down to the last mark."""
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _remember(self, slot: int) -> None:
        value = self._stack[-1]
        if isinstance(value, _EmptyArray):
            value.slots.append(slot)
        self._memo[slot] = value

    def _find(self, name: str) -> _Global:
        found = self._globals.get(name)
        if found is None:
            shown = name.replace(" ", ".", 1)[:100].encode("unicode_escape").decode("ascii")
            raise _RefusedName(shown)
        return found

    def _with_state(self, value: object, state: tuple[Any, ...]) -> object:
        """Give a type its byte order, or make an array of its contents."""
        if isinstance(value, _Type):
            # version, byte order, subarray, names, fields, ...: those of a structured type are not None.
            if any(part is not None for part in state[2:5]):
                raise ValueError("expected arrays of numbers, got structured ones")
            order = _is(str, state[1].decode("ascii") if isinstance(state[1], bytes) else state[1])
            if order == "<" or order == ">":
                value.dtype = value.dtype.newbyteorder(order)
            elif order not in ("=", "|"):
                raise ValueError("a type of numbers has no such byte order")
            return value
        if isinstance(value, _EmptyArray):
            _, shape, kind, fortran, raw = state
            array = _from_buffer(raw, kind, shape, "F" if fortran else "C")
            for slot in value.slots:
                self._memo[slot] = array
            return array
        raise ValueError("it gives a state to what has none")

    def _encode(self, text: str, encoding: str) -> bytes:
        """How Python 3 writes bytes with protocols that have none."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("expected bytes encoded as latin1")
        self._budget -= len(_is(str, text))
        if self._budget < 0:
            raise ValueError("it unfolds to more than the file holds")
        return text.encode("latin-1")


_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}
# Operations that stand for a value, which pickletools reads.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_ESCAPE = rb"""\\(?:x[0-9a-fA-F]{2}|[\\'"abfnrtv])"""
_LITERAL = re.compile(rb"""'(?:[^\\\n']|%b)*+'\n|"(?:[^\\\n"]|%b)*+"\n""" % (_ESCAPE, _ESCAPE))


def _operations(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield the name and the argument of each operation; arguments end where the file does."""
    file = io.BytesIO(data)
    while code := file.read(1):
        operation = _OPERATIONS.get(code.decode("latin-1"))
        if operation is None:
            raise ValueError(f"unknown operation {code!r} at byte {file.tell() - 1}")
        if operation.name == "STRING":
            # pickletools reads ASCII only. What Python 2 wrote is a literal of bytes.
            if not _LITERAL.fullmatch(line := file.readline()):
                raise ValueError("a text without quotes")
            yield operation.name, codecs.escape_decode(line[1:-2])[0].decode("latin-1")
        elif operation.name == "GLOBAL":
            # pickletools takes a backslash in a name for an escape.
            lines = [file.readline().decode("utf-8") for _ in range(2)]
            yield operation.name, " ".join(line.removesuffix("\n") for line in lines)
        else:
            yield operation.name, None if operation.arg is None else operation.arg.reader(file)


def _check_complete(result: object) -> None:
    """Check that nothing is left of what only goes into values; without recursion, as nesting has no limit."""
    waiting, seen = [result], set()
    while waiting:
        value = waiting.pop()
        if value is _MARK or isinstance(value, (_Global, _Type, _EmptyArray)):
            raise ValueError("a type or a function stands where a value should be")
        if isinstance(value, (list, tuple, dict)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _is(kind: type[Any], value: Any) -> Any:
    """Return the value if it is of the type."""
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _pairs(into: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    """Set alternating keys and values; a key that is a container could be nested so deeply that hashing it crashes."""
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, (str, bytes, int, float)):
            raise ValueError(f"expected keys that are text or numbers, got {type(key).__name__}")
        into[key] = value
    return into


def _make_type(code: object, *_: object) -> _Type:
    """``numpy.dtype(code, align, copy)`` for booleans, whole numbers and floating point of up to 64 bits."""
    text = code.decode("ascii") if isinstance(code, bytes) else code
    if not isinstance(text, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", text):
        raise ValueError("expected arrays of plain numbers")
    return _Type(np.dtype(text))


def _empty_array(cls: object, shape: object, code: object) -> _EmptyArray:
    """``_reconstruct(ndarray, (0,), b"b")``."""
    if not isinstance(cls, _Global) or cls.make is not None or shape != (0,):
        raise ValueError("expected arrays that start empty")
    return _EmptyArray()


def _from_buffer(
    raw: object, kind: object, shape: object, order: object, axes: object = None
) -> np.ndarray[Any, np.dtype[Any]]:
    """See bytes as an array; the sizes that a file claims must be those that it has."""
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


def _scalar(kind: object, raw: object) -> object:
    """One number of numpy as one of Python."""
    return _from_buffer(raw, kind, (1,), "C")[0].item()


def _no_bytes(*arguments: object) -> bytes:
    """``bytes()``, as Python 3 writes it with protocols that have no bytes."""
    if arguments:
        raise ValueError("expected no arguments of bytes()")
    return b""
