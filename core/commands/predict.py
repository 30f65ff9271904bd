"""The command ``mpcc predict``: assign clusters to images with a trained run, a batch at a time."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mpcc.core.commands.flags import Parser, PluginFiles, RunFiles
from mpcc.core.config import Layer, RunSettings, environment_layer, options, reader_of, resolve, used, with_readers
from mpcc.core.config.locations import entries_of, hint_if_moved, locations, places
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput, TrainingDiverged
from mpcc.core.registry import Registry
from mpcc.core.run.saved_run import check_checkpoint, run_layer
from mpcc.core.system.whole_files import check_new

if TYPE_CHECKING:
    from mpcc.core.contracts import ImageSet
    from mpcc.core.method.model import Model

__all__ = ["PredictFlags", "predict_run"]

PURPOSE = "Assign clusters to images with a trained run, a batch at a time."
SETTINGS = ("workers", "device", "threads", "data_root", "download")
DATA_HELP = "data set to use instead of the run's, with options --data.OPTION VALUE"


@attrs.frozen(slots=False)
class PredictFlags(PluginFiles, RunFiles):
    """The command's own flags."""

    data_path: Path | None = option(
        None, "a folder of images, or a file of arrays: .npy, .npz, .pt; by default the run's data"
    )
    out: Path | None = option(None, "new file for the table; by default predictions.csv in the run folder")
    posterior: Path | None = option(None, "new .npy file for q(y|z) of all images, float32, (N, K)")
    batch: int = option(256, "images that pass through the encoder at once", least=1)


def predict_run(words: list[str]) -> int:
    """Execute ``mpcc predict`` and return the exit status."""
    parser = Parser("mpcc predict", PURPOSE, "RUN [flags]")
    parser.declare("Command", PredictFlags, values=PredictFlags())
    parser.declare_names("Images", {"data": DATA_HELP})
    parser.declare("Settings, by default those of the run", RunSettings, "run", only=SETTINGS)
    typed = parser.read_all(words, dotted=["data"])
    flags = typed.make(PredictFlags)
    run, out, posterior, source = flags.folder, flags.out, flags.posterior, flags.source
    layer = run_layer(run)
    registry = flags.load(layer)
    data_flags = typed.tables.get("data", {})
    data = data_asked_for(registry, layer, data_flags, flags.data_path)
    named = "name" in data_flags and data["name"] == data_flags["name"]
    own = inherited(registry, layer, data, from_defaults=named) if data else layer
    config = resolve(registry, [environment_layer(), own, Layer("flag", {**typed.tables, "data": data})], "none")
    table = out or run / "predictions.csv"
    check_new_file(table, "--out")
    if posterior is not None:
        check_new_file(posterior, "--posterior")
        if posterior.absolute() == table.absolute():
            raise InvalidInput(f"--posterior {posterior} is also the file of --out: expected another file")
    # The checks above do not need torch; the imports below load it.
    import torch

    from mpcc.core.registry.attribution import attributed
    from mpcc.core.run.assembly import choose_device, load_data
    from mpcc.core.run.saved_run import trained_model
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.system.resources import memory_errors

    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    state = load_checkpoint(source)
    check_checkpoint(state, source, layer.tables, places(entries_of(registry, layer.tables)))
    device = choose_device(config.run.device)
    remedies = f"lower --batch {flags.batch}, choose --data.memory stream, if the data set has it, or --device cpu"
    with memory_errors("predicting", remedies), attributed(used(registry, config)), hint_if_moved(config):
        model = trained_model(config, state, source, device)
        entry = registry.entry("dataset", config.data.name)
        images = load_data(config, training=False)
        if images.images.shape[1] != state["images"][1]:
            raise InvalidInput(
                f"{entry.described()} has images with {images.images.shape[1]} channels; expected "
                f"{state['images'][1]}, as in training{conversion(entry.options_class(), state['images'][1])}"
            )
        seconds = write_predictions(model, images, flags.batch, config.run.workers, table, posterior)
    if images.skipped:
        print(f"{len(images.skipped)} left out, such as {images.skipped[0]}", file=sys.stderr)
    print(f"{table}: {len(images)} images, {len(images) / max(seconds, 1e-9):.0f} images/s")
    return 0


