"""Strategies of Hypothesis that damage well-formed input: bytes, archives, values of TOML, words of a command line."""

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
from typing import Any

import numpy as np
from hypothesis import strategies as some
from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = ["ODD_VALUES", "ODD_WORDS", "damaged", "damaged_archive", "damaged_png", "damaged_toml"]

LARGE_NUMBERS = (*map(str, (2**31, 2**63 - 1, 2**63, 2**64, 10**12, 10**30)), "9" * 400, "9" * 5000, "1e400", "1e308")
LONG_NAMES = ("a" * 300, "a/" * 3000 + "a")
# Without a slash, so that no text leads out of the folder of the case.
TEXTS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="/\0"))

# Words that people and programs type by mistake. No word names a file that exists, or asks for hours of real work.
WORDS = """
- -- -1 0 00 -0 +1 1.5 1e3 -1e400 1e-400 -1e308 1e-308 nan inf -inf 1_0 0x10 १२ ¼ 1,5 true True False false none None
null [] {} [1] = a=b , ,, acc,,nmi all auto x ü 日本 nowhere ../.. %s %n {0} ${HOME} $(id) `id` ~nobody-of-this-name
--help --batch [/] [bold] [/bold]
"""
SPACED_WORDS = ("", " ", "1 2", '{"a": 1}', "-" + "9" * 400, "a\nb", "\t", "\x1b[31m", "\x7f", "\u202e", "\u2028")
ODD_WORDS = some.sampled_from([*WORDS.split(), *SPACED_WORDS, *LARGE_NUMBERS, *LONG_NAMES, "\udcff", "\udc80x"])
ODD_WORDS |= TEXTS | some.floats().map(repr)

# The same for values in a file of TOML, as they are written there.
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
    """Damage bytes by one to three accidents, more often near the beginning, where formats keep their headers.

    Arguments:
        draw: Draws from a strategy.
        data: The bytes to damage.
        others: Contents of other files, parts of which may be copied in.
    """
    for _ in range(draw(some.sampled_from((1, 1, 1, 2, 3)))):
        start = draw(some.integers(0, max(0, len(data) - 1)))
        end = start + draw(some.sampled_from((1, 2, 4, 16, 256, 4096)))
        data = draw(accident(data[:start], data[start:end], data[end:], others))
    return data


def accident(head: bytes, piece: bytes, tail: bytes, others: Sequence[bytes]) -> SearchStrategy[bytes]:
    """Cut, delete, repeat, blank, enlarge, flip, insert or exchange one piece of a file."""
    rest = len(piece) - 1
    tops = [first + fill * rest for first, fill in ((b"\x7f", b"\xff"), (b"\x80", b"\0"), (b"\xff", b"\xff"))]
    numbers = [str(number).encode() for number in (0, 2**31, 2**62, 10**30, 10**400)]
    pieces = [b"", piece * 2, piece * 51, bytes(len(piece)), *tops, *(top[::-1] for top in tops)]
    pieces += [re.sub(rb"\d+", number, piece, count=1) for number in numbers]
    pieces += [flipped(piece, bit, step) for bit in range(8) for step in (7, 5000)]
    inserted = some.builds(bytes.__mul__, some.binary(min_size=1, max_size=64), some.sampled_from((1, 1, 80)))
    changed = some.sampled_from(pieces) | inserted.map(lambda new: new + piece)
    exchanged = [other[: len(head + piece)] + tail for other in others]
    return some.sampled_from([head, *exchanged]) | (changed | changed).map(lambda new: head + new + tail)


def flipped(piece: bytes, bit: int, step: int) -> bytes:
    """Flip one bit in every ``step``-th byte."""
    mask = np.zeros(len(piece), dtype=np.uint8)
    mask[::step] = 1 << bit
    return (np.frombuffer(piece, dtype=np.uint8) ^ mask).tobytes()


Member = tuple[Any, bytes]


def damaged_members(
    members: list[Member], chosen: Sequence[int], odd: SearchStrategy[Member], others: Sequence[bytes] = ()
) -> SearchStrategy[list[Member]]:
    """Damage one of the chosen members of a file, leave it out, repeat it somewhere, or exchange it for an odd one."""

    def ways(at: int) -> SearchStrategy[list[Member]]:
        before, (name, content), after = members[:at], members[at], members[at + 1 :]
        broken = damaged(content, others).map(lambda raw: (name, raw))
        changed = (broken | broken | odd | odd).map(lambda member: [*before, member, *after])
        added = some.builds(lambda place, member: [*members[:place], member, *members[place:]], places, broken | odd)
        return changed | added | some.just([*before, *after])

    places = some.integers(0, len(members))
    return some.sampled_from(chosen).flatmap(ways)


@some.composite
def damaged_archive(draw: DrawFn, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Damage a member of a zip archive before it is packed, so that its checksum is right.

    Or repeat it, leave it out, let it unpack to 128 MiB, make it a link, or let its name lead out of the folder.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [((info.filename, 0), archive.read(info)) for info in archive.infolist()]
        packing = archive.infolist()[0].compress_type
    # The pickle, which describes the other members, is chosen more often.
    pickles = [at for at, ((name, _), _) in enumerate(members) if name.endswith(".pkl")]
    chosen = [*range(len(members)), *pickles * (len(members) // 2)]
    (name, _), content = members[draw(some.sampled_from(chosen))]
    names = ("../" * 4 + "outside", "/absolute", "a/../../" + name, "\\x", "", "ü/" + name, "x" * 3000)
    odd = some.sampled_from([((name, 0o120777 << 16), content), *(((odd, 0), content) for odd in names)])
    odd |= some.sampled_from((0, 2**20, 2**27)).map(lambda size: ((name, 0), bytes(size)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, warnings.catch_warnings(action="ignore"):
        for (member, attributes), raw in draw(damaged_members(members, chosen, odd, others)):
            info = zipfile.ZipInfo(member)
            info.compress_type = zipfile.ZIP_DEFLATED if len(raw) >= 2**20 else packing
            info.external_attr = attributes
            archive.writestr(info, raw)
    return packed.getvalue()


@some.composite
def damaged_png(draw: DrawFn, data: bytes) -> bytes:
    """Damage, repeat, move or enlarge a chunk of a PNG file; every checksum is right."""
    chunks, at = list[Member](), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    header = chunks[0][1]
    sides = some.sampled_from(((2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**31 - 1), (0, 5), (30_000, 30_000)))
    headers = sides.map(lambda size: struct.pack(">2I", *size) + header[8:])
    headers |= some.binary(min_size=5, max_size=5).map(lambda kind: header[:8] + kind)
    texts = some.sampled_from((10, 2**25)).map(lambda size: b"name\0\0" + zlib.compress(bytes(size)))
    chosen, odd = draw(
        some.sampled_from(
            [
                ([0], headers.map(lambda raw: (b"IHDR", raw))),
                (range(1, len(chunks)), some.tuples(some.sampled_from((b"zTXt", b"iCCP")), texts)),
            ]
        )
    )
    broken = draw(damaged_members(chunks, chosen, odd))
    parts = [
        struct.pack(">I", len(raw)) + kind + raw + struct.pack(">I", zlib.crc32(kind + raw)) for kind, raw in broken
    ]
    return data[:8] + b"".join(parts)


@some.composite
def damaged_toml(draw: DrawFn, data: bytes) -> bytes:
    """Exchange values, names or tables of a file of TOML; in one of four cases, damage its bytes instead."""
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
