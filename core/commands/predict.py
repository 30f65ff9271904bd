"""The command ``mpcc predict``: assign clusters to images with a trained run, a batch at a time."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Literal

import attrs

from mpcc.core.commands.flags import Parser, PluginFiles, RunFiles, Typed
from mpcc.core.config import Layer, RunSettings, used
from mpcc.core.config.asked_images import AskedImages, asked_by_flags, asked_by_paths, standard_input
from mpcc.core.config.inputs import LIST
from mpcc.core.config.locations import entries_of, hint_if_moved, places
from mpcc.core.config.options import option
from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, RankLost
from mpcc.core.registry import Registry
from mpcc.core.run.ranks.environment import follows, launched, let_the_first_end, told_by_launcher
from mpcc.core.run.saved_run import check_checkpoint, run_layer
from mpcc.core.storage.table_formats import check_format
from mpcc.core.system.signals import handled
from mpcc.core.system.whole_files import check_new, free, taken

if TYPE_CHECKING:
    from mpcc.core.contracts import ImageSet
    from mpcc.core.storage.prediction_output import OutputPaths, PredictionOutput

__all__ = ["PredictFlags", "predict_run"]

PURPOSE = "Assign clusters to images with a trained run, a batch at a time; without PATH, to the run's own images."
SETTINGS = ("workers", "device", "threads", "data_root", "download")
DATA_HELP = "data set to use instead of the run's, with options --data.OPTION VALUE"
# What named the images in an earlier version.
FORMER = "--data-path"
HELP = {"--help", "-h"}


@attrs.frozen(slots=False)
class PredictFlags(PluginFiles, RunFiles):
    """The command's own flags."""

    path: tuple[Path, ...] = option(
        (),
        "image files, folders, quoted patterns such as 'scans/*.png', zip archives of images, files of arrays (.npy, "
        ".npz, .pt), or - for a list of paths on standard input; any number",
        positional=True,
    )
    out: Path | None = option(
        None,
        "new file for the table: .csv, .jsonl or .parquet; by default predictions.csv in the run folder for the run's "
        "own images, predictions-NAME.csv in the working folder for others",
    )
    posterior: Path | None = option(None, "new .npy file for q(y|x) of all images, float32, (N, K)")
    latents: Path | None = option(None, "new .npy file for the locations of q(z|x) of all images, float32, (N, J)")
    sort_into: Path | None = option(
        None, "new folder for the images, with a subfolder for each cluster; clusters of one name share a subfolder"
    )
    reconstruct: Path | None = option(
        None, "new folder for what the generator makes of each image's latent code and cluster, a PNG file each"
    )
    link: Literal["hard", "soft"] | None = option(
        None, "link the files in --sort-into instead of copying them [choices: hard, soft]"
    )
    batch: int = option(256, "images that pass through the encoder at once", least=1)
    devices: int | None = option(
        None,
        "predict in so many processes of this machine, one for each GPU, or for a part of the cores; each reads and "
        "encodes batches of its own",
        least=1,
    )


@attrs.frozen
class Request:
    """What a command line asks for.

    Attributes:
        flags: The command's own flags.
        layer: The run's configuration.
        registry: The plugins.
        asked: The images.
        table: Where their table goes.
    """

    flags: PredictFlags
    layer: Layer
    registry: Registry
    asked: AskedImages
    table: Path


def predict_run(words: list[str]) -> int:
    """Execute ``mpcc predict`` and return the exit status."""
    if launched():
        # The launcher sends SIGTERM when another process has ended, and says which one.
        with handled(end_silently, (signal.SIGTERM,)) if told_by_launcher() else contextlib.nullcontext():
            return predict_together(words)
    flags, typed = read_flags(words)
    several = flags.devices is not None and flags.devices > 1
    # The first process reads standard input.
    if not several or LIST not in flags.path:
        request = requested(flags, typed)
        for line in [] if several else request.asked.told:
            print(line, file=sys.stderr)
        check_outputs(flags, request.table)
        if not several:
            return predict(request)
    return launch_processes(flags, typed, words)


