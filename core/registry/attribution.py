"""Whose fault it was: an exception from inside a plugin becomes one line with the plugin's name, file and reason."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mpcc.core.errors import InvalidInput, PluginError, TrainingDiverged
from mpcc.core.registry.entries import Entry, reason
from mpcc.core.system.resources import short_of_memory

__all__ = ["attributed"]


def owns(entry: Entry, module: str) -> bool:
    """Return whether a module belongs to a plugin: its package if that is a third party's, else its folder of ours."""
    target = entry.target.partition(":")[0]
    package = target.rpartition(".")[0] if target.startswith("mpcc.") else target.partition(".")[0]
    return module in (target, package) or module.startswith(f"{package}.")


@contextmanager
def attributed(entries: Sequence[Entry]) -> Iterator[None]:
    """Turn exceptions from the code of these plugins into errors that name them.

    The innermost frame that belongs to one of them decides. Errors that say what is wrong already, interruptions,
    exceptions from elsewhere and those of memory that ran out, which is nobody's fault, pass as they are.

    Raises:
        PluginError: Naming the plugin, its distribution, version, file, line and reason.
    """
    try:
        yield
    except (InvalidInput, TrainingDiverged):
        raise
    except Exception as error:
        if short_of_memory(error):
            raise
        frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
        for frame in reversed(frames):
            # A method that a plugin's class inherits from ours runs in our file, on the plugin's behalf.
            receiver = frame.frame.f_locals.get("self")
            modules = {str(frame.frame.f_globals.get("__name__", "")), type(receiver).__module__}
            for entry in entries:
                if any(owns(entry, module) for module in modules):
                    place = f"{frame.filename}:{frame.lineno}"
                    raise PluginError(f"{entry.described()}: {place}: {reason(error)}") from error
        raise
