"""What the subfolders of a folder of images stand for: classes, the parts of a published set, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.reading.image_listing import ImageFile

__all__ = ["SPLITS", "Layout", "find_layout", "listed", "split_of"]

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation"),
}
_SHOWN = 5


@attrs.frozen
class Layout:
    """What the subfolders stand for.

    Attributes:
        files: The images to be read.
        level: Which of an image's names is its class, from 0; None if there are no classes.
        notes: Lines for the log.
        problem: What is wrong with it, or nothing.
    """

    files: list[ImageFile]
    level: int | None
    notes: list[str] = attrs.field(factory=list)
    problem: str = ""

    def class_of(self, file: ImageFile) -> str:
        """Return the name of the class folder of an image."""
        assert self.level is not None
        return file.parts[self.level]


def split_of(name: str) -> str:
    """Return the split that a folder of this name holds, or nothing.

    Example:
        >>> split_of("Validation"), split_of("cats")
        ('val', '')
    """
    return next((split for split, names in SPLITS.items() if name.casefold() in names), "")


def find_layout(folder: Path, files: Sequence[ImageFile], classes: str, split: str) -> Layout:
    """Find out what the subfolders stand for.

    Arguments:
        folder: The folder.
        files: All images below it, at least one.
        classes: ``folders``: every image must be in the subfolder of its class. ``none``: images may be anywhere.
            ``auto``: all images must be directly in the folder, or all in subfolders; subfolders with the names of
            splits are no classes.
        split: ``train``, ``test`` or ``val``: the subfolder with such a name; ``all``: everything.

    Raises:
        InvalidInput: If there is no such split.
    """
    first = sorted({file.parts[0] for file in files if len(file.parts) > 1})
    splits = {name: split_of(name) for name in first if split_of(name)}
    notes: list[str] = []
    if split != "all":
        chosen = [name for name, found in splits.items() if found == split]
        if not chosen:
            raise _no_split(folder, split)
        notes.append(f"read from {listed(chosen)} only, as --data.split {split} says")
        files = [file for file in files if file.parts[0] in chosen and len(file.parts) > 1]
        return _with_classes(folder, files, classes, 1, notes)
    if classes == "auto" and splits and len(splits) == len(first):
        valid = "|".join(name for name in SPLITS if name in splits.values())
        verb = "are taken for splits, not for classes, and read" if len(splits) > 1 else "is taken for a split"
        together = " together" if len(splits) > 1 else ", not for a class"
        notes.append(
            f"{listed(first)} {verb}{together}; --data.split {valid} reads one of them, --data.classes folders if they "
            "are classes"
        )
        return _with_classes(folder, files, classes, 1, notes)
    if classes == "auto" and len(set(splits.values())) > 1:
        others = [name for name in first if name not in splits]
        return Layout(
            list(files),
            None,
            problem=f"{listed(list(splits))} in {printable(str(folder))} are splits by their names, but "
            f"{listed(others)} {'are' if len(others) > 1 else 'is'} not: expected only splits or only classes; pass "
            f"--data.split {splits[next(iter(splits))]} to read one split, --data.classes folders if all are classes, "
            "or --data.classes none for no labels",
        )
    return _with_classes(folder, files, classes, 0, notes)


def _with_classes(folder: Path, files: Sequence[ImageFile], classes: str, level: int, notes: list[str]) -> Layout:
    """Return the layout of images whose class folders, if there are any, are at a level."""
    flat = next((file for file in files if len(file.parts) == level + 1), None)
    nested = next((file for file in files if len(file.parts) > level + 1), None)
    where, problem = printable(str(folder)), ""
    if classes == "auto" and flat and nested:
        place = "directly in a split" if level else f"in {where}"
        problem = (
            f"images both {place} (such as {flat.path}) and in its subfolders (such as {nested.path}): expected "
            "either images without labels or one subfolder for each class; pass --data.classes none to take all of "
            "them without labels, or name one of the folders with --data.path"
        )
    if classes == "folders" and flat:
        problem = (
            f"{flat.path} is directly in {'its split' if level else where}: expected every image in the subfolder of "
            "its class, as --data.classes folders says; move it, or pass --data.classes none"
        )
    labelled = classes != "none" and nested is not None and not problem
    return Layout(list(files), level if labelled else None, notes, problem)


def _no_split(folder: Path, split: str) -> InvalidInput:
    """Make the error for a split that is not there, or has no images."""
    entries = folder.iterdir() if folder.is_dir() else ()  # an archive has none on the disk
    below = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    names, where = " or ".join(SPLITS[split]), printable(str(folder))
    there = [name for name in below if split_of(name) == split]
    if there:
        return InvalidInput(f"--data.split {split}: no images in the subfolder {listed(there)} of {where}")
    others = [split_of(name) for name in below if split_of(name)]
    got = f"got the subfolders {listed(below)}" if below else "got no subfolders"
    nearest = f"nearest valid choice: --data.split {others[0]}" if others else "leave --data.split out"
    return InvalidInput(f"--data.split {split}: expected a subfolder {names} in {where}, {got}; {nearest}")


def listed(names: Sequence[str]) -> str:
    """Return a few names in words.

    Example:
        >>> listed(["train", "test"]), listed(list("abcdefg"))
        ('train and test', 'a, b, c, d, e and 2 more')
    """
    shown = [printable(name) for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        return f"{', '.join(shown)} and {len(names) - _SHOWN} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