def predict_together(words: list[str]) -> int:
    """Execute ``mpcc predict`` as one of several processes, of which the first talks; return the exit status."""
    if not HELP.isdisjoint(words):
        if not follows():
            read_flags(words)
        return 0
    # These imports load torch.
    from mpcc.core.run.ranks.orders import agreed
    from mpcc.core.system import ranks

    if follows():
        # The first process says the same.
        logging.getLogger("mpcc").setLevel(logging.CRITICAL)
    try:
        # The results of GPUs are collected on the CPU.
        with ranks.joined(cuda=False) as together:
            with agreed():
                flags, typed = read_flags(words)
                if flags.devices is not None:
                    raise InvalidInput(
                        f"--devices {flags.devices}: torchrun has started the processes: leave out --devices"
                    )
                own = standard_input().read() if together.first and LIST in flags.path else b""
            listed: bytes = together.told(own)
            with agreed():
                request = requested(flags, typed, lambda: io.BytesIO(listed))
                if together.first:
                    for line in request.asked.told:
                        print(line, file=sys.stderr)
                    check_outputs(flags, request.table)
            return predict(request)
    except SystemExit as end:
        # A launcher that has ended this process waits for it.
        if follows() and end.code != RankLost.status:
            let_the_first_end()
        raise
    except RankLost as error:
        if follows():
            let_the_first_end()
        if follows() or told_by_launcher():
            return error.status
        raise
    except KeyboardInterrupt:
        if follows():
            return EXIT_INTERRUPTED
        raise


def end_silently(number: int, frame: FrameType | None) -> None:
    """Let a signal end this process as the loss of another one does.

    Raises:
        SystemExit: Always.
    """
    raise SystemExit(RankLost.status)


def launch_processes(flags: PredictFlags, typed: Typed, words: Sequence[str]) -> int:
    """Predict in several processes of this machine; return the exit status.

    Arguments:
        flags: Those of the command.
        typed: The typed values.
        words: The command line.
    """
    from mpcc.core.run.ranks.launcher import check_devices, launch, without_devices

    devices = flags.devices or 1
    settings = {**run_layer(flags.folder).tables.get("run", {}), **typed.tables.get("run", {})}
    check_devices(devices, str(settings.get("device")))
    advice = f"expected the same command again; if memory was short, lower --devices {devices} or --batch {flags.batch}"
    return launch(["predict", *without_devices(words)], devices, advice)


def read_flags(words: Sequence[str]) -> tuple[PredictFlags, Typed]:
    """Read the command line: the command's own flags, and all typed values.

    Raises:
        InvalidInput: If a flag or a value is not valid.
    """
    refuse_former_flag(words)
    parser = Parser("mpcc predict", PURPOSE, "RUN [PATH ...] [flags]")
    parser.declare("Command", PredictFlags, values=PredictFlags())
    parser.declare_names("Images", {"data": DATA_HELP})
    parser.declare("Settings, by default those of the run", RunSettings, "run", only=SETTINGS)
    typed = parser.read_all(words, dotted=["data"])
    return typed.make(PredictFlags), typed


def requested(flags: PredictFlags, typed: Typed, listed: Callable[[], IO[bytes]] = standard_input) -> Request:
    """Find out what the command line asks for.

    Arguments:
        flags: The command's own flags.
        typed: All typed values.
        listed: Opens the list of paths that ``-`` stands for.

    Raises:
        InvalidInput: If there is no such run, or there are no such images.
    """
    layer = run_layer(flags.folder)
    registry = flags.load(layer)
    if flags.path:
        asked = asked_by_paths(registry, layer, typed.tables, flags.path, listed)
    else:
        asked = asked_by_flags(registry, flags.folder, layer, typed.tables)
    return Request(flags, layer, registry, asked, flags.out or asked.table)


def predict(request: Request) -> int:
    """Predict the images, alone or as one of several processes; return the exit status."""
    # The checks before do not need torch; the imports below load it.
    import torch

    from mpcc.core.evaluation.generation import Generation
    from mpcc.core.registry.attribution import attributed
    from mpcc.core.reporting.verdict import caution
    from mpcc.core.run.assembly import choose_device
    from mpcc.core.run.prediction import load_images, whose_images, write_predictions
    from mpcc.core.run.ranks.orders import agreed
    from mpcc.core.run.ranks.rounds import check_alike, failures_told
    from mpcc.core.run.saved_run import trained_model
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.storage.cluster_names import read_names
    from mpcc.core.storage.prediction_output import OutputPaths
    from mpcc.core.system import ranks
    from mpcc.core.system.resources import memory_errors

    flags, layer, registry, asked = request.flags, request.layer, request.registry, request.asked
    together = ranks.current()
    run, source, config = flags.folder, flags.source, asked.config
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    with agreed():
        state = load_checkpoint(source)
        check_checkpoint(state, source, layer.tables, places(entries_of(registry, layer.tables)))
        names = read_names(run, config.run.clusters)
        if not together.alone and config.run.device != "cpu" and torch.cuda.is_available():
            ranks.take_gpu(together.on_machine)
        device = choose_device(config.run.device)
    remedies = f"lower --batch {flags.batch}, choose --data.memory stream, if the data set has it, or --device cpu"
    entries = {entry.name: entry for each, _ in asked.groups for entry in used(registry, each)}
    with (
        failures_told(),
        memory_errors("predicting", remedies),
        attributed([*used(registry, config), *entries.values()]),
        hint_if_moved(config),
    ):
        paths = OutputPaths(
            request.table, flags.posterior, flags.latents, flags.sort_into, flags.link, flags.reconstruct
        )
        settings = config.run
        with agreed():
            model = trained_model(config, state, source, device)
            # Finding images and reading their headers counts, too.
            started = time.monotonic()
            images = load_images(asked, state["images"][1])
            # Only the first process reads the images of the digest.
            whose = whose_images(asked, images, state, layer.tables.get("data", {})) if together.first else ""
        check_alike(model, images)
        generation = Generation(model, passes=settings.standing_passes, batch=settings.batch, seed=settings.seed)
        output = write_predictions(model, images, flags.batch, settings.workers, paths, generation, names)
        seconds = time.monotonic() - started
    if not together.first:
        return 0
    for line in summary(whose, images, paths, output, seconds):
        print(line)
    if judged := caution(run, warm="init_from" in layer.tables.get("run", {})):
        print(f"caution: this run is {judged.line}", file=sys.stderr)
    return 0


