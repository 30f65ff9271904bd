"""A run on the disk: its configuration, its checkpoints, and the model that it trained."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcc.core.config import Layer, RunConfig, read_config
from mpcc.core.config.locations import Places
from mpcc.core.errors import InvalidInput
from mpcc.core.storage.checkpoint_contents import check_contents, saved_config

if TYPE_CHECKING:
    # Commands check their arguments before torch is loaded.
    import torch

    from mpcc.core.method.model import Model

__all__ = [
    *("check_checkpoint", "config_file", "rebuilt_model", "run_layer", "take_weights", "trained_model"),
    "warn_of_changes",
]

logger = logging.getLogger(__name__)


def config_file(run: Path, named: str) -> Path:
    """Return the file of a run's configuration.

    Arguments:
        run: The run folder.
        named: The folder as the user wrote it, for errors.

    Raises:
        InvalidInput: If the folder does not hold a run.
    """
    path = run / "config.toml"
    try:
        if path.is_file():
            return path
        problem = "this folder does not hold a run" if run.is_dir() else "no such folder"
    except OSError as error:
        raise InvalidInput(f"{named}: cannot be read: {error.strerror}") from error
    raise InvalidInput(
        f"{named}: {problem}: expected a run folder, with config.toml and checkpoints/last.pt{nearest_run(run)}"
    )


def nearest_run(run: Path) -> str:
    """Return a hint at the run that may be meant: one in the folder, or one beside it with a similar name."""
    try:
        if run.is_dir():
            inside = sorted(path.parent.name for path in run.glob("*/config.toml"))
            return f" (nearest valid choice: {run / inside[0]})" if inside else ""
        beside = [path.parent.name for path in run.parent.glob("*/config.toml")]
    except OSError:
        return ""
    close = difflib.get_close_matches(run.name, beside, n=1, cutoff=0.5)
    return f" (nearest valid choice: {run.with_name(close[0])})" if close else ""


def run_layer(run: Path) -> Layer:
    """Read the configuration of a run folder.

    Raises:
        InvalidInput: If the folder does not hold a run.
    """
    path = config_file(run, str(run))
    try:
        return read_config(path)
    except InvalidInput as error:
        raise InvalidInput(f"run folder {run}: {str(error).removeprefix('--config ')}") from error


def check_checkpoint(
    state: dict[str, Any], source: Path, tables: Mapping[str, Mapping[str, Any]], movable: Places = ()
) -> None:
    """Check that a checkpoint belongs to the run.

    Arguments:
        state: The checkpoint.
        source: Its file, for errors.
        tables: The sections of the run's configuration that count.
        movable: The options that only say where files are.

    Raises:
        InvalidInput: If something is missing, or the checkpoint was saved with options that differ from config.toml.
    """
    from mpcc.core.run.assembly import differences

    check_contents(state, source)
    changed = differences(saved_config(state, source), tables, movable)
    if changed:
        raise InvalidInput(f"checkpoint {source} does not belong to the run's config.toml: {'; '.join(changed)}")


def warn_of_changes(saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Warn of each plugin whose version has changed since a checkpoint was saved."""
    for name, version in now.items():
        if saved.get(name, version) != version:
            logger.warning("%s was %s when the checkpoint was saved, is %s", name, saved[name], version)


def take_weights(model: Model, state: Mapping[str, Any], source: Path) -> None:
    """Load the weights of a checkpoint into a model.

    Arguments:
        model: Gets the weights.
        state: A checkpoint, after `check_checkpoint`.
        source: Its file, for errors.

    Raises:
        InvalidInput: If the checkpoint does not fit the configuration.
    """
    try:
        for name, part in model.parts().items():
            part.load_state_dict(state["parts"][name])
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InvalidInput(f"checkpoint {source} does not fit config.toml: {text}") from error


def rebuilt_model(config: RunConfig, state: Mapping[str, Any], source: Path, device: torch.device) -> Model:
    """Build the model of a run with the weights of a checkpoint.

    Torch's random state stays as it is. A warning names plugins that have changed since.

    Arguments:
        config: The run's configuration.
        state: A checkpoint, after `check_checkpoint`.
        source: Its file, for errors.
        device: Where to compute.

    Raises:
        InvalidInput: If the checkpoint does not fit the configuration.
    """
    from mpcc.core.run.assembly import build_model
    from mpcc.core.system.randomness import own_randomness

    entries = config.prior.entry, config.arch.entry
    now = {f"{entry.kind} {entry.name}": f"{entry.distribution} {entry.version}" for entry in entries}
    warn_of_changes(state["plugins"], now)
    with own_randomness(config.run.seed, device):
        model = build_model(config, state["images"][1], device)
    take_weights(model, state, source)
    return model


def trained_model(config: RunConfig, state: Mapping[str, Any], source: Path, device: torch.device) -> Model:
    """Build the model of a run for inference, as `rebuilt_model` does, with the encoder's layers fused.

    Arguments:
        config: The run's configuration.
        state: A checkpoint, after `check_checkpoint`.
        source: Its file, for errors.
        device: Where to compute.

    Raises:
        InvalidInput: If the checkpoint does not fit the configuration.
    """
    from mpcc.core.layers.fusion import fuse

    model = rebuilt_model(config, state, source, device)
    fuse(model.networks.encoder)
    return model
