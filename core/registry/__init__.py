"""Names to plugins: how plugins are found, loaded and looked up."""

from __future__ import annotations

from mpcc.core.registry.entries import KINDS, Entry, reason
from mpcc.core.registry.plugin import Observer
from mpcc.core.registry.registry import Registry, failing_file, load_registry, strict_plugins

__all__ = ["KINDS", "Entry", "Observer", "Registry", "failing_file", "load_registry", "reason", "strict_plugins"]