def refuse_former_flag(words: Sequence[str]) -> None:
    """Refuse the flag that named the images in an earlier version.

    Raises:
        InvalidInput: With the form that replaces it.
    """
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == FORMER:
            given = value if equals else next(iter(words[index + 1 : index + 2]), "")
            path = given or "PATH"
            run = next((each for each in words[:1] if not each.startswith("-")), "RUN")
            raise InvalidInput(
                f"{FORMER} {given}: this flag is gone: expected the paths after the run (nearest valid choice: "
                f"mpcc predict {run} {path})"
            )


def check_outputs(flags: PredictFlags, table: Path) -> None:
    """Check that everything can be written under its name.

    Raises:
        InvalidInput: With the flag, the name and the nearest valid choice.
    """
    check_new_file(table, "--out")
    check_format(table, "--out")
    seen = {table.absolute(): "--out"}
    for name, path in {"--posterior": flags.posterior, "--latents": flags.latents}.items():
        if path is not None:
            check_new_file(path, name)
            if path.absolute() in seen:
                raise InvalidInput(f"{name} {path} is also the file of {seen[path.absolute()]}: expected another file")
            seen[path.absolute()] = name
    if flags.sort_into is None and flags.link is not None:
        raise InvalidInput(f"--link {flags.link}: expected --sort-into DIR, the folder of the links, beside it")
    for name, folder in {"--sort-into": flags.sort_into, "--reconstruct": flags.reconstruct}.items():
        if folder is None:
            continue
        if folder.name in ("", "..") or taken(folder):
            nearest = free(folder) if folder.name not in ("", "..") else folder / name.removeprefix("--")
            raise InvalidInput(
                f"{name} {folder} already exists: expected a new folder (nearest valid choice: {name} {nearest})"
            )
        check_new(folder, name)
        check_parent(folder, name)
        if folder.absolute() in seen:
            raise InvalidInput(f"{name} {folder} is also the file of {seen[folder.absolute()]}: expected another name")
        seen[folder.absolute()] = name


def check_new_file(path: Path, flag: str) -> None:
    """Check that a file can be created.

    Arguments:
        path: The file.
        flag: The flag that names it, for errors.

    Raises:
        InvalidInput: If the path exists already, or its folder does not exist.
    """
    check_new(path, flag, "file")
    check_parent(path, flag)


def check_parent(path: Path, flag: str) -> None:
    """Check that there is the folder in which a path is to be made.

    Raises:
        InvalidInput: If there is not.
    """
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"{flag} {path} cannot be written: {path.absolute().parent} is not a folder")


def summary(whose: str, images: ImageSet, paths: OutputPaths, output: PredictionOutput, seconds: float) -> list[str]:
    """Return the last lines of the command: what was written, for how many images, how fast, what was left out.

    Arguments:
        whose: In words, whether the images are those of the run.
        images: The images.
        paths: What was written.
        output: What was found.
        seconds: How long it took.
    """
    lines = [str(path) for path in paths.all()]
    lines[0] += f": {whose}"
    if output.sorted is not None:
        kinds = {"linked": output.sorted.linked, "copied": output.sorted.written}
        lines[-1] += f": {', '.join(f'{count:,} {kind}' for kind, count in kinds.items() if count)}"
    rate = len(images) / max(seconds, 1e-9)
    used_clusters = int((output.sizes > 0).sum())
    lines.append(f"{len(images):,} images, {rate:,.0f} images/s, {used_clusters} of {len(output.sizes)} clusters used")
    if images.skipped:
        lines.append(f"{len(images.skipped):,} left out, such as {images.skipped[0]}")
    return lines
