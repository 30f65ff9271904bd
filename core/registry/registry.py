"""The registry: all plugins by name, loaded lazily and validated one by one.

Plugins come, in this order, from ``registry.toml`` beside this package, from registry files and plugin files that the
user names, and from the entry points of the group ``mpcc``. All go through the hooks of `mpcc.core.hookspecs`. An
installed plugin that cannot be loaded becomes a `Broken` record and registers nothing. A file that the user has named
must load. If two plugins claim a name, nobody can use it until one of them is removed.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.errors import InvalidInput, PluginError, unknown_name
from mpcc.core.registry.entries import KINDS, LOCAL_FILE, REGISTRY_FILE, UNKNOWN, Entry, reason
from mpcc.core.registry.local_plugins import import_file, read_source
from mpcc.core.registry.plugin import Observer, Plugin
from mpcc.core.registry.presets import check_purposes_differ
from mpcc.core.registry.registry_file import RegistryFile, environment_registries

__all__ = ["Broken", "Registry", "failing_file", "load_registry", "strict_plugins"]

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "mpcc"
STRICT_VARIABLE = "MPCC_STRICT_PLUGINS"
BUILT_IN_FILE = Path(__file__).resolve().parents[2] / "registry.toml"


@attrs.frozen
class Broken:
    """A plugin that could not be loaded, and why."""

    origin: str
    distribution: str
    version: str
    file: str
    error: str

    def described(self) -> str:
        """Return one line that names the plugin, its distribution, its file and the reason."""
        return f"plugin {self.origin!r} of {self.distribution} {self.version} ({self.file}): {self.error}"


@attrs.frozen
class Registry:
    """All registered names, all presets, and the plugins that failed to load.

    Attributes:
        entries: By kind, then by name. A name that several plugins claim has several entries.
        presets: By name: tables ``run``, ``prior``, ``arch``, ``data``, a ``source``, and what it was made for.
        compat: Choices of other implementations by name, in the same tables, with the preset that they start from.
        defaults: The ``prior``, ``arch`` and ``data`` of a run that names no other.
        broken: Plugins that could not be loaded.
        observers: Plugins with hooks that watch a run.
        plugin_files: One-file plugins that were loaded, absolute paths.
        registry_files: The user's registry files, absolute paths.
    """

    entries: Mapping[str, Mapping[str, tuple[Entry, ...]]]
    presets: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, str]
    broken: tuple[Broken, ...]
    observers: tuple[Observer, ...] = ()
    compat: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    plugin_files: tuple[Path, ...] = ()
    registry_files: tuple[Path, ...] = ()

    def names(self, kind: str) -> list[str]:
        """Return the names of one kind in the order of registration."""
        return list(self.entries[kind])

    def summaries(self, kind: str) -> dict[str, str]:
        """Return the summaries of one kind by name, without those names that nobody can use."""
        return {name: claims[0].summary for name, claims in self.entries[kind].items() if len(claims) == 1}

    def entry(self, kind: str, name: str) -> Entry:
        """Look a name up.

        Raises:
            PluginError: If two plugins claim the name.
            InvalidInput: If there is no such name; the message lists plugins that failed to load.
        """
        claims = self.entries[kind].get(name, ())
        if len(claims) > 1:
            claimants = " and ".join(f"{claim.distribution} {claim.version} ({claim.origin})" for claim in claims)
            raise PluginError(f"{kind} {name!r} is claimed by {claimants}: uninstall or rename one of them")
        if not claims:
            raise self.unknown(kind, name, self.names(kind))
        return claims[0]

    def unknown(self, kind: str, name: str, known: Iterable[str]) -> InvalidInput:
        """Return the error for a name that does not exist; it lists the plugins that failed to load."""
        names = list(known)
        error = unknown_name(kind, name, names)
        if name in self.presets:
            error = InvalidInput(
                f"unknown {kind} {name!r}: it is a preset; nearest valid choice: --preset {name} "
                f"({kind}s: {', '.join(names)})"
            )
        failed = "; ".join(broken.described() for broken in self.broken)
        return InvalidInput(f"{error}; not loaded: {failed}") if failed else error

    def uninstalled(self, kind: str, name: str, release: str) -> InvalidInput:
        """Return the error for a plugin that a configuration names and that is not there.

        Arguments:
            kind: One of `KINDS`.
            name: Its name.
            release: The distribution that it came with, and its version.
        """
        distribution, _, version = release.rpartition(" ")
        came = f"{kind} {name!r} came with {release}"
        try:
            installed = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return InvalidInput(f"{came}, which is not installed: pip install {distribution}")
        if any(broken.distribution == distribution for broken in self.broken):
            return self.unknown(kind, name, self.names(kind))
        there = "which does not register it here" if installed == version else f"and {installed} does not have it"
        return InvalidInput(f"{came}, {there}: pip install {distribution}=={version}")

    def all_entries(self) -> Iterable[Entry]:
        """Yield every entry, also those whose name is claimed twice."""
        for by_name in self.entries.values():
            for claims in by_name.values():
                yield from claims


@attrs.define
class Presets:
    """The presets of the plugins that have been loaded so far.

    Attributes:
        tables: By name.
        owners: The file or the distribution of each.
        datasets: The names of all data sets.
    """

    tables: dict[str, Mapping[str, Any]] = attrs.field(factory=dict)
    owners: dict[str, str] = attrs.field(factory=dict)
    datasets: set[str] = attrs.field(factory=set)

    def add(self, plugin: Plugin, owner: str) -> None:
        """Add the presets of a plugin, all or none.

        Raises:
            InvalidInput: If a preset of that name is there, or one that was made for the same.
        """
        for name in plugin.presets:
            if name in self.owners:
                both = f"{self.owners[name]} and in {owner}"
                raise InvalidInput(f"preset {name!r} is in {both}: expected another name in one of them")
        tables, owners = {**self.tables, **plugin.presets}, {**self.owners, **dict.fromkeys(plugin.presets, owner)}
        datasets = self.datasets | {entry.name for entry in plugin.entries if entry.kind == "dataset"}
        check_purposes_differ(tables, owners, datasets)
        self.tables, self.owners, self.datasets = tables, owners, datasets


def strict_plugins() -> bool:
    """Return whether the user wants every broken plugin to be an error."""
    return os.environ.get(STRICT_VARIABLE, "") not in {"", "0"}


def load_registry(
    entry_points: Iterable[metadata.EntryPoint] | None = None,
    *,
    plugins: Sequence[Path] = (),
    registries: Sequence[Path] = (),
) -> Registry:
    """Collect all plugins.

    Arguments:
        entry_points: Plugins to load beside the built-ins; by default the installed ones of the group ``mpcc``.
        plugins: One-file plugins.
        registries: Registry files; those of ``$MPCC_REGISTRY`` come before them.

    Raises:
        InvalidInput: If a file cannot be a plugin or a registry.
        PluginError: If a file that the user named is broken; with ``MPCC_STRICT_PLUGINS=1``, if any plugin is broken.
    """
    table = tomllib.loads(BUILT_IN_FILE.read_text(encoding="utf-8"))
    loaded = [Plugin.of(RegistryFile(table), "built-in", "mpcc", metadata.version("mpcc"))]
    owners = ["registry.toml of mpcc"]
    registries = unique([*environment_registries(), *registries], "--registry")
    plugins = unique(plugins, "--plugin")
    # A plugin may print; standard output belongs to the commands.
    with contextlib.redirect_stdout(sys.stderr):
        for path in registries:
            file = RegistryFile.read(path)
            loaded.append(Plugin.of(file, str(path), REGISTRY_FILE, file.version))
        loaded += [plugin_of_file(path) for path in plugins]
        owners += [str(path) for path in (*registries, *plugins)]
        presets = Presets()
        for plugin, owner in zip(loaded, owners, strict=True):
            presets.add(plugin, owner)
        broken = []
        points = metadata.entry_points(group=ENTRY_POINT_GROUP) if entry_points is None else entry_points
        # pluggy's own loader would stop at the first plugin that raises. Here the others still load.
        for point in sorted(points, key=lambda point: point.name):
            found = plugin_of_entry_point(point, presets)
            if isinstance(found, Plugin):
                loaded.append(found)
            elif strict_plugins():
                raise PluginError(found.described())
            else:
                broken.append(found)
    entries: dict[str, dict[str, tuple[Entry, ...]]] = {kind: {} for kind in KINDS}
    for entry in (entry for plugin in loaded for entry in plugin.entries):
        of_kind = entries[entry.kind]
        of_kind[entry.name] = (*of_kind.get(entry.name, ()), entry)
    for name, preset in presets.tables.items():
        data = preset.get("for", {}).get("data")
        if data is not None and data not in entries["dataset"]:
            error = unknown_name("dataset", data, entries["dataset"])
            logger.warning(
                "preset %s of %s was made for a data set that is not here: %s", name, presets.owners[name], error
            )
    return Registry(
        entries=entries,
        presets=presets.tables,
        defaults=table["defaults"],
        broken=tuple(broken),
        observers=tuple(plugin.observer for plugin in loaded if plugin.observer is not None),
        compat=table["compat"],
        plugin_files=tuple(plugins),
        registry_files=tuple(registries),
    )


def plugin_of_file(path: Path) -> Plugin:
    """Load a one-file plugin.

    Raises:
        InvalidInput: If the file cannot be a plugin.
        PluginError: If it is broken.
    """
    version = read_source(path)
    try:
        return Plugin.of(import_file(path), str(path), LOCAL_FILE, version)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.modules.pop(path.stem, None)
        place = failing_file(path.stem, error) or str(path)
        raise PluginError(Broken(path.stem, LOCAL_FILE, version, place, reason(error)).described()) from error


def plugin_of_entry_point(point: metadata.EntryPoint, presets: Presets) -> Plugin | Broken:
    """Load an installed plugin and add its presets; return a record of the failure if it cannot be loaded."""
    distribution = point.dist.name if point.dist else UNKNOWN
    version = point.dist.version if point.dist else UNKNOWN
    try:
        plugin = Plugin.of(point.load(), point.name, distribution, version)
        presets.add(plugin, f"{distribution} {version}")
        return plugin
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        place = failing_file(point.module, error) or point.value
        return Broken(point.name, distribution, version, place, reason(error))


def unique(paths: Iterable[Path], flag: str) -> list[Path]:
    """Return absolute paths in their order, without repetitions.

    Raises:
        InvalidInput: If a path begins with the home of a user who does not exist.
    """
    absolute: dict[Path, None] = {}
    for path in paths:
        try:
            absolute[path.expanduser().absolute()] = None
        except RuntimeError as error:
            raise InvalidInput(f"{flag} {path}: {error}") from error
    return list(absolute)


def failing_file(module: str, error: BaseException) -> str | None:
    """Return the innermost file and line of a plugin in a traceback, or None if the plugin does not occur in it."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    package = module.partition(".")[0]
    for frame in reversed(frames):
        if package in Path(frame.filename).with_suffix("").parts:
            return f"{frame.filename}:{frame.lineno}"
    return None
