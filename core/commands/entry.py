"""The entry points of the commands ``mpcc-run`` and ``mpcc``, and the exit status of every way to end."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata

import cyclopts

from mpcc.core.commands.bench import bench
from mpcc.core.commands.evaluate import evaluate_run
from mpcc.core.commands.export import export_run
from mpcc.core.commands.plugins import check_plugin, list_plugins, new_plugin
from mpcc.core.commands.predict import predict_run, with_named_data
from mpcc.core.commands.train import run_command
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, OutOfResources, TrainingDiverged

__all__ = [
    "EXIT_DIVERGED",
    "EXIT_INVALID",
    "EXIT_RESOURCES",
    "STATUS",
    "guarded",
    "main",
    "mpcc_command",
    "print_any_name",
    "run_main",
]


EXIT_INVALID = 2
EXIT_DIVERGED = 3
EXIT_RESOURCES = 4


STATUS: dict[type[BaseException], int] = {TrainingDiverged: EXIT_DIVERGED, OutOfResources: EXIT_RESOURCES}


def run_main(arguments: Sequence[str] | None = None) -> None:
    """Run the command ``mpcc-run`` and exit with its status."""
    print_any_name()
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(guarded("mpcc-run", given, lambda: run_command(given)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command ``mpcc`` and exit with its status; ``mpcc run`` is ``mpcc-run``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["run"]:
        run_main(given[1:])
    print_any_name()
    sys.exit(guarded("mpcc", given, lambda: mpcc_command(given)))


def print_any_name() -> None:
    """Let standard output take names of files that are no text: they are written as the bytes that they are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")


def guarded(command: str, arguments: Sequence[str], action: Callable[[], int]) -> int:
    """Turn what goes wrong into one line on standard error and an exit status.

    Returns:
        0, 2 for invalid input, 3 for diverged training, 4 if memory or disk space ran out, 130 after an interruption.
    """
    try:
        status = action()
        # Here, not at the end of the interpreter, where a reader that has gone would be an error.
        sys.stdout.flush()
        return status
    except (InvalidInput, OutOfResources, TrainingDiverged, cyclopts.CycloptsError) as error:
        if "--traceback" in arguments:
            traceback.print_exc()
        print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return STATUS.get(type(error), EXIT_INVALID)
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (a pager, head) has gone; nothing is left to be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def mpcc_command(arguments: list[str]) -> int:
    """Do what ``mpcc`` was asked for and return the exit status."""
    app = cyclopts.App(
        name="mpcc",
        help="Look at what is installed, check it, write more; evaluate and export runs. To train, use mpcc-run.",
        version=f"mpcc {metadata.version('mpcc')}",
        help_format="plaintext",
    )
    plugins = cyclopts.App(name="plugins", help="List all plugins; or check one, or write a new one.")
    plugins.default(list_plugins)
    plugins.command(list_plugins, name="list")
    plugins.command(check_plugin, name="check")
    plugins.command(new_plugin, name="new")
    app.command(plugins)
    app.command(evaluate_run, name="evaluate")
    app.command(predict_run, name="predict")
    app.command(export_run, name="export")
    app.command(bench, name="bench")
    given = with_named_data([word for word in arguments if word != "--traceback"])
    result = app(given, exit_on_error=False, print_error=False, result_action="return_value")
    return int(result or 0)
