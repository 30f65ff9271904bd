"""The errors of a user, one line each: what was given, what was expected, the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    *("EXIT_INTERRUPTED", "InvalidInput", "OutOfResources", "PluginError", "RankLost", "RanksDiffer"),
    *("TrainingDiverged", "unknown_name"),
]

# The exit status of a command that was interrupted: 128 + SIGINT, as shells count.
EXIT_INTERRUPTED = 130
# The most names that an error lists; a run has about fifty settings.
MOST_NAMES = 60


class InvalidInput(ValueError):
    """Input that cannot be used: a flag, an option, a file, a data set. The commands exit with ``status``."""

    status = 2


class PluginError(InvalidInput):
    """A plugin that is broken, missing, or in conflict with another one."""


class TrainingDiverged(ArithmeticError):
    """Training produced a value that is not finite; the message names the quantity and the iteration."""

    status = 3


class OutOfResources(RuntimeError):
    """Memory or disk space ran out; the message says what to lower or to free."""

    status = 4


class RankLost(OutOfResources):
    """A process that trains together with this one has ended, or cannot be reached."""

    status = 5


class RanksDiffer(OutOfResources):
    """Processes that train together have different parameters."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> InvalidInput:
    """Make the error for a name that does not exist, with the names that do.

    Arguments:
        kind: What the name stands for, e.g. ``prior``.
        given: The name as it was typed.
        known: All valid names.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> print(unknown_name("data set", "mnits", ["digits", "mnist"]))
        unknown data set 'mnits': did you mean 'mnist'? (expected one of digits, mnist)
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    expected = f"expected one of {', '.join(names[:MOST_NAMES])}{more}" if names else "there are none to choose from"
    # The nearest name comes first: lists can be long.
    hint = f"did you mean {close[0]!r}? ({expected})" if close else expected
    return InvalidInput(f"unknown {kind} {given!r}: {hint}")
