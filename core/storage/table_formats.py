"""Formats of tables that are written row by row: CSV, JSON lines, Parquet. The ending of the file's name chooses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from mpcc.core.errors import InvalidInput

__all__ = ["FORMATS", "CsvRows", "JsonRows", "ParquetRows", "Rows", "RowsClass", "check_format", "write_rows"]

# How numbers that are not whole are written as text.
DIGITS = {"confidence": ".6f", "reconstruction_error": ".6g"}
# Rows that Parquet keeps together; more take memory, fewer make reading slow.
GROUP = 2**16

Columns = Mapping[str, Sequence[Any]]


class Rows(Protocol):
    """A table to which rows are added."""

    def write(self, columns: Columns) -> None:
        """Add rows, given by column; None is a value that is not known."""

    def close(self) -> None:
        """Write what is still missing; the file stays open."""


class RowsClass(Protocol):
    """Makes a table."""

    def __call__(self, file: IO[bytes], types: Mapping[str, type]) -> Rows:
        """Make a table with columns of these types: int, float or str."""


class CsvRows:
    """CSV with a header. File names need not be valid text; invalid ones keep their bytes."""

    def __init__(self, file: IO[bytes], types: Mapping[str, type]) -> None:
        self._file = file
        write_rows(file, [list(types)])

    def write(self, columns: Columns) -> None:
        """Add rows; a value that is not known is empty."""
        texts = [as_text(name, values) for name, values in columns.items()]
        write_rows(self._file, zip(*texts, strict=True))

    def close(self) -> None:
        """Do nothing more."""


class JsonRows:
    r"""JSON lines: an object for each row. Bytes of a file name that are not UTF-8 are escaped, as ``\udcXX``."""

    def __init__(self, file: IO[bytes], types: Mapping[str, type]) -> None:
        self._file = file

    def write(self, columns: Columns) -> None:
        """Add rows; a value that is not known is null, and numbers have the digits that they have in CSV."""
        rounded = [
            [float(text) for text in as_text(name, values)] if name in DIGITS else values
            for name, values in columns.items()
        ]
        for row in zip(*rounded, strict=True):
            line = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, allow_nan=False)
            self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def close(self) -> None:
        """Do nothing more."""


class ParquetRows:
    """Parquet, written by pyarrow: whole numbers of 64 bits, other numbers of 32 bits, texts."""

    def __init__(self, file: IO[bytes], types: Mapping[str, type]) -> None:
        import pyarrow
        from pyarrow import parquet

        kinds = {int: pyarrow.int64(), float: pyarrow.float32(), str: pyarrow.string()}
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in types.items()])
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._waiting: dict[str, list[Any]] = {name: [] for name in types}

    def write(self, columns: Columns) -> None:
        """Add rows; a value that is not known is null."""
        for name, values in columns.items():
            self._waiting[name] += [valid_text(value) if isinstance(value, str) else value for value in values]
        if len(next(iter(self._waiting.values()))) >= GROUP:
            self._write_waiting()

    def close(self) -> None:
        """Write the last rows and the end of the file."""
        self._write_waiting()
        self._writer.close()

    def _write_waiting(self) -> None:
        import pyarrow

        if any(self._waiting.values()):
            self._writer.write_table(pyarrow.Table.from_pydict(self._waiting, schema=self._schema))
        self._waiting = {name: [] for name in self._waiting}


# The formats by the ending of the file's name.
FORMATS: Mapping[str, RowsClass] = {".csv": CsvRows, ".jsonl": JsonRows, ".parquet": ParquetRows}


def check_format(path: Path, flag: str) -> None:
    """Check that the ending of a table's name is that of a format, and that the format can be written here.

    Arguments:
        path: The table.
        flag: The flag that names it, for errors.

    Raises:
        InvalidInput: If it is not, or pyarrow is missing.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        got = f"a name that ends in {ending}" if ending else "a name without an ending"
        nearest = f"nearest valid choice: {flag} {path.with_suffix('.csv') if path.name else 'table.csv'}"
        raise InvalidInput(f"{flag} {path}: expected a name that ends in {', '.join(FORMATS)}, got {got} ({nearest})")
    if FORMATS[ending] is ParquetRows:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise InvalidInput(
                f"{flag} {path}: a Parquet file needs pyarrow, which is not installed: pip install "
                f'"mpcc[parquet]" (nearest valid choice: {flag} {path.with_suffix(".csv")})'
            ) from error


def write_rows(file: IO[bytes], rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of a CSV table."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    # File names need not be valid text; invalid ones keep their bytes.
    file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def as_text(name: str, values: Sequence[Any]) -> Sequence[Any]:
    """Return the numbers of a column with the digits of that column; other columns as they are."""
    return [format(value, DIGITS[name]) for value in values] if name in DIGITS else values


def valid_text(text: str) -> str:
    """Return a text with its bytes that are not UTF-8 escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
