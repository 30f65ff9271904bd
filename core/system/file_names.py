"""File names and paths as valid text, and back; and names that are too long for the system."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

from mpcc.core.errors import InvalidInput

__all__ = ["address_of", "check_length", "original", "part_name", "path_of", "printable"]

PREFIX = "file:///"

# The longest name and path, in bytes, where the system does not tell.
LONGEST = {"PC_NAME_MAX": 255, "PC_PATH_MAX": 4096}
# Room for the names of files inside a run folder; those of TensorBoard's events hold the name of the machine.
INSIDE = 200

ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
ESCAPES |= {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x2028: "\\u2028", 0x2029: "\\u2029", 0x5C: "\\\\"}
LETTERS = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def printable(name: str) -> str:
    r"""Escape control characters, bytes that are not UTF-8, and the backslash itself.

    The result is one line of valid text, and different names have different results.

    Arguments:
        name: A name as Python gives it, with surrogates for bytes that are not UTF-8.

    Example:
        >>> print(printable("two\nlines"), printable("back\\slash"), printable("caf\udce9"))
        two\nlines back\\slash caf\udce9
    """
    return name.translate(ESCAPES).encode("utf-8", "backslashreplace").decode("utf-8")


def original(text: str) -> str:
    r"""Return the name that `printable` has escaped, such as a path of ``assignments.csv``.

    Example:
        >>> original("two\\nlines") == "two\nlines", original("back\\\\slash") == "back\\slash"
        (True, True)
    """

    def letter(escape: re.Match[str]) -> str:
        code = escape[1]
        return LETTERS[code] if code in LETTERS else chr(int(code[1:], 16))

    return re.sub(r"\\([nrt\\]|x[0-9a-f]{2}|u[0-9a-f]{4})", letter, text)


def check_length(path: Path, flag: str, kind: str = "folder") -> None:
    """Check that the system allows a name as long as that of a new file or folder.

    Arguments:
        path: The name that the user gave.
        flag: Which flag names it, for errors.
        kind: What will be made, a ``folder``, with files in it, or a ``file``.

    Raises:
        InvalidInput: If a part of the path, or all of it, is too long.
    """
    existing = next(parent for parent in (*path.parents, Path()) if os.path.isdir(parent))  # noqa: PTH112
    for part in path.parts:
        limit, size = _longest(existing, "PC_NAME_MAX"), len(os.fsencode(part))
        if size > limit:
            raise InvalidInput(f"{flag} {_shortened(part)}: a name of {size} bytes: expected at most {limit}")
    limit, size = _longest(existing, "PC_PATH_MAX"), len(os.fsencode(path)) + INSIDE * (kind != "file")
    if size >= limit:
        room = f", with {INSIDE} for the files in it" if kind != "file" else ""
        raise InvalidInput(f"{flag} {_shortened(str(path))}: a path of {size} bytes{room}: expected less than {limit}")


def part_name(name: str) -> str:
    """Return the name of a temporary file beside a file; a long name is cut, so that the system takes it.

    Two processes that write the same file have different temporary files.
    """
    ending = f".{os.getpid()}.part"
    return os.fsdecode(os.fsencode(name)[: LONGEST["PC_NAME_MAX"] - 40]) + ending


def _longest(folder: Path, name: str) -> int:
    try:
        limit = os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):
        limit = -1
    return limit if limit > 0 else LONGEST[name]


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}...{text[-10:]}"


def address_of(path: Path) -> str:
    """Return a path as valid text, for files such as ``config.toml``: itself, or its URI if it is not valid text.

    `path_of` turns it back.

    Example:
        >>> address_of(Path("/data/digits")), address_of(Path("/data/caf\\udce9"))
        ('/data/digits', 'file:///data/caf%E9')
    """
    text = str(path)
    if not text.startswith("file:") and not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return path.absolute().as_uri()


def path_of(text: str) -> Path:
    """Return the path of a text: a path, or a URI such as ``file:///data/caf%E9``.

    Raises:
        ValueError: If the system cannot have such a path.
    """
    if text.startswith(PREFIX):
        named = urllib.parse.unquote_to_bytes(text.removeprefix(PREFIX if os.name == "nt" else PREFIX[:-1]))
        text = os.fsdecode(named)
    if not text or "\0" in text:
        raise ValueError(text)
    # An error of encoding is a ValueError, too.
    os.fsencode(text)
    return Path(text)
