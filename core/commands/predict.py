"""The command ``mpcc predict``: assign clusters to images with a trained run, a batch at a time."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import attrs
from cyclopts import Parameter

from mpcc.core.commands.plugin_flags import PluginFiles, RegistryFiles
from mpcc.core.config import Layer, options, resolve
from mpcc.core.errors import InvalidInput, TrainingDiverged
from mpcc.core.registry import Registry, load_registry
from mpcc.core.run.saved_run import check_checkpoint, run_layer

if TYPE_CHECKING:
    from mpcc.core.contracts import ImageSet
    from mpcc.core.method.model import Model

__all__ = ["predict_run", "with_named_data"]


@attrs.frozen
class Pace:
    """How images go through the encoder."""

    batch: int = attrs.field(default=256, validator=attrs.validators.ge(1), metadata={"help": "images at once"})


def with_named_data(arguments: Sequence[str]) -> list[str]:
    """Return a command line of ``predict`` with ``--data NAME`` as ``--data.name NAME``; others as they are.

    The parser takes a flag for a value or for a group of values, not for both.

    Example:
        >>> with_named_data(["predict", "run", "--data", "folder", "--data.path", "new"])
        ['predict', 'run', '--data.name', 'folder', '--data.path', 'new']
    """
    if "predict" not in arguments[:1]:
        return list(arguments)
    return [
        f"--data.name{word.removeprefix('--data')}" if word == "--data" or word.startswith("--data=") else word
        for word in arguments
    ]


def predict_run(
    run: Annotated[Path, Parameter(help="run folder, of mpcc-run")],
    *,
    data_path: Annotated[
        str | None,
        Parameter(help="a folder of images, or a file of arrays: .npy, .npz, .pt; by default the run's data"),
    ] = None,
    data: Annotated[
        dict[str, str] | None,
        Parameter(
            name="--data", json_dict=False, help="another data set, --data NAME, and its options, --data.OPTION VALUE"
        ),
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="table to be written, a new file; by default predictions.csv in the run folder")
    ] = None,
    posterior: Annotated[
        Path | None, Parameter(help="write q(y|z) of all images as well, a new .npy file, float32, (N, K)")
    ] = None,
    batch: Annotated[str | None, Parameter(help="images that pass through the encoder at once; by default 256")] = None,
    workers: Annotated[
        str | None, Parameter(help="processes that read ahead if the images do not fit into memory")
    ] = None,
    checkpoint: Annotated[
        Path | None, Parameter(help="checkpoint of the run; by default its newest, checkpoints/last.pt")
    ] = None,
    device: Annotated[str | None, Parameter(help="where to compute: auto, cpu or cuda")] = None,
    data_root: Annotated[str | None, Parameter(help="folder of the data sets; by default that of the run")] = None,
    download: Annotated[bool, Parameter(negative="", help="fetch missing data")] = False,
    plugin: PluginFiles = None,
    registry: RegistryFiles = None,
) -> int:
    """Assign clusters to images with a trained run, a batch at a time."""
    given = {"workers": workers, "device": device, "data_root": data_root, "download": download or None}
    layer = run_layer(run)
    found = load_registry(plugins=[*layer.plugins, *(plugin or ())], registries=[*layer.registries, *(registry or ())])
    # Not at the top: the commands' module imports this one.
    from mpcc.core.config import environment_layer, used

    lower = [environment_layer(), layer]
    asked = data_asked_for(found, data or {}, data_path)
    if asked:
        lower[-1] = inherited(found, layer, asked, from_defaults="name" in (data or {}))
    flags = Layer("flag", {"run": {name: value for name, value in given.items() if value is not None}, "data": asked})
    config = resolve(found, [*lower, flags], "none")
    pace = Pace() if batch is None else Pace(options.convert(batch, options.fields(Pace)["batch"], "--batch"))
    table = out or run / "predictions.csv"
    check_new(table, "--out")
    if posterior is not None:
        check_new(posterior, "--posterior")
        if posterior.absolute() == table.absolute():
            raise InvalidInput(f"--posterior {posterior} is the file of --out, too: expected another one")
    # From here on torch is needed; everything above has been checked without it.
    import torch

    from mpcc.core.registry.attribution import attributed
    from mpcc.core.run.assembly import check_fit, choose_device, read_data
    from mpcc.core.run.saved_run import trained_model
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.system.resources import memory_errors

    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    source = checkpoint or run / "checkpoints" / "last.pt"
    state = load_checkpoint(source)
    check_checkpoint(state, source, layer.tables)
    computing = choose_device(config.run.device)
    remedies = f"lower --batch {pace.batch}, choose --data.memory stream, where a set has it, or --device cpu"
    with memory_errors("predicting", remedies), attributed(used(found, config)):
        architecture = found.entry("architecture", config.arch.name).load()(config.arch.options)
        model = trained_model(found, config, architecture, state, source, computing)
        entry = found.entry("dataset", config.data.name)
        images = read_data(entry.load()(config.data.options), architecture, entry.described(), config)
        check_fit(images, architecture, entry.described(), config)
        if images.images.shape[1] != state["images"][1]:
            raise InvalidInput(
                f"{entry.described()} gave images with {images.images.shape[1]} channels: expected "
                f"{state['images'][1]}, as in training{conversion(entry.options_class(), state['images'][1])}"
            )
        seconds = write_predictions(model, images, pace.batch, config.run.workers, table, posterior)
    if images.skipped:
        print(f"{len(images.skipped)} left out, such as {images.skipped[0]}", file=sys.stderr)
    print(f"{table}: {len(images)} images, {len(images) / max(seconds, 1e-9):.0f} images/s")
    return 0


def check_new(path: Path, flag: str) -> None:
    """Check that a file can be made.

    Arguments:
        path: The file.
        flag: Which flag names it, for errors.

    Raises:
        InvalidInput: If there is something of that name, or no folder to put it into.
    """
    try:
        if path.exists() or path.is_symlink():
            raise InvalidInput(f"{flag} {path} already exists: expected a new file")
        if not path.absolute().parent.is_dir():
            raise InvalidInput(f"{flag} {path} cannot be written: {path.absolute().parent} is not a folder")
    except OSError as error:
        raise InvalidInput(f"{flag} {path} cannot be written: {error.strerror or error}") from error


def data_asked_for(registry: Registry, given: Mapping[str, str], path: str | None) -> dict[str, str]:
    """Return what the flags say about the data set: ``name`` and options.

    Arguments:
        registry: Says which data set reads a folder, and which a file.
        given: From ``--data`` and ``--data.OPTION``.
        path: From ``--data-path``.

    Raises:
        InvalidInput: If the path does not exist, or is given twice.
    """
    asked = {name.replace("-", "_"): value for name, value in given.items()}
    if path is None:
        return asked
    if "path" in asked:
        raise InvalidInput("--data-path and --data.path say the same: expected one of them")
    try:
        place = Path(path).expanduser()
        exists, folder = bool(path) and place.exists(), place.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidInput(f"--data-path {path!r}: cannot be read: {error}") from error
    if not exists:
        raise InvalidInput(f"--data-path {path!r}: expected a folder of images or a file of arrays, there is none")
    reader = registry.defaults["data_folder" if folder else "data_file"]
    return {"name": reader, **asked, "path": path}


def inherited(registry: Registry, layer: Layer, asked: Mapping[str, str], *, from_defaults: bool) -> Layer:
    """Return the run's configuration without what does not hold for the data set that was asked for.

    Options of another data set don't; nor, for images at another path, do further files, such as the labels of those
    that the run was trained on.

    Arguments:
        registry: Knows the options.
        layer: The run's configuration.
        asked: From `data_asked_for`.
        from_defaults: Whether the user named the data set: then its options start from their defaults.
    """
    own = layer.tables.get("data", {})
    name = asked.get("name", own.get("name"))
    if from_defaults or name != own.get("name") or name is None:
        kept = {}
    else:
        cls = registry.entry("dataset", name).options_class()
        known = {} if cls is None or "path" not in asked else options.fields(cls)
        files = {option for option, field in known.items() if Path in (field.type, *get_args(field.type))}
        kept = {option: value for option, value in own.items() if option not in files}
    return attrs.evolve(layer, tables={**layer.tables, "data": kept})


def conversion(cls: type | None, channels: int) -> str:
    """Return a hint if a data set has an option that converts its images to a number of channels."""
    has = cls is not None and "channels" in options.fields(cls)
    return f"; nearest valid choice: --data.channels {channels}" if has else ""


def write_predictions(
    model: Model, data: ImageSet, batch: int, workers: int, table: Path, posterior: Path | None
) -> float:
    """Predict all images and write the files.

    Arguments:
        model: Encoder and prior.
        data: The images.
        batch: Images at once.
        workers: Processes that read ahead.
        table: A new file of clusters.
        posterior: A new file of q(y|z), or None.

    Returns:
        How many seconds it took.

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
