"""Which files a block of code writes, in this process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["written_files"]

# Sets of paths that are being filled. Python keeps an audit hook until the process ends, so one hook serves them all.
_listening: list[set[Path]] = []
_hooked: list[bool] = []
# Flags of a file that is opened.
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    name = _name(event, arguments) if _listening else None
    if isinstance(name, str | bytes | os.PathLike):
        for paths in _listening:
            paths.add(Path.cwd() / os.fsdecode(name))


def _name(event: str, arguments: tuple[Any, ...]) -> object:
    """Return the name of what an event of Python's writes, or None."""
    if event == "open":
        flags = arguments[2]
        return arguments[0] if isinstance(flags, int) and flags & WRITING else None
    return {"os.mkdir": arguments[:1], "os.rename": arguments[1:2]}.get(event, (None,))[0]


@contextlib.contextmanager
def written_files() -> Iterator[set[Path]]:
    """Collect the files and folders that are opened for writing or made in a ``with`` block.

    Code in C that opens files by itself is not heard.
    """
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    paths: set[Path] = set()
    _listening.append(paths)
    try:
        yield paths
    finally:
        _listening[:] = [each for each in _listening if each is not paths]
