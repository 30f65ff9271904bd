"""The registry: what is installed under which name, loaded lazily and validated plugin by plugin.

Sources, in this order: ``registry.toml`` beside this package, registry files and plugin files that the user names, and
the entry points of the group ``mpcc``. All go through the hooks of `mpcc.core.hookspecs`. An installed plugin that
cannot be loaded is kept as a `Broken` record and leaves nothing behind; a file that the user has named must load. A
name that two plugins claim can't be used until one of them goes.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import pluggy

from mpcc.core import hookspecs
from mpcc.core.errors import InvalidInput, PluginError, unknown_name
from mpcc.core.registry.local_plugins import import_file, read_source
from mpcc.core.registry.registry_file import RegistryFile, environment_registries

__all__ = [
    "API_VERSION",
    "KINDS",
    "Broken",
    "Entry",
    "Observer",
    "Registry",
    "failing_file",
    "load_registry",
    "reason",
    "strict_plugins",
]

API_VERSION = 1
ENTRY_POINT_GROUP = "mpcc"
STRICT_VARIABLE = "MPCC_STRICT_PLUGINS"
# What text of one line has not: control characters, separators of lines and of paragraphs, halves of characters.
BREAKS = ("Cc", "Zl", "Zp", "Cs")
BUILT_IN_FILE = Path(__file__).resolve().parents[2] / "registry.toml"

# The contract that a class of each kind must fulfil; hooks and registry.toml use the plural.
KINDS = {"prior": "Prior", "architecture": "Architecture", "dataset": "Dataset", "metric": "Metric"}


@attrs.frozen
class Entry:
    """One registered name.

    Attributes:
        kind: ``prior``, ``architecture``, ``dataset`` or ``metric``.
        name: What a user types.
        target: Import path of the class, ``module:Class``.
        summary: One line.
        options: Import path of the options class, or None.
        defaults: Default values of options that differ from those of the class.
        origin: The entry point that registered it, or ``built-in``.
        distribution: The installed distribution that it came with.
        version: That distribution's version.
    """

    kind: str
    name: str
    target: str
    summary: str
    options: str | None
    defaults: Mapping[str, Any]
    origin: str
    distribution: str
    version: str

    def load(self) -> type:
        """Import the class and check it against the contract.

        Raises:
            PluginError: If the import fails or the class is not what the contract asks for.
        """
        contract = getattr(importlib.import_module("mpcc.core.contracts"), KINDS[self.kind])
        found = self._resolve(self.target)
        if not (inspect.isclass(found) and issubclass(found, contract)):
            raise PluginError(f"{self.described()}: {self.target} is not a subclass of {contract.__name__}")
        if inspect.isabstract(found):
            missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
            raise PluginError(f"{self.described()}: {self.target} lacks {missing}")
        return found

    def options_class(self) -> type | None:
        """Import the options class, or return None if there are no options.

        Raises:
            PluginError: If the import fails or it is no class.
        """
        if self.options is None:
            return None
        found = self._resolve(self.options)
        if not inspect.isclass(found):
            raise PluginError(f"{self.described()}: {self.options} is not a class")
        return found

    def described(self) -> str:
        """Return kind, name, distribution and version for messages."""
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version} ({self.origin})"

    def _resolve(self, path: str) -> Any:
        module_name, _, attribute = path.partition(":")
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self.described()}: cannot import {module_name}: {reason(error)}") from error
        try:
            return getattr(module, attribute)
        except AttributeError as error:
            raise PluginError(f"{self.described()}: {module_name} has no {attribute!r}") from error


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
class Observer:
    """A plugin that watches runs.

    Attributes:
        hooks: The hooks that it implements, by name; each takes the arguments of its specification by keyword.
        package: Its module.
    """

    hooks: Mapping[str, Callable[..., Any]]
    package: str
    origin: str
    distribution: str
    version: str


@attrs.frozen
class Registry:
    """All registered names, presets and what failed to load.

    Attributes:
        entries: By kind, then by name. A name claimed more than once has several.
        presets: By name: tables ``run``, ``prior``, ``arch``, ``data`` and a ``source``.
        compat: Choices of other implementations by name, in the same tables.
        defaults: The names used when nothing is said: ``prior``, ``arch``, ``data``.
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

    def entry(self, kind: str, name: str) -> Entry:
        """Look a name up.

        Raises:
            PluginError: If two plugins claim the name.
            InvalidInput: If there is no such name; plugins that failed to load are mentioned.
        """
        claims = self.entries[kind].get(name, ())
        if len(claims) > 1:
            claimants = " and ".join(f"{claim.distribution} {claim.version} ({claim.origin})" for claim in claims)
            raise PluginError(f"{kind} {name!r} is claimed by {claimants}: uninstall or rename one of them")
        if not claims:
            error = unknown_name(kind, name, self.names(kind))
            if self.broken:
                note = f"{error}; not loaded: {'; '.join(broken.described() for broken in self.broken)}"
                error = InvalidInput(note)
            raise error
        return claims[0]

    def all_entries(self) -> Iterable[Entry]:
        """Yield every entry, claimed twice or not."""
        for by_name in self.entries.values():
            for claims in by_name.values():
                yield from claims


