"""Layers: the values of one source, such as a configuration file, the flags or the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Registry
from mpcc.core.system.file_names import path_of
from mpcc.core.system.toml_file import read_toml

__all__ = [
    *("DATA_VARIABLE", "DISTRIBUTIONS", "FILE_LISTS", "METRICS", "NO_PRESET", "SECTIONS", "Layer", "absolute"),
    *("compat_layer", "config_layer", "environment_layer", "flag", "flat", "nested", "read_config"),
]

DATA_VARIABLE = "MPCC_DATA"
# The name for no preset at all.
NO_PRESET = "none"
# Lists of files above the sections of a configuration.
FILE_LISTS = ("plugins", "registries")
# The table that says with which distribution a plugin has come.
DISTRIBUTIONS = "distributions"
# The sections of a configuration that name a plugin, with the kind of the plugin.
SECTIONS = {"prior": "prior", "arch": "architecture", "data": "dataset", "objective": "objective"}
# The table of a configuration file in which each metric with options has a table; its section is metrics.NAME.
METRICS = "metrics"


@attrs.frozen
class Layer:
    """Values from one source.

    Attributes:
        origin: Name of the source, e.g. ``preset mnist``.
        tables: Values by section and name; a preset's ``source`` is ignored.
        strict: Whether an option that the chosen plugin lacks is an error. Such an option of a preset is ignored: the
            preset was written for another plugin than the one that the user has chosen.
        preset: The preset that the source starts from, if it names one.
        plugins: One-file plugins that the source needs.
        registries: Registry files that the source needs.
        distributions: The installed distribution and version of plugins, such as ``{"prior x": "mpcc-x 1.0"}``.
        preset_of_data: The preset that choices for compatibility start from; ``DATA`` in it stands for the data set.
        preset_required: Whether there must be that preset.
    """

    origin: str
    tables: Mapping[str, Mapping[str, Any]]
    strict: bool = True
    preset: str | None = None
    plugins: tuple[Path, ...] = ()
    registries: tuple[Path, ...] = ()
    distributions: Mapping[str, str] = attrs.field(factory=dict)
    preset_of_data: str | None = None
    preset_required: bool = False

    def key(self, section: str, name: str) -> str:
        """Return the name of an option in this source."""
        return flag(section, name) if self.origin == "flag" else f"{section}.{name}"

    def spelled(self, section: str, name: str) -> str:
        """Return the option as the user wrote it, for errors."""
        return self.key(section, name) if self.origin == "flag" else f"{self.origin}: {section}.{name}"


def flag(section: str, name: str) -> str:
    """Return the flag of an option.

    Example:
        >>> flag("run", "latent_dim"), flag("prior", "scale_floor"), flag("prior", "name")
        ('--latent-dim', '--prior.scale-floor', '--prior')
        >>> flag("metrics.v_measure", "beta")
        '--metrics.v_measure.beta'
    """
    if name == "name":
        return f"--{section}"
    dashed = name.replace("_", "-")
    return f"--{dashed}" if section == "run" else f"--{section}.{dashed}"


def flat(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of a file by section: a table in the table ``metrics`` is a section by itself.

    Example:
        >>> flat({"run": {"seed": 1}, "metrics": {"v_measure": {"beta": 2.0}}})
        {'run': {'seed': 1}, 'metrics.v_measure': {'beta': 2.0}}
    """
    of_metrics = tables.get(METRICS, {})
    if not isinstance(of_metrics, Mapping):
        return dict(tables)
    others = {section: table for section, table in tables.items() if section != METRICS}
    return {**others, **{f"{METRICS}.{name}": table for name, table in of_metrics.items()}}


