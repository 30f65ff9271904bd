"""Lists the images below a folder, by their names, what was left out, and the folders that cannot be entered."""

from __future__ import annotations

import errno
import stat
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeAlias

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.reading.image_archive import ImagePlace

__all__ = ["ImageFile", "Listing", "list_images"]

_SHOWN_ENDINGS = 6

_Identity: TypeAlias = tuple[int, int] | None


@attrs.frozen
class ImageFile:
    """An image in a file, and the names that lead to the file from the folder or archive.

    Attributes:
        file: The file, or a member of an archive.
        parts: The names.
        frame: Which of several images in the file it is, from 0; None if only the first is read.
        prefix: What stands before the names in the image's path, such as the folder as the user named it.
        class_name: The name of its class folder; None if it has no label.
    """

    file: ImagePlace
    parts: tuple[str, ...]
    frame: int | None = None
    prefix: str = ""
    class_name: str | None = None

    @property
    def path(self) -> str:
        """The names, joined, as they can be written to a file; the number of the frame follows, if there is one."""
        return printable(self.prefix + "/".join(self.parts)) + ("" if self.frame is None else f"#{self.frame}")


@attrs.frozen
class Listing:
    """What is below a folder.

    Attributes:
        files: The images, sorted by their paths, names compared by code points.
        skipped: The folders that cannot be read, ``PATH: REASON``.
        left_out: How many files have an ending that no image has, by ending.
    """

    files: list[ImageFile]
    skipped: list[str]
    left_out: Counter[str]

    def others(self) -> str:
        """Return the files that were left out in words, such as ``3 .txt, 1 without an ending``, or nothing."""
        counted = [f"{count} {f'.{ending}' if ending else 'without an ending'}" for ending, count in self._most()]
        more = sum(self.left_out.values()) - sum(count for _, count in self._most())
        return ", ".join(counted + ([f"{more} with other endings"] if more else []))

    def _most(self) -> list[tuple[str, int]]:
        return sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_ENDINGS]


@attrs.define
class _Walk:
    """Collects the images below a folder.

    Attributes:
        endings: Of images.
        separate: Tells for the names that lead to a folder whether each subfolder is gone through as if the others
            did not exist, since two classes may lead to the same folder.
        enter: Tells for the names that lead to a folder whether to go through it.
        files: The images that were found.
        skipped: The folders that could not be read, ``PATH: REASON``.
        left_out: The other files, counted by ending.
    """

    endings: Collection[str]
    separate: Callable[[tuple[str, ...]], bool]
    enter: Callable[[tuple[str, ...]], bool]
    files: list[ImageFile] = attrs.field(factory=list)
    skipped: list[str] = attrs.field(factory=list)
    left_out: Counter[str] = attrs.field(factory=Counter)

    def through(self, folder: Path) -> None:
        """Go through a folder and all below it."""
        # No recursion, because folders may be nested more deeply than Python's stack. A folder waits with the folders
        # that its class has entered so far, which ends loops of links.
        waiting: list[tuple[Path, tuple[str, ...], set[_Identity]]] = [(folder, (), {_identity(folder)})]
        while waiting:
            current, parts, entered_by_class = waiting.pop()
            try:
                # Sorted, so that of two links to one folder always the same link is followed.
                entries = [(entry, _identity(entry)) for entry in sorted(current.iterdir())]
            except OSError as error:
                self._cannot_enter(current, parts, error)
                continue
            for entry, identity in entries:
                below = (*parts, entry.name)
                if entry.name.startswith(".") or (identity is not None and not self.enter(below)):
                    continue
                if identity is not None:
                    entered = set(entered_by_class) if self.separate(parts) else entered_by_class
                    if identity not in entered:
                        entered.add(identity)
                        waiting.append((entry, below, entered))
                    continue
                ending = entry.suffix.lower().removeprefix(".")
                if ending in self.endings:
                    self.files.append(ImageFile(entry, below))
                else:
                    self.left_out[printable(ending)] += 1

    def _cannot_enter(self, folder: Path, parts: tuple[str, ...], error: OSError) -> None:
        reason = error.strerror or str(error)
        if not parts:
            raise InvalidInput(f"cannot read the folder {printable(str(folder))}: {reason}") from error
        self.skipped.append(f"{printable('/'.join(parts))}: {reason}")


def _identity(entry: Path) -> _Identity:
    """Return an identity of a folder that does not depend on the path to it; None if it is no folder."""
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # links that lead nowhere
            return None
        raise
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def list_images(
    folder: Path,
    endings: Collection[str],
    separate: Callable[[tuple[str, ...]], bool],
    enter: Callable[[tuple[str, ...]], bool],
) -> Listing:
    """List the images below a folder.

    Names that begin with a dot are left out. Links are followed, and no folder is entered twice.

    Arguments:
        folder: The folder.
        endings: Of images, small letters, without the dot; names may have capitals.
        separate: Tells for the names that lead to a folder whether each of its subfolders is a set of its own, in which
            a folder may be entered again.
        enter: Tells for the names that lead to a folder whether to go through it.

    Raises:
        InvalidInput: If the folder cannot be read.
    """
    walk = _Walk(endings, separate, enter)
    walk.through(folder)
    return Listing(sorted(walk.files, key=lambda file: file.parts), walk.skipped, walk.left_out)