def reason(error: BaseException) -> str:
    """Return the kind and the message of an exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
        entry_points: What to load beside the built-ins; the installed ones of the group ``mpcc`` by default.
        plugins: One-file plugins.
        registries: Registry files; those of ``$MPCC_REGISTRY`` come before them.

    Raises:
        InvalidInput: If a file cannot be a plugin or a registry.
        PluginError: If a file that the user named is broken, or any plugin is and ``MPCC_STRICT_PLUGINS=1``.
    """
    table = tomllib.loads(BUILT_IN_FILE.read_text(encoding="utf-8"))
    manager = pluggy.PluginManager("mpcc")
    manager.add_hookspecs(hookspecs)
    entries: dict[str, dict[str, tuple[Entry, ...]]] = {kind: {} for kind in KINDS}
    broken: list[Broken] = []
    observers: list[Observer] = []
    presets = dict(table["presets"])
    owners = dict.fromkeys(presets, "registry.toml of mpcc")

    def collect(plugin: object, origin: str, distribution: str, version: str) -> None:
        found = registrations(manager, plugin, origin, distribution, version)
        observer = observing(manager, plugin, origin, distribution, version)
        for entry in found:
            by_name = entries[entry.kind]
            by_name[entry.name] = (*by_name.get(entry.name, ()), entry)
        if observer is not None:
            observers.append(observer)

    collect(RegistryFile(table), "built-in", "mpcc", metadata.version("mpcc"))
    registries = unique([*environment_registries(), *registries], "--registry")
    plugins = unique(plugins, "--plugin")
    # A plugin may print; standard output belongs to the commands.
    with contextlib.redirect_stdout(sys.stderr):
        for path in registries:
            file = RegistryFile.read(path)
            collect(file, str(path), "registry file", file.version)
            for name, preset in file.presets.items():
                if name in presets:
                    raise InvalidInput(
                        f"preset {name!r} is in {owners[name]} and in {path}: expected another name in one of them"
                    )
                presets[name], owners[name] = preset, str(path)
        for path in plugins:
            version = read_source(path)
            try:
                collect(import_file(path), str(path), "local file", version)
            except (Exception, SystemExit) as error:
                sys.modules.pop(path.stem, None)
                place = failing_file(path.stem, error) or str(path)
                raise PluginError(Broken(path.stem, "local file", version, place, reason(error)).described()) from error
        points = metadata.entry_points(group=ENTRY_POINT_GROUP) if entry_points is None else entry_points
        # pluggy's own loader stops at the first plugin that raises; one by one, a bad plugin harms itself only.
        for point in sorted(points, key=lambda point: point.name):
            distribution = point.dist.name if point.dist else "?"
            version = point.dist.version if point.dist else "?"
            try:
                collect(point.load(), point.name, distribution, version)
            except (Exception, SystemExit) as error:
                place = failing_file(point.module, error) or point.value
                record = Broken(point.name, distribution, version, place, reason(error))
                if strict_plugins():
                    raise PluginError(record.described()) from error
                broken.append(record)
    return Registry(
        entries=entries,
        presets=presets,
        defaults=table["defaults"],
        broken=tuple(broken),
        observers=tuple(observers),
        compat=table["compat"],
        plugin_files=tuple(plugins),
        registry_files=tuple(registries),
    )


