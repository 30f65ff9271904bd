"""The configuration of one run: frozen, resolved in layers, written to and read from TOML.

A later layer overrides an earlier one. The layers are: defaults of the option classes, defaults of the registry, the
preset of the data set, a configuration file, a set of choices for compatibility (``--compat``), flags. The
configuration records the layer of every value.

Above its tables, a configuration file may name another preset, or ``none``, in a line ``preset = "NAME"``. It lists
the plugin files that it needs there, too: ``plugins = ["my_prior.py"]``, ``registries = ["my.toml"]``. The file that a
run writes is complete and names the preset ``none``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from mpcc.core.config import options
from mpcc.core.config.settings import RESUMABLE, RunSettings
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Entry, Registry
from mpcc.core.system.file_addresses import address_of, path_of
from mpcc.core.system.toml_file import read_toml

__all__ = [
    "DATA_VARIABLE",
    "RESUMABLE",
    "Layer",
    "PluginChoice",
    "RunConfig",
    "RunSettings",
    "environment_layer",
    "flag",
    "read_config",
    "resolve",
    "used",
]

# The name for no preset at all.
NO_PRESET = "none"
# Lists of files above the sections of a configuration.
FILE_LISTS = ("plugins", "registries")
# The sections of a configuration that name a plugin, with the kind of the plugin.
SECTIONS = {"prior": "prior", "arch": "architecture", "data": "dataset", "objective": "objective"}


@attrs.frozen
class PluginChoice:
    """A plugin that a configuration chooses.

    Attributes:
        name: The name that the user types.
        options: An instance of its options class, or None.
        entry: The registry entry of the name.
    """

    name: str
    options: Any
    entry: Entry = attrs.field(eq=False, repr=False)

    def make(self, *numbers: int) -> Any:
        """Make the plugin.

        Arguments:
            numbers: Arguments before the options: K and J for a prior, none for other kinds.

        Raises:
            PluginError: If its class cannot be loaded.
        """
        return self.entry.load()(*numbers, self.options)


@attrs.frozen
class RunConfig:
    """A whole run: the settings and the chosen plugins.

    Attributes:
        run: The settings.
        prior: Choice of prior.
        arch: Choice of architecture.
        data: Choice of data set.
        objective: Choice of the system, which defines the updates of an iteration.
        origins: The layer of each value, by dotted name such as ``run.clusters``.
        plugins: One-file plugins to be loaded, absolute paths.
        registries: Registry files to be loaded, absolute paths.
    """

    run: RunSettings
    prior: PluginChoice
    arch: PluginChoice
    data: PluginChoice
    objective: PluginChoice
    origins: Mapping[str, str] = attrs.field(factory=dict, eq=False)
    plugins: tuple[Path, ...] = ()
    registries: tuple[Path, ...] = ()

    def entries(self) -> list[Entry]:
        """Return the registry entries of the chosen plugins."""
        return [getattr(self, section).entry for section in SECTIONS]

    def to_tables(self) -> dict[str, dict[str, Any]]:
        """Return nested plain values, without those that are None."""
        tables = {"run": options.plain(self.run)}
        for section in SECTIONS:
            choice: PluginChoice = getattr(self, section)
            values = {} if choice.options is None else options.plain(choice.options)
            tables[section] = {"name": choice.name, **values}
        return tables

    def to_toml(self, *, origins: bool = False) -> str:
        """Return TOML that `read_config` and `resolve` turn into an equal configuration.

        Arguments:
            origins: Whether a comment on each line names the layer of the value.
        """
        # The file is complete, and a missing value is None: no preset may add to it when it is read again.
        files = {key: [address_of(path) for path in getattr(self, key)] for key in FILE_LISTS if getattr(self, key)}
        tables = self.to_tables()
        # A file never allows downloads; only the user who runs it can.
        tables["run"]["download"] = False
        text = tomli_w.dumps({"preset": NO_PRESET, **files, **tables})
        if not origins:
            return text
        lines, section = [], ""
        for line in text.splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            key = f"{section}.{line.partition(' = ')[0]}"
            if line.startswith("preset = "):
                line = f"{line:<40} # this configuration is complete: no preset adds to it"
            lines.append(f"{line:<40} # {self.origins[key]}" if key in self.origins else line)
        return "\n".join(lines) + "\n"


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
    """

    origin: str
    tables: Mapping[str, Mapping[str, Any]]
    strict: bool = True
    preset: str | None = None
    plugins: tuple[Path, ...] = ()
    registries: tuple[Path, ...] = ()

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
    """
    if name == "name":
        return f"--{section}"
    dashed = name.replace("_", "-")
    return f"--{dashed}" if section == "run" else f"--{section}.{dashed}"


def read_config(path: Path) -> Layer:
    """Read a configuration file.

    Raises:
        InvalidInput: If it can't be read, is not TOML, or has unknown sections.
    """
    tables, _ = read_toml(path, f"--config {path}")
    preset = tables.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise InvalidInput(f"{path}: preset: expected the name of a preset or {NO_PRESET}, got {preset!r}")
    plugins, registries = (file_list(tables.pop(key, []), f"{path}: {key}") for key in FILE_LISTS)
    check_sections(tables, str(path))
    if tables.get("run", {}).get("download") not in (None, False):
        raise InvalidInput(f"{path}: run.download: a file cannot ask for downloads; leave it out and give --download")
    return Layer(str(path), tables, preset=preset, plugins=plugins, registries=registries)


def file_list(value: Any, where: str) -> tuple[Path, ...]:
    """Return a list of files as absolute paths.

    Raises:
        InvalidInput: If it is not a list of texts.
    """
    if not isinstance(value, list) or not all(isinstance(path, str) and path and "\0" not in path for path in value):
        raise InvalidInput(f"{where}: expected a list of files, got {value!r}")
    return tuple(_absolute(path_of(path), where) for path in value)


def check_sections(tables: Mapping[str, Any], origin: str) -> None:
    """Refuse unknown sections and values outside of sections.

    Raises:
        InvalidInput: With the section and the valid ones.
    """
    for section, table in tables.items():
        if section not in {"run", *SECTIONS}:
            raise unknown_name(f"section in {origin}:", section, ["run", *SECTIONS])
        if not isinstance(table, dict):
            raise InvalidInput(f"{origin}: expected a table [{section}], got {section} = {table!r}")


def chosen_names(registry: Registry, layers: list[Layer]) -> dict[str, tuple[str, str]]:
    """Return the plugin name of each section and the layer of the choice."""
    chosen = {section: (name, "default") for section, name in registry.defaults.items()}
    for layer in layers:
        for section in SECTIONS:
            name = layer.tables.get(section, {}).get("name")
            if name is not None:
                if not isinstance(name, str) or not name:
                    raise InvalidInput(f"{layer.spelled(section, 'name')}: expected a name, got {name!r}")
                chosen[section] = (name, layer.origin)
    return chosen


def compat_layer(registry: Registry, name: str) -> Layer:
    """Return the choices of another implementation as a strict layer.

    Raises:
        InvalidInput: If there is no such set of choices.
    """
    if name not in registry.compat:
        raise unknown_name("--compat", name, registry.compat)
    return Layer(f"compat {name}", registry.compat[name])


def resolve(registry: Registry, layers: list[Layer], preset: str | None = None) -> RunConfig:
    """Stack the layers on a preset and on the defaults.

    Arguments:
        registry: Plugins and presets.
        layers: Configuration file, `compat_layer` and flags; a later one overrides an earlier one.
        preset: Name of the preset, or ``none`` for no preset. If it is None, a layer's preset is taken, or else the
            data set's.

    Raises:
        InvalidInput: If a name or a value is not valid; the message gives it and the valid ones.
    """
    data = chosen_names(registry, layers)["data"][0]
    for layer in reversed(layers):
        preset = layer.preset if preset is None else preset
    name = preset or data
    if preset != NO_PRESET and name in registry.presets:
        # The preset comes first, so that --preset mnist with the user's own folder keeps that folder.
        layers = [Layer(f"preset {name}", registry.presets[name], strict=False), *layers]
    elif preset not in (None, NO_PRESET):
        raise unknown_name("preset", name, registry.presets)
    names = chosen_names(registry, layers)
    entries = {section: registry.entry(kind, names[section][0]) for section, kind in SECTIONS.items()}
    classes = {section: entry.options_class() for section, entry in entries.items()}
    origins = {f"{section}.name": names[section][1] for section in SECTIONS}
    choices = {}
    for section, entry in entries.items():
        registered = Layer("registry", {section: entry.defaults})
        plugin_options = _section(section, entry.described(), classes[section], [registered, *layers], origins)
        choices[section] = PluginChoice(entry.name, plugin_options, entry)
    run = _section("run", "mpcc-run", RunSettings, layers, origins)
    return RunConfig(
        run=run, **choices, origins=origins, plugins=registry.plugin_files, registries=registry.registry_files
    )


def _section(section: str, described: str, cls: type | None, layers: list[Layer], origins: dict[str, str]) -> Any:
    known = options.fields(cls)
    # A field may name what it was called in earlier versions, whose runs can then be read.
    formerly = {field.metadata["formerly"]: name for name, field in known.items() if "formerly" in field.metadata}
    origins.update({f"{section}.{name}": "default" for name in known})
    given: dict[str, Any] = {}
    source: dict[str, Layer] = {}
    for layer in layers:
        for name, value in layer.tables.get(section, {}).items():
            if name == "name" and section in SECTIONS:
                continue
            if name not in known:
                name = formerly.get(name, name)
            if name in known:
                given[name], source[name], origins[f"{section}.{name}"] = value, layer, layer.origin
            elif layer.strict:
                place = f" in {layer.origin}" if layer.origin != "flag" else ""
                valid = [layer.key(section, known_name) for known_name in known]
                raise unknown_name(f"option of {described}{place}:", layer.key(section, name), valid)
    if cls is None:
        return None

    def where(name: str) -> str:
        return source[name].spelled(section, name)

    values: Any = options.make(cls, given, described, where)
    paths = {name: getattr(values, name) for name in given if isinstance(getattr(values, name), Path)}
    absolute = {name: _absolute(path, where(name)) for name, path in paths.items()}
    return attrs.evolve(values, **absolute) if paths else values


def _absolute(path: Path, where: str) -> Path:
    """Return an absolute path, because config.toml has to work from any folder; shells keep the ~ of ``--out=~/x``."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise InvalidInput(f"{where} {path}: {error}") from error


DATA_VARIABLE = "MPCC_DATA"


def used(registry: Registry, config: RunConfig) -> list[Entry]:
    """Return the entries of all plugins that a run may call."""
    return [*config.entries(), *(claims[0] for claims in registry.entries["metric"].values())]


def environment_layer() -> Layer:
    """Return the values of environment variables: the data root."""
    root = os.environ.get(DATA_VARIABLE)
    return Layer(f"${DATA_VARIABLE}", {"run": {"data_root": root}} if root else {})
