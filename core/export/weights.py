"""The weights of a checkpoint as safetensors, a file for each part, which other programs read and which run no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpcc.core.config import SECTIONS
from mpcc.core.errors import InvalidInput
from mpcc.core.storage.checkpoint_contents import saved_config

__all__ = ["PARTS", "part_files"]

# The parts of a checkpoint, each with the section of the configuration that names its plugin. The last one is there if
# the objective has a likelihood that is trained.
NETWORKS = ("generator", "discriminator", "encoder", "averaged_generator")
LIKELIHOOD = "likelihood"
PARTS = {"prior": "prior", **dict.fromkeys(NETWORKS, "arch"), LIKELIHOOD: "objective"}


def part_files(state: Mapping[str, Any], source: Path) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """Return the tensors and the metadata of each part, by its name.

    Arguments:
        state: The checkpoint.
        source: Its file, for errors.

    Raises:
        InvalidInput: If a part or a description is missing, or a part holds something other than tensors.
    """
    there = [part for part in PARTS if part != LIKELIHOOD or state["parts"].get(LIKELIHOOD)]
    tensors = {part: separate(part, state["parts"], source) for part in there}
    return {part: (tensors[part], metadata(part, state, source)) for part in there}


def separate(part: str, parts: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """Return copies of the tensors of a part.

    Discriminator and encoder share a trunk. The file of each holds the whole trunk and can be loaded alone.

    Arguments:
        part: Name of the part.
        parts: State dicts by name, from a checkpoint.
        source: The checkpoint's file, for errors.

    Raises:
        InvalidInput: If the part is missing, or holds something other than tensors.
    """
    tensors = parts.get(part)
    if not isinstance(tensors, Mapping):
        raise InvalidInput(f"checkpoint {source}: the {part} is missing: expected a checkpoint of a run")
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidInput(
                f"checkpoint {source}: {part}.{name} is {type(value).__name__}, but safetensors hold only tensors"
            )
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def metadata(part: str, state: Mapping[str, Any], source: Path) -> dict[str, str]:
    """Return the metadata of a part's file: part, iteration, version of mpcc, plugin and its version.

    Arguments:
        part: Name of the part.
        state: The checkpoint.
        source: The checkpoint's file, for errors.

    Raises:
        InvalidInput: If the checkpoint lacks one of them.
    """
    section = PARTS[part]
    try:
        plugin = str(saved_config(state, source)[section]["name"])
        version, own = state["plugins"][f"{SECTIONS[section]} {plugin}"], state["versions"]["mpcc"]
    except KeyError as error:
        raise InvalidInput(f"checkpoint {source}: {error} is missing: expected a checkpoint of a run") from error
    return {
        "part": part,
        "iteration": str(state["iteration"]),
        "mpcc": own,
        "plugin": plugin,
        "plugin_version": version,
    }
