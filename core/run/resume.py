"""Taking a run up where its newest whole checkpoint left it, or saying why that cannot be."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from mpcc.core.config.settings import MOST_ITERATIONS
from mpcc.core.errors import InvalidInput
from mpcc.core.run.assembly import differences
from mpcc.core.run.run import Run, versions
from mpcc.core.storage.checkpoint_contents import check_contents, saved_config
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.randomness import restore_random_states

__all__ = ["go_back", "restore", "resume"]

logger = logging.getLogger(__name__)


def resume(run: Run, folder: RunFolder, checkpoints: KeptCheckpoints) -> None:
    """Take up the newest checkpoint of a folder that is whole; without any, the run starts from the beginning.

    Warnings say what is passed over, and in what the continued run may differ from an uninterrupted one.

    Arguments:
        run: As assembled from the folder's configuration.
        folder: The run's.
        checkpoints: Those of the folder.

    Raises:
        InvalidInput: If no checkpoint can be read, or the one that can does not fit.
    """
    try:
        state, source, broken = checkpoints.load()
    except InvalidInput as error:
        raise InvalidInput(
            f"--resume {folder.path}: {error}; start anew with: mpcc-run --config {folder.config}"
        ) from error
    for line in broken:
        logger.warning(line)
    if state is None:
        logger.warning("%s has no checkpoint yet: the run starts from the beginning", folder.path)
        return
    check(run, state, source, folder)
    if broken:
        logger.info("continuing from the one before it: %s, iteration %d", source, state["iteration"])
    for line in caveats(state, run, source):
        logger.warning("--resume %s: %s", folder.path, line)
    try:
        restore(run, state)
        # Those that lie ahead belong to what is now done anew.
        checkpoints.forget_after(run.trainer.iteration)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        text = " ".join(str(error).split())[:300]
        raise InvalidInput(f"--resume {folder.path}: the checkpoint does not fit config.toml: {text}") from error


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put a run into the state of a checkpoint that fits it."""
    run.trainer.restore(state)
    restore_random_states(state["random"])
    run.started = time.monotonic() - state["seconds"]
    run.evaluation_seconds = state["evaluation_seconds"]
    run.restarts = list(state["restarts"])
    run.hinges, run.told = list(state["hinges"]), list(state["told"])
    if run.best is not None:
        run.best.restore(state["best"])


def go_back(run: Run, checkpoints: KeptCheckpoints) -> tuple[int | None, list[str]]:
    """Put a run into the state of its newest whole checkpoint; clock, restarts and best score stay as they are.

    Returns:
        The iteration of that state, or None if there is no checkpoint; and a line about each newer one that is broken.

    Raises:
        InvalidInput: If there are checkpoints, and none can be read.
    """
    state, _, broken = checkpoints.load()
    if state is None:
        return None, broken
    # Time does not go back, and best.pt has that evaluation, whatever the run does from here.
    best = None if run.best is None else run.best.plain()
    clock = {"seconds": run.seconds, "evaluation_seconds": run.evaluation_seconds}
    restore(run, state | clock | {"restarts": run.restarts, "best": best})
    return run.trainer.iteration, broken


def check(run: Run, state: Mapping[str, Any], source: Path, folder: RunFolder) -> None:
    """Check that a state is one of the run.

    Raises:
        InvalidInput: Saying what differs.
    """
    check_contents(state, source)
    if state["iteration"] >= run.config.run.iterations:
        raise InvalidInput(
            f"--resume {folder.path}: the run is at iteration {state['iteration']}, of "
            f"{run.config.run.iterations}: expected more with --iterations"
        )
    if state["plugins"] != run.plugins:
        changed = [
            f"{name} was {state['plugins'].get(name, 'missing')}, is {run.plugins.get(name, 'missing')}"
            for name in sorted({*state["plugins"], *run.plugins})
            if state["plugins"].get(name) != run.plugins.get(name)
        ]
        raise InvalidInput(
            f"--resume {folder.path}: plugins have changed: {', '.join(changed)}; install what there was, "
            f"or start anew with: mpcc-run --config {folder.config}"
        )
    changed = differences(saved_config(state, source), run.config.to_tables())
    if changed:
        raise InvalidInput(
            f"--resume {folder.path}: config.toml is not that of the checkpoint: {'; '.join(changed)}; "
            "put it back, or start a new run with --config"
        )
    now = run.state_of_data()
    if state["images"] != now["images"]:
        raise InvalidInput(
            f"--resume {folder.path}: the data set has changed: expected images of shape {state['images']}, "
            f"got {now['images']}"
        )
    if state["fingerprint"] != now["fingerprint"]:
        raise InvalidInput(
            f"--resume {folder.path}: the data set has changed: it has as many images as before, but others or in "
            "another order; put it back, or start a new run with --config"
        )


def caveats(state: Mapping[str, Any], run: Run, source: Path) -> list[str]:
    """Return what may make a continued run differ from an uninterrupted one, a line each."""
    now = versions()
    changed = [
        f"{name} was {before}, is {now.get(name, 'missing')}"
        for name, before in state["versions"].items()
        if now.get(name) != before
    ]
    if state["threads"] != torch.get_num_threads():
        changed.append(f"threads were {state['threads']}, are {torch.get_num_threads()}")
    changed += [
        f"{name} was {state['executed'].get(name)}, is {value}"
        for name, value in run.executed().items()
        if state["executed"].get(name) != value
    ]
    end, last = saved_config(state, source)["run"].get("iterations"), max(state["iteration"] - 1, 0)
    if isinstance(end, int) and 1 <= end <= MOST_ITERATIONS:
        # Step sizes that fall fall elsewhere if the end is another one.
        schedule = run.trainer.schedule
        was, would_be = (each.lr_factor(last) for each in (attrs.evolve(schedule, iterations=end), schedule))
        if was != would_be:
            changed.append(
                f"the step sizes of iteration {last + 1} were {was:.2g} of the first ones, with --iterations "
                f"{schedule.iterations} they would have been {would_be:.2g}"
            )
    if not changed:
        return []
    return [f"{'; '.join(changed)}: the continued run need not equal an uninterrupted one to the last bit"]
