"""Checkpoints: the full state of a run in one file of tensors, numbers and strings.

Saved by writing a temporary file, flushing it to the disk and renaming it, so that the file under the final name is
always whole; loaded with ``weights_only=True``, so that no code in it can run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mpcc.core.errors import InvalidInput

__all__ = ["FORMAT_VERSION", "load_checkpoint", "random_states", "restore_random_states", "save_checkpoint"]

FORMAT_VERSION = 1


def random_states() -> dict[str, Any]:
    """Return the states of torch's random generators, on the CPU and on every CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_states(states: dict[str, Any]) -> None:
    """Put `random_states` back; those of CUDA devices that are missing now are left out."""
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that a crash at any moment leaves either the old file or the new one.

    Arguments:
        path: The final name; its folder is made if needed.
        state: Nested dicts and lists of tensors, numbers, strings and None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in it is executed.

    Raises:
        InvalidInput: If it is missing, broken, or of another format.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InvalidInput(f"checkpoint {path}: no such file") from error
    except Exception as error:
        # torch.load raises errors of many types for a broken file; all mean the same to the user.
        cause = " ".join(str(error).split()).partition(". ")[0][:200]
        raise InvalidInput(f"checkpoint {path}: cannot be read, it is broken or not a checkpoint ({cause})") from error
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        found = state.get("format_version") if isinstance(state, dict) else type(state).__name__
        raise InvalidInput(f"checkpoint {path}: expected format version {FORMAT_VERSION}, found {found}")
    return state
