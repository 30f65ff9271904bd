"""One plugin: the names that it registers and its hooks that watch runs. Each plugin has its own plugin manager."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pluggy

from mpcc.core import hookspecs
from mpcc.core.errors import PluginError, unknown_name
from mpcc.core.registry.entries import KINDS, Entry
from mpcc.core.registry.presets import check_preset

__all__ = ["API_VERSION", "Observer", "Plugin"]

API_VERSION = 1
# What an objective may require or suggest: settings of the run, the prior and the architecture with their options.
OBJECTIVE_SECTIONS = ("run", "prior", "arch")
# Categories that one line of text must not contain: control characters, line and paragraph separators, surrogates.
BREAKS = ("Cc", "Zl", "Zp", "Cs")


@attrs.frozen
class Observer:
    """A plugin that watches runs.

    Attributes:
        hooks: Its hooks by name; each takes the arguments of its specification by keyword.
        package: The name of its module.
    """

    hooks: Mapping[str, Callable[..., Any]]
    package: str
    origin: str
    distribution: str
    version: str


@attrs.frozen
class Plugin:
    """The content of one plugin.

    Attributes:
        entries: The names that it registers.
        observer: Its hooks that watch runs, or None.
        presets: Its presets by name.
    """

    entries: tuple[Entry, ...]
    observer: Observer | None
    presets: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    @classmethod
    def of(cls, plugin: object, origin: str, distribution: str, version: str) -> Plugin:
        """Call the registration hooks of a plugin.

        Arguments:
            plugin: A module or an object with hook implementations.
            origin: The entry point or the file that it comes from, or ``built-in``.
            distribution: The installed distribution that it comes with.
            version: The distribution's version.

        Raises:
            PluginError: If a hook does not exist, or a registration is not valid.
            Exception: Any error that the plugin raises.
        """
        manager = pluggy.PluginManager("mpcc")
        manager.add_hookspecs(hookspecs)
        refuse_unknown_hooks(manager, plugin)
        manager.register(plugin)
        entries: list[Entry] = []

        def register(
            kind: str,
            name: str,
            target: str,
            *,
            summary: str,
            options: str | None = None,
            defaults: Mapping[str, Any] | None = None,
            api_version: int = API_VERSION,
            on_request: bool = False,
            requires: Mapping[str, Mapping[str, Any]] | None = None,
            suggests: Mapping[str, Mapping[str, Any]] | None = None,
            unused: Sequence[str] | None = None,
        ) -> None:
            check_registration(kind, name, target, summary, options, api_version)
            required, suggested = dict(requires or {}), dict(suggests or {})
            check_tables(kind, name, "requires", required)
            check_tables(kind, name, "suggests", suggested)
            check_unused(kind, name, unused)
            if any((entry.kind, entry.name) == (kind, name) for entry in entries):
                raise PluginError(f"{kind} {name!r} is registered twice by {distribution} ({origin})")
            own = dict(defaults or {})
            where = (origin, distribution, version)
            of_objective = (required, suggested, tuple(unused or ()))
            entries.append(Entry(kind, name, target, summary, options, own, *where, on_request, *of_objective))

        for kind in KINDS:
            getattr(manager.hook, f"register_{kind}s")(register=functools.partial(register, kind))
        presets: dict[str, Mapping[str, Any]] = {}

        def register_preset(name: str, tables: Mapping[str, Any]) -> None:
            check_preset(name, tables)
            if name in presets:
                raise PluginError(f"preset {name!r} is registered twice by {distribution} ({origin})")
            presets[name] = tables

        manager.hook.register_presets(register=register_preset)
        watching: dict[str, Callable[..., Any]] = {
            name: getattr(manager.hook, name)
            for name in hookspecs.HOOKS
            if not name.startswith("register_") and getattr(manager.hook, name).get_hookimpls()
        }
        package = getattr(plugin, "__name__", type(plugin).__module__)
        observer = Observer(watching, package, origin, distribution, version) if watching else None
        return cls(tuple(entries), observer, presets)


def refuse_unknown_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse a hook implementation with a mistyped name.

    Raises:
        PluginError: With that name and the nearest hook.
    """
    for name in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is not None and not options["optionalhook"] and (options["specname"] or name) not in hookspecs.HOOKS:
            raise unknown_name("hook", name, hookspecs.HOOKS)


def check_registration(kind: str, name: str, target: str, summary: str, options: str | None, api_version: int) -> None:
    """Refuse a registration that could not work.

    Raises:
        PluginError: With the value and what was expected.
    """
    if not isinstance(name, str) or not name or not name.replace("_", "").replace("-", "").isalnum():
        raise PluginError(f"{kind} name {name!r}: expected letters, digits, '-' and '_'")
    for path in (target, *(() if options is None else (options,))):
        if not isinstance(path, str) or len(path.split(":")) != 2 or not all(path.split(":")):
            raise PluginError(f"{kind} {name!r}: {path!r} is not an import path like 'package.module:Class'")
    if not isinstance(summary, str) or not summary or any(unicodedata.category(letter) in BREAKS for letter in summary):
        raise PluginError(f"{kind} {name!r}: the summary must be one line of text, got {summary!r}")
    if api_version != API_VERSION:
        raise PluginError(f"{kind} {name!r} is written for plugin API {api_version}; this mpcc has {API_VERSION}")


def check_tables(kind: str, name: str, verb: str, tables: Mapping[str, Any]) -> None:
    """Refuse what is not values of a configuration's sections, or not those of an objective.

    Arguments:
        kind: Of the plugin.
        name: Of the plugin.
        verb: What it does with them, ``requires`` or ``suggests``.
        tables: The values by section and name.

    Raises:
        PluginError: With the value and what was expected.
    """
    if tables and kind != "objective":
        raise PluginError(f"{kind} {name!r}: only an objective {verb} values of other sections, got {tables!r}")
    for section, table in tables.items():
        if section not in OBJECTIVE_SECTIONS:
            raise unknown_name(f"section that {kind} {name!r} {verb}:", section, OBJECTIVE_SECTIONS)
        if not isinstance(table, Mapping):
            raise PluginError(f"{kind} {name!r}: expected a table {section} of values, got {table!r}")


def check_unused(kind: str, name: str, unused: Any) -> None:
    """Refuse what is not a list of settings, or not that of an objective.

    Raises:
        PluginError: With the value and what was expected.
    """
    if unused is None:
        return
    if not isinstance(unused, (list, tuple)) or not all(isinstance(setting, str) for setting in unused):
        raise PluginError(f"{kind} {name!r}: unused: expected a list of settings of the run, got {unused!r}")
    if unused and kind != "objective":
        raise PluginError(f"{kind} {name!r}: only an objective has unused settings, got {list(unused)!r}")
