"""The configuration of one run: frozen, resolved in layers, written to and read from TOML.

A later layer overrides an earlier one. The layers are: defaults of the option classes, defaults of the registry, the
preset (`mpcc.core.config.preset_choice`), what the objective suggests and requires (`mpcc.core.config.requirements`), a
configuration file, a set of choices for compatibility (``--compat``), flags. The configuration records the layer of
every value.

Above its tables, a configuration file may name another preset, or ``none``, in a line ``preset = "NAME"``. It lists
the plugin files that it needs there, too: ``plugins = ["my_prior.py"]``, ``registries = ["my.toml"]``. The file that a
run writes is complete and names the preset ``none``. Its table ``distributions`` says what has to be installed for the
plugins of third parties.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import tomli_w

from mpcc.core.config import options
from mpcc.core.config.layers import DISTRIBUTIONS, FILE_LISTS, NO_PRESET, SECTIONS, Layer, absolute, flag, nested
from mpcc.core.config.metric_options import with_options
from mpcc.core.config.own_files import check_path_wanted, check_reader, with_readers
from mpcc.core.config.preset_choice import PresetChoice, choose_preset
from mpcc.core.config.requirements import check_required, fits_in_order, objective_layers, unused_settings
from mpcc.core.config.settings import RunSettings
from mpcc.core.config.time_budget import one_length
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Entry, Registry
from mpcc.core.system.file_names import address_of, printable

__all__ = ["PluginChoice", "RunConfig", "resolve", "used"]

logger = logging.getLogger(__name__)


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
        metrics: The options of each metric that has some, by the section ``metrics.NAME``.
        origins: The layer of each value, by dotted name such as ``run.clusters``.
        plugins: One-file plugins to be loaded, absolute paths.
        registries: Registry files to be loaded, absolute paths.
        distributions: The distribution and version of each plugin of a third party that the configuration names.
        preset: The preset that it starts from, and why.
    """

    run: RunSettings
    prior: PluginChoice
    arch: PluginChoice
    data: PluginChoice
    objective: PluginChoice
    metrics: Mapping[str, Any] = attrs.field(factory=dict)
    origins: Mapping[str, str] = attrs.field(factory=dict, eq=False)
    plugins: tuple[Path, ...] = ()
    registries: tuple[Path, ...] = ()
    distributions: Mapping[str, str] = attrs.field(factory=dict, eq=False)
    preset: PresetChoice = attrs.field(default=PresetChoice(None), eq=False)

    def entries(self) -> list[Entry]:
        """Return the registry entries of the chosen plugins."""
        return [getattr(self, section).entry for section in SECTIONS]

    def to_tables(self) -> dict[str, dict[str, Any]]:
        """Return plain values by section and name, without those that are None."""
        tables = {"run": options.plain(self.run)}
        for section in SECTIONS:
            choice: PluginChoice = getattr(self, section)
            values = {} if choice.options is None else options.plain(choice.options)
            tables[section] = {"name": choice.name, **values}
        return tables | {section: options.plain(values) for section, values in self.metrics.items()}

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
        needed = {DISTRIBUTIONS: dict(self.distributions)} if self.distributions else {}
        text = tomli_w.dumps({"preset": NO_PRESET, **files, **nested(tables), **needed})
        if not origins:
            return text
        lines, section = [], ""
        for line in text.splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            key = f"{section}.{line.partition(' = ')[0]}"
            if line.startswith("preset = "):
                line = f"{line:<40} # this configuration is complete: no preset adds to it"
            lines.append(f"{line:<40} # {printable(self.origins[key])}" if key in self.origins else line)
        return "\n".join(lines) + "\n"


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


