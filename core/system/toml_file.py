"""TOML that a user wrote: the table, or an error of one line."""

from __future__ import annotations

import codecs
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
        InvalidInput: If the file can't be read, is not TOML, or is far larger than a configuration.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise InvalidInput(f"{where}: no such file") from error
    except OSError as error:
        raise InvalidInput(f"{where}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # The name has a null character, or a surrogate that cannot be encoded.
        raise InvalidInput(f"{where!r}: cannot be the name of a file: {error}") from error
    if len(content) > _LARGEST:
        raise InvalidInput(f"{where}: expected a TOML file of at most {_LARGEST // 2**20} MiB, got more")
    return parse_toml(content, where), content


def parse_toml(content: bytes, where: str) -> dict[str, Any]:
    """Parse TOML in UTF-8; the mark that some editors write at the start of a file is ignored.

    Raises:
        InvalidInput: If the content is not TOML, is nested too deeply, or has a number with too many digits.

    Example:
        >>> parse_toml(b"[run]\\nclusters = 3\\n", "run.toml")
        {'run': {'clusters': 3}}
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidInput(f"{where}: expected a text in UTF-8, got one in UTF-16: save it as UTF-8")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError as error:
        raise InvalidInput(f"{where}: not valid TOML: nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and Python's own limit on the digits of a number
        raise InvalidInput(f"{where}: not valid TOML: {error}") from error
