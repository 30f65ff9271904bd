"""Files that are on the disk as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mpcc.core.errors import InvalidInput

__all__ = ["duplicate", "flush_folder", "new_file", "write_whole"]


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that readers never see half of it."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def duplicate(source: Path, target: Path) -> None:
    """Give a file a second name, in place of what has it; as a copy where the file system knows no links.

    Raises:
        OSError: If the disk has no room for a copy.
    """
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        try:
            part.hardlink_to(source)
        except OSError:
            with source.open("rb") as whole, part.open("wb") as copy:
                shutil.copyfileobj(whole, copy)
                copy.flush()
                os.fsync(copy.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Lend a file under a temporary name beside ``path``; it gets its name if the ``with`` block ends without an error.

    Raises:
        InvalidInput: If it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            yield file
        if path.exists():
            raise InvalidInput(f"{path} has appeared meanwhile: expected a new file")
        part.replace(path)
    except OSError as error:
        # What is read meanwhile may fail, too; that is not the file's fault.
        if error.filename == str(part) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error
        raise
    finally:
        part.unlink(missing_ok=True)
