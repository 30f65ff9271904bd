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

# The parts of a checkpoint, each with the section of the configuration that names its plugin.
NETWORKS = ("generator", "discriminator", "encoder", "averaged_generator")
SECTION_OF = {"prior": "prior", **dict.fromkeys(NETWORKS, "arch")}


@attrs.frozen(slots=False)
class ExportFlags(RunFiles):
    """The command's own flags."""

    out: Path | None = option(None, "folder to create; by default export-ITERATION in the run folder")


def export_run(words: list[str]) -> int:
    """Execute ``mpcc export`` and return the exit status."""
    flags = Parser("mpcc export", PURPOSE, "RUN [flags]").read_own(words, ExportFlags)
    run, out, source = flags.folder, flags.out, flags.source
    layer = run_layer(run)
    if out is not None:
        check_new(out, "--out")
    # The checks above do not need torch; the imports below load it.
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise InvalidInput(
            'mpcc export needs safetensors, which is not installed: pip install "mpcc[export]"'
        ) from error
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.storage.run_folder import RunFolder

    state = load_checkpoint(source)
    # Where the images are, and what they are, does not matter here.
    check_checkpoint(state, source, {section: table for section, table in layer.tables.items() if section != "data"})
    weights = {part: separate(part, state["parts"], source) for part in SECTION_OF}
    descriptions = {part: metadata(part, state, source) for part in SECTION_OF}
    folder = RunFolder(out or run / f"export-{state['iteration']}", named=out is not None)
    with folder.filled():
        folder.copy_config(run / "config.toml")
        for part, tensors in weights.items():
            folder.write_weights(part, save(tensors, descriptions[part]))
    count = sum(tensor.numel() for tensors in weights.values() for tensor in tensors.values())
    print(f"{folder.path}: iteration {state['iteration']}, {len(weights)} files, {count:,} numbers")
    return 0


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
    import torch

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
    section = SECTION_OF[part]
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
