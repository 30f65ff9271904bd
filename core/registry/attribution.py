"""Attribution: an exception from inside a plugin becomes one line with the plugin's name, file and reason."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mpcc.core.errors import InvalidInput, OutOfResources, PluginError, TrainingDiverged
from mpcc.core.registry.entries import Entry, reason
from mpcc.core.system.resources import short_of_memory

__all__ = ["attributed"]


def owns(entry: Entry, module: str) -> bool:
    """Return whether a module belongs to a plugin: to a third party's package, or to a built-in plugin's folder."""
    target = entry.target.partition(":")[0]
    package = target.rpartition(".")[0] if target.startswith("mpcc.") else target.partition(".")[0]
    return module in (target, package) or module.startswith(f"{package}.")


@contextmanager
def attributed(entries: Sequence[Entry]) -> Iterator[None]:
    """Turn exceptions from the code of these plugins into errors that name them.

    The innermost frame that belongs to one of the plugins decides. Other exceptions pass unchanged: errors that
    already say what is wrong, interruptions, exceptions from elsewhere, and a lack of memory. An exception that is no
    `Exception`, such as ``asyncio.CancelledError``, is a plugin's fault like any other.

    Raises:
        PluginError: Naming the plugin, its distribution, version, file, line and reason.
    """
    try:
        yield
    except (InvalidInput, OutOfResources, TrainingDiverged, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if short_of_memory(error):
            raise
        frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
        for frame in reversed(frames):
            # A method that a plugin inherits runs in a file of the core; the class of `self` shows the plugin.
            receiver = frame.frame.f_locals.get("self")
            modules = {str(frame.frame.f_globals.get("__name__", "")), type(receiver).__module__}
            for entry in entries:
                if any(owns(entry, module) for module in modules):
                    place = f"{frame.filename}:{frame.lineno}"
                    raise PluginError(f"{entry.described()}: {place}: {reason(error)}") from error
        raise
