"""Which settings ``--minutes`` may set: those that the user has not typed.

A later source overrides an earlier one here, too. ``--minutes`` replaces the number of iterations of a configuration
file, and ``--iterations`` replaces the minutes of one. Both in the same place contradict each other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import attrs

from mpcc.core.config.layers import flag
from mpcc.core.config.settings import RunSettings
from mpcc.core.errors import InvalidInput

__all__ = ["SET_BY_MINUTES", "free_settings", "one_length"]

logger = logging.getLogger(__name__)

# What follows from the length of a run; `lr_decay` is a share of it already.
SCHEDULE = (
    *("iterations", "ema_start", "ema_decay", "real_terms_rise", "prior_fit", "eval_every", "eval_images"),
    *("standing_passes", "checkpoint_every", "log_every"),
)
SET_BY_MINUTES = (*SCHEDULE, "first_eval")
OF_NO_USER, OF_A_FILE, OF_A_FLAG = range(3)


def rank(origin: str) -> int:
    """Return whether a value comes from a flag, from a file, or from no user: the default, a preset, the environment.

    Example:
        >>> [rank(origin) for origin in ("default", "preset digits", "my.toml", "flag")]
        [0, 0, 1, 2]
    """
    if origin == "flag":
        return OF_A_FLAG
    made = origin in ("default", "registry") or origin.startswith(("preset ", "compat ", "objective ", "$"))
    return OF_NO_USER if made else OF_A_FILE


def one_length(run: RunSettings, origins: Mapping[str, str]) -> RunSettings:
    """Return settings in which minutes and iterations do not contradict each other: the later source counts.

    Arguments:
        run: The settings.
        origins: The source of each value, by dotted name such as ``run.minutes``.

    Raises:
        InvalidInput: If the user has typed both in the same place.
    """
    if run.minutes is None:
        return run
    minutes, iterations = origins.get("run.minutes", "default"), origins.get("run.iterations", "default")
    if rank(iterations) == rank(minutes) != OF_NO_USER:
        names = (flag("run", "minutes"), flag("run", "iterations"))
        if minutes != "flag":
            names = (f"{minutes}: run.minutes", "run.iterations")
        raise InvalidInput(
            f"{names[0]} {run.minutes:g} sets the number of iterations, and {names[1]} {run.iterations} is another: "
            "expected one of the two; leave the other out"
        )
    if rank(iterations) > rank(minutes):
        logger.info("iterations %d (%s) replace minutes %g (%s)", run.iterations, iterations, run.minutes, minutes)
        return attrs.evolve(run, minutes=None)
    return run


def free_settings(origins: Mapping[str, str]) -> set[str]:
    """Return the names of the settings in `SET_BY_MINUTES` that the user leaves to ``--minutes``.

    What the user has typed stays. A file with all of them is the ``config.toml`` of a run: nobody has typed them, and
    minutes given by a flag set them anew.

    Example:
        >>> sorted(free_settings({"run.minutes": "flag", "run.eval_every": "flag", "run.log_every": "my.toml"}))
        ... # doctest: +ELLIPSIS
        ['checkpoint_every', 'ema_decay', 'ema_start', 'eval_images', 'first_eval', 'iterations', ...]
    """
    ranks = {name: rank(origins.get(f"run.{name}", "default")) for name in SET_BY_MINUTES}
    by_flag = rank(origins.get("run.minutes", "default")) == OF_A_FLAG
    # Runs of earlier versions have no `prior_fit`.
    recorded = by_flag and all(ranks[name] != OF_NO_USER for name in SCHEDULE if name != "prior_fit")
    highest = OF_A_FILE if recorded else OF_NO_USER
    return {name for name, typed in ranks.items() if typed <= highest or name == "iterations"}
