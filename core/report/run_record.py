"""What the folder of a run, or of an evaluation, says: the only source of a report.

The files are read without torch and without the run's plugins, which need not be installed.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from mpcc.core.errors import InvalidInput
from mpcc.core.storage.cluster_images import IMAGES_FILE, ClusterImages, read_cluster_images
from mpcc.core.storage.cluster_names import read_names

__all__ = ["Confusion", "Evaluated", "RunRecord", "read_record"]


@attrs.frozen(eq=False)
class Evaluated:
    """The evaluated images, N of them, in the order of ``assignments.csv``.

    Attributes:
        numbers: The number of each image in its data set.
        clusters: The cluster of each, shape (N,).
        confidences: The posterior of that cluster, shape (N,).
        labels: The name of each image's class, empty if it has none; empty without labels.
        latents: The encoder's location of z, float32, shape (N, J); None if the folder has none that fit.
        posterior: q(y|x), float32, shape (N, K); None if the folder has none that fit.
    """

    numbers: tuple[int, ...]
    clusters: NDArray[np.int64]
    confidences: NDArray[np.float64]
    labels: tuple[str, ...]
    latents: NDArray[np.float32] | None
    posterior: NDArray[np.float32] | None


@attrs.frozen(eq=False)
class Confusion:
    """Images of each class in each cluster.

    Attributes:
        classes: The names of the C rows.
        counts: Shape (C, K).
        matched: The cluster that each class is matched with one-to-one, or None.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    matched: tuple[int | None, ...]


@attrs.frozen(eq=False)
class RunRecord:
    """Everything that a report says.

    Attributes:
        folder: The folder of the run, or of an evaluation of it.
        run: The folder of the run.
        config: The text of its ``config.toml``; empty if it is gone.
        settings: The same as tables.
        results: The contents of ``results.json``.
        evaluations: The lines of ``metrics.jsonl``, an object for each evaluation.
        images: Small images by cluster; None in the folder of an earlier version.
        evaluated: The evaluated images.
        confusion: None without labels.
        names: Those that the user gave to clusters, by number.
        complaint: Why ``names.toml`` could not be used, or nothing.
    """

    folder: Path
    run: Path
    config: str
    settings: Mapping[str, Mapping[str, Any]]
    results: Mapping[str, Any]
    evaluations: tuple[Mapping[str, Any], ...]
    images: Mapping[int, ClusterImages] | None
    evaluated: Evaluated
    confusion: Confusion | None
    names: Mapping[int, str]
    complaint: str = ""

    @property
    def clusters(self) -> int:
        """K."""
        return len(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Evaluated images in each cluster."""
        sizes: list[int] = self.results["clusters"]["sizes"]
        return sizes

    def alike(self, cluster: int) -> list[int]:
        """Return the clusters that the user gave the name of this one, with itself; only itself without a name."""
        name = self.names.get(cluster)
        return [cluster] if name is None else [each for each, other in self.names.items() if other == name]

    def named(self, cluster: int) -> str:
        """Return a cluster's number and, if it has one, its name."""
        name = self.names.get(cluster)
        return f"cluster {cluster}" if name is None else f"cluster {cluster}: {name}"


def read_record(folder: Path, *, lenient: bool = False) -> RunRecord:
    """Read the folder of a run, or one that ``mpcc evaluate`` has written.

    Arguments:
        folder: The folder.
        lenient: Whether an invalid ``names.toml`` only becomes a part of the report.

    Raises:
        InvalidInput: If the folder has no evaluation, a file in it is damaged, or ``names.toml`` is not valid.
    """
    path = folder / "results.json"
    try:
        results = json.loads(path.read_bytes())
        clusters = len(results["clusters"]["sizes"])
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{folder}: this folder has no results.json: expected the folder of a run that has been evaluated, or of "
            "mpcc evaluate"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is damaged: {error!r}") from error
    run = folder if (folder / "config.toml").exists() else Path(results.get("run", folder))
    complaint, names = "", {}
    try:
        names = read_names(run, clusters)
    except InvalidInput as error:
        if not lenient:
            raise
        complaint = str(error)
    config, settings = read_config(run / "config.toml")
    try:
        return RunRecord(
            folder,
            run,
            config,
            settings,
            results,
            read_evaluations(folder / "metrics.jsonl"),
            read_cluster_images(folder / IMAGES_FILE),
            read_evaluated(folder),
            read_confusion(folder / "confusion.csv"),
            names,
            complaint,
        )
    except FileNotFoundError as error:
        raise InvalidInput(f"{error.filename} is missing: mpcc evaluate writes all files anew") from error
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise InvalidInput(f"{folder}: a file of the evaluation is damaged: {error!r}") from error


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the text of a configuration and its tables; both are empty if it is gone.

    Raises:
        InvalidInput: If it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        return "", {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is damaged: {error}") from error


def read_evaluations(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the lines of ``metrics.jsonl``; an evaluation of ``mpcc evaluate`` has no such file."""
    if not path.exists():
        return ()
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def read_evaluated(folder: Path) -> Evaluated:
    """Return what ``assignments.csv`` and ``latents.npy`` say."""
    with (folder / "assignments.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        place = {name: column for column, name in enumerate(next(rows))}
        columns = list(zip(*rows, strict=True))
    numbers = tuple(map(int, columns[place["index"]]))
    labels = columns[place["label"]] if "label" in place else ()
    return Evaluated(
        numbers,
        np.array(columns[place["cluster"]]).astype(np.int64),
        np.array(columns[place["confidence"]]).astype(np.float64),
        labels,
        read_rows(folder / "latents.npy", len(numbers)),
        read_rows(folder / "posterior.npy", len(numbers)),
    )


def read_rows(path: Path, count: int) -> NDArray[np.float32] | None:
    """Return an array with a row for each image; None if there is no such file, or it has other rows."""
    if not path.exists():
        return None
    rows: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows if rows.ndim == 2 and len(rows) == count else None


def read_confusion(path: Path) -> Confusion | None:
    """Return what ``confusion.csv`` says; None if there is none."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        _, *rows = csv.reader(file)
    return Confusion(
        tuple(row[0] for row in rows),
        np.array([row[1:-1] for row in rows]).astype(np.int64),
        tuple(int(row[-1]) if row[-1] else None for row in rows),
    )
