"""The run folder: which files a run leaves, and how each is written.

``config.toml`` re-runs the run, ``results.json`` sums it up, ``metrics.jsonl`` has a line for every evaluation,
``assignments.csv`` a row for every evaluated image, ``samples.png`` and ``reconstructions.png`` show it,
``checkpoints/last.pt`` continues it; TensorBoard's event files lie beside them. Nothing is written anywhere else.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from mpcc.core.config import RunConfig
from mpcc.core.contracts import Evaluation, ImageSet
from mpcc.core.errors import InvalidInput

__all__ = ["RunFolder"]


class RunFolder:
    """One run's files.

    Arguments:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

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
            stem = Path("runs") / f"{config.data.name}-{config.prior.name}-{now:%Y%m%d-%H%M%S}"
            path, count = stem, 1
            while path.exists():
                count += 1
                path = stem.with_name(f"{stem.name}-{count}")
        if path.exists() or path.is_symlink():
            raise InvalidInput(
                f"run folder {path} already exists: expected a new one "
                f"(continue it with --resume {path}, or choose another --out)"
            )
        parent = path.absolute().parent
        while not parent.exists() and parent != parent.parent:
            parent = parent.parent
        if not parent.is_dir():
            raise InvalidInput(f"run folder {path} cannot be made: {parent} is not a directory")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InvalidInput(f"run folder {path} cannot be made: {parent} is not writable")
        return cls(path)

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises:
            InvalidInput: If it does not exist or holds no run.
        """
        if not path.is_dir():
            raise InvalidInput(f"--resume {path}: no such run folder")
        folder = cls(path)
        for needed in (folder.config, folder.checkpoint):
            if not needed.is_file():
                raise InvalidInput(f"--resume {path}: expected a run folder with {needed.relative_to(path)}")
        return folder

    def create(self) -> None:
        """Make the folder.

        Raises:
            InvalidInput: If that fails, or another process was quicker.
        """
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            raise InvalidInput(f"run folder {self.path} cannot be made: {error.strerror}") from error

    def discard(self) -> None:
        """Remove the folder and everything in it, for a run that failed before it left anything of worth."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def config(self) -> Path:
        """The configuration that re-runs the run."""
        return self.path / "config.toml"

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "last.pt"

    @property
    def metrics(self) -> Path:
        """One line of JSON for every evaluation."""
        return self.path / "metrics.jsonl"

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.toml``."""
        write_whole(self.config, config.to_toml().encode())

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write ``results.json``."""
        write_whole(self.path / "results.json", (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def cut_metrics(self, iteration: int) -> None:
        """Remove the lines of ``metrics.jsonl`` after an iteration: they will be written again."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= iteration]
        write_whole(self.metrics, "".join(kept).encode())

    def write_assignments(self, data: ImageSet, indices: Tensor, evaluation: Evaluation) -> None:
        """Write ``assignments.csv``: index, path, cluster, confidence, and label where there are labels."""
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        labelled = evaluation.labels is not None
        table.writerow(["index", "path", "cluster", "confidence", *(["label"] if labelled else [])])
        confidence = evaluation.posterior.max(dim=1).values.tolist()
        labels = evaluation.labels.tolist() if evaluation.labels is not None else []
        for row, (index, cluster) in enumerate(zip(indices.tolist(), evaluation.assignments.tolist(), strict=True)):
            path = data.paths[index] if data.paths else ""
            label: list[Any] = []
            if labelled:
                label = [data.class_names[labels[row]] if data.class_names else labels[row]]
            table.writerow([index, path, cluster, f"{confidence[row]:.6f}", *label])
        # File names need not be valid text; what isn't is written as the bytes that it was.
        write_whole(self.path / "assignments.csv", text.getvalue().encode("utf-8", "surrogateescape"))

    def write_picture(self, name: str, picture: Tensor) -> None:
        """Write a picture, uint8, shape (3, height, width), as PNG."""
        content = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(content, "PNG")
        write_whole(self.path / f"{name}.png", content.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that readers never see half of it."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
