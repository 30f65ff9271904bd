"""Ways to spoil what is well formed: bytes, archives, values of TOML, words of a command line.

Every function takes the randomness that it needs as a `random.Random`, so that a case can be repeated.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from random import Random

__all__ = ["ODD_WORDS", "spoil_archive", "spoil_bytes", "spoil_png", "spoil_toml"]

# What people and programs type by mistake. None of them names a file that exists, or asks for hours of honest work.
ODD_WORDS = (
    *("", " ", "-", "--", "-1", "0", "00", "-0", "+1", "1.5", "1e3", "1e400", "-1e400", "1e-400", "nan", "inf", "-inf"),
    *("1_0", "0x10", "१२", "¼", "1,5", "1 2", "9" * 5000, "-" + "9" * 400, str(2**31), str(2**63), str(2**64)),
    *(str(10**12), str(10**30), "1e308", "-1e308", "1e-308", "true", "True", "False", "none", "None", "null", "[]"),
    *("{}", "[1]", '{"a": 1}', "all", "auto", "x", "ü", "日本", "\u202e", "\u2028", "a\nb", "\t", "\x1b[31m", "\x7f"),
    *("\udcff", "\udc80x", "%s", "%n", "{0}", "${HOME}", "$(id)", "`id`", "~nobody-of-this-name", "../..", "a" * 300),
    *("a/" * 3000 + "a", "nowhere", "--help", "--batch", "[/]", "[bold]", "[/bold]", "=", "a=b", ",", ",,", "acc,,nmi"),
)

# The same for a value in a file of TOML, as it is written there.
ODD_VALUES = (
    *("0", "-1", "1", "2", "1.5", "-0.0", "1e400", "1e308", "-1e308", "1e-320", "nan", "inf", "-inf", "true", "false"),
    *(str(2**31), str(2**63 - 1), str(2**63), str(2**64), str(10**12), str(10**30), "9" * 400, "9" * 5000, "0x7f"),
    *('""', '" "', '"x"', '"all"', '"none"', '"1"', '"nan"', '"ü日本"', '"\\u0000"', '"a\\u0000b"', '"\\u001b[31m"'),
    *('"\\n"', '"a\\nb"', '"\\u202e"', '"\\u2028"', '"[/]"', '"[/bold]"', '"../.."', '"/nowhere/x"', '"~nobody-x/y"'),
    *(
        '"' + "a" * 300 + '"',
        '"' + "a/" * 3000 + '"',
        "[]",
        "[1]",
        '["x"]',
        "[[]]",
        "{}",
        "{ a = 1 }",
        '{ name = "x" }',
    ),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "0001-01-01", "[" * 2000, "[" * 300 + "]" * 300, "{ a = " * 99),
    *('"os:path"', '"builtins:int"', '"builtins:object"', '":"', '"a:b:c"', '".:x"', '"..x:y"', '"mpcc:x"', '"x.y:z"'),
)

HUGE = (0x7F, 0x80, 0xFF)


def spoil_bytes(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return bytes that differ from what they were by one to three accidents.

    Arguments:
        data: What is spoilt.
        random: Chooses.
        others: Contents of other files, whose beginnings may replace that of this one.
    """
    spoilt = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        one_accident(spoilt, random, others)
    return bytes(spoilt)


def one_accident(data: bytearray, random: Random, others: Sequence[bytes]) -> None:
    """Flip, cut, delete, repeat, insert, blank, exchange the header, or enlarge a size, in place."""
    size = len(data)
    # Half of the accidents happen where formats keep what matters: at the beginning.
    start = random.randrange(min(size, 512) if random.random() < 0.5 else size) if size else 0
    span = min(random.choice((1, 2, 4, 16, 256, 4096)), size - start)
    match random.randrange(9):
        case 0:
            for _ in range(random.choice((1, 1, 4, 32)) if size else 0):
                data[random.randrange(size)] ^= 1 << random.randrange(8)
        case 1:
            del data[start:]
        case 2:
            del data[start : start + span]
        case 3:
            data[start:start] = data[start : start + span] * random.choice((1, 1, 50))
        case 4:
            data[start:start] = random.randbytes(random.choice((1, 3, 64, 5000)))
        case 5:
            data[start : start + span] = bytes(span)
        case 6 if others:
            length = random.choice((2, 8, 64, 512))
            data[:length] = random.choice(others)[:length]
        case 7:
            numbers = list(re.finditer(rb"\d+", bytes(data[:4096])))
            if numbers:
                chosen = random.choice(numbers)
                data[chosen.start() : chosen.end()] = str(random.choice((0, 2**31, 2**62, 10**30, 10**400))).encode()
        case _:
            width = min(random.choice((1, 2, 4, 8)), size - start)
            first = random.choice(HUGE)
            value = bytes([first]) + bytes([0xFF if first != 0x80 else 0]) * (width - 1)
            data[start : start + width] = value[:width] if random.random() < 0.5 else value[:width][::-1]


