"""The command ``mpcc export``: the weights of a checkpoint as safetensors, which other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mpcc.core.commands.flags import Parser, RunFiles
from mpcc.core.config import SECTIONS
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput
from mpcc.core.run.saved_run import check_checkpoint, run_layer
from mpcc.core.storage.checkpoint_contents import saved_config
from mpcc.core.system.whole_files import check_new

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ExportFlags", "export_run"]

PURPOSE = "Write the prior and the networks of a checkpoint as safetensors, a file for each, into a new folder."

# The parts of a checkpoint, and which section of the configuration says what plugin each is made by.
SECTION_OF = {
    "prior": "prior",
    "generator": "arch",
    "discriminator": "arch",
    "encoder": "arch",
    "averaged_generator": "arch",
}


@attrs.frozen(slots=False)
class ExportFlags(RunFiles):
    """Flags of the command's own."""

    out: Path | None = option(None, "folder to be made; by default export-ITERATION in the run folder")


def export_run(words: list[str]) -> int:
    """Do what ``mpcc export`` was asked for and return the exit status."""
    parser = Parser("mpcc export", PURPOSE, "RUN [flags]")
    parser.declare("Command", ExportFlags)
    flags = parser.read_all(words).make(ExportFlags)
    run, out, source = flags.run, flags.out, flags.source
    layer = run_layer(run)
    if out is not None:
        check_new(out, "--out")
    # From here on torch is needed; everything above has been checked without it.
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise InvalidInput(
            'mpcc export needs safetensors, which is not installed: pip install "mpcc[export]"'
        ) from error
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.storage.run_folder import RunFolder

    state = load_checkpoint(source)
    check_checkpoint(state, source, layer.tables)
    weights = {part: separate(part, state["parts"], source) for part in SECTION_OF}
    said = {part: metadata(part, state, source) for part in SECTION_OF}
    folder = RunFolder(out or run / f"export-{state['iteration']}", named=out is not None)
    with folder.filled():
        folder.copy_config(run / "config.toml")
        for part, tensors in weights.items():
            folder.write_weights(part, save(tensors, said[part]))
    count = sum(tensor.numel() for tensors in weights.values() for tensor in tensors.values())
    print(f"{folder.path}: iteration {state['iteration']}, {len(weights)} files, {count:,} numbers")
    return 0


def separate(part: str, parts: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """Return the tensors of a part, each in memory of its own.

    Discriminator and encoder share a trunk; each file has all of it, so that each can be loaded alone.

    Arguments:
        part: Its name.
        parts: State dicts by name, from a checkpoint.
        source: The checkpoint's file, for errors.

    Raises:
        InvalidInput: If it is missing, or holds something else than tensors.
    """
    import torch

    found = parts.get(part)
    if not isinstance(found, Mapping):
        raise InvalidInput(f"checkpoint {source}: expected a run's full state, the {part} is missing")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise InvalidInput(
                f"checkpoint {source}: {part}.{name} is {type(value).__name__}: safetensors hold nothing but tensors"
            )
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in found.items()}


def metadata(part: str, state: Mapping[str, Any], source: Path) -> dict[str, str]:
    """Return what a file says of itself: part, iteration, version of mpcc, plugin and its version.

    Arguments:
        part: Its name.
        state: The checkpoint.
        source: Its file, for errors.

    Raises:
        InvalidInput: If the checkpoint does not say it.
    """
    section = SECTION_OF[part]
    try:
        plugin = str(saved_config(state, source)[section]["name"])
        version, own = state["plugins"][f"{SECTIONS[section]} {plugin}"], state["versions"]["mpcc"]
    except KeyError as error:
        raise InvalidInput(f"checkpoint {source}: expected a run's full state, {error} is missing") from error
    return {
        "part": part,
        "iteration": str(state["iteration"]),
        "mpcc": own,
        "plugin": plugin,
        "plugin_version": version,
    }
