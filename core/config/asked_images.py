"""The images that a prediction is asked for, and how they are converted: with the options of the run's data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs

from mpcc.core.config import options
from mpcc.core.config.config import RunConfig, resolve
from mpcc.core.config.inputs import Inputs, find_inputs, table_named_after
from mpcc.core.config.layers import Layer, environment_layer, flag
from mpcc.core.config.locations import locations, there
from mpcc.core.config.own_files import with_readers
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry
from mpcc.core.system.file_names import path_of
from mpcc.core.system.whole_files import free

__all__ = ["AskedImages", "are_own", "asked_by_flags", "asked_by_paths", "conversion", "standard_input"]

Tables = Mapping[str, Mapping[str, Any]]


@attrs.frozen
class AskedImages:
    """Images to be predicted or evaluated.

    Attributes:
        config: The run's configuration with the data set that reads them; of several, the first.
        groups: Data sets and the inputs that each reads, in order; empty if the data set reads what its options name.
        table: Where their table goes if the user does not say.
        own: Whether they are the run's own images.
        told: Lines for the user.
    """

    config: RunConfig
    groups: Sequence[tuple[RunConfig, Inputs]]
    table: Path
    own: bool
    told: Sequence[str] = ()


def asked_by_flags(registry: Registry, run: Path, layer: Layer, tables: Tables) -> AskedImages:
    """Return the images of the run, or those of ``--data`` and ``--data.OPTION``.

    Arguments:
        registry: Knows the data sets.
        run: The run folder.
        layer: The run's configuration.
        tables: Values of flags by section and name.

    Raises:
        InvalidInput: If a name or a value is not valid.
    """
    given = tables.get("data", {})
    (_, asked), told = with_readers(registry, [layer, Layer("flag", {"data": given})])
    data = dict(asked.tables["data"])
    named = "name" in given and data["name"] == given["name"]
    kept = inherited(registry, layer, data, from_defaults=named) if data else layer.tables.get("data", {})
    config = resolved(registry, layer, {**tables, "data": data}, kept)
    own = are_own(registry, layer, given)
    path = getattr(config.data.options, "path", None) if "path" in data else None
    elsewhere = table_named_after([path]) if path else free(Path(f"predictions-{config.data.name}.csv"), ".csv")
    return AskedImages(config, [], run / "predictions.csv" if own else elsewhere, own, told)


def standard_input() -> IO[bytes]:
    """Return standard input.

    Raises:
        InvalidInput: If it is closed.
    """
    if sys.stdin is None:
        raise InvalidInput("PATH -: standard input is closed: expected a list with a path on each line")
    return sys.stdin.buffer


def asked_by_paths(
    registry: Registry,
    layer: Layer,
    tables: Tables,
    words: Sequence[Path],
    listed: Callable[[], IO[bytes]] = standard_input,
) -> AskedImages:
    """Return the images at paths.

    Arguments:
        registry: Names the data sets that read them.
        layer: The run's configuration.
        tables: Values of flags by section and name. An option holds for each reader that has it.
        words: Paths, patterns, or ``-`` for a list on standard input.
        listed: Opens that list.

    Raises:
        InvalidInput: If there is nothing at a path, or a flag names other images.
    """
    given = tables.get("data", {})
    for name in ("name", "path"):
        if name in given:
            raise InvalidInput(
                f"PATH {words[0]} and {flag('data', name)} {given[name]} both name images: expected one of them"
            )
    found = find_inputs(registry, words, listed)
    readers = {reader: registry.entry("dataset", reader).options_class() for reader in {each.reader for each in found}}
    known = {name for cls in readers.values() for name in options.fields(cls)}
    configs = {}
    for reader, cls in readers.items():
        # A name that no reader has is told by the error of the first.
        flags = {name: value for name, value in given.items() if name in options.fields(cls) or name not in known}
        kept = shared(registry, layer.tables.get("data", {}), reader, cls)
        configs[reader] = resolved(registry, layer, {**tables, "data": flags}, {"name": reader, **kept})
    groups = [(configs[each.reader], each) for each in found]
    return AskedImages(groups[0][0], groups, table_named_after(words), own=False)


def resolved(registry: Registry, layer: Layer, tables: Tables, data: Mapping[str, Any]) -> RunConfig:
    """Return the run's configuration with another data set and with flags."""
    own = attrs.evolve(layer, tables={**layer.tables, "data": data})
    return resolve(registry, [environment_layer(), own, Layer("flag", tables)], "none")


def inherited(registry: Registry, layer: Layer, asked: Mapping[str, Any], *, from_defaults: bool) -> dict[str, Any]:
    """Return the options of the run's data set that hold for the data set of the flags.

    For another data set, all options are dropped. For images at another path, only those options are dropped that name
    files, such as the labels of the images that the run was trained on, or that are marked ``of_place``, such as the
    split that was read.

    Arguments:
        registry: Knows the options.
        layer: The run's configuration.
        asked: The data set that the flags ask for: ``name`` and options.
        from_defaults: Whether the user named the data set; its options then have their defaults.
    """
    own = layer.tables.get("data", {})
    name = asked.get("name", own.get("name"))
    if from_defaults or name != own.get("name") or name is None:
        return {}
    cls = registry.entry("dataset", name).options_class() if "path" in asked else None
    return {option: value for option, value in own.items() if option not in of_one_place(cls)}


def shared(registry: Registry, own: Mapping[str, Any], reader: str, cls: type | None) -> dict[str, Any]:
    """Return the options of the run's data set that hold for images that a reader finds elsewhere.

    The two readers of a user's own files share what says how an image is converted, such as the range of its values:
    these options have the same name and type in both.

    Arguments:
        registry: Names the two readers.
        own: The run's data set: ``name`` and options.
        reader: The name of the reader.
        cls: Its options class.
    """
    name = own.get("name")
    if name != reader and name not in {registry.defaults["data_folder"], registry.defaults["data_file"]}:
        return {}
    fields, others = options.fields(cls), options.fields(registry.entry("dataset", name).options_class())
    same = {option for option, field in fields.items() if option in others and others[option].type == field.type}
    return {option: value for option, value in own.items() if option in same - of_one_place(cls)}


def of_one_place(cls: type | None) -> set[str]:
    """Return the options that hold for images at one place only: names of files, and how a folder is laid out."""
    placed = {option for option, field in options.fields(cls).items() if field.metadata.get("of_place")}
    return {*locations("data", cls), *placed}


def are_own(registry: Registry, layer: Layer, given: Mapping[str, Any]) -> bool:
    """Return whether flags name the run's own images: none is given, or all name new places of files that are gone."""
    own = layer.tables.get("data", {})
    moved = set()
    if given and isinstance(own.get("name"), str):
        places = locations("data", registry.entry("dataset", own["name"]).options_class())
        moved = {name for name in places if name in own and not there(path_of(str(own[name])))}
    return set(given) <= moved


def conversion(cls: type | None, channels: int) -> str:
    """Return a hint if a data set has an option that converts images to another number of channels."""
    return f"; nearest valid choice: --data.channels {channels}" if "channels" in options.fields(cls) else ""
