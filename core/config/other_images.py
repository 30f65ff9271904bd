"""A run's configuration for images other than those that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from mpcc.core.config import options
from mpcc.core.config.layers import Layer
from mpcc.core.config.locations import locations
from mpcc.core.registry import Registry

__all__ = ["inherited"]


def inherited(registry: Registry, layer: Layer, asked: Mapping[str, Any], *, from_defaults: bool = False) -> Layer:
    """Return the run's configuration without the options that do not hold for the data set that is asked for.

    For another data set, all options are dropped. For images at another path, only those options are dropped that name
    files, such as the labels of the images that the run was trained on, or that are marked ``of_place``, such as the
    split that was read.

    Arguments:
        registry: Knows the options.
        layer: The run's configuration.
        asked: The data set that is asked for, as ``name`` and options.
        from_defaults: Whether the user named the data set; its options then have their defaults.
    """
    own = layer.tables.get("data", {})
    name = asked.get("name", own.get("name"))
    if from_defaults or name != own.get("name") or name is None:
        kept = {}
    else:
        cls = registry.entry("dataset", name).options_class() if "path" in asked else None
        files = {*locations("data", cls)}
        files |= {option for option, field in options.fields(cls).items() if field.metadata.get("of_place")}
        kept = {option: value for option, value in own.items() if option not in files}
    return attrs.evolve(layer, tables={**layer.tables, "data": kept})
