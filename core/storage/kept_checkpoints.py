"""Which checkpoints a run keeps: the newest, some before it, and the best by a score that needs no labels."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mpcc.core.storage.checkpoint import BrokenCheckpoint, load_checkpoint, save_checkpoint
from mpcc.core.system.whole_files import duplicate, flush_folder

__all__ = ["KeptCheckpoints"]

logger = logging.getLogger(__name__)

OLDER = re.compile(r"iteration-(\d{1,18})\.pt")


class KeptCheckpoints:
    """The folder ``checkpoints`` of a run.

    ``last.pt`` is the newest, ``iteration-N.pt`` are those before it, ``best.pt`` has the best score. Once ``last.pt``
    exists, it is a whole checkpoint at any moment.

    Arguments:
        folder: Made when something is saved.
        keep: How many older checkpoints to keep.

    Attributes:
        newest_iteration: The iteration of ``last.pt``, once this object has saved it or found it whole.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.newest_iteration: int | None = None
        self._whole: tuple[Path, int] | None = None

    @property
    def kept(self) -> str | None:
        """A text that names the checkpoint from which the run can go on, and its iteration, if one is known."""
        if self._whole is None:
            return None
        path, iteration = self._whole
        return f"the last checkpoint is kept: {path} (iteration {iteration})"

    @property
    def newest(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the evaluation with the best score."""
        return self.folder / "best.pt"

    def older(self) -> list[Path]:
        """Return the checkpoints before the newest, in descending order of iteration."""
        return [path for _, path in sorted(self._numbered().items(), reverse=True)]

    def _numbered(self) -> dict[int, Path]:
        matches = {path: OLDER.fullmatch(path.name) for path in self.folder.glob("iteration-*.pt")}
        return {int(match[1]): path for path, match in matches.items() if match}

    def save(self, state: dict[str, Any], *, best: bool = False) -> None:
        """Save a state as the newest checkpoint; the previous newest one becomes an older one.

        Arguments:
            state: A full state with its ``iteration``.
            best: Whether it is the best one, too.

        Raises:
            OSError: If it cannot be written; then ``last.pt`` is as it was.
        """
        with self._saved(state) as new:
            if self.newest.exists() and self.newest_iteration not in (None, state["iteration"]):
                duplicate(self.newest, self.folder / f"iteration-{self.newest_iteration}.pt")
            if best:
                duplicate(new, self.best)
            new.replace(self.newest)
        self.newest_iteration = state["iteration"]
        self._whole = self.newest, state["iteration"]
        flush_folder(self.folder)
        remove(self.older()[self.keep :])

    def save_best(self, state: dict[str, Any]) -> None:
        """Save a state as the best one only.

        Raises:
            OSError: If it cannot be written; the previous best one is intact.
        """
        with self._saved(state) as new:
            new.replace(self.best)
        if self._whole is None:
            self._whole = self.best, state["iteration"]
        flush_folder(self.folder)

    @contextlib.contextmanager
    def _saved(self, state: dict[str, Any]) -> Iterator[Path]:
        """Lend a whole checkpoint that has no lasting name yet."""
        new = self.folder / "new.pt"
        try:
            save_checkpoint(new, state)
            yield new
        finally:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Any] | None, Path, list[str]]:
        """Load the newest checkpoint that is whole.

        Returns:
            Its state, its file, and a line about each newer one that is broken; no state if there is no checkpoint.

        Raises:
            BrokenCheckpoint: If there are checkpoints, and all are broken.
            InvalidInput: If a checkpoint has another format.
        """
        candidates = [path for path in (self.newest, *self.older(), self.best) if os.path.lexists(path)]
        broken: list[str] = []
        self.newest_iteration = None
        for path in candidates:
            try:
                state = load_checkpoint(path)
            except BrokenCheckpoint as error:
                broken.append(str(error))
                continue
            iteration: Any = state.get("iteration")
            self._whole = path, iteration
            if path == self.newest:
                self.newest_iteration = iteration
            return state, path, broken
        if broken:
            raise BrokenCheckpoint(f"no checkpoint can be read: {'; '.join(broken)}")
        return None, self.newest, []

    def forget_after(self, iteration: int) -> None:
        """Remove older checkpoints after an iteration: a run that went back to it takes another course."""
        remove([path for number, path in self._numbered().items() if number > iteration])


def remove(checkpoints: Iterable[Path]) -> None:
    """Remove checkpoints; a warning names one that the system does not let go, such as one that is being copied."""
    for path in checkpoints:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("checkpoint %s could not be removed: %s", path, error.strerror or error)
