"""The run folder: which files a run leaves, and how each is written.

``config.toml`` re-runs the run, ``results.json`` sums it up, ``metrics.jsonl`` has a line for every evaluation,
``assignments.csv`` and ``posterior.npy`` a row for every evaluated image, ``clusters.png``, ``clusters/``,
``samples.png``, ``interpolations.png`` and ``reconstructions.png`` show it, ``confusion.csv`` and ``confusion.png``
compare it with labels where there are any, ``clusters.npz`` has small images for ``report.html``, a page about all of
it, ``checkpoints/last.pt`` continues it; TensorBoard's event files lie beside them. Nothing is written anywhere else.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mpcc.core.config import RunConfig
from mpcc.core.errors import InvalidInput, PluginError
from mpcc.core.evaluation.findings import Findings
from mpcc.core.evaluation.inference import Prediction
from mpcc.core.evaluation.sheets import member_sheets, sheets
from mpcc.core.storage.cluster_images import IMAGES_FILE, write_cluster_images
from mpcc.core.storage.folder_lock import locked
from mpcc.core.storage.picture_files import replace_pictures, write_picture
from mpcc.core.storage.prediction_files import AssignmentTable
from mpcc.core.storage.table_formats import write_rows
from mpcc.core.system.file_names import check_length
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.plain_values import plain_value
from mpcc.core.system.resources import disk_errors
from mpcc.core.system.whole_files import free, taken, whole_file, write_whole

__all__ = ["RunFolder"]


class RunFolder:
    """One run's files.

    Arguments:
        path: The folder.
        named: Whether the user chose the path; if not, `create` may number it.

    Attributes:
        path: The folder.
        within: The folder of several runs that this one belongs to, or None.
        command: The command that goes on with the run, or with all of them.
    """

    def __init__(self, path: Path, *, named: bool = True) -> None:
        self.path = path
        self.within: Path | None = None
        self.command = "mpcc-run"
        self._named = named
        self._made: list[Path] = []
        self._kept = False

    @classmethod
    def plan(cls, out: Path | None, config: RunConfig) -> RunFolder:
        """Choose a new folder and check that it can be made, without making it.

        Arguments:
            out: The folder that the user named; by default a unique one below ``runs/``.
            config: Gives the default name.

        Raises:
            InvalidInput: If the folder exists or its parent can't be written.
        """
        path = out
        if path is None:
            now = datetime.datetime.now(tz=datetime.UTC).astimezone()
            path = Path("runs") / f"{config.data.name}-{config.prior.name}-{now:%Y%m%d-%H%M%S}"
        if out is not None:
            check_length(out, "--out")
        with disk_errors(f"run folder {path} cannot be made"):
            if out is not None and taken(path):
                is_run = (path / "config.toml").is_file()
                choice = f"continue it with --resume {path}, or choose" if is_run else "choose"
                raise InvalidInput(
                    f"run folder {path} already exists: expected a new one "
                    f"({choice} another --out, such as {free(path)})"
                )
            parent = path.absolute().parent
            while not parent.exists() and parent != parent.parent:
                parent = parent.parent
            if not parent.is_dir():
                raise InvalidInput(f"run folder {path} cannot be made: {parent} is not a directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InvalidInput(f"run folder {path} cannot be made: {parent} is not writable")
        return cls(path, named=out is not None)

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            InvalidInput: If it cannot be written.
        """
        if not os.access(path, os.W_OK | os.X_OK):
            raise InvalidInput(f"--resume {path}: expected a folder that can be written")
        folder = cls(path)
        folder.keep()
        return folder

    def create(self) -> None:
        """Make the folder.

        Raises:
            InvalidInput: If that fails, or another process was quicker.
            OutOfResources: If there is no room.
        """
        with disk_errors(f"run folder {self.path} cannot be made"):
            try:
                for parent in reversed(self.path.absolute().parents):
                    if not parent.exists():
                        parent.mkdir(exist_ok=True)
                        self._made.append(parent)
                if not self._named:
                    self.path = free(self.path)
                self.path.mkdir()
            except OSError as error:
                if isinstance(error, FileExistsError) and not self._named and self.path.is_dir():
                    # Another run of the same second has taken the name in the meantime.
                    self.create()
                    return
                self._remove_parents()
                raise

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Make the folder, to be filled in a ``with`` block; if that fails, nothing is left of it.

        Raises:
            InvalidInput: If the system refuses it, or a file in it.
            OutOfResources: If there is no room.
        """
        self.create()
        try:
            with disk_errors(f"{self.path} could not be written"):
                yield
        except BaseException:
            self.discard()
            raise

    def keep(self) -> None:
        """Keep the folder from now on, whatever happens: training begins, or has begun in an earlier process."""
        self._kept = True

    @property
    def kept(self) -> bool:
        """Whether training has begun in the folder; only the user may then delete it."""
        return self._kept

    def discard(self) -> None:
        """Remove the folder and everything in it, for a command that failed before there was anything to keep."""
        if not self._kept:
            shutil.rmtree(self.path, ignore_errors=True)
            self._remove_parents()

    def _remove_parents(self) -> None:
        """Remove the parents that were made for this run, unless others use them by now."""
        with contextlib.suppress(OSError):
            while self._made:
                self._made.pop().rmdir()

    def belongs_to(self, other: RunFolder) -> None:
        """Let what goes on with another folder go on with this one, too."""
        self.within, self.command = other.resumed_by, other.command

    @property
    def resumed_by(self) -> Path:
        """The folder that the command takes to go on."""
        return self.within or self.path

    @property
    def resume_line(self) -> str:
        """What the user types to go on."""
        return f"{self.command} --resume {quoted(self.resumed_by)}"

    @property
    def config(self) -> Path:
        """The configuration that re-runs the run."""
        return self.path / "config.toml"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing into the folder, for the length of a ``with`` block.

        Raises:
            InvalidInput: If another run uses the folder.
            OutOfResources: If there is no room for the file.
        """
        with contextlib.ExitStack() as held:
            with disk_errors(f"{self.path} could not be written"):
                held.enter_context(locked(self.path))
            yield

    @property
    def results(self) -> Path:
        """The summary of the run so far."""
        return self.path / "results.json"

    @property
    def metrics(self) -> Path:
        """One line of JSON for every evaluation."""
        return self.path / "metrics.jsonl"

    def to_look_at(self) -> str:
        """Return in words which files a person opens first."""
        return f"report.html, clusters.png and assignments.csv in {quoted(self.path)}"

    def write_config(self, config: RunConfig, comment: str = "") -> None:
        """Write ``config.toml``, below a comment of one line, if there is one."""
        write_whole(self.config, (f"# {comment}\n" * bool(comment) + config.to_toml()).encode())

    def copy_config(self, source: Path) -> None:
        """Write a copy of another run's ``config.toml``."""
        write_whole(self.config, source.read_bytes())

    def write_skipped(self, lines: Sequence[str]) -> None:
        """Write ``skipped.txt``: a line for each image that could not be read and was left out."""
        # File names need not be valid text; invalid ones keep their bytes.
        write_whole(
            self.path / "skipped.txt", "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        )

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write ``results.json``.

        Raises:
            PluginError: If JSON cannot hold a value; each value that is not plain comes from a plugin.
        """
        try:
            plain = plain_value(results, self.results.name)
        except ValueError as error:
            raise PluginError(str(error)) from error
        write_whole(self.results, (json.dumps(plain, indent=2, allow_nan=False) + "\n").encode())

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``.

        Raises:
            OSError: If it cannot be written; the file is as it was.
        """
        size = self.metrics.stat().st_size if self.metrics.exists() else 0
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError:
            # The next line would be added to a part of this one.
            with contextlib.suppress(OSError):
                os.truncate(self.metrics, size)
            raise

    def cut_metrics(self, iteration: int) -> None:
        """Remove the lines of ``metrics.jsonl`` after an iteration: they will be written again."""
        if not self.metrics.exists():
            return
        try:
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= iteration]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{self.metrics} is damaged: expected one JSON object with an iteration on each line ({error})"
            ) from error
        write_whole(self.metrics, "".join(kept).encode())

    def write_findings(self, findings: Findings) -> None:
        """Write the pictures and tables of an evaluation; each file is replaced as a whole."""
        self.write_pictures(findings)
        with whole_file(self.path / "assignments.csv") as file:
            table = AssignmentTable(file, findings.data, paths=True)
            prediction = Prediction(findings.evaluation.locations, findings.evaluation.posterior)
            table.write(prediction, findings.indices, findings.images.known_errors())
        self.write_array("posterior", findings.evaluation.posterior)
        self.write_array("latents", findings.evaluation.locations)
        if findings.confusion is not None:
            self.write_table("confusion", findings.confusion.rows())
        write_cluster_images(self.path / IMAGES_FILE, findings)

    def write_pictures(self, findings: Findings) -> None:
        """Write the sheets, and a picture of each cluster that is shown into ``clusters/``."""
        for name, picture in sheets(findings):
            write_picture(self.path / f"{name}.png", picture)
        shown = findings.shown
        replace_pictures(self.path / "clusters", shown.clusters, shown.numbers, member_sheets(findings))

    def write_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Write a table as CSV, its header first."""
        with whole_file(self.path / f"{name}.csv") as file:
            write_rows(file, rows)

    def write_weights(self, part: str, content: bytes) -> None:
        """Write ``<part>.safetensors``."""
        write_whole(self.path / f"{part}.safetensors", content)

    def write_array(self, name: str, rows: Tensor) -> None:
        """Write ``<name>.npy``, float32, with the rows of ``assignments.csv``: of q(y|x) or of the locations of z."""
        content = io.BytesIO()
        np.save(content, rows.float().numpy(), allow_pickle=False)
        write_whole(self.path / f"{name}.npy", content.getvalue())
