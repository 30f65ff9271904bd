"""The reader of pickle files: what it reads is what Python reads, and what it does not know it refuses."""

from __future__ import annotations

import collections
import contextlib
import datetime
import io
import pickle
import pickletools
import struct
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.reading.pickles import load_pickle

REMEDY = "fetch it again"
PLAIN = {
    "text": "café \N{SNOWMAN}",
    "empty": [(), [], {}, "", b""],
    "bytes": bytes(range(256)) * 3,
    "numbers": [0, 1, -1, 255, 256, 65_536, -(2**31), 2**40, -(2**70), 2**2100, 0.5, -1e300, True, False, None],
    "nested": {1: {"two": [(1, 2), (3, (4, 5, 6), 7, 8)]}, b"key": "value", 2.5: None},
    "long": ["x" * 300, b"y" * 70_000, list(range(3000))],
}
ARRAYS = [
    *(np.arange(24).astype(kind).reshape(2, 3, 4) for kind in ("u1", "i1", "<u2", ">i4", "<i8", ">f4", "f8", "f2")),
    np.array([[True, False], [False, True]]),
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    np.arange(20)[::3],
    np.zeros((0, 3072), dtype=np.uint8),
    np.array(5),
]


def read(content: bytes, folder: Path) -> Any:
    file = folder / "file"
    file.write_bytes(content)
    return load_pickle(file, REMEDY)