def spoil_archive(data: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a zip archive one of whose members was spoilt before it was packed, so that its checksum is right.

    Or one with a member that is repeated, is missing, or has a name that leads out of the folder, or is a link.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    chosen = random.randrange(len(members))
    if random.random() < 0.4:
        # The member that says what the others are.
        chosen = next((at for at, (name, *_) in enumerate(members) if name.endswith(".pkl")), chosen)
    name, content, packing = members[chosen]
    match random.randrange(10):
        case 0:
            del members[chosen]
        case 1:
            members.append((name, spoil_bytes(content, random, others), packing))
        case 2:
            odd = random.choice(
                ("../" * 4 + "outside", "/absolute", "a/../../" + name, "\\x", "", "ü/" + name, "x" * 3000)
            )
            members[chosen] = (odd, content, packing)
        case 3:
            members[chosen] = (name, bytes(random.choice((0, 2**20, 2**27))), zipfile.ZIP_DEFLATED)
        case _:
            members[chosen] = (name, spoil_bytes(content, random, others), packing)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        written: set[str] = set()
        for each, raw, kind in members:
            info = zipfile.ZipInfo(each)
            info.compress_type = kind
            if random.random() < 0.02:
                info.external_attr = 0o120777 << 16  # a symbolic link
            if each not in written or random.random() < 0.5:
                info.filename = each if each not in written else each + "x"
                archive.writestr(info, raw)
                written.add(info.filename)
    return made.getvalue()


def spoil_png(data: bytes, random: Random) -> bytes:
    """Return a PNG file with one chunk spoilt, repeated, moved or enlarged, and every checksum right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = random.randrange(len(chunks))
    kind, content = chunks[chosen]
    match random.randrange(6):
        case 0:
            sides = random.choice(((2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**31 - 1), (0, 5), (30_000, 30_000)))
            chunks[0] = (b"IHDR", struct.pack(">2I", *sides) + chunks[0][1][8:])
        case 1:
            chunks.insert(random.randrange(len(chunks) + 1), (kind, content))
        case 2:
            del chunks[chosen]
        case 3:
            header = bytearray(chunks[0][1])
            header[8 + random.randrange(5)] = random.randrange(256)
            chunks[0] = (b"IHDR", bytes(header))
        case 4:
            text = zlib.compress(bytes(random.choice((10, 2**25))))
            chunks.insert(1, (random.choice((b"zTXt", b"iCCP")), b"name\0\0" + text))
        case _:
            chunks[chosen] = (kind, spoil_bytes(content, random))
    parts = [struct.pack(">I", len(raw)) + k + raw + struct.pack(">I", zlib.crc32(k + raw)) for k, raw in chunks]
    return data[:8] + b"".join(parts)


def spoil_toml(text: str, random: Random) -> str:
    """Return TOML with values, names or tables exchanged; one in four times it is spoilt as bytes are."""
    if random.random() < 0.25:
        return spoil_bytes(text.encode(), random).decode("utf-8", "surrogateescape")
    lines = text.splitlines()
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at = random.choice([number for number, line in enumerate(lines) if " = " in line] or [0])
        name, _, _ = lines[at].partition(" = ")
        match random.randrange(12):
            case 0:
                lines[at] = ""
            case 1:
                lines.insert(random.randrange(len(lines)), lines[at])
            case 2:
                lines[at] = (
                    f"[{random.choice(('x', 'run', 'run.x', 'prior', '[prior]', 'a.b', '', 'presets', 'data.name'))}]"
                )
            case 3:
                lines.insert(
                    0, f"{random.choice(('preset', 'plugins', 'registries', 'x', name))} = {random.choice(ODD_VALUES)}"
                )
            case _:
                lines[at] = f"{name} = {random.choice(ODD_VALUES)}"
    return "\n".join(lines) + "\n"
