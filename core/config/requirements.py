"""What an objective brings for the rest of a configuration: a prior of its own, one cluster, no terms of another one.

Its values come after those of the preset and before those of the user. A user who asks for other values than the
required ones is refused: the system would not be the one that was named. Suggested values replace those of a preset
that was made for another objective, unless choices for compatibility are asked for; a user may change them. A user who
types a setting that the system does not use in training is told.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from mpcc.core.config import options
from mpcc.core.config.layers import Layer, flag
from mpcc.core.config.settings import RunSettings
from mpcc.core.config.time_budget import OF_NO_USER, rank
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import Entry, Registry

__all__ = ["REQUIRED", "check_required", "fits_in_order", "objective_layers", "unused_settings"]

# What the origin of a value that an objective brings begins with.
REQUIRED = "objective "
# Origins of values that a user has typed for one run: flags, and the parameters and settings of the estimator.
TYPED = ("flag", "MPCC")

logger = logging.getLogger(__name__)


def objective_layers(entry: Entry, preset: Layer | None, layers: Sequence[Layer]) -> list[Layer]:
    """Return the values that an objective suggests, if they are wanted, and those that it requires.

    Suggested ones are wanted if the preset was made for another objective and there are no choices for compatibility.

    Arguments:
        entry: The objective.
        preset: What the run starts from, or None for no preset.
        layers: Values of the user.
    """
    origin = f"{REQUIRED}{entry.name}"
    required = Layer(origin, entry.requires)
    own = preset is None or preset.tables.get("objective", {}).get("name") == entry.name
    if own or any(layer.preset_of_data is not None for layer in layers) or not entry.suggests:
        return [required]
    told = ", ".join(f"{section}.{name}" for section, table in entry.suggests.items() for name in table)
    assert preset is not None
    logger.info("the objective %s replaces %s of %s", entry.name, told, preset.origin)
    run = {section: table for section, table in entry.suggests.items() if section == "run"}
    others = {section: table for section, table in entry.suggests.items() if section != "run"}
    # What it suggests for one prior or architecture, another one may not have.
    return [Layer(origin, run), Layer(origin, others, strict=False), required]


def unused_settings(entry: Entry, layers: Sequence[Layer]) -> list[str]:
    """Return a line for each typed setting that the objective does not use in training; in a file all may stand.

    Raises:
        InvalidInput: If the objective names a setting that does not exist.
    """
    known = options.fields(RunSettings)
    for name in entry.unused:
        if name not in known:
            raise unknown_name(f"setting that {entry.described()} does not use:", name, known)
    return [
        f"{layer.spelled('run', name)} {layer.tables['run'][name]} does not change the training: the objective "
        f"{entry.name} does not use it"
        for layer in layers
        if layer.origin in TYPED
        for name in entry.unused
        if layer.tables.get("run", {}).get(name) is not None
    ]


def fits_in_order(run: RunSettings, origins: Mapping[str, str]) -> RunSettings:
    """Return settings whose second fit of the prior has an earlier one; one that no user asked for is left out.

    Arguments:
        run: The settings.
        origins: The source of each value, by dotted name such as ``run.prior_fit``.

    Raises:
        InvalidInput: If the user asks for a second fit without an earlier one.
    """
    if run.prior_refit == 0 or 0 < run.prior_fit < run.prior_refit:
        return run
    first, second = (origins.get(f"run.{name}", "default") for name in ("prior_fit", "prior_refit"))
    if rank(second) != OF_NO_USER:
        named = flag("run", "prior_refit") if second == "flag" else f"{second}: run.prior_refit"
        raise InvalidInput(
            f"{named} {run.prior_refit:g} needs an earlier fit, but prior_fit is {run.prior_fit:g} ({first}); nearest "
            "valid choice: --prior-refit 0"
        )
    logger.info("prior_refit %g (%s) is left out: prior_fit is %g (%s)", run.prior_refit, second, run.prior_fit, first)
    return attrs.evolve(run, prior_refit=0.0)


def check_required(registry: Registry, entry: Entry, layers: Sequence[Layer]) -> None:
    """Refuse values of the user that contradict those which an objective requires.

    Arguments:
        registry: Names the default objective.
        entry: The objective.
        layers: Values of the user: configuration file, choices for compatibility, flags.

    Raises:
        InvalidInput: With the value, and the one that the objective requires.
    """
    for layer in layers:
        for section, required in entry.requires.items():
            for name, value in required.items():
                given = layer.tables.get(section, {}).get(name)
                if given is None or same(given, value, section, name, layer):
                    continue
                other = "" if entry.name == registry.defaults["objective"] else registry.defaults["objective"]
                or_other = f", or {flag('objective', 'name')} {other}" if other else ""
                raise InvalidInput(
                    f"{layer.spelled(section, name)} {given}: the objective {entry.name} requires {value} "
                    f"(nearest valid choice: {flag(section, name)} {value}{or_other})"
                )


def same(given: Any, value: Any, section: str, name: str, layer: Layer) -> bool:
    """Return whether a value of the user, perhaps text, is the required one.

    Raises:
        InvalidInput: If it is no valid value at all.
    """
    known = options.fields(RunSettings) if section == "run" else {}
    if name not in known:
        return str(given) == str(value)
    return bool(options.convert(given, known[name], layer.spelled(section, name)) == value)