def resolve(registry: Registry, layers: list[Layer], preset: str | None = None) -> RunConfig:
    """Stack the layers on a preset and on the defaults.

    Arguments:
        registry: Plugins and presets.
        layers: Configuration file, `compat_layer` and flags; a later one overrides an earlier one.
        preset: Name of the preset, or ``none`` for no preset. If it is None, a layer's preset is taken, or else one
            that was made for the data set.

    Raises:
        InvalidInput: If a name or a value is not valid; the message gives it and the valid ones.
    """
    typed = with_readers(registry, layers)[0]
    chosen_names(registry, typed)  # checks them
    choice = choose_preset(registry, typed, preset)
    # The preset comes first, so that --preset mnist with the user's own folder keeps that folder.
    start = [] if choice.name is None else [choice.layer(registry)]
    came_with = {key: value for layer in layers for key, value in layer.distributions.items()}
    objective = entry_of(registry, "objective", chosen_names(registry, [*start, *layers])["objective"][0], came_with)
    check_required(registry, objective, layers)
    for line in unused_settings(objective, layers):
        logger.warning(line)
    layers = [*start, *objective_layers(objective, start[0] if start else None, layers), *layers]
    layers, told = with_readers(registry, layers)
    for line in told:
        logger.info(line)
    names = chosen_names(registry, layers)
    entries = {section: entry_of(registry, kind, names[section][0], came_with) for section, kind in SECTIONS.items()}
    classes = {section: entry.options_class() for section, entry in entries.items()}
    origins = {f"{section}.name": names[section][1] for section in SECTIONS}
    reads_path = "path" in options.fields(classes["data"])
    if not reads_path:
        check_path_wanted(registry, entries["data"].described(), layers)
    choices = {}
    for section, entry in entries.items():
        registered = Layer("registry", {section: entry.defaults})
        plugin_options = _section(section, entry.described(), classes[section], [registered, *layers], origins)
        choices[section] = PluginChoice(entry.name, plugin_options, entry)
    if reads_path:
        source = origins["data.path"]
        where = flag("data", "path") if source == "flag" else f"{source}: data.path"
        check_reader(registry, choices["data"].name, choices["data"].options.path, where)
    run = one_length(_section("run", "mpcc-run", RunSettings, layers, origins), origins)
    run = fits_in_order(run, origins)
    of_metrics = {
        section: _section(
            section,
            found.described(),
            found.options_class(),
            [Layer("registry", {section: found.defaults}), *layers],
            origins,
        )
        for section, found in with_options(registry, run.metrics, layers).items()
    }
    metrics = [name.strip() for name in run.metrics.split(",")]
    named = [
        *entries.values(),
        *(
            entry_of(registry, "metric", name, came_with)
            for name in metrics
            if name in registry.entries["metric"] or f"metric {name}" in came_with
        ),
    ]
    return RunConfig(
        run=run,
        **choices,
        metrics=of_metrics,
        origins=origins,
        plugins=registry.plugin_files,
        registries=registry.registry_files,
        preset=choice,
        distributions={f"{entry.kind} {entry.name}": entry.release for entry in named if entry.installed},
    )


def entry_of(registry: Registry, kind: str, name: str, came_with: Mapping[str, str]) -> Entry:
    """Look a plugin up.

    Arguments:
        registry: All plugins.
        kind: One of `KINDS`.
        name: Its name.
        came_with: The distribution that a plugin came with when a configuration was written.

    Raises:
        InvalidInput: If there is no such plugin; the message says what to install, if that is known.
    """
    release = came_with.get(f"{kind} {name}")
    if release is not None and not registry.entries[kind].get(name):
        raise registry.uninstalled(kind, name, release)
    return registry.entry(kind, name)


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
            if name not in known and layer.origin != "flag":
                name = formerly.get(name, name)
            if name in known:
                if name in given and source[name].strict:
                    # What another layer overrides is still what the user wrote, and a mistake there is told.
                    options.convert(given[name], known[name], source[name].spelled(section, name))
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
    values = attrs.evolve(values, **{name: absolute(path, where(name)) for name, path in paths.items()})
    return values


def used(registry: Registry, config: RunConfig) -> list[Entry]:
    """Return the entries of all plugins that a run may call."""
    return [*config.entries(), *(claims[0] for claims in registry.entries["metric"].values())]
