"""Paths as valid text, for files such as ``config.toml``: a name whose bytes are not text is written as a file URI."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

__all__ = ["address_of", "path_of"]

PREFIX = "file:///"


def address_of(path: Path) -> str:
    """Return a path as valid text, which `path_of` turns back: itself, or its URI if it is not valid text.

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
