"""From what users write, in flags and files, to one frozen configuration."""

from __future__ import annotations

from mpcc.core.config.config import (
    RESUMABLE,
    SECTIONS,
    Layer,
    PluginChoice,
    RunConfig,
    RunSettings,
    compat_layer,
    environment_layer,
    flag,
    read_config,
    resolve,
    used,
)

__all__ = [
    "RESUMABLE",
    "SECTIONS",
    "Layer",
    "PluginChoice",
    "RunConfig",
    "RunSettings",
    "compat_layer",
    "environment_layer",
    "flag",
    "read_config",
    "resolve",
    "used",
]
