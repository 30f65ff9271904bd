"""Files that are on the disk as a whole or not at all, and checks that a name is still free."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import check_length, part_name

__all__ = [
    *("check_new", "duplicate", "flush_folder", "free", "new_file", "new_folder", "taken", "whole_file", "write_whole"),
]


def taken(path: Path) -> bool:
    """Return whether the name is taken, be it by a link that leads nowhere."""
    return path.exists() or path.is_symlink()


def free(path: Path, ending: str = "") -> Path:
    """Return the path, with a number at its end if the name is taken.

    Arguments:
        path: The name that is wanted.
        ending: What stays behind the number, such as ``.csv``.

    Example:
        >>> free(Path("no-such-table.csv"), ".csv").name
        'no-such-table.csv'
    """
    candidate, count = path, 1
    while taken(candidate):
        count += 1
        candidate = path.with_name(f"{path.name.removesuffix(ending)}-{count}{ending}")
    return candidate


def check_new(path: Path, flag: str, kind: str = "folder") -> None:
    """Check that the name of a new file or folder is free.

    Arguments:
        path: The name that the user gave.
        flag: Which flag names it, for errors.
        kind: What will be made, a ``folder`` or a ``file``.

    Raises:
        InvalidInput: If the name is taken or too long, or the system cannot tell.
    """
    check_length(path, flag, kind)
    try:
        if taken(path):
            raise InvalidInput(f"{flag} {path} already exists: expected a new {kind}")
    except OSError as error:
        raise InvalidInput(f"{flag} {path} cannot be made: {error.strerror or error}") from error


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if system and file system support that.

    Raises:
        OSError: If the disk fails or is full. Any other refusal only means that the file system keeps names by itself.
    """
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC):
            raise


def flush_file(file: IO[bytes]) -> None:
    """Wait until the content of a file is on the disk, if the file system supports that.

    Raises:
        OSError: If the content could not be written.
    """
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


@contextlib.contextmanager
def whole_file(path: Path, part: Path | None = None) -> Iterator[IO[bytes]]:
    """Lend a temporary file that gets its final name once the ``with`` block has ended without an error.

    Its content is flushed to the disk first, so that the named file is whole for any reader and after any crash.

    Arguments:
        path: The final name; a file of that name is replaced.
        part: The temporary name, in the same folder; by default the name with ``.part`` at its end.

    Raises:
        OSError: If it cannot be written; a file of that name is as it was.
    """
    part = part or path.with_name(path.name + ".part")
    try:
        with part.open("w+b") as file:
            yield file
            flush_file(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a whole file at once.

    Raises:
        OSError: If it cannot be written; a file of that name is as it was.
    """
    with whole_file(path) as file:
        file.write(content)


def duplicate(source: Path, target: Path) -> None:
    """Give a file a second name, which replaces a file of that name; without hard links, make a copy.

    Raises:
        OSError: If the disk has no room for a copy.
    """
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(source)
    except OSError:
        with source.open("rb") as whole, whole_file(target, part) as copy:
            shutil.copyfileobj(whole, copy)
        return
    try:
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Lend a `whole_file` whose name must still be free at the end.

    Raises:
        InvalidInput: If it cannot be written.
    """
    part = path.with_name(part_name(path.name))
    try:
        with whole_file(path, part) as file:
            yield file
            if taken(path):
                raise InvalidInput(f"{path} was made by another program in the meantime: expected a new file")
    except OSError as error:
        # The block may read other files, whose errors have another cause.
        if error.filename == str(part) or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Lend a temporary folder that gets its final name once the ``with`` block has ended without an error.

    If the block fails, nothing is left of the folder.

    Arguments:
        path: The final name, which must still be free at the end; the temporary folder is beside it.

    Raises:
        InvalidInput: If the folder cannot be made or cannot get its name.
    """
    part = path.with_name(part_name(path.name))
    try:
        _attempt(path, part.mkdir)
        yield part
        if taken(path):
            raise InvalidInput(f"{path} was made by another program in the meantime: expected a new folder")
        _attempt(path, lambda: part.rename(path))
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _attempt(path: Path, action: Callable[[], object]) -> None:
    """Make a folder, or rename it."""
    try:
        action()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error