def unique(paths: Iterable[Path], flag: str) -> list[Path]:
    """Return absolute paths, each once, in their order.

    Raises:
        InvalidInput: If one begins with the home of a user that does not exist.
    """
    found: dict[Path, None] = {}
    for path in paths:
        try:
            found[path.expanduser().absolute()] = None
        except RuntimeError as error:
            raise InvalidInput(f"{flag} {path}: {error}") from error
    return list(found)


def failing_file(module: str, error: BaseException) -> str | None:
    """Return file and line where a plugin raised, the innermost of its own files; None if none was reached."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    package = module.partition(".")[0]
    for frame in reversed(frames):
        if package in Path(frame.filename).with_suffix("").parts:
            return f"{frame.filename}:{frame.lineno}"
    return None


def observing(
    manager: pluggy.PluginManager, plugin: object, origin: str, distribution: str, version: str
) -> Observer | None:
    """Return a registered plugin as an observer, or None if it implements no hook that watches runs."""
    others = [other for other in manager.get_plugins() if other is not plugin]
    hooks: dict[str, Callable[..., Any]] = {}
    for name in hookspecs.HOOKS:
        caller = manager.subset_hook_caller(name, others)
        if not name.startswith("register_") and caller.get_hookimpls():
            hooks[name] = caller
    package = getattr(plugin, "__name__", type(plugin).__module__)
    return Observer(hooks, package, origin, distribution, version) if hooks else None


def registrations(
    manager: pluggy.PluginManager, plugin: object, origin: str, distribution: str, version: str
) -> list[Entry]:
    """Call one plugin's registration hooks and return what it registers; on any error nothing of it stays.

    Raises:
        PluginError: If a hook does not exist, or a registration is not valid.
        Exception: Whatever the plugin raises.
    """
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is not None and not options["optionalhook"] and (options["specname"] or name) not in hookspecs.HOOKS:
            raise unknown_name("hook", name, hookspecs.HOOKS)
    staged: list[Entry] = []
    manager.register(plugin, name=f"{distribution}:{origin}")
    try:
        others = [other for other in manager.get_plugins() if other is not plugin]
        for kind in KINDS:

            def register(
                name: str,
                target: str,
                *,
                summary: str,
                options: str | None = None,
                defaults: Mapping[str, Any] | None = None,
                api_version: int = 1,
                kind: str = kind,
            ) -> None:
                check_registration(kind, name, target, summary, options, api_version)
                if any(entry.kind == kind and entry.name == name for entry in staged):
                    raise PluginError(f"{kind} {name!r} is registered twice by {distribution} ({origin})")
                staged.append(
                    Entry(kind, name, target, summary, options, dict(defaults or {}), origin, distribution, version)
                )

            manager.subset_hook_caller(f"register_{kind}s", others)(register=register)
    except BaseException:
        manager.unregister(plugin)
        raise
    return staged


def check_registration(kind: str, name: str, target: str, summary: str, options: str | None, api_version: int) -> None:
    """Refuse a registration that could not work.

    Raises:
        PluginError: Naming the value and what was expected.
    """
    if not isinstance(name, str) or not name or not name.replace("_", "").replace("-", "").isalnum():
        raise PluginError(f"{kind} name {name!r}: expected letters, digits, '-' and '_'")
    for path in (target, *(() if options is None else (options,))):
        if not isinstance(path, str) or len(path.split(":")) != 2 or not all(path.split(":")):
            raise PluginError(f"{kind} {name!r}: {path!r} is not an import path like 'package.module:Class'")
    if not isinstance(summary, str) or not summary or any(unicodedata.category(each) in BREAKS for each in summary):
        raise PluginError(f"{kind} {name!r}: the summary must be one line of text, got {summary!r}")
    if api_version != API_VERSION:
        raise PluginError(f"{kind} {name!r} is written for plugin API {api_version}; this mpcc has {API_VERSION}")
