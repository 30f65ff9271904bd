"""Labels in tables of text: .csv, .tsv and .txt, with or without a header."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.array_reading.files import Array
from mpcc.plugins.datasets.array_reading.sets import LABELS_KEY
from mpcc.plugins.datasets.sources import similar_file

__all__ = ["TABLES", "read_label_table"]

TABLES = (".csv", ".tsv", ".txt")

_USUAL = ("label", "labels", "class", "target", "y", "category")
_SEPARATORS = ",;\t|"
_LARGEST_TABLE = 2**28  # bytes


def read_label_table(path: Path, column: str | None, count: int) -> tuple[Array, str]:
    """Read the labels of images from a table, a row an image, in the order of the images.

    A first row that is one too many is the header. Rows without any text at the end are left out.

    Arguments:
        path: The file, in UTF-8, or UTF-16 with a mark. Commas, semicolons, tabs, bars or blanks separate columns.
        column: The name of a column, or its number from 0. None if there is only one, or one called ``label``,
            ``class``, ``target`` or ``y``, or if the columns are one-hot.
        count: N.

    Returns:
        Texts, shape (N,), and the name of their column; or of one-hot columns, numbers of shape (N, K), and "".

    Raises:
        InvalidInput: If the file is not such a table.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "labels.csv")
        ...     _ = path.write_text("file,label\\na.png,cat\\nb.png,dog\\n")
        ...     read_label_table(path, None, 2)
        (array(['cat', 'dog'], dtype=object), 'label')
    """
    rows = _rows(path)
    header, body = _without_header(path, rows, count)
    width = len(header or body[0])
    for number, row in enumerate(body):
        if len(row) != width and not (width == 1 and not row):
            raise InvalidInput(
                f"{path}: expected {width} columns in every row, got {len(row)} in row {number + bool(header)} "
                f"(counted from 0)"
            )
    chosen = _column(path, header, width, column)
    if chosen is None:
        one_hot = _one_hot(body)
        if one_hot is not None:
            return one_hot, ""
        columns = header or [f"{number} ({text})" for number, text in enumerate(body[0])]
        raise InvalidInput(
            f"{path}: expected one column of labels, got {width}: {printable(', '.join(columns[:8]))}; "
            f"pass {LABELS_KEY} with the name of a column or its number from 0"
        )
    values = np.empty(count, dtype=object)
    values[:] = [row[chosen].strip() if row else "" for row in body]
    return values, header[chosen] if header else ""


def _rows(path: Path) -> list[list[str]]:
    """Return the cells of a table."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise InvalidInput(f"{path} {what}: expected a table of labels{similar_file(path, TABLES)}")
    if path.stat().st_size > _LARGEST_TABLE:
        raise InvalidInput(f"{path}: expected a table of at most {_LARGEST_TABLE} bytes, got {path.stat().st_size}")
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
        if "\0" in text:
            raise ValueError("it has null characters")
        first = text.split("\n", 1)[0]
        # Any separator in the first line; the first of them that is there.
        separator = next((mark for mark in _SEPARATORS if mark in first), None)
        if separator is None and path.suffix.lower() == ".txt":
            return [line.split() for line in text.splitlines()]
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator or ",", skipinitialspace=True))
    except (ValueError, csv.Error) as error:
        raise InvalidInput(
            f"{path}: expected a table of text in UTF-8 ({' '.join(str(error).split())[:200]})"
        ) from error


def _without_header(path: Path, rows: list[list[str]], count: int) -> tuple[list[str], list[list[str]]]:
    """Return the header, if there is one, and as many rows as there are images."""
    while rows and not any(rows[-1]) and len(rows) > count + 1:
        rows = rows[:-1]
    for candidate in (rows, [row for row in rows if any(row)]):
        if len(candidate) == count and (count == 0 or any(candidate[0])):
            return [], candidate
        if len(candidate) == count + 1 and any(candidate[0]):
            if not any(candidate[-1]) and len([row for row in rows if any(row)]) == count:
                continue  # an empty line at the end, no header
            return [" ".join(cell.split()) for cell in candidate[0]], candidate[1:]
    found = sum(any(row) for row in rows)
    raise InvalidInput(
        f"{path}: expected a row of labels for each of {count} images, in their order, with or without a header, "
        f"got {found} rows"
    )


def _column(path: Path, header: Sequence[str], width: int, asked: str | None) -> int | None:
    """Return the number of the column of labels, or None if it is not clear."""
    if asked is not None:
        if asked in header:
            return list(header).index(asked)
        if asked.isdecimal() and int(asked) < width:
            return int(asked)
        known = [*header] or [str(number) for number in range(width)]
        raise unknown_name(f"value for {LABELS_KEY}, column of {path}:", asked, known)
    if width == 1:
        return 0
    lower = [name.lower() for name in header]
    return next((lower.index(name) for name in _USUAL if lower.count(name) == 1), None)


def _one_hot(body: Sequence[Sequence[str]]) -> Array | None:
    """Return columns of numbers of which one is 1 and the others are 0 in each row, or None."""
    try:
        numbers = np.array([[float(cell) for cell in row] for row in body])
    except ValueError:
        return None
    return numbers if ((numbers == 0) | (numbers == 1)).all() and (numbers.sum(axis=1) == 1).all() else None
