"""Folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mpcc.core.errors import InvalidInput
from mpcc.core.system.whole_files import taken

__all__ = ["free_name", "new_folder"]


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Lend a temporary folder that gets its final name once the ``with`` block has ended without an error.

    Arguments:
        path: The final name, which must be free at the end; its parents are made if needed.

    Raises:
        InvalidInput: If the name has been taken in the meantime.
        OSError: If something cannot be written; nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
    try:
        part.chmod(0o755)  # a temporary folder is private
        yield part
        if taken(path):
            raise InvalidInput(f"{path} was made by another program in the meantime: expected a new folder")
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def free_name(path: Path) -> Path:
    """Return the path, with a number at its end if the name is taken."""
    candidate, count = path, 1
    while taken(candidate):
        count += 1
        candidate = path.with_name(f"{path.name}-{count}")
    return candidate
