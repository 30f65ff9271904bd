"""Runs that start from a checkpoint: resumed ones from their own, new ones from the weights of another run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from mpcc.core.config import SECTIONS
from mpcc.core.config.locations import places
from mpcc.core.config.settings import MOST_ITERATIONS
from mpcc.core.errors import InvalidInput
from mpcc.core.method.schedule import Schedule
from mpcc.core.run.assembly import differences
from mpcc.core.run.run import Run, versions
from mpcc.core.run.saved_run import take_weights
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.core.storage.checkpoint_contents import check_contents, saved_config
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.randomness import restore_random_states

__all__ = ["go_back", "iterations_done", "restore", "resume", "take_first_weights"]

logger = logging.getLogger(__name__)


def resume(run: Run, folder: RunFolder, checkpoints: KeptCheckpoints) -> None:
    """Resume a run from the newest whole checkpoint of its folder; without any, it starts from the beginning.

    Warnings name broken checkpoints, and what may make the continued run differ from an uninterrupted one.

    Arguments:
        run: As assembled from the folder's configuration.
        folder: The run's folder.
        checkpoints: Those of the folder.

    Raises:
        InvalidInput: If there are checkpoints but none can be read, or the newest whole one does not fit.
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
        logger.info("continuing from an earlier checkpoint: %s", source)
    for line in caveats(state, run, source):
        logger.warning("--resume %s: %s", folder.path, line)
    try:
        restore(run, state)
        # Checkpoints of later iterations are removed: the run does these iterations again.
        checkpoints.forget_after(run.trainer.iteration)
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        text = " ".join(str(error).split())[:300]
        raise InvalidInput(f"--resume {folder.path}: the checkpoint does not fit config.toml: {text}") from error
    logger.info("going on after iteration %d of %d", run.trainer.iteration, run.config.run.iterations)


def iterations_done(checkpoints: KeptCheckpoints) -> int:
    """Return the iterations of the newest whole checkpoint; 0 without one, and `resume` says what is wrong."""
    try:
        state, _, _ = checkpoints.load()
    except InvalidInput:
        return 0
    done = 0 if state is None else state.get("iteration")
    return done if isinstance(done, int) else 0


