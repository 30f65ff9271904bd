"""One registered name: what it stands for, where it came from, and how its class is loaded."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import attrs

from mpcc.core.errors import PluginError
from mpcc.core.system.stripped_docstrings import prepare_pyro

__all__ = ["KINDS", "Entry", "reason"]

# The contract that a class of each kind must fulfil; hooks and registry.toml use the plural.
KINDS = {
    "prior": "Prior",
    "architecture": "Architecture",
    "dataset": "Dataset",
    "metric": "Metric",
    "objective": "Objective",
}
# What stands for the distribution of a plugin that has none.
LOCAL_FILE, REGISTRY_FILE, UNKNOWN = NO_DISTRIBUTION = ("local file", "registry file", "?")


@attrs.frozen
class Entry:
    """One registered name.

    Attributes:
        kind: One of `KINDS`.
        name: The name that a user types.
        target: Import path of the class, ``module:Class``.
        summary: One line.
        options: Import path of the options class, or None.
        defaults: Default values of options that differ from those of the class.
        origin: The entry point that registered it, or ``built-in``.
        distribution: The installed distribution that it came with.
        version: That distribution's version.
        on_request: Whether a metric is left out of ``all`` without being loaded.
        requires: Values of other sections that an objective comes with, in the tables of a configuration.
        suggests: The same for values that a user may change; they replace those of a preset for another objective.
        unused: Settings of the run that an objective has no use for.
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
    on_request: bool = False
    requires: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    suggests: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    unused: tuple[str, ...] = ()

    def load(self) -> type:
        """Import the class and check it against the contract.

        Raises:
            PluginError: If the import fails or the class does not fulfil the contract.
        """
        prepare_pyro()
        contract = getattr(importlib.import_module("mpcc.core.contracts"), KINDS[self.kind])
        plugin_class = self._resolve(self.target)
        if not (inspect.isclass(plugin_class) and issubclass(plugin_class, contract)):
            raise PluginError(f"{self.described()}: {self.target} is not a subclass of {contract.__name__}")
        if inspect.isabstract(plugin_class):
            missing = ", ".join(sorted(getattr(plugin_class, "__abstractmethods__", ())))
            raise PluginError(f"{self.described()}: {self.target} lacks {missing}")
        return plugin_class

    def options_class(self) -> type | None:
        """Import the options class, or return None if there are no options.

        Raises:
            PluginError: If the import fails or the path does not lead to a class.
        """
        if self.options is None:
            return None
        options_class = self._resolve(self.options)
        if not inspect.isclass(options_class):
            raise PluginError(f"{self.described()}: {self.options} is not a class")
        return options_class

    @property
    def installed(self) -> bool:
        """Whether it came with a distribution of a third party, which ``pip install`` brings."""
        return self.origin != "built-in" and self.distribution not in NO_DISTRIBUTION

    @property
    def release(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}"

    def described(self) -> str:
        """Return kind, name, distribution and version for messages."""
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version} ({self.origin})"

    def _resolve(self, path: str) -> Any:
        module_name, _, attribute = path.partition(":")
        try:
            module = importlib.import_module(module_name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PluginError(f"{self.described()}: cannot import {module_name}: {reason(error)}") from error
        try:
            return getattr(module, attribute)
        except AttributeError as error:
            raise PluginError(f"{self.described()}: {module_name} has no {attribute!r}") from error


def reason(error: BaseException) -> str:
    """Return the kind and the message of an exception in one line; one whose ``__str__`` fails has its kind only."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # a message of a plugin's own making may fail in any way
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
