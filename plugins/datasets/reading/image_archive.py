"""Images in zip archives: members are read into memory one at a time, and nothing is unpacked to the disk."""

from __future__ import annotations

import functools
import os
import zipfile
from pathlib import Path
from typing import TypeAlias

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.system.available_memory import available_memory, in_gib
from mpcc.core.system.file_names import printable

__all__ = ["ARCHIVE", "ArchiveMember", "ImagePlace", "members_of"]

# The ending of the archives that are read.
ARCHIVE = ".zip"

# A member that unfolds to more bytes is no image of a size that this program reads.
_LARGEST = 2**30
_ENCRYPTED = 0b1


@attrs.frozen
class ArchiveMember:
    """A file in a zip archive.

    Attributes:
        archive: The absolute path of the archive.
        name: The name in the archive. It only finds the member, and never becomes a path on the disk.
    """

    archive: str
    name: str

    @property
    def size(self) -> int:
        """How many bytes it unfolds to, as the archive says."""
        return self._archive().getinfo(self.name).file_size

    def read_bytes(self) -> bytes:
        """Return the content.

        Raises:
            ValueError: If it is encrypted or too large.
            Exception: What the reader of archives raises if the archive is damaged, which has many types.
        """
        archive = self._archive()
        member = archive.getinfo(self.name)
        if member.flag_bits & _ENCRYPTED:
            raise ValueError("expected an image, got a member that is locked with a password")
        limit = min(_LARGEST, available_memory())
        if member.file_size > limit:
            raise ValueError(f"it unfolds to {in_gib(member.file_size)}: expected at most {in_gib(limit)}")
        return archive.read(member)

    def _archive(self) -> zipfile.ZipFile:
        status = Path(self.archive).stat()
        return _opened(self.archive, os.getpid(), (status.st_mtime_ns, status.st_size))

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"


# Where an image is read from.
ImagePlace: TypeAlias = Path | ArchiveMember


@functools.lru_cache(maxsize=4)
def _opened(archive: str, process: int, version: tuple[int, int]) -> zipfile.ZipFile:
    """Open an archive once, unless it has changed.

    Each process opens it for itself: processes that share a file would move each other's position.
    """
    return zipfile.ZipFile(archive)


def members_of(path: Path) -> list[ArchiveMember]:
    """Return the files in an archive, in the order of the archive, each name once.

    Raises:
        InvalidInput: If it is no zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidInput(
            f"{printable(str(path))}: expected a zip archive of images ({reason}); write it again"
        ) from error
    # Absolute: the working directory of a run may change.
    where = str(path.absolute())
    return [ArchiveMember(where, name) for name in dict.fromkeys(names)]