def already_done(folder: str, done: int, iterations: int) -> str:
    """Return the error for a run that is to be resumed and has done all its iterations."""
    more = max(done + 1, 2 * iterations)
    return (
        f"--resume {folder}: the run has done {done} iterations: expected more with --iterations, got {iterations} "
        f"(nearest valid choice: --iterations {more}, or --minutes)"
    )


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put a run into the state of a checkpoint that fits it."""
    run.trainer.restore(state)
    restore_random_states(state["random"])
    run.started = time.monotonic() - state["seconds"]
    run.evaluation_seconds = state["evaluation_seconds"]
    run.restarts = list(state["restarts"])
    run.hinges, run.told = list(state["hinges"]), list(state["told"])
    run.gradient_norms = {part: list(norms) for part, norms in state.get("gradient_norms", {}).items()}
    # Minutes that a resumed run is given count from its own start.
    run.budget = run.budget or dict(state.get("budget", {}))
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
    # The clock goes on, and best.pt still holds the best evaluation.
    best = None if run.best is None else run.best.plain()
    clock = {"seconds": run.seconds, "evaluation_seconds": run.evaluation_seconds}
    restore(run, state | clock | {"restarts": run.restarts, "best": best})
    return run.trainer.iteration, broken


def check(run: Run, state: Mapping[str, Any], source: Path, folder: RunFolder) -> None:
    """Check that a checkpoint belongs to the run.

    Raises:
        InvalidInput: If it does not; the message says what differs.
    """
    check_contents(state, source)
    if not state["optimizers"]:
        raise InvalidInput(
            f"--resume {folder.path}: {source} holds a model without the state of its training: expected a run folder "
            "that mpcc-run has written"
        )
    if state["iteration"] >= run.config.run.iterations:
        raise InvalidInput(already_done(str(folder.path), state["iteration"], run.config.run.iterations))
    # Versions without objectives recorded none; their runs used the default, as `differences` assumes too.
    recorded = any(name.startswith("objective ") for name in state["plugins"])
    now_used = {name: version for name, version in run.plugins.items() if recorded or not name.startswith("objective ")}
    if state["plugins"] != now_used:
        changed = [
            f"{name} was {state['plugins'].get(name, 'missing')}, is {now_used.get(name, 'missing')}"
            for name in sorted({*state["plugins"], *now_used})
            if state["plugins"].get(name) != now_used.get(name)
        ]
        raise InvalidInput(
            f"--resume {folder.path}: plugins have changed: {', '.join(changed)}; install the earlier versions, "
            f"or start anew with: mpcc-run --config {folder.config}"
        )
    entries = {section: getattr(run.config, section).entry for section in SECTIONS}
    changed = differences(saved_config(state, source), run.config.to_tables(), places(entries))
    if changed:
        raise InvalidInput(
            f"--resume {folder.path}: config.toml differs from that of the checkpoint: {'; '.join(changed)}; "
            "restore it, or start a new run with --config"
        )
    now = run.state_of_data()
    if state["images"] != now["images"]:
        raise InvalidInput(
            f"--resume {folder.path}: the data set has changed: expected images of shape {state['images']}, "
            f"got {now['images']}"
        )
    if state["fingerprint"] != now["fingerprint"]:
        raise InvalidInput(
            f"--resume {folder.path}: the data set has changed: it has as many images as before, but different "
            "ones or another order; restore it, or start a new run with --config"
        )


def caveats(state: Mapping[str, Any], run: Run, source: Path) -> list[str]:
    """Return a line about all that may make a continued run differ from an uninterrupted one, if there is anything."""
    now = versions()
    changed = [
        f"{name} was {before}, is {now.get(name, 'missing')}"
        for name, before in state["versions"].items()
        if now.get(name) != before
    ]
    if state["threads"] != torch.get_num_threads():
        changed.append(f"threads were {state['threads']}, are {torch.get_num_threads()}")
    then, now = ({"kernels": "torch", **executed} for executed in (state["executed"], run.executed()))
    changed += [f"{name} was {then.get(name)}, is {value}" for name, value in now.items() if then.get(name) != value]
    end, last = saved_config(state, source)["run"].get("iterations"), max(state["iteration"] - 1, 0)
    if isinstance(end, int) and 1 <= end <= MOST_ITERATIONS:
        # If the step sizes decay, another end changes each of them.
        schedule = run.trainer.schedule
        used = attrs.evolve(schedule, iterations=end).lr_factor(last)
        expected = schedule.lr_factor(last)
        if used != expected:
            changed.append(
                f"the step sizes of iteration {last + 1} were {used:.2g} of the first ones, with --iterations "
                f"{schedule.iterations} they would have been {expected:.2g}"
            )
        ends = attrs.evolve(schedule, iterations=end), schedule
        for again, due in ("", Schedule.prior_fit_due), ("again ", Schedule.prior_refit_due):
            before, after = (due(one, last) for one in ends)
            if before != after:
                changed.append(
                    f"with --iterations {schedule.iterations} the prior would {'not ' * before}have been fitted "
                    f"{again}by iteration {last + 1}"
                )
    if not changed:
        return []
    return [f"{'; '.join(changed)}: the continued run may differ from an uninterrupted one"]


def take_first_weights(run: Run) -> None:
    """Replace the random weights of a new run by those of the run that ``--init-from`` names, if it names one.

    Prior, networks and the generator's average are taken. Optimizers, random states and the number of iterations are
    those of a new run, and the images may be others.

    Raises:
        InvalidInput: If there is no checkpoint, or it has another prior, other networks, or images of another kind.
    """
    named = run.config.run.init_from
    if named is None:
        return
    source = named / "checkpoints" / "last.pt" if named.is_dir() else named
    state = load_checkpoint(source)
    check_contents(state, source)
    saved, now = saved_config(state, source), run.config.to_tables()
    changed = differences(saved, {section: now[section] for section in ("prior", "arch")})
    built = {name: set(part.state_dict()) for name, part in run.trainer.model.parts().items()}
    if {name: set(tensors) for name, tensors in state["parts"].items()} != built:
        before = saved.get("objective", {}).get("name", "an earlier one")
        if before != now["objective"]["name"]:
            changed.insert(0, f"objective was {before}, is {now['objective']['name']}")
    for name in ("clusters", "latent_dim"):
        if saved["run"].get(name) != now["run"][name]:
            changed.append(f"run.{name} was {saved['run'].get(name)}, is {now['run'][name]}")
    before, after = state["images"][1:], list(run.data.images.shape[1:])
    if before != after:
        changed.append(f"images were {' x '.join(map(str, before))}, are {' x '.join(map(str, after))}")
    if changed:
        raise InvalidInput(
            f"--init-from {named}: its weights are of other networks: {'; '.join(changed)}; expected the same prior, "
            f"architecture and kind of images (nearest valid choice: --config {source.parents[1] / 'config.toml'})"
        )
    take_weights(run.trainer.model, state, source)
    logger.info("the run starts from the weights of %s, iteration %d", source, state["iteration"])
