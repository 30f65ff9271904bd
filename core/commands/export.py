"""The command ``mpcc export``: a trained model for other programs, or all of a run as one archive for a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mpcc.core.commands.flags import Parser, RunFiles
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput
from mpcc.core.export.formats import chosen_formats, require_packages
from mpcc.core.run.saved_run import check_checkpoint, run_layer
from mpcc.core.system.whole_files import check_new

if TYPE_CHECKING:
    from mpcc.core.export.exported_run import ExportedRun

__all__ = ["ExportFlags", "export_run"]

PURPOSE = (
    "Write a trained model for other programs into a new folder, or, with --zip, model, lists and pictures as one "
    "archive."
)


@attrs.frozen(slots=False)
class ExportFlags(RunFiles):
    """The command's own flags."""

    format: str = option(
        "safetensors",
        "safetensors: the weights of each part; torch: encoder.pt2, from images to z and q(y|x), and generator.pt2, "
        "from z and y to images, by torch.export; onnx: the same two as .onnx; or several such as safetensors,torch",
    )
    out: Path | None = option(None, "folder to create; by default export-ITERATION in the run folder")
    zip: Path | None = option(
        None, "new .zip file instead: a page that explains it, report, lists, pictures, model, export; no private paths"
    )


def export_run(words: list[str]) -> int:
    """Execute ``mpcc export`` and return the exit status."""
    flags = Parser("mpcc export", PURPOSE, "RUN [flags]").read_own(words, ExportFlags)
    formats = chosen_formats(flags.format)
    run, source = flags.folder, flags.source
    layer = run_layer(run)
    check_outputs(flags)
    # The checks above do not need torch; the imports below load it.
    require_packages(formats)
    from mpcc.core.export.exported_run import ExportedRun
    from mpcc.core.storage.checkpoint import load_checkpoint

    state = load_checkpoint(source)
    # Where the images are, and what they are, does not matter here.
    check_checkpoint(state, source, {section: table for section, table in layer.tables.items() if section != "data"})
    exported = ExportedRun(run, layer, source, state, formats)
    for line in export_folder(exported, flags.out) if flags.zip is None else export_archive(exported, flags.zip):
        print(line)
    return 0


def check_outputs(flags: ExportFlags) -> None:
    """Check the names of what is to be written.

    Raises:
        InvalidInput: If a name is taken, or does not fit.
    """
    if flags.zip is None:
        if flags.out is not None:
            check_new(flags.out, "--out")
        return
    if flags.out is not None:
        raise InvalidInput(f"--out {flags.out} and --zip {flags.zip}: expected one of them")
    if flags.zip.suffix.lower() != ".zip":
        raise InvalidInput(
            f"--zip {flags.zip}: expected a name that ends in .zip (nearest valid choice: --zip {flags.zip}.zip)"
        )
    check_new(flags.zip, "--zip", "file")
    if not flags.zip.absolute().parent.is_dir():
        raise InvalidInput(f"--zip {flags.zip} cannot be written: {flags.zip.absolute().parent} is not a folder")


def export_folder(exported: ExportedRun, out: Path | None) -> list[str]:
    """Write a folder and return the lines that say what it holds; if that fails, nothing is left of it.

    Arguments:
        exported: The run and the formats.
        out: The folder that the user named; by default a new one in the run folder.

    Raises:
        InvalidInput: If the model cannot be exported, or the folder cannot be made.
        OutOfResources: If there is no room.
    """
    from mpcc.core.storage.run_folder import RunFolder

    folder = RunFolder(out or exported.run / f"export-{exported.state['iteration']}", named=out is not None)
    with folder.filled():
        folder.copy_config(exported.run / "config.toml")
        lines = exported.write(folder.path)
    return [f"{folder.path}: iteration {exported.state['iteration']}, {lines[0]}", *lines[1:]]


def export_archive(exported: ExportedRun, path: Path) -> list[str]:
    """Write an archive and return the lines that say what it holds; if that fails, nothing is left of it.

    Arguments:
        exported: The run and the formats.
        path: A new file.

    Raises:
        InvalidInput: If the model cannot be exported, or the file cannot be written.
        OutOfResources: If there is no room.
    """
    from mpcc.core.export.archive import write_archive
    from mpcc.core.system.resources import disk_errors

    with disk_errors(f"{path} could not be written"):
        lines = write_archive(path, exported)
    return [f"{path}: iteration {exported.state['iteration']}, {lines[0]}", *lines[1:]]