def check_new_file(path: Path, flag: str) -> None:
    """Check that a file can be created.

    Arguments:
        path: The file.
        flag: The flag that names it, for errors.

    Raises:
        InvalidInput: If the path exists already, or its folder does not exist.
    """
    check_new(path, flag, "file")
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"{flag} {path} cannot be written: {path.absolute().parent} is not a folder")


def data_asked_for(registry: Registry, run: Layer, given: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Return the data set that the flags ask for, as ``name`` and options.

    Arguments:
        registry: Knows the data sets, and names those that read a folder or a file.
        run: The run's configuration.
        given: Values of ``--data`` and ``--data.OPTION``.
        path: Value of ``--data-path``.

    Raises:
        InvalidInput: If the path does not exist, or is given twice.
    """
    if path is None:
        (_, asked), told = with_readers(registry, [run, Layer("flag", {"data": given})])
        for line in told:
            print(line, file=sys.stderr)
        return dict(asked.tables["data"])
    if "path" in given:
        raise InvalidInput("--data-path and --data.path mean the same: expected one of them")
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--data-path {str(path)!r}: cannot be read: {error}") from error
    if not exists:
        raise InvalidInput(
            f"--data-path {str(path)!r}: expected a folder of images or a file of arrays, but there is none"
        )
    return {"name": reader_of(registry, path), **given, "path": path}


def inherited(registry: Registry, layer: Layer, asked: Mapping[str, Any], *, from_defaults: bool) -> Layer:
    """Return the run's configuration without the options that do not hold for the data set of the flags.

    For another data set, all options are dropped. For images at another path, only those options are dropped that name
    files, such as the labels of the images that the run was trained on, or that are marked ``of_place``, such as the
    split that was read.

    Arguments:
        registry: Knows the options.
        layer: The run's configuration.
        asked: The result of `data_asked_for`.
        from_defaults: Whether the user named the data set; its options then have their defaults.
    """
    own = layer.tables.get("data", {})
    name = asked.get("name", own.get("name"))
    if from_defaults or name != own.get("name") or name is None:
        kept = {}
    else:
        cls = registry.entry("dataset", name).options_class() if "path" in asked else None
        files = {*locations("data", cls)}
        files |= {option for option, field in options.fields(cls).items() if field.metadata.get("of_place")}
        kept = {option: value for option, value in own.items() if option not in files}
    return attrs.evolve(layer, tables={**layer.tables, "data": kept})


def conversion(cls: type | None, channels: int) -> str:
    """Return a hint if a data set has an option that converts images to another number of channels."""
    return f"; nearest valid choice: --data.channels {channels}" if "channels" in options.fields(cls) else ""


def write_predictions(
    model: Model, data: ImageSet, batch: int, workers: int, table: Path, posterior: Path | None
) -> float:
    """Predict all images and write the files.

    Arguments:
        model: Encoder and prior.
        data: The images.
        batch: Images in each pass through the encoder.
        workers: Processes that read ahead.
        table: A new file of clusters.
        posterior: A new file of q(y|z), or None.

    Returns:
        The seconds that it took.

    Raises:
        InvalidInput: If an image cannot be read, or a file cannot be written.
        TrainingDiverged: If locations or posteriors are not finite.
    """
    from mpcc.core.evaluation.inference import predictions
    from mpcc.core.images.read_ahead import in_order
    from mpcc.core.storage.prediction_files import AssignmentTable, PosteriorRows
    from mpcc.core.system.allocator import kept_memory
    from mpcc.core.system.whole_files import new_file

    started = time.monotonic()
    with contextlib.ExitStack() as files:
        files.enter_context(kept_memory(model.device.type == "cpu"))
        writers: list[AssignmentTable | PosteriorRows] = [AssignmentTable(files.enter_context(new_file(table)), data)]
        if posterior is not None:
            shape = (len(data), model.prior.clusters)
            writers.append(PosteriorRows(files.enter_context(new_file(posterior)), shape))
        for prediction in predictions(model, in_order(data.images, batch, workers=workers), batch=batch):
            if not prediction.finite:
                raise TrainingDiverged(
                    "the encoder's locations or their posteriors are not finite: training has diverged"
                )
            for writer in writers:
                writer.write(prediction)
    return time.monotonic() - started