def nested(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections as the tables of a file, the inverse of `flat`."""
    start = f"{METRICS}."
    result = {section: table for section, table in tables.items() if not section.startswith(start)}
    of_metrics = {name.removeprefix(start): table for name, table in tables.items() if name.startswith(start)}
    return {**result, METRICS: of_metrics} if of_metrics else result


def read_config(path: Path) -> Layer:
    """Read a configuration file.

    Raises:
        InvalidInput: If it can't be read, is not TOML, or has unknown sections.
    """
    tables, _ = read_toml(path, f"--config {path}")
    return config_layer(tables, str(path))


def config_layer(tables: dict[str, Any], origin: str) -> Layer:
    """Return the tables of a configuration file as a layer.

    Arguments:
        tables: What the file holds.
        origin: The file, or where else the tables come from, for errors.

    Raises:
        InvalidInput: If they have unknown sections.
    """
    tables = dict(tables)
    preset = tables.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise InvalidInput(f"{origin}: preset: expected the name of a preset or {NO_PRESET}, got {preset!r}")
    plugins, registries = (file_list(tables.pop(key, []), f"{origin}: {key}") for key in FILE_LISTS)
    distributions = named_distributions(tables.pop(DISTRIBUTIONS, {}), f"{origin}: {DISTRIBUTIONS}")
    tables = flat(tables)
    check_sections(tables, origin)
    if tables.get("run", {}).get("download") not in (None, False):
        raise InvalidInput(f"{origin}: run.download: a file cannot ask for downloads; leave it out and give --download")
    return Layer(origin, tables, preset=preset, plugins=plugins, registries=registries, distributions=distributions)


def file_list(value: Any, where: str) -> tuple[Path, ...]:
    """Return a list of files as absolute paths.

    Raises:
        InvalidInput: If it is not a list of texts.
    """
    try:
        if not isinstance(value, list) or not all(
            isinstance(path, str) and path and "\0" not in path for path in value
        ):
            raise ValueError(value)
        return tuple(absolute(path_of(path), where) for path in value)
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{where}: expected a list of files, got {value!r}") from error


def named_distributions(value: Any, where: str) -> dict[str, str]:
    """Return the table that says which distribution each plugin came with.

    Raises:
        InvalidInput: If it is not a table of names and versions.
    """
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: expected a table, got {value!r}")
    for plugin, distribution in value.items():
        if not isinstance(distribution, str) or not re.fullmatch(
            r"[A-Za-z0-9][\w.-]* [\w.!+-]+", distribution, re.ASCII
        ):
            raise InvalidInput(f"{where}: {plugin}: expected a name and a version, got {distribution!r}")
    return value


def check_sections(tables: Mapping[str, Any], origin: str) -> None:
    """Refuse unknown sections and values outside of sections.

    Raises:
        InvalidInput: With the section and the valid ones.
    """
    for section, table in tables.items():
        if section not in {"run", *SECTIONS} and not (section.startswith(f"{METRICS}.") or section == METRICS):
            raise unknown_name(f"section in {origin}:", section, ["run", *SECTIONS, METRICS])
        if not isinstance(table, dict):
            raise InvalidInput(f"{origin}: expected a table [{section}], got {section} = {table!r}")


def compat_layer(registry: Registry, name: str) -> Layer:
    """Return the choices of another implementation as a strict layer.

    Raises:
        InvalidInput: If there is no such set of choices.
    """
    if name not in registry.compat:
        raise unknown_name("--compat", name, registry.compat)
    tables = registry.compat[name]
    required = tables.get("preset_required", False)
    return Layer(f"compat {name}", tables, preset_of_data=tables.get("preset"), preset_required=required)


def absolute(path: Path, where: str) -> Path:
    """Return an absolute path, because config.toml has to work from any folder; shells keep the ~ of ``--out=~/x``."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise InvalidInput(f"{where} {path}: {error}") from error


def environment_layer() -> Layer:
    """Return the values of environment variables: the data root."""
    root = os.environ.get(DATA_VARIABLE)
    return Layer(f"${DATA_VARIABLE}", {"run": {"data_root": root}} if root else {})
