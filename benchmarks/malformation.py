"""Strategies of Hypothesis that spoil what is well formed: bytes, archives, values of TOML, words of a command line."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial

from hypothesis import strategies as some
from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = ["ODD_VALUES", "ODD_WORDS", "damaged", "damaged_archive", "damaged_png", "damaged_toml"]

LARGE_NUMBERS = (*map(str, (2**31, 2**63 - 1, 2**63, 2**64, 10**12, 10**30)), "9" * 400, "9" * 5000, "1e400", "1e308")
LONG_NAMES = ("a" * 300, "a/" * 3000 + "a")
# No name of a file that exists, and no folder outside the case's own.
TEXTS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="/\0"))

# What people and programs type by mistake. None of them names a file that exists, or asks for hours of honest work.
WORDS = """
- -- -1 0 00 -0 +1 1.5 1e3 -1e400 1e-400 -1e308 1e-308 nan inf -inf 1_0 0x10 १२ ¼ 1,5 true True False false none None
null [] {} [1] = a=b , ,, acc,,nmi all auto x ü 日本 nowhere ../.. %s %n {0} ${HOME} $(id) `id` ~nobody-of-this-name
--help --batch [/] [bold] [/bold]
"""
SPACED_WORDS = ("", " ", "1 2", '{"a": 1}', "-" + "9" * 400, "a\nb", "\t", "\x1b[31m", "\x7f", "\u202e", "\u2028")
ODD_WORDS = some.sampled_from([*WORDS.split(), *SPACED_WORDS, *LARGE_NUMBERS, *LONG_NAMES, "\udcff", "\udc80x"])
ODD_WORDS |= TEXTS | some.floats().map(repr)

# The same for a value in a file of TOML, as it is written there.
VALUES = """
0 -1 1 2 1.5 -0.0 -1e308 1e-320 nan inf -inf true false 0x7f [] [1] ["x"] [[]] {} {a=1} {name="x"} 1979-05-27 07:32:00
1979-05-27T07:32:00Z 0001-01-01 "" "x" "all" "none" "1" "nan" "ü日本" "\\u0000" "a\\u0000b" "\\u001b[31m" "\\n" "a\\nb"
"\\u202e" "\\u2028" "\\u0020" "[/]" "[/bold]" "../.." "/nowhere/x" "~nobody-x/y" "os:path" "builtins:int"
"builtins:object" ":" "a:b:c" ".:x" "..x:y" "mpcc:x" "x.y:z"
"""
LONG_VALUES = ("[" * 2000, "[" * 300 + "]" * 300, "{ a = " * 99, *(f'"{name}"' for name in LONG_NAMES))
ODD_VALUES = some.sampled_from([*VALUES.split(), *LARGE_NUMBERS, *LONG_VALUES])
ODD_VALUES |= TEXTS.map(partial(json.dumps, ensure_ascii=False)) | some.floats().map(repr)


@some.composite
def damaged(draw: DrawFn, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Spoil bytes by one to three accidents, more of them near the beginning, where formats keep what matters.

    Arguments:
        draw: Chooses.
        data: What is spoilt.
        others: Contents of other files, parts of which may come in.
    """
    for _ in range(draw(some.sampled_from((1, 1, 1, 2, 3)))):
        start = draw(some.integers(0, max(0, len(data) - 1)))
        end = start + draw(some.sampled_from((1, 2, 4, 16, 256, 4096)))
        data = draw(accident(data[:start], data[start:end], data[end:], others))
    return data


def accident(head: bytes, piece: bytes, tail: bytes, others: Sequence[bytes]) -> SearchStrategy[bytes]:
    """Cut, delete, repeat, insert, blank, enlarge, flip, or exchange one piece of a file."""
    rest = len(piece) - 1
    tops = [first + fill * rest for first, fill in ((b"\x7f", b"\xff"), (b"\x80", b"\0"), (b"\xff", b"\xff"))]
    pieces = [
        some.just(b""),
        some.sampled_from((piece * 2, piece * 51, bytes(len(piece)))),
        some.binary(min_size=1, max_size=64).map(lambda inserted: inserted * 80 + piece),
        some.binary(min_size=1, max_size=8).map(lambda inserted: inserted + piece),
        some.sampled_from([*tops, *(top[::-1] for top in tops)]),
        some.builds(flip, some.just(piece), some.integers(0, 7), some.sampled_from((7, 5000))),
        some.sampled_from((0, 2**31, 2**62, 10**30, 10**400)).map(
            lambda number: re.sub(rb"\d+", str(number).encode(), piece, count=1)
        ),
    ]
    exchanged = [other[: len(head + piece)] + tail for other in others]
    changed = some.one_of(pieces).map(lambda new: head + new + tail)
    return some.one_of(some.just(head), changed, changed, changed, changed, some.sampled_from(exchanged or [tail]))


