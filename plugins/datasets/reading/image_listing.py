"""Lists the images below a folder, by their names, and the folders that cannot be entered."""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable

__all__ = ["EXTENSIONS", "ImageFile", "list_images"]

EXTENSIONS = ("png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp")


_Identity: TypeAlias = tuple[int, int] | None


@attrs.frozen
class ImageFile:
    """An image file, and the names that lead to it from the folder: class folder first, if there is one."""

    file: Path
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        """The names, joined, as they can be written to a file."""
        return printable("/".join(self.parts))


@attrs.define
class _Walk:
    """Collects the images below a folder.

    Attributes:
        by_class: Whether subfolders of the first level are classes, and two of them may lead to the same folder.
        skip: Whether folders that cannot be read are listed; they are errors otherwise.
        files: The images that were found.
        skipped: The folders that could not be read, ``PATH: REASON``.
    """

    by_class: bool
    skip: bool
    files: list[ImageFile] = attrs.field(factory=list)
    skipped: list[str] = attrs.field(factory=list)

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
                if entry.name.startswith("."):
                    continue
                if identity is not None:
                    entered = set(entered_by_class) if self.by_class and not parts else entered_by_class
                    if identity not in entered:
                        entered.add(identity)
                        waiting.append((entry, below, entered))
                elif entry.suffix.lower().removeprefix(".") in EXTENSIONS:
                    self.files.append(ImageFile(entry, below))

    def _cannot_enter(self, folder: Path, parts: tuple[str, ...], error: OSError) -> None:
        reason = error.strerror or str(error)
        if not self.skip or not parts:
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


def list_images(folder: Path, labels: str, *, skip: bool) -> tuple[list[ImageFile], bool, list[str]]:
    """List the images below a folder, sorted by their paths, names compared by code points.

    Names that begin with a dot are left out. Links are followed, and no folder is entered twice for one class.

    Arguments:
        folder: The folder.
        labels: ``folders``: every image must be in the subfolder of its class. ``none``: images may be anywhere.
            ``auto``: all images must be directly in the folder, or all in subfolders.
        skip: Whether a subfolder that cannot be read is listed; it is an error otherwise.

    Returns:
        The images; whether their subfolders are classes; and the folders that cannot be read, ``PATH: REASON``.

    Raises:
        InvalidInput: If there are none, or they are not where ``labels`` says.
    """
    walk = _Walk(by_class=labels != "none", skip=skip)
    walk.through(folder)
    files = sorted(walk.files, key=lambda file: file.parts)
    if not files:
        raise InvalidInput(
            f"no images in {folder}: expected files whose names end in {', '.join(f'.{name}' for name in EXTENSIONS)}, "
            f"in it or in one subfolder for each class{_first(walk.skipped)}"
        )
    flat = next((file for file in files if len(file.parts) == 1), None)
    nested = next((file for file in files if len(file.parts) > 1), None)
    if labels == "auto" and flat and nested:
        raise InvalidInput(
            f"images both in {folder} (such as {flat.path}) and in its subfolders (such as {nested.path}): expected "
            "either images without labels or one subfolder for each class; pass --data.labels none to take all of "
            "them without labels, or name one of the folders with --data.path"
        )
    if labels == "folders" and flat:
        raise InvalidInput(
            f"{flat.path} is directly in {folder}: expected every image in the subfolder of its class, as "
            "--data.labels folders says; move it, or pass --data.labels none"
        )
    return files, labels != "none" and nested is not None, walk.skipped


def _first(skipped: Sequence[str]) -> str:
    return f"; {len(skipped)} subfolders cannot be read, such as {skipped[0]}" if skipped else ""
