"""Options of metrics: ``--metrics.NAME.OPTION``, and the tables ``[metrics.NAME]`` of a configuration file.

A run computes several metrics, so each has a section of its own, with the name ``metrics.NAME``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpcc.core.config.layers import METRICS, Layer
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Entry, Registry

__all__ = ["with_options"]


def with_options(registry: Registry, names: str, layers: Sequence[Layer]) -> dict[str, Entry]:
    """Return the metrics that a run may compute and that have options, by section; check the sections of the layers.

    Arguments:
        registry: All metrics.
        names: The setting ``metrics``: names separated by commas, or ``all``.
        layers: The sources of values.

    Raises:
        InvalidInput: If a layer has options of a metric that does not exist, or a flag has options of a metric that the
            run does not compute.
    """
    known = registry.names("metric")
    wanted = [name.strip() for name in names.split(",")]
    every = [name for name in known if not registry.entries["metric"][name][0].on_request] if "all" in wanted else []
    computed = {*wanted, *every}
    for layer in layers:
        for section, name in sections_of(layer.tables).items():
            if name not in known:
                raise unknown_name(f"metric of {layer.spelled(section, 'OPTION')}:", name, known)
            if name not in computed and layer.origin == "flag":
                given = layer.key(section, next(iter(layer.tables[section])))
                raise InvalidInput(
                    f"{given}: the run does not compute {name} (nearest valid choice: --metrics {names},{name})"
                )
    named = {name for layer in layers for name in sections_of(layer.tables).values()}
    # A name that two plugins claim is an error once the metrics are made.
    claims = {name: registry.entries["metric"][name] for name in known if name in computed}
    alone = {name: entries[0] for name, entries in claims.items() if len(entries) == 1}
    return {f"{METRICS}.{name}": entry for name, entry in alone.items() if entry.options or name in named}


def sections_of(tables: Mapping[str, Any]) -> dict[str, str]:
    """Return the sections of metrics with the names of the metrics.

    Example:
        >>> sections_of({"run": {}, "metrics.v_measure": {"beta": 2.0}})
        {'metrics.v_measure': 'v_measure'}
    """
    start = f"{METRICS}."
    return {section: section.removeprefix(start) for section in tables if section.startswith(start)}
