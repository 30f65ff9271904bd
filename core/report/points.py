"""The points of TensorBoard's page Projector once more: with names of clusters, and as a table with small images.

Both are made from the files in ``projector/`` alone, without torch and without the run's images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpcc.core.errors import InvalidInput
from mpcc.core.report.charts import in_the_plane
from mpcc.core.system.whole_files import whole_file, write_whole

__all__ = ["name_points", "write_points"]

FOLDER, METADATA, LATENTS, IMAGES = "projector", "metadata.tsv", "latents.tsv", "images.png"


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Return what is known of each point.

    Raises:
        InvalidInput: If the file is damaged.
        FileNotFoundError: If the folder has no points.
    """
    path = folder / FOLDER / METADATA
    try:
        text = path.read_text(encoding="utf-8")
        rows = [{**row} for row in csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)]
        for row in rows:
            int(row["index"]), int(row["cluster"]), float(row["confidence"])
            if None in row or None in row.values():
                raise ValueError("a row has too many or too few values")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InvalidInput(f"{path} is damaged: expected a row for each point ({error})") from error
    if not rows:
        raise InvalidInput(f"{path} is damaged: it has no rows")
    return rows


def name_points(folder: Path, names: Mapping[int, str]) -> None:
    """Give the points the names of their clusters: write a column ``name`` into ``projector/metadata.tsv``.

    Nothing happens if the folder has no points, or if no cluster has or had a name.

    Arguments:
        folder: The run folder.
        names: Of clusters, by number.

    Raises:
        InvalidInput: If the file is damaged.
        OSError: If it cannot be written.
    """
    try:
        rows = read_rows(folder)
    except FileNotFoundError:
        return
    if not names and "name" not in rows[0]:
        return
    columns = [column for column in rows[0] if column != "name"]
    if names:
        columns.insert(columns.index("cluster") + 1, "name")
        for row in rows:
            row["name"] = names.get(int(row["cluster"]), row["cluster"])
    lines = ["\t".join(columns), *("\t".join(row[column] for column in columns) for row in rows)]
    write_whole(folder / FOLDER / METADATA, "".join(f"{line}\n" for line in lines).encode())


def write_points(folder: Path, path: Path, names: Mapping[int, str]) -> int:
    """Write the points as a Parquet table with small images, such as embedding-atlas shows; return their number.

    Its columns are ``index``, ``cluster``, ``name``, ``confidence``, ``label`` where there are labels, ``x`` and ``y``
    (the two directions in which z varies most) and ``image``, a PNG in the form that Hugging Face's datasets use.

    Arguments:
        folder: The run folder.
        path: The new file.
        names: Of clusters, by number; a cluster without a name is called by its number.

    Raises:
        InvalidInput: If the run has not ended, so that it has no points, or a file of it is damaged.
        OSError: If the file cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        rows = read_rows(folder)
        z = np.loadtxt(folder / FOLDER / LATENTS, delimiter="\t", ndmin=2)
        sheet = np.asarray(Image.open(folder / FOLDER / IMAGES))
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{folder} has no points ({FOLDER}/): they are written at the end of a run: expected a run that has ended"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder / FOLDER} is damaged: {error}") from error
    across = int(np.ceil(np.sqrt(len(rows))))
    side = sheet.shape[0] // across
    if len(z) != len(rows) or not side:
        raise InvalidInput(f"{folder / FOLDER} is damaged: its files are not about the same points")
    placed = in_the_plane(z)
    places = np.zeros((len(rows), 2)) if placed is None else placed[0]
    columns: dict[str, Any] = {
        "index": pyarrow.array([int(row["index"]) for row in rows], pyarrow.int64()),
        "cluster": pyarrow.array([int(row["cluster"]) for row in rows], pyarrow.int64()),
        "name": [names.get(int(row["cluster"]), f"cluster {row['cluster']}") for row in rows],
        "confidence": pyarrow.array([float(row["confidence"]) for row in rows], pyarrow.float32()),
    }
    if "label" in rows[0]:
        columns["label"] = [row["label"] or None for row in rows]
    columns |= {axis: pyarrow.array(places[:, place], pyarrow.float32()) for place, axis in enumerate("xy")}
    images = []
    for number in range(len(rows)):
        top, left = number // across * side, number % across * side
        content = io.BytesIO()
        Image.fromarray(sheet[top : top + side, left : left + side]).save(content, "PNG")
        images.append({"bytes": content.getvalue(), "path": None})
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns["image"] = pyarrow.array(images, kind)
    with whole_file(path) as file:
        parquet.write_table(pyarrow.table(columns), file)
    return len(rows)