def refusal(content: bytes, folder: Path) -> str:
    """The message for a file that must be refused: one line, the file's name, the remedy."""
    with pytest.raises(InvalidInput) as caught:
        read(content, folder)
    message = str(caught.value)
    assert str(folder / "file") in message
    assert message.endswith(f"; {REMEDY}")
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("cls", [pickle._Pickler, pickle.Pickler], ids=["python", "c"])
def test_plain_data_is_read_as_python_reads_it(cls: Any, protocol: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    cls(buffer, protocol).dump(PLAIN)
    for content in (buffer.getvalue(), pickletools.optimize(buffer.getvalue())):
        found = read(content, tmp_path)
        assert found == PLAIN == pickle.loads(content)
        assert [type(value) for value in found["numbers"]] == [type(value) for value in PLAIN["numbers"]]


@pytest.mark.parametrize("package", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{list(array.shape)}")
def test_arrays_of_either_numpy_are_read(array: np.ndarray, protocol: int, package: bytes, tmp_path: Path) -> None:
    content = pickle.dumps({"one": array, "again": array}, protocol)
    expected = pickle.loads(content)["one"]
    content = content.replace(b"numpy._core.", b"numpy.core.").replace(b"numpy.core.", package + b".")
    if protocol >= 4 and package == b"numpy.core":
        # There a name stands behind its length, and it all in a frame of a stated length.
        content = pickle.PROTO + bytes([protocol]) + content[content.index(b"}") :]
        for longer in (b"numpy.core.multiarray", b"numpy.core.numeric"):
            content = content.replace(bytes([len(longer) + 1]) + longer, bytes([len(longer)]) + longer)
    found = read(content, tmp_path)
    for value in found.values():
        assert type(value) is np.ndarray
        assert value.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert np.array_equal(value, array)
        assert not value.flags.writeable
    assert found["one"] is found["again"]


@pytest.mark.parametrize("protocol", range(6))
def test_single_numbers_of_numpy_become_those_of_python(protocol: int, tmp_path: Path) -> None:
    given = [np.uint8(7), np.int64(-3), np.float32(0.5), np.float64(1e-3), np.bool_(True)]
    found = read(pickle.dumps(given, protocol), tmp_path)
    assert found == [7, -3, 0.5, 1e-3, True]
    assert [type(value) for value in found] == [int, int, float, float, bool]


def test_the_text_of_python_2_comes_as_bytes(tmp_path: Path) -> None:
    # As of cPickle.dumps({"data": "\x00\xff\n'", "n": 3L}, protocol) of Python 2.
    by_protocol = {
        0: b"(dp1\nS'data'\np2\nS\"\\x00\\xff\\n'\"\np3\nsS'n'\np4\nL3L\ns.",
        1: b"}q\x01(U\x04dataq\x02U\x04\x00\xff\n'q\x03U\x01nq\x04L3L\nu.",
        2: b"\x80\x02}q\x01(U\x04dataq\x02U\x04\x00\xff\n'q\x03U\x01nq\x04\x8a\x01\x03u.",
    }
    for content in by_protocol.values():
        assert read(content, tmp_path) == {b"data": b"\x00\xff\n'", b"n": 3} == pickle.loads(content, encoding="bytes")


def test_an_array_as_python_2_wrote_it_without_binary_is_read(tmp_path: Path) -> None:
    content = (
        b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntS'b'\ntRp3\n"
        b"(I1\n(I2\nI2\ntcnumpy\ndtype\np4\n(S'u1'\nI0\nI1\ntRp5\n(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x00\\x7f\\x80\\xff'\ntb."
    )
    assert read(content, tmp_path).tolist() == [[0, 127], [128, 255]]
    assert np.array_equal(read(content, tmp_path), pickle.loads(content, encoding="bytes"))


class Command:
    """Runs a function when Python reads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_no_command_is_run_wherever_it_stands(protocol: int, tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = Command(Path.touch, made)
    data = np.zeros(3, dtype=np.uint8)
    places = [command, [command], {"data": command}, {"data": data, "more": (1, [command])}, {b"labels": {1: command}}]
    for place in places:
        content = pickle.dumps(place, protocol)
        message = refusal(content, tmp_path)
        assert message.startswith(f"refused file {tmp_path / 'file'}: expected plain data, but it calls ")
        assert not made.exists()
    pickle.loads(content)
    assert made.exists()  # Python's own reader does run it


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("builtins", "bytearray"),
        ("copyreg", "_reconstructor"),
        ("copy_reg", "_reconstructor"),
        ("collections", "OrderedDict"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__init__"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("_codecs", "encode.__self__"),
        ("_codecs", "decode"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("mpcc.plugins.datasets.reading.pickles", "load_pickle"),
        ("evil\x1b[2J", "név"),
    ],
)
def test_a_global_that_is_not_plain_data_is_named_and_refused(module: str, name: str, tmp_path: Path) -> None:
    shown = f"{module}.{name}".encode("unicode_escape").decode()
    by_line = f"c{module}\n{name}\n.".encode()
    by_stack = b"".join(b"\x8c" + bytes([len(text.encode())]) + text.encode() for text in (module, name))
    for content in (by_line, b"\x80\x02" + by_line, b"\x80\x04" + by_stack + b"\x93."):
        assert shown in refusal(content, tmp_path)


def test_objects_of_other_types_are_refused(tmp_path: Path) -> None:
    things = [datetime.date(2020, 1, 1), collections.OrderedDict(a=1), Path("x"), 1j, slice(3), {1, 2}, bytearray(b"x")]
    things += [
        np.array([{}], dtype=object),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "u1")]),
        np.datetime64(1, "s"),
    ]
    things += [np.zeros(2, dtype="c16"), np.ma.masked_array([1], [True]), np.zeros, np.dtype("u1"), np.ndarray]
    for thing in things:
        for protocol in (2, 4):
            refusal(pickle.dumps({"thing": thing}, protocol), tmp_path)


UNKNOWN = {
    "a persistent id": b"Pname\n.",
    "a persistent id of the stack": b"\x80\x02K\x01Q.",
    "an extension code": b"\x80\x02\x82\x01.",
    "an instance": b"(ios\nsystem\n.",
    "an object": b"(cnumpy\nndarray\no.",
    "a new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "a new object with keywords": b"\x80\x04cnumpy\nndarray\n)}\x92.",
    "a buffer out of the file": b"\x80\x05\x97.",
    "a set": b"\x80\x04\x8f.",
    "a call of a number": b"K\x01)R.",
    "a call of the array type": b"cnumpy\nndarray\n(I1000000000\ntR.",
    "a call with a list": b"c_codecs\nencode\n]R.",
    "a call with too many arguments": b"c_codecs\nencode\n(VaVlatin1\nVb\ntR.",
    "a state of a function": b"c_codecs\nencode\n(NNtb.",
    "a state of a dict": b"}(NNtb.",
    "another encoding": b"c_codecs\nencode\n(Va\nVrot13\ntR.",
    "bytes of a size": b"cbuiltins\nbytes\n(I1000000000\ntR.",
    "no end": b"\x80\x02K\x01",
    "nothing": b"",
    "an end at once": b".",
    "two values": b"K\x01K\x02.",
    "a mark": b"(.",
    "no mark": b"K\x01t.",
    "a mark for a value": b"(\x85.",
    "an odd number of keys and values": b"(K\x01d.",
    "a list as a key": b"}]K\x01s.",
    "a tuple as a key": b"})K\x01s.",
    "an unknown slot": b"h\x05.",
    "an unknown operation": b"\xfe.",
    "a later protocol": b"\x80\x06K\x01.",
    "a number of no digits": b"Ix\n.",
    "a number of too many digits": b"L" + b"9" * 10_000 + b"L\n.",
    "a text without quotes": b"Sx\n.",
    "a text of half a quote": b"S'\n.",
    "a text with a wrong escape": b"S'\\q'\n.",
    "a state of a whole array": b"cnumpy.core.multiarray\n_reconstruct\n)R" + b"(NNNNtb.",
    "a value set in a list": b"]K\x00K\x01s.",
    "a value set in an array": b"cnumpy.core.multiarray\n_reconstruct\n)RK\x00K\x01s.",
    "a value added to a dict": b"}K\x01a.",
    "a text that is no UTF-8": b"\x8c\x01\xff.",
    "a text": b"text and nothing else\n",
}


@pytest.mark.parametrize("content", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_operation_that_is_not_of_plain_data_is_refused(content: bytes, tmp_path: Path) -> None:
    refusal(content, tmp_path)


def array_of(shape: bytes, raw: bytes, kind: bytes = b"U\x02u1", fortran: bytes = b"\x89") -> bytes:
    """A pickle of one array that says what it likes."""
    start = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    return start + shape + b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R" + fortran + raw + b"tb."


def test_an_array_must_be_as_large_as_its_bytes(tmp_path: Path) -> None:
    assert read(array_of(b"K\x02\x85", b"U\x02ab"), tmp_path).tolist() == [97, 98]
    shapes = [
        b"K\x03\x85",
        b"K\x01\x85",
        b"J\xff\xff\xff\x7f\x85",
        b"J\xff\xff\xff\xff\x85",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85",
        b"\x8a\xff" + b"\x7f" * 255 + b"\x85",
        b"(" + b"K\x02" * 5000 + b"t",
        b"(" + b"K\x01" * 70 + b"K\x02t",
        b"U\x012\x85",
        b"G@\x00\x00\x00\x00\x00\x00\x00\x85",
        b"]",
    ]
    for shape in shapes:
        refusal(array_of(shape, b"U\x02ab"), tmp_path)
    huge = b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000
    refusal(array_of(b"(K\x00" + huge + b"t", b"U\x00"), tmp_path)
    for kind in (b"U\x01O", b"U\x02O8", b"U\x03V99", b"U\x02u9", b"U\x06u1, u1", b"U\x03c16", b"K\x01", b"]"):
        refusal(array_of(b"K\x02\x85", b"U\x02ab", kind), tmp_path)
    refusal(array_of(b"K\x02\x85", b"]"), tmp_path)


CLAIMS = [
    *(b"T" + struct.pack("<i", size) for size in (2**31 - 1, -1)),
    *(b"B" + struct.pack("<I", size) for size in (2**31, 2**32 - 1)),
    *(b"X" + struct.pack("<I", size) for size in (2**31, 2**32 - 1)),
    *(code + struct.pack("<Q", size) for code in (b"\x8d", b"\x8e", b"\x96") for size in (2**40, 2**63, 2**64 - 1)),
    *(b"\x8b" + struct.pack("<i", size) for size in (2**31 - 1, -1)),
    b"K\x01r\xff\xff\xff\xffj\xff\xff\xff\xff0",
    b"K\x01p99999999999999\n0",
]


@pytest.mark.parametrize("content", CLAIMS, ids=lambda content: content[:9].hex())
def test_a_size_that_the_file_does_not_have_takes_no_memory(content: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        refusal(b"\x80\x05" + content + b"abc.", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def peak_of_reading(content: bytes, folder: Path) -> int:
    """The most memory that is held at once while a file is read."""
    tracemalloc.start()
    try:
        read(content, folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_file_does_not_unfold_to_more_than_it_holds(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x01"
    once = b"c_codecs\nencode\nq\x02" + text + b"X\x06\x00\x00\x00latin1q\x03\x86R"
    assert read(b"\x80\x02" + once + b".", tmp_path) == b"x" * 100_000
    content = b"\x80\x02](" + once + b"h\x02h\x01h\x03\x86R" * 500 + b"e."
    assert peak_of_reading(content, tmp_path) < 10 * len(content)


def test_an_array_that_is_built_again_and_again_does_not_unfold(tmp_path: Path) -> None:
    # The bytes of an array in the other byte order are copied for each array that is made of them.
    raw = b"T" + struct.pack("<i", 100_000) + b"x" * 100_000 + b"q\x01"
    start = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01J" + struct.pack("<i", 50_000) + b"\x85cnumpy\ndtype\n"
    start += b"U\x02u2K\x00K\x01\x87R(K\x03U\x01>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    assert read(b"\x80\x02" + start + raw + b"tb.", tmp_path).tolist() == [256 * ord("x") + ord("x")] * 50_000
    content = b"\x80\x02](" + start + raw + b"tb" + (start + b"h\x01tb") * 500 + b"e."
    assert peak_of_reading(content, tmp_path) < 10 * len(content)


def test_nesting_as_deep_as_a_file_allows_does_no_harm(tmp_path: Path) -> None:
    # In a thread, whose stack is small.
    def nest() -> None:
        read(b"K\x01" + b"\x85" * 300_000 + b".", tmp_path)
        for content in (
            b"}K\x01%bK\x01s.",
            b"}(K\x01%bK\x01u.",
            b"(K\x01%bK\x01d.",
            b"\x8f(K\x01%b\x90.",
            b"(K\x01%b\x91.",
        ):
            refusal(content % (b"\x85" * 300_000), tmp_path)

    thread = threading.Thread(target=nest)
    thread.start()
    thread.join()


def test_a_file_cut_short_or_damaged_anywhere_is_refused_or_read_but_nothing_else(tmp_path: Path) -> None:
    whole = pickle.dumps({b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [1, 2], b"n": "text"}, 2)
    for length in range(len(whole)):
        refusal(whole[:length], tmp_path)
    random = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        with contextlib.suppress(InvalidInput):
            read(bytes(damaged), tmp_path)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^cannot read .*/nothing: expected a file; fetch it again$"):
        load_pickle(tmp_path / "nothing", REMEDY)
    with pytest.raises(InvalidInput, match=r"^cannot read .*: expected a file"):
        load_pickle(tmp_path, REMEDY)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InvalidInput, match=r"expected at most 268435456 bytes, got 2147483648"):
        load_pickle(tmp_path / "large", REMEDY)
