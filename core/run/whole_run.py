"""A run from its configuration to its results: folder, lock, assembly, training, and what stays if that fails."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from mpcc.core.config import RunConfig, used
from mpcc.core.config.locations import hint_if_moved
from mpcc.core.errors import InvalidInput, OutOfResources, PluginError, RankLost
from mpcc.core.registry import Registry
from mpcc.core.registry.attribution import attributed
from mpcc.core.run.execution import Stopped, execute
from mpcc.core.run.ranks.environment import begun
from mpcc.core.run.ranks.orders import follow
from mpcc.core.run.resume import iterations_done, take_first_weights
from mpcc.core.run.resume import resume as take_up
from mpcc.core.run.run import Run
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.resources import disk_errors, memory_errors

__all__ = ["carry_out", "follow_run", "remedies"]

logger = logging.getLogger(__name__)

# Images may have been downloaded by then, so it is the run of which there is nothing.
NOT_BEGUN = "training had not begun, and nothing of the run was written"


def carry_out(
    registry: Registry,
    config: RunConfig,
    folder: RunFolder,
    *,
    resumed: bool,
    pause: Callable[[Run], int] | None = None,
    began: float | None = None,
    remark: Callable[[], str] | None = None,
    runs: float = 1.0,
    bar: bool = True,
) -> dict[str, Any]:
    """Assemble a run and train it, in a new folder or in that of an earlier part of it.

    Arguments:
        registry: The plugins.
        config: The configuration.
        folder: Planned for a new run; an existing one for a resumed run.
        resumed: Whether the folder holds an earlier part of the run.
        pause: Gets the assembled run, before a new folder is made, and returns the iteration after which to pause; by
            default the run goes to its end.
        began: The monotonic clock's time from which minutes count; by default now.
        remark: Returns a line about the configuration, or nothing, to be shown when training begins.
        runs: How many whole runs the minutes are for.
        bar: Whether to draw a progress bar, if standard error is a terminal.

    Returns:
        The contents of ``results.json``.

    Raises:
        Stopped: If the user has stopped the run, with a checkpoint saved.
        TrainingDiverged: If something is not finite; the message names the last checkpoint.
        InvalidInput: If the run cannot begin or go on, or a plugin fails.
        OutOfResources: If memory or disk space ran out.
        KeyboardInterrupt: If the user has interrupted it before training, with a line about what that has left behind;
            or a second time in training.
    """
    plugins, lower = used(registry, config), remedies(config)
    with contextlib.ExitStack() as held:
        checkpoints = KeptCheckpoints(folder.checkpoints, config.run.keep_checkpoints)
        with before_training(folder, resumed=resumed):
            if resumed:
                held.enter_context(folder.locked())
            moved = hint_if_moved(config) if resumed else contextlib.nullcontext()
            with memory_errors("loading and building", lower), attributed(plugins), moved:
                done = iterations_done(checkpoints) if resumed and config.run.minutes else None
                run = Run.assemble(registry, config, began=began, done=done, runs=runs)
            held.callback(run.orders.end)
            description = run.data.description or f"{config.data.name}: {len(run.data)} images"
            # It may import modules, and Ctrl-C meanwhile ends the process at once: there is no folder yet.
            line = "" if remark is None else remark()
            until = None if pause is None else pause(run)
            what = "the checkpoint" if resumed else "the first weights"
            with memory_errors(f"loading {what}", lower):
                if resumed:
                    take_up(run, folder, checkpoints)
                else:
                    take_first_weights(run)
        if not resumed:
            folder.create()
        try:
            if not resumed:
                held.enter_context(folder.locked())
            with disk_errors(f"{folder.path} could not be written"):
                begun(folder.path)
            logger.info("%s; run folder %s", description, folder.path)
            if line:
                logger.info("%s", line)
            with memory_errors("training", lower), attributed(plugins):
                return execute(run, folder, checkpoints, resumed=resumed, bar=bar, until=until)
        except Stopped:
            raise
        except BaseException as error:
            if not folder.kept:
                folder.discard()
                if isinstance(error, KeyboardInterrupt):
                    raise KeyboardInterrupt(NOT_BEGUN) from error
                raise
            kept = checkpoints.kept or f"run folder {folder.path} is kept, without a checkpoint"
            said = checkpoints.kept or f"the results are in {quoted(folder.path)}"
            if isinstance(error, KeyboardInterrupt):
                logger.info("mpcc-run: %s; continue with: %s", kept, folder.resume_line)
            if isinstance(error, RankLost):
                again = "torchrun starts all again if --max-restarts allows it, or continue with: " + folder.resume_line
                raise RankLost(f"{error}; {kept}; {again}") from error
            for kind in (PluginError, InvalidInput, OutOfResources):
                if isinstance(error, kind) and said not in str(error):
                    raise kind(f"{error}; {kept}") from error
            raise


def follow_run(registry: Registry, config: RunConfig, *, began: float | None = None) -> None:
    """Take part in a run that the first of several processes carries out.

    Arguments:
        registry: The plugins.
        config: The configuration, the same as that of the first process.
        began: The monotonic clock's time from which minutes count; by default now.

    Raises:
        InvalidInput: If the images cannot be read, or a plugin fails.
        OutOfResources: If memory ran out, or the other processes are lost.
    """
    with memory_errors("training", remedies(config)), attributed(used(registry, config)):
        run = Run.assemble(registry, config, began=began)
        try:
            with run.trainer.engine.active():
                follow(run.trainer, run.data.images)
        finally:
            run.trainer.stream.close()


@contextlib.contextmanager
def before_training(folder: RunFolder, *, resumed: bool) -> Iterator[None]:
    """Let a Ctrl-C in a ``with`` block, in which nothing of the run is written, say so.

    Arguments:
        folder: The run folder.
        resumed: Whether it holds an earlier part of the run.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        as_before = f"training had not gone on, and {quoted(folder.resumed_by)} is as it was"
        raise KeyboardInterrupt(as_before if resumed else NOT_BEGUN) from stop


def remedies(config: RunConfig) -> str:
    """Return advice on the settings to lower when memory runs out."""
    values = [f"--batch {config.run.batch}", f"--eval-images {config.run.eval_images}"]
    values += [f"--arch.width {config.arch.options.width}"] if hasattr(config.arch.options, "width") else []
    return f"lower {', '.join(values)} or the number of images in memory (--data.memory stream, if the data set has it)"
