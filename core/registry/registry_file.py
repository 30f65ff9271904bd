"""A registry file: a TOML file with names, import paths, summaries and defaults of plugins, and with presets.

The built-in one is ``registry.toml``. A user adds others with ``--registry FILE`` or in ``$MPCC_REGISTRY``, separated
as in ``$PATH``::

    [priors.my_prior]
    target = "my_prior:MyPrior"
    options = "my_prior:MyOptions"
    summary = "What it is, in one line."
    defaults = { scale_floor = 0.3 }

    [presets.mine]
    source = "where the values come from"
    for = { data = "my_data", device = "cpu" }
    prior = { name = "my_prior" }
    run = { clusters = 12 }

Import paths may name installed modules, or modules beside the file. The file's folder comes last in the search path,
where it hides no other module.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.hookspecs import Register, RegisterPreset, hookimpl
from mpcc.core.registry.presets import check_fields
from mpcc.core.system.toml_file import read_toml

__all__ = ["RegistryFile", "digest", "environment_registries"]

VARIABLE = "MPCC_REGISTRY"
SECTIONS = ("priors", "architectures", "datasets", "metrics", "objectives")
FIELDS = ("target", "summary", "options", "defaults", "api_version", "on_request", "requires", "suggests", "unused")


def digest(content: bytes) -> str:
    """Return a short hash that stands for the version of a file, so that a resumed run notices a change."""
    return hashlib.sha256(content).hexdigest()[:12]


def environment_registries() -> list[Path]:
    """Return the registry files that the environment names."""
    return [Path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


@attrs.frozen(eq=False)
class RegistryFile:
    """The hook implementation that registers the plugins of a file.

    Attributes:
        table: The parsed file.
        version: Hash of its content.
    """

    table: Mapping[str, Any]
    version: str = ""

    @classmethod
    def read(cls, path: Path) -> RegistryFile:
        """Read a user's file and check its form; its folder joins the search path for modules.

        Raises:
            InvalidInput: If it can't be read, is not TOML, or has an unknown table or field.
        """
        where = f"--registry {path}"
        table, content = read_toml(path, where)
        for section, entries in table.items():
            if section not in (*SECTIONS, "presets"):
                raise unknown_name(f"table in {where}:", section, [*SECTIONS, "presets"])
            if not isinstance(entries, dict):
                raise InvalidInput(f"{where}: expected tables [{section}.NAME], got {section} = {entries!r}")
            for name, entry in entries.items():
                check_entry(where, section, name, entry)
        folder = str(path.absolute().parent)
        if folder not in sys.path:
            sys.path.append(folder)
        return cls(table, digest(content))

    def _register(self, section: str, register: Register) -> None:
        for name, entry in self.table.get(section, {}).items():
            register(name, **entry)

    @hookimpl
    def register_priors(self, register: Register) -> None:
        self._register("priors", register)

    @hookimpl
    def register_architectures(self, register: Register) -> None:
        self._register("architectures", register)

    @hookimpl
    def register_datasets(self, register: Register) -> None:
        self._register("datasets", register)

    @hookimpl
    def register_metrics(self, register: Register) -> None:
        self._register("metrics", register)

    @hookimpl
    def register_objectives(self, register: Register) -> None:
        self._register("objectives", register)

    @hookimpl
    def register_presets(self, register: RegisterPreset) -> None:
        for name, tables in self.table.get("presets", {}).items():
            register(name, tables)


def check_entry(where: str, section: str, name: str, entry: Any) -> None:
    """Refuse an entry that is not a table, has an unknown field or lacks a required one.

    Raises:
        InvalidInput: With the entry and the field.
    """
    spelled = f"[{section}.{name}] in {where}:"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{spelled} expected a table, got {entry!r}")
    if section == "presets":
        check_fields(entry, spelled)
        return
    for field, value in entry.items():
        if field not in FIELDS:
            raise unknown_name(f"field of {spelled}", field, FIELDS)
        if field in ("defaults", "requires", "suggests") and not isinstance(value, dict):
            raise InvalidInput(f"{spelled} expected a table {field} = {{ ... }}, got {value!r}")
    missing = [field for field in ("target", "summary") if field not in entry]
    if missing:
        raise InvalidInput(f"{spelled} expected a field {missing[0]!r}, but it has none")
