"""What a training tells about its health, as warnings of Python in the words of the estimator."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import attrs
from sklearn.exceptions import ConvergenceWarning

from mpcc.core.config import RunSettings
from mpcc.core.reporting.symptoms import OF_FORMING

__all__ = ["in_python_words", "warn_of_health"]

# Flags that are parameters of the estimator, by the name of the setting. All others are entries of `settings`.
PARAMETERS = {"clusters": "n_clusters", "seed": "random_state", "out": "run_folder"}
PARAMETERS |= {name: name for name in ("prior", "arch", "preset", "iterations", "minutes", "invariant_to", "device")}
# Advice that names files or a command, and what it is for an estimator.
OTHERWISE = {
    "train longer first, with --resume": "fit for longer, with more iterations or minutes",
    "in a new run, ": "in a new fit, ",
    "its picture in clusters/ would show (with more than 30 clusters: --picture-clusters all)": (
        "its images, those of its labels_, would show"
    ),
}
FLAG = re.compile(r"--([a-z][a-z-]*(?:\.[a-z][a-z-]*)?)(?: (\d[\d.]*(?:e[+-]?\d+)?|[\w.]*\w))?")


def warn_of_health(health: Mapping[str, Any], stacklevel: int) -> None:
    """Warn of each known sign that a training has gone wrong.

    A sign that clusters have not formed is a ``ConvergenceWarning`` of scikit-learn, any other one a ``UserWarning``.

    Arguments:
        health: The section ``health`` of ``results.json``: that of the last evaluation.
        stacklevel: As in `warnings.warn`, 1 for the caller.
    """
    for sign in health["warnings"]:
        category = ConvergenceWarning if sign["name"] in OF_FORMING else UserWarning
        warnings.warn(f"MPCC: {in_python_words(sign['message'])}", category, stacklevel=stacklevel + 1)
    if restarts := health["restarts"]:
        last = f"the last time at iteration {restarts[-1]['iteration']}: {in_python_words(restarts[-1]['reason'])}"
        text = f"MPCC: the training broke down and went back to a checkpoint, {len(restarts)} in all, {last}"
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)


def in_python_words(message: str) -> str:
    """Return a message of a command with parameters of the estimator in place of flags.

    Example:
        >>> print(in_python_words("lower --prior-lr, or run anew with --clusters 12"))
        lower settings["prior_lr"], or run anew with n_clusters=12
        >>> print(in_python_words("in a new run, --lr 8e-05 (half)"))
        in a new fit, settings={"lr": 8e-05} (half)
    """
    for text, other in OTHERWISE.items():
        message = message.replace(text, other)
    return FLAG.sub(as_parameter, message)


def as_parameter(found: re.Match[str]) -> str:
    """Return a parameter for a flag, with its value if the word after the flag is one."""
    name, word = found[1].replace("-", "_"), found[2]
    parameter = PARAMETERS.get(name)
    bare = parameter or f'settings["{name}"]'
    if word is None:
        return bare
    value = word if re.fullmatch(r"\d+(\.\d+)?(e[+-]?\d+)?", word) else f'"{word}"' if word in choices(name) else None
    if value is None:
        return f"{bare} {word}"
    return f"{parameter}={value}" if parameter else f'settings={{"{name}": {value}}}'


def choices(name: str) -> list[Any]:
    """Return the words that a setting may have as its value."""
    kinds = [field.type for field in attrs.fields(attrs.resolve_types(RunSettings)) if field.name == name]
    parts = [part for kind in kinds for part in (kind, *get_args(kind))]
    return [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
