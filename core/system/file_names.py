"""File names as one line of text, and back: any name can be written to a table and found again."""

from __future__ import annotations

import re

__all__ = ["original", "printable"]

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
