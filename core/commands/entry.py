"""The entry points of the commands ``mpcc-run`` and ``mpcc``, and their exit statuses."""

from __future__ import annotations

import functools
import importlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from mpcc.core.commands.train import run_command
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, OutOfResources, TrainingDiverged, unknown_name
from mpcc.core.reporting.messages import messages_shown
from mpcc.core.run.ranks.environment import follows, launched
from mpcc.core.system.output_streams import SafeStream, safe_streams
from mpcc.core.system.signals import ends_interrupt

__all__ = ["COMMANDS", "main", "run_main"]

# The function and the purpose of each command, by name. The module of a function is imported only when it is called,
# except that of mpcc-run: all commands need its imports.
COMMANDS = {
    "run": ("train:run_command", "train: the same as mpcc-run"),
    "plugins": ("plugins:plugins_command", "list all plugins, check one, or write a new one"),
    "evaluate": ("evaluate:evaluate_run", "evaluate a checkpoint anew, into a new folder"),
    "refine": ("refine:refine_run", "sharpen the clusters of a trained run, without labels"),
    "report": ("report:report_run", "write the page of a run anew, such as with names of clusters"),
    "predict": ("predict:predict_run", "assign clusters to images with a trained run"),
    "sample": ("sample:sample_run", "generate new images of the clusters"),
    "export": ("export:export_run", "write the model for other programs, or an archive for a colleague"),
    "compare": ("studies.compare:compare_runs", "compare runs: settings that differ, scores over seeds, curves"),
    "choose-k": ("studies.choose_k:choose_k", "compare numbers of clusters, without labels"),
    "sweep": ("studies.sweep:sweep_command", "train a grid of runs, shared by processes and machines"),
    "bench": ("bench:bench", "measure the speed of training, loading and prediction"),
}
# The commands that several processes of torchrun carry out together.
SHARED = ("run", "predict")
# Flags with which a command only prints.
PRINTING = {"--help", "-h", "--version", "--dry-run"}
HELP = f"""usage: mpcc COMMAND [flags]

Train runs, evaluate, use, compare and export them; list, check and write plugins.

commands, each with --help:
{"".join(f"  {name:<10}{purpose}{chr(10)}" for name, (_, purpose) in COMMANDS.items())}
flags:
  --version   print the version
  --traceback show the traceback of an error"""


def run_main(arguments: Sequence[str] | None = None, began: float | None = None) -> None:
    """Run the command ``mpcc-run`` and exit with its status.

    Arguments:
        arguments: The command line; by default that of the process.
        began: The monotonic clock's time at which the command began; by default now.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    action = functools.partial(run_command, began=time.monotonic() if began is None else began)
    sys.exit(guarded("mpcc-run", words, action, prints=not PRINTING.isdisjoint(words)))


def main(arguments: Sequence[str] | None = None, began: float | None = None) -> None:
    """Run the command ``mpcc`` and exit with its status; ``mpcc run`` is ``mpcc-run``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["run"]:
        run_main(words[1:], began)
    lists = not words or (words[0] == "plugins" and words[1:2] != ["new"])
    sys.exit(guarded("mpcc", words, mpcc_command, prints=lists or not PRINTING.isdisjoint(words)))


def guarded(command: str, words: Sequence[str], action: Callable[[list[str]], int], *, prints: bool = False) -> int:
    """Execute a command and turn an error into one line on standard error and an exit status.

    Nothing that is printed can fail: what the reader of the output does not take, or has no room for, is dropped.

    Arguments:
        command: The command that the user types.
        words: Its arguments.
        action: Executes it and returns the exit status.
        prints: Whether it only prints. Without room for that, it has failed.

    Returns:
        0, 2 for invalid input, 3 for diverged training, 4 if memory or disk space ran out, 130 after an interruption.
    """
    with safe_streams() as output:
        try:
            try:
                with messages_shown(), ends_interrupt():
                    status = action([word for word in words if word != "--traceback"])
            except SystemExit as end:
                if not isinstance(end.code, int | None):
                    raise  # a plugin's own end, with its text
                status = end.code or 0  # the end of --help
            return unshown(command, output, prints=prints) or status
        except (InvalidInput, OutOfResources, TrainingDiverged) as error:
            if "--traceback" in words:
                traceback.print_exc()
            print(f"{command}: error: {' '.join(str(error).split())}", file=sys.stderr)
            return error.status
        except KeyboardInterrupt as stop:
            # What was interrupted may say what it has left behind.
            print(": ".join([f"{command}: interrupted", *map(str, stop.args)]), file=sys.stderr)
            return EXIT_INTERRUPTED


def unshown(command: str, output: SafeStream, *, prints: bool) -> int:
    """Say that standard output had no room for what was printed; return the exit status for that.

    It is 0 for a command that has written files. It is 0, too, if the reader has closed a pipe or a terminal, as
    ``head`` does.
    """
    output.flush()
    if output.full is None:
        return 0
    kind = "error" if prints else "warning"
    print(f"{command}: {kind}: standard output could not be written: {output.full}", file=sys.stderr)
    return OutOfResources.status if prints else 0


def mpcc_command(words: list[str]) -> int:
    """Execute ``mpcc`` and return the exit status."""
    if not words or words[0] in ("--help", "-h"):
        print(HELP)
        return 0
    if words[0] == "--version":
        return run_command(words)
    if words[0] not in COMMANDS:
        raise unknown_name("command", words[0], COMMANDS)
    if launched() and words[0] not in SHARED:
        if follows():
            return InvalidInput.status
        raise InvalidInput(
            f"mpcc {words[0]} runs in one process, and torchrun has started several: expected mpcc "
            f"{' or mpcc '.join(SHARED)}"
        )
    return called(words[0], words[1:])


def called(name: str, words: list[str]) -> int:
    """Import the module of a command and call its function."""
    module, _, function = COMMANDS[name][0].partition(":")
    status: int = getattr(importlib.import_module(f"mpcc.core.commands.{module}"), function)(words)
    return status
