"""Names that a user gives to clusters, in the file ``names.toml`` of a run folder.

The file has one table, with a line for each cluster that has a name::

    [names]
    3 = "sevens"
    5 = "round shapes"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.system.file_names import printable
from mpcc.core.system.toml_file import read_toml

__all__ = ["NAMES_FILE", "read_names"]

NAMES_FILE = "names.toml"
TABLE = "names"
# Letters of a name, so that it fits into a heading and into the name of a folder.
LONGEST = 80


def read_names(run: Path, clusters: int) -> dict[int, str]:
    """Return the names of clusters by number; empty if the run folder has no ``names.toml``.

    Two clusters may have the same name: a group can be split in two. Sorted images of both are in one folder.

    Arguments:
        run: The run folder.
        clusters: K.

    Raises:
        InvalidInput: If the file cannot be read, or a key or a name in it is not valid.
    """
    path = run / NAMES_FILE
    told = printable(str(path))
    if not path.exists():
        return {}
    tables, _ = read_toml(path, told)
    for name, value in tables.items():
        if name != TABLE and not isinstance(value, dict):
            raise InvalidInput(
                f"{told}: {printable(name)!r} stands outside of a table: expected it below a line [names]"
            )
        if name != TABLE:
            raise InvalidInput(f"{told}: {unknown_name('table', printable(name), [TABLE])}")
    table = tables.get(TABLE, {})
    if not isinstance(table, dict):
        raise InvalidInput(f'{told}: names is {table!r}: expected a table [names] with lines such as 3 = "sevens"')
    return checked(table, clusters, told)


def checked(table: Mapping[str, Any], clusters: int, told: str) -> dict[int, str]:
    """Return the names of a table by number, in the order of the numbers.

    Arguments:
        table: From cluster numbers, as text, to names.
        clusters: K.
        told: What the file is called in errors.

    Raises:
        InvalidInput: If a key or a name is not valid.

    Example:
        >>> checked({"3": "sevens", "0": "ones"}, 10, "names.toml")
        {0: 'ones', 3: 'sevens'}
    """
    names: dict[int, str] = {}
    for key, name in table.items():
        number = int(key) if re.fullmatch(r"[0-9]{1,9}", key) else -1
        if not 0 <= number < clusters:
            raise InvalidInput(
                f"{told}: unknown cluster {printable(key)!r}: expected a number from 0 to {clusters - 1} "
                f"(nearest valid choice: {nearest(key, clusters)})"
            )
        if number in names:
            raise InvalidInput(f"{told}: cluster {number} has two names: expected one line for each cluster")
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > LONGEST:
            problem = f"{name!r}" if not isinstance(name, str) or len(name) <= LONGEST else f"{len(name)} letters"
            raise InvalidInput(
                f"{told}: the name of cluster {number} is {problem}: expected a text of 1 to {LONGEST} letters on one "
                f'line, such as {number} = "sevens"'
            )
        names[number] = name.strip()
    return dict(sorted(names.items()))


def nearest(key: str, clusters: int) -> int:
    """Return the cluster that a wrong key may mean.

    Example:
        >>> nearest("cluster-3", 10), nearest("10", 10), nearest("sevens", 10)
        (3, 9, 0)
    """
    digits = re.search(r"[0-9]{1,9}", key)
    return min(int(digits[0]), clusters - 1) if digits and not key.startswith("-") else 0
