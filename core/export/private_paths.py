"""Paths of the user's machine, taken out of what is given to a colleague."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, get_args

import attrs
import tomli_w

from mpcc.core.config import RunSettings, options
from mpcc.core.config.layers import DISTRIBUTIONS, FILE_LISTS, METRICS, SECTIONS, Layer, flat, nested
from mpcc.core.config.locations import entries_of
from mpcc.core.registry import Registry
from mpcc.core.system.file_names import path_of
from mpcc.core.system.toml_file import parse_toml

__all__ = ["PrivatePaths"]


@attrs.frozen
class PrivatePaths:
    """The paths that the configuration of a run names.

    Attributes:
        options: The options that hold a path, by section and name.
        paths: Their values and the files of plugins, absolute, the longest first.
        home: The user's home folder.
    """

    options: frozenset[tuple[str, str]]
    paths: Sequence[PurePath]
    home: PurePath | None = None

    @classmethod
    def of(cls, registry: Registry, *layers: Layer) -> PrivatePaths:
        """Find the paths in configurations of a run: values of options for paths, and texts that are absolute paths.

        Arguments:
            registry: Knows the options.
            layers: The configurations.
        """
        named: set[tuple[str, str]] = set()
        found: set[PurePath] = set()
        for layer in layers:
            classes: dict[str, type | None] = {"run": RunSettings}
            classes |= {section: entry.options_class() for section, entry in entries_of(registry, layer.tables).items()}
            found |= {*layer.plugins, *layer.registries}
            for section, table in layer.tables.items():
                fields = options.fields(classes.get(section))
                for name, value in table.items():
                    kinds = (fields[name].type, *get_args(fields[name].type)) if name in fields else ()
                    if isinstance(value, str) and (Path in kinds or path_of(value).is_absolute()):
                        named.add((section, name))
                        found.add(path_of(value))
        whole = sorted((path for path in found if path.is_absolute()), key=lambda path: len(str(path)), reverse=True)
        try:
            home = Path.home()
        except RuntimeError:
            home = None
        return cls(frozenset(named), whole, home)

    def layer(self, layer: Layer) -> Layer:
        """Return a configuration without these options; files with plugins stay, because they are needed to read it."""
        tables = {
            section: {name: value for name, value in table.items() if (section, name) not in self.options}
            for section, table in layer.tables.items()
        }
        return attrs.evolve(layer, tables=tables)

    def config(self, text: str) -> str:
        """Return a configuration without these options and without the lists of files."""
        tables = flat(parse_toml(text.encode(), "config.toml"))
        kept: dict[str, Any] = {name: value for name, value in tables.items() if name not in FILE_LISTS}
        for section, table in kept.items():
            if section in ("run", *SECTIONS) or section.startswith(METRICS):
                kept[section] = {name: value for name, value in table.items() if (section, name) not in self.options}
        if DISTRIBUTIONS in kept:
            kept[DISTRIBUTIONS] = self.plain(kept[DISTRIBUTIONS])
        return tomli_w.dumps(nested(kept))

    def text(self, text: str) -> str:
        """Return a text with the last name of each path in place of the path, and ``~`` for the home folder."""
        names = {str(path): path.name for path in self.paths if path.name}
        if self.home is not None and self.home.name:
            names.setdefault(str(self.home), "~")
        for path, name in names.items():
            # Only whole names: /data is not a part of /other/data and of /database.
            text = name.join(re.split(rf"(?<![\w./-]){re.escape(path)}(?![\w-])", text))
        return text

    def plain(self, value: Any) -> Any:
        """Return nested dicts and lists with all their texts as `text` gives them; other values as they are."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.plain(key): self.plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.plain, value))
        return value

    def file(self, name: str) -> str:
        """Return where an image came from, relative to the folder of the images.

        A file that is not below one of the paths keeps its last name.

        Example:
            >>> paths = PrivatePaths(frozenset(), [PurePath("/home/me/scans")])
            >>> paths.file("/home/me/scans/a/1.png"), paths.file("a/1.png"), paths.file("/else/1.png")
            ('a/1.png', 'a/1.png', '1.png')
        """
        path = PurePath(name)
        if not path.is_absolute():
            return name
        for folder in self.paths:
            if path.is_relative_to(folder) and path != folder:
                return path.relative_to(folder).as_posix()
        return path.name
