"""One run of a sweep: its configuration as the storage keeps it, and how a worker carries it out or goes on with it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.config import Layer, RunConfig, read_config, resolve
from mpcc.core.config.layers import config_layer
from mpcc.core.config.time_budget import free_settings
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import Registry
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.toml_file import parse_toml

__all__ = ["LOOK", "carried_out", "finished", "layers_of", "stored"]

logger = logging.getLogger(__name__)

# Seconds between two looks at runs of other workers.
LOOK = 2.0


def stored(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as a trial keeps it: as TOML, and the settings that its minutes may still set."""
    free = [] if config.run.minutes is None else sorted(free_settings(config.origins))
    return {"config": config.to_toml(), "free": free}


def layers_of(told: Mapping[str, Any]) -> list[Layer]:
    """Return the layers of a stored configuration; the settings that its minutes may set are in one that they override.

    Arguments:
        told: As `stored` returns it.
    """
    layer = config_layer(parse_toml(told["config"].encode(), "a run of the sweep"), "the sweep")
    run = dict(layer.tables["run"])
    free = {name: run.pop(name) for name in told["free"] if name in run}
    return [Layer("preset of the sweep", {"run": free}), attrs.evolve(layer, tables={**layer.tables, "run": run})]


def carried_out(registry: Registry, path: Path, told: Mapping[str, Any], own: Layer, sweep: Path) -> dict[str, Any]:
    """Carry out one run, or go on with it, and return its results.

    Arguments:
        registry: The plugins.
        path: Its folder.
        told: Its configuration as `stored` returns it.
        own: Settings of this machine.
        sweep: The folder of the sweep.
    """
    from mpcc.core.run.whole_run import carry_out

    if path.is_dir() and not any(path.iterdir()):
        # A worker was killed as soon as it had made the folder.
        path.rmdir()
    while in_use(path):
        # Its worker was held up, so that its run was put back; but it lives.
        time.sleep(LOOK)
    begun = (path / "config.toml").is_file()
    layers = [read_config(path / "config.toml")] if begun else layers_of(told)
    made = resolve(registry, [*layers, own], "none")
    if begun and (results := finished(path, made.run.iterations)):
        return results
    folder = RunFolder.existing(path) if begun else RunFolder.plan(path, made)
    folder.within, folder.command = sweep, "mpcc sweep"
    # A stop that is asked for in the last iteration counts, too: other runs follow.
    return carry_out(registry, made, folder, resumed=begun, pause=lambda run: run.config.run.iterations, bar=False)


def in_use(path: Path) -> bool:
    """Return whether a living process uses a run folder."""
    if not path.is_dir():
        return False
    try:
        with RunFolder(path).locked():
            return False
    except InvalidInput:
        return True


def finished(path: Path, iterations: int) -> dict[str, Any]:
    """Return the results of a run that has ended though its worker could not say so; empty if it has not."""
    from mpcc.core.run.resume import iterations_done

    try:
        results: dict[str, Any] = json.loads((path / "results.json").read_bytes())
        ended = results["iterations"] == iterations
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    # The results of an evaluation are written before its checkpoint.
    if not ended or iterations_done(KeptCheckpoints(path / "checkpoints")) < iterations:
        return {}
    logger.info("%s has ended already", quoted(path))
    return results