def flip(piece: bytes, bit: int, step: int) -> bytes:
    """Flip a bit of every so many bytes."""
    return bytes(byte ^ (1 << bit) * (at % step == 0) for at, byte in enumerate(piece))


@some.composite
def damaged_archive(draw: DrawFn, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Spoil a member of a zip archive before it is packed, so that its checksum is right.

    Or repeat it, leave it out, let it unfold to 128 MiB, make it a link, or let its name lead out of the folder.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info), info.compress_type, 0) for info in archive.infolist()]
    # The member that says what the others are is chosen more often.
    pickles = [at for at, (name, *_) in enumerate(members) if name.endswith(".pkl")]
    at = draw(some.sampled_from([*range(len(members)), *pickles * (len(members) // 2)]))
    name, content, packing, _ = members[at]
    names = ("../" * 4 + "outside", "/absolute", "a/../../" + name, "\\x", "", "ü/" + name, "x" * 3000)
    spoilt = damaged(content, others).map(lambda raw: [(name, raw, packing, 0)])
    members[at : at + 1] = draw(
        some.one_of(
            *[spoilt] * 6,
            spoilt.map(lambda added: [members[at], *added]),
            some.sampled_from(names).map(lambda odd: [(odd, content, packing, 0)]),
            some.sampled_from((0, 2**20, 2**27)).map(lambda size: [(name, bytes(size), zipfile.ZIP_DEFLATED, 0)]),
            some.sampled_from(([], [(name, content, packing, 0o120777 << 16)])),
        )
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive, warnings.catch_warnings(action="ignore"):
        for each, raw, kind, attributes in members:
            info = zipfile.ZipInfo(each)
            info.compress_type, info.external_attr = kind, attributes
            archive.writestr(info, raw)
    return made.getvalue()


@some.composite
def damaged_png(draw: DrawFn, data: bytes) -> bytes:
    """Spoil, repeat, move or enlarge a chunk of a PNG file; every checksum is right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    header, chosen = chunks[0][1], draw(some.integers(0, len(chunks) - 1))
    kind, content = chunks[chosen]
    sides = ((2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**31 - 1), (0, 5), (30_000, 30_000))
    change, place, new = draw(
        some.one_of(
            some.sampled_from(sides).map(lambda each: (1, 0, [(b"IHDR", struct.pack(">2I", *each) + header[8:])])),
            some.tuples(some.integers(8, 12), some.integers(0, 255)).map(
                lambda byte: (1, 0, [(b"IHDR", header[: byte[0]] + bytes([byte[1]]) + header[byte[0] + 1 :])])
            ),
            some.integers(0, len(chunks)).map(lambda place: (0, place, [(kind, content)])),
            some.just((1, chosen, [])),
            some.tuples(some.sampled_from((b"zTXt", b"iCCP")), some.sampled_from((10, 2**25))).map(
                lambda text: (0, 1, [(text[0], b"name\0\0" + zlib.compress(bytes(text[1])))])
            ),
            damaged(content).map(lambda raw: (1, chosen, [(kind, raw)])),
        )
    )
    chunks[place : place + change] = new
    parts = [struct.pack(">I", len(raw)) + k + raw + struct.pack(">I", zlib.crc32(k + raw)) for k, raw in chunks]
    return data[:8] + b"".join(parts)


@some.composite
def damaged_toml(draw: DrawFn, data: bytes) -> bytes:
    """Exchange values, names or tables of a file of TOML; one in four times spoil it as bytes are."""
    if draw(some.integers(0, 3)) == 0:
        return draw(damaged(data))
    lines = data.decode().splitlines()
    for _ in range(draw(some.sampled_from((1, 1, 1, 2, 3)))):
        at = draw(some.sampled_from([at for at, line in enumerate(lines) if " = " in line] or [0]))
        name, _, _ = lines[at].partition(" = ")
        value = draw(ODD_VALUES)
        table = draw(some.sampled_from(("x", "run", "run.x", "prior", "[prior]", "a.b", "", "presets", "data.name")))
        top = draw(some.sampled_from(("preset", "plugins", "registries", "x", name)))
        lines = draw(
            some.sampled_from(
                [
                    *[[*lines[:at], f"{name} = {value}", *lines[at + 1 :]]] * 8,
                    [*lines[:at], *lines[at + 1 :]],
                    [*lines[:at], lines[at], *lines[at:]],
                    [*lines[:at], f"[{table}]", *lines[at + 1 :]],
                    [f"{top} = {value}", *lines],
                ]
            )
        )
    return ("\n".join(lines) + "\n").encode()
