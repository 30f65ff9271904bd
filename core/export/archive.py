"""A trained run as one archive for a colleague: report, lists, pictures, model, weights, a page that explains them."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import attrs

from mpcc.core.api.loaded_run import LoadedRun
from mpcc.core.config.layers import config_layer
from mpcc.core.errors import InvalidInput
from mpcc.core.export.colleague_page import Facts, page
from mpcc.core.export.exported_run import ExportedRun
from mpcc.core.export.private_paths import PrivatePaths
from mpcc.core.registry import load_registry
from mpcc.core.report.report_page import REPORT_FILE, page_of
from mpcc.core.report.run_record import read_record
from mpcc.core.reporting.verdict import caution
from mpcc.core.storage.cluster_names import NAMES_FILE, read_names
from mpcc.core.storage.table_formats import write_rows
from mpcc.core.system.toml_file import parse_toml
from mpcc.core.system.whole_files import new_file

__all__ = ["write_archive"]

# What is packed of a run folder, if it is there, beside config.toml, results.json and the tables.
RESULTS = "results.json"
ASSIGNMENTS = "assignments.csv"
TABLES = (ASSIGNMENTS, "confusion.csv")
PICTURES = ("clusters.png", "samples.png", "interpolations.png", "reconstructions.png", "confusion.png", "kmeans.png")


def write_archive(path: Path, exported: ExportedRun) -> list[str]:
    """Write the archive; if that fails, nothing is left of it.

    Arguments:
        path: A new file.
        exported: The run, and the formats of the weights and programs in the archive.

    Returns:
        How many files it holds, then a line about each program that was compared with mpcc.

    Raises:
        InvalidInput: If the run cannot be loaded or exported, a list or a name of it cannot be read, or the file not
            written.
        OSError: If the disk refuses something else.
    """
    layer, state, run = exported.layer, exported.state, exported.run
    registry = load_registry(plugins=list(layer.plugins), registries=list(layer.registries))
    saved = config_layer(parse_toml(state["config"].encode(), f"checkpoint {exported.source}"), "the checkpoint")
    private = PrivatePaths.of(registry, layer, saved)
    config = private.config(state["config"])
    described = {name: private.plain(value) for name, value in state.items() if name != "parts"}
    loaded = LoadedRun.of(
        private.layer(layer), {**described, "parts": state["parts"], "config": config}, exported.source, "cpu"
    )
    # A wrong name would stop the predictions of the colleague.
    read_names(run, loaded.n_clusters)
    texts = lists(run, private)
    if {RESULTS, ASSIGNMENTS} <= texts.keys():
        # Without an evaluation, there is nothing to report.
        texts = {REPORT_FILE: report(run, private, registry.summaries("metric"), path.stem), **texts}
    judged = caution(run, warm="init_from" in layer.tables.get("run", {}))
    facts = Facts(
        loaded.n_clusters,
        loaded.latent_dim,
        loaded.image_shape,
        loaded.iteration,
        json.loads(texts[RESULTS]).get("iterations") if RESULTS in texts else None,
        str(state["versions"]["mpcc"]),
        [file.name for file in (*layer.plugins, *layer.registries)],
        "" if judged is None else judged.text,
    )
    # Beside the archive there is room for it.
    with TemporaryDirectory(prefix=".mpcc-", dir=path.absolute().parent) as folder, new_file(path) as file:
        made = Path(folder)
        loaded.save(made / "model")
        if NAMES_FILE in texts:
            # For predictions with the model.
            (made / "model" / NAMES_FILE).write_bytes(texts[NAMES_FILE])
        (made / "export").mkdir()
        lines = exported.write(made / "export")
        names = pack(file, path.stem, run, made, texts, facts)
    return [f"{len(names)} files", *lines[1:]]


def pack(file: IO[bytes], top: str, run: Path, made: Path, texts: Mapping[str, bytes], facts: Facts) -> list[str]:
    """Write an archive.

    Arguments:
        file: Where it goes.
        top: The folder in the archive that holds everything.
        run: The run folder, which has the pictures.
        made: A folder whose content goes into the archive as it is.
        texts: Further files by name.
        facts: What the page says of the model.

    Returns:
        The names of all files in the archive, below the folder.
    """
    pictures = [*(run / name for name in PICTURES), *sorted((run / "clusters").glob("*.png"), key=by_number)]
    files = {path.relative_to(run).as_posix(): path for path in pictures if path.is_file()}
    files |= {path.relative_to(made).as_posix(): path for path in sorted(made.rglob("*")) if path.is_file()}
    names = ["README.txt", *texts, *files]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        archive.writestr(f"{top}/README.txt", page(names, facts))
        for name, content in texts.items():
            archive.writestr(f"{top}/{name}", content)
        for name, path in files.items():
            archive.write(path, f"{top}/{name}")
    return names


def report(run: Path, private: PrivatePaths, meanings: Mapping[str, str], title: str) -> bytes:
    """Return the page of the run without paths of this machine; its links lead to pictures and lists of the archive.

    Arguments:
        run: The run folder.
        private: The paths.
        meanings: What each metric says, in a phrase, by its name.
        title: Of the page.

    Raises:
        InvalidInput: If a file of the evaluation is missing or damaged.
    """
    record = read_record(run)
    told = attrs.evolve(
        record,
        config=private.config(record.config),
        settings=private.plain(record.settings),
        results=private.plain(record.results),
    )
    return page_of(told, meanings, sent_as=title)


def by_number(path: Path) -> tuple[int, str]:
    """Return a key that sorts ``3.png`` before ``12.png``."""
    return (int(path.stem) if path.stem.isdecimal() else 0, path.name)


def lists(run: Path, private: PrivatePaths) -> dict[str, bytes]:
    """Return the texts of a run folder without paths of this machine, by name; those that are missing are left out.

    Raises:
        InvalidInput: If one cannot be read.
    """
    found = {}
    changes = {"config.toml": configuration, RESULTS: results, NAMES_FILE: unchanged, **dict.fromkeys(TABLES, table)}
    for name, change in changes.items():
        path = run / name
        if not path.is_file():
            continue
        try:
            found[name] = change(path.read_bytes(), private)
        except (ValueError, csv.Error) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"{path} is damaged: {error}") from error
    return found


def unchanged(content: bytes, private: PrivatePaths) -> bytes:
    """Return a file that holds no paths as it is."""
    return content


def configuration(content: bytes, private: PrivatePaths) -> bytes:
    """Return ``config.toml`` without paths."""
    return private.config(content.decode()).encode()


def results(content: bytes, private: PrivatePaths) -> bytes:
    """Return ``results.json`` with the last name of each path.

    Raises:
        ValueError: If it is not an object.
    """
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("expected an object")
    return (json.dumps(private.plain(found), indent=2) + "\n").encode()


def table(content: bytes, private: PrivatePaths) -> bytes:
    """Return a table with the column ``path`` relative to the folder of the images."""
    # File names need not be valid text; invalid ones keep their bytes.
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))
    column = rows[0].index("path") if rows and "path" in rows[0] else None
    if column is None:
        return content
    for row in rows[1:]:
        row[column] = private.file(row[column])
    file = io.BytesIO()
    write_rows(file, rows)
    return file.getvalue()
