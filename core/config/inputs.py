"""The images that a user names for a prediction: files, folders, patterns such as ``scans/*.png``, or a list of paths.

Each path belongs to one of two data sets, which ``registry.toml`` names: one reads arrays, the other one pictures.
"""

from __future__ import annotations

import difflib
import glob
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry
from mpcc.core.system.file_names import printable
from mpcc.core.system.whole_files import free

__all__ = ["LIST", "Inputs", "find_inputs", "table_named_after"]

# Stands for a list of paths on standard input.
LIST = Path("-")

ARRAYS = (".npy", ".npz", ".pt", ".pth")
# The longest part of an input's name in the name of its table, in letters.
LONGEST = 50


@attrs.frozen
class Inputs:
    """Paths that follow each other and are read by one data set.

    Attributes:
        reader: The name of the data set.
        paths: The paths, as the user named them.
    """

    reader: str
    paths: tuple[Path, ...]

    def __str__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return printable(str(self.paths[0])) + more


def find_inputs(registry: Registry, words: Sequence[Path], listed: Callable[[], IO[bytes]]) -> list[Inputs]:
    """Return all files and folders that the user's words stand for, in their order.

    Arguments:
        registry: Names the two data sets.
        words: Paths, patterns, or ``-`` once.
        listed: Opens the list that ``-`` stands for: a path on each line.

    Raises:
        InvalidInput: If there is nothing at a path, or no path at all.
    """
    if words.count(LIST) > 1:
        raise InvalidInput("PATH - was given twice: expected one list of paths on standard input")
    paths = [path for word in words for path in meant_by(word, listed)]
    reader_of_arrays, reader = (registry.defaults[f"data_{kind}"] for kind in ("file", "folder"))

    def reader_of(path: Path) -> str:
        return reader_of_arrays if path.suffix.lower() in ARRAYS and not path.is_dir() else reader

    return [Inputs(name, tuple(group)) for name, group in itertools.groupby(paths, key=reader_of)]


def meant_by(word: Path, listed: Callable[[], IO[bytes]]) -> list[Path]:
    """Return the paths that one word stands for.

    Raises:
        InvalidInput: If there are none.
    """
    if word == LIST:
        return from_list(listed())
    # A name that has the letters of a pattern means itself, if it is there.
    if is_there(word, "PATH"):
        return [word]
    if not glob.has_magic(str(word)):
        raise nothing_at(word, "PATH")
    # Names that begin with a dot do not match, as in a shell and as in folders of images.
    matches = sorted(Path(name) for name in glob.glob(str(word), recursive=True))  # noqa: PTH207
    if not matches:
        raise InvalidInput(f"PATH {str(word)!r}: no file matches; expected images (for all in a folder: the folder)")
    return matches


def from_list(listed: IO[bytes]) -> list[Path]:
    """Return the paths of a list, one on each line; empty lines do not count.

    Raises:
        InvalidInput: If there are none, or there is nothing at one of them.
    """
    paths = []
    for number, line in enumerate(listed.read().split(b"\n"), start=1):
        name = os.fsdecode(line.removesuffix(b"\r"))
        if not name.strip():
            continue
        path, where = Path(name), f"line {number} of the list on standard input:"
        if not is_there(path, where):
            raise nothing_at(path, where)
        paths.append(path)
    if not paths:
        raise InvalidInput("PATH -: the list on standard input is empty: expected a path on each line")
    return paths


def is_there(path: Path, where: str) -> bool:
    """Return whether a path leads to a file or a folder.

    Raises:
        InvalidInput: If the system cannot tell, for example because the name is too long.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InvalidInput(f"{where} {str(path)!r}: cannot be read: {reason}") from error
    return True


def nothing_at(path: Path, where: str) -> InvalidInput:
    """Make the error for a path that leads nowhere, with the most similar name beside it."""
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        beside = []
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6)
    near = f": did you mean {str(path.with_name(close[0]))!r}? (" if close else " ("
    return InvalidInput(
        f"{where} {str(path)!r}: no such file or folder{near}expected an image file, a folder or a .zip archive of "
        "images, or a file of arrays)"
    )


def table_named_after(words: Sequence[Path]) -> Path:
    """Return a new table in the working folder that is named after the user's words.

    Example:
        >>> str(table_named_after([Path("no-such/scans"), Path("b.png")]))
        'predictions-scans-and-1-more.csv'
    """
    parts = [part for part in words[0].absolute().parts[1:] if not glob.has_magic(part)]
    name = "list" if words[0] == LIST else Path(os.path.normpath(Path(*parts or ["images"]))).name
    name = Path(name).stem if words[0].is_file() else name
    more = f"-and-{len(words) - 1}-more" if len(words) > 1 else ""
    return free(Path(f"predictions-{name[:LONGEST]}{more}.csv"), ".csv")
