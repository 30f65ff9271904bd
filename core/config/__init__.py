"""Configuration: the user's flags and files become one frozen value."""

from __future__ import annotations

from mpcc.core.config.config import PluginChoice, RunConfig, resolve, used
from mpcc.core.config.layers import SECTIONS, Layer, compat_layer, environment_layer, flag, read_config
from mpcc.core.config.own_files import reader_of, with_readers
from mpcc.core.config.settings import RESUMABLE, RunSettings

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
    "reader_of",
    "resolve",
    "used",
    "with_readers",
]
