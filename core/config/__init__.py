"""Configuration: the user's flags and files become one frozen value."""

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
