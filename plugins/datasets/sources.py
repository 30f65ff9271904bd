"""The folders of data sets, and the errors for files that are missing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from pathlib import Path

from mpcc.core.errors import InvalidInput

__all__ = ["download_failed", "missing_file", "require_root", "similar_file", "similar_sibling"]

_OTHER_ROOT = "--data-root DIR or MPCC_DATA to name a folder that has it"


def require_root(root: Path | None, data: str, instead: str = "--data-root DIR or set MPCC_DATA") -> Path:
    """Return the data folder.

    Arguments:
        root: The user's data folder, or None.
        data: The name of the data set, for the message.
        instead: What to pass, for the message.

    Raises:
        InvalidInput: If there is no data folder.

    Example:
        >>> require_root(None, "mnist")
        Traceback (most recent call last):
        mpcc.core.errors.InvalidInput: data set mnist needs a data folder: pass --data-root DIR or set MPCC_DATA
    """
    if root is None:
        raise InvalidInput(f"data set {data} needs a data folder: pass {instead}")
    return root.expanduser()


def missing_file(path: Path, expected: str, root: Path) -> InvalidInput:
    """Make the error for a file of a published data set that is not there.

    Arguments:
        path: The file.
        expected: A description of the file, in a few words.
        root: The data folder that ``--download`` would fill.
    """
    return InvalidInput(
        f"missing file {path}: expected {expected}; pass --download to fetch it into {root}, or use {_OTHER_ROOT}"
    )


def download_failed(data: str, folder: Path, error: Exception) -> InvalidInput:
    """Make the error for a download that failed, in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return InvalidInput(f"cannot download {data} into {folder}: {reason}; check the network, or use {_OTHER_ROOT}")


def similar_sibling(path: Path) -> str:
    """Return " (did you mean 'NAME'?)" for the folder next to ``path`` whose name is most like its own, or ""."""
    return _similar(path, lambda entry: entry.is_dir())


def similar_file(path: Path, extensions: Collection[str]) -> str:
    """Return the same for the file next to ``path`` with the most similar name and one of the extensions."""
    return _similar(path, lambda entry: entry.suffix in extensions and entry.is_file())


def _similar(path: Path, fits: Callable[[Path], bool]) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if fits(entry)]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f" (did you mean {str(path.with_name(close[0]))!r}?)" if close else ""
