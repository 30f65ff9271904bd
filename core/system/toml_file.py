"""TOML that a user wrote: the table, or one line that says why there is none."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from mpcc.core.errors import InvalidInput

__all__ = ["parse_toml", "read_toml"]

_LARGEST = 2**24  # bytes; a configuration has a few thousand


def read_toml(path: Path, where: str) -> tuple[dict[str, Any], bytes]:
    """Read a file.

    Arguments:
        path: The file.
        where: How the user named it, e.g. ``--config run.toml``.

    Returns:
        The table, and the content that it was parsed from.

    Raises:
        InvalidInput: If it can't be read, is far larger than such a file can be, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise InvalidInput(f"{where}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{where}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # of the name: a null character, or a half of one that no encoding has
        raise InvalidInput(f"{where!r}: cannot be the name of a file: {error}") from error
    if len(content) > _LARGEST:
        raise InvalidInput(f"{where}: expected a file of TOML, at most {_LARGEST // 2**20} MiB, got more")
    return parse_toml(content, where), content


def parse_toml(content: bytes, where: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        InvalidInput: If it is none, is nested too deeply to be followed, or has a number too long to be read.

    Example:
        >>> parse_toml(b"[run]\\nclusters = 3\\n", "run.toml")
        {'run': {'clusters': 3}}
    """
    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise InvalidInput(f"{where}: not valid TOML: nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and Python's own limit on the digits of a number
        raise InvalidInput(f"{where}: not valid TOML: {error}") from error
