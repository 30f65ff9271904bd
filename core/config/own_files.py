"""A user's own files: a path chooses the data set that reads it, as ``--data.path my-images`` or ``--data my-images``.

Two data sets read such files, one a folder and one a file; ``registry.toml`` names them.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.config import options
from mpcc.core.config.layers import Layer, flag
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry

__all__ = ["check_path_wanted", "check_reader", "reader_of", "with_readers"]


def with_readers(registry: Registry, layers: Sequence[Layer]) -> tuple[list[Layer], list[str]]:
    """Find the data set for each path of the user's own files that has none.

    A name that no data set has, but a folder or a file, stands for this folder or file. A path without a name belongs
    to the data set of the layers below. If that set reads no path, the path chooses the set.

    Arguments:
        registry: Knows the data sets.
        layers: Values of the user; a later one overrides an earlier one.

    Returns:
        The layers with these data sets, and a line about each.

    Raises:
        InvalidInput: If a name looks like a path and there is nothing.
    """
    chosen, result, told = registry.defaults["data"], [], []
    last = max((index for index, layer in enumerate(layers) if layer.tables.get("data", {}).get("name")), default=-1)
    for index, layer in enumerate(layers):
        table = layer.tables.get("data", {})
        name, path = table.get("name"), table.get("path")
        if name and not path and stands_for_files(registry, layer, name):
            table = {**table, "name": reader_of(registry, Path(name)), "path": name}
            told.append(f"{layer.spelled('data', 'name')} {name}: taken as {flag('data', 'name')} {table['name']}")
        elif (
            path and not name and is_path(path) and layer.strict and last < index and not reads_paths(registry, chosen)
        ):
            table = {**table, "name": reader_of(registry, Path(path))}
            told.append(f"{layer.spelled('data', 'path')} {path}: taken as {flag('data', 'name')} {table['name']}")
        chosen = table.get("name") or chosen
        result.append(attrs.evolve(layer, tables={**layer.tables, "data": table}) if table else layer)
    return result, told


def reader_of(registry: Registry, path: Path) -> str:
    """Return the name of the data set that reads a folder or a file; for a path that leads nowhere, by its ending."""
    folder = is_folder(path)
    file = path.suffix != "" if folder is None else not folder
    return registry.defaults["data_file" if file and not is_picture(path) else "data_folder"]


def check_reader(registry: Registry, name: str, path: Path | None, where: str) -> None:
    """Refuse a file for the data set of folders, and a folder for that of files, with the choice that is meant.

    Arguments:
        registry: Names the two data sets.
        name: The chosen data set.
        path: The value of its option ``path``.
        where: The user's name for the option.

    Raises:
        InvalidInput: If they do not fit.
    """
    of_folders = name == registry.defaults["data_folder"]
    folder = None if path is None else is_folder(path)
    if path is None or folder is None or not (of_folders or name == registry.defaults["data_file"]):
        return
    option = flag("data", "path")
    if of_folders and not folder and is_picture(path):
        nearest = f"{option} {path.parent}"
        raise InvalidInput(
            f"{where} {path} is one picture: expected a folder of pictures (nearest valid choice: {nearest})"
        )
    if folder != of_folders:
        kind = "folder" if folder else "file"
        expected = "a folder of pictures" if of_folders else "a file of arrays"
        other = f"{flag('data', 'name')} {reader_of(registry, path)} {option} {path}"
        raise InvalidInput(f"{where} {path} is a {kind}: expected {expected} (to read a {kind}: {other})")


def check_path_wanted(registry: Registry, described: str, layers: Sequence[Layer]) -> None:
    """Refuse a path for a data set that reads none.

    Arguments:
        registry: Names the data sets that read a path.
        described: The data set, for errors.
        layers: Values of the user.

    Raises:
        InvalidInput: With the data set that reads the path.
    """
    for layer in layers:
        path = layer.tables.get("data", {}).get("path")
        if layer.strict and path is not None and is_path(path):
            nearest = f"{flag('data', 'name')} {reader_of(registry, Path(path))} {flag('data', 'path')} {path}"
            where = layer.spelled("data", "path")
            raise InvalidInput(f"{where} {path}: {described} has no such option (nearest valid choice: {nearest})")


def is_path(value: Any) -> bool:
    """Return whether a value can be a path."""
    return isinstance(value, str | Path) and "\0" not in str(value)


def is_folder(path: Path) -> bool | None:
    """Return whether a path leads to a folder or to a file; None if it leads nowhere or cannot be followed."""
    try:
        mode = path.expanduser().stat().st_mode
    except (OSError, RuntimeError):
        return None
    return stat.S_ISDIR(mode)


def stands_for_files(registry: Registry, layer: Layer, name: Any) -> bool:
    """Return whether the name of a data set, which does not exist, is the path of a folder or a file.

    Raises:
        InvalidInput: If it looks like a path or like no data set, and there is nothing.
    """
    if not is_path(name) or registry.entries["dataset"].get(str(name)):
        return False
    path, spelled_as_path = Path(name), os.sep in str(name) or str(name).startswith(("~", "."))
    if is_folder(path) is not None and (spelled_as_path or layer.origin == "flag"):
        return True
    sets = registry.names("dataset")
    if not spelled_as_path and (
        layer.origin != "flag" or registry.broken or difflib.get_close_matches(str(name), sets, n=1, cutoff=0.5)
    ):
        # In a file it is the name of a data set that is missing, even beside a folder of that name. So it is where a
        # plugin has failed, or the name of a data set is near.
        return False
    try:
        beside = [entry.name for entry in path.expanduser().parent.iterdir()]
    except (OSError, RuntimeError):
        beside = []
    close = difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6)
    near = f": did you mean {str(path.with_name(close[0]))!r}? (" if close else " ("
    known = ", ".join(sorted(sets))
    raise InvalidInput(
        f"{layer.spelled('data', 'name')} {str(name)!r}: no such folder or file{near}"
        f"expected the path of your own images, or one of {known})"
    )


def reads_paths(registry: Registry, name: Any) -> bool:
    """Return whether a data set has the option ``path``; so says the error of one that does not exist."""
    claims = registry.entries["dataset"].get(str(name), ())
    return len(claims) != 1 or "path" in options.fields(claims[0].options_class())


def is_picture(path: Path) -> bool:
    """Return whether a file name has an ending of pictures, as Pillow knows them."""
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    return Image.MIME.get(kind, "").startswith("image/")
