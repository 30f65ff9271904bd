"""Names to plugins: how plugins are found, loaded and looked up."""

from __future__ import annotations

from mpcc.core.registry.registry import (
    KINDS,
    Entry,
    Observer,
    Registry,
    failing_file,
    load_registry,
    reason,
    strict_plugins,
)

__all__ = ["KINDS", "Entry", "Observer", "Registry", "failing_file", "load_registry", "reason", "strict_plugins"]
