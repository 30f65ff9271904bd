"""A prediction with a trained model: its images are read, assigned and written a batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpcc.core.config import RunConfig
from mpcc.core.config.asked_images import AskedImages, conversion
from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput, TrainingDiverged
from mpcc.core.evaluation.generation import Generation
from mpcc.core.images.fingerprint import fingerprint
from mpcc.core.images.joined import joined
from mpcc.core.method.model import Model
from mpcc.core.run.assembly import load_data
from mpcc.core.run.ranks.rounds import predictions_in_rounds
from mpcc.core.storage.prediction_output import OutputPaths, PredictionOutput
from mpcc.core.system import ranks
from mpcc.core.system.allocator import kept_memory
from mpcc.core.system.file_names import path_of, printable

__all__ = ["load_images", "whose_images", "write_predictions"]


def load_images(asked: AskedImages, channels: int, *, once: bool = True) -> ImageSet:
    """Read the images, or open them to be read when they are needed.

    Arguments:
        asked: The images.
        channels: D, of the images of the training.
        once: Whether each image is wanted once only, as for a prediction.

    Raises:
        InvalidInput: If images cannot be read, or have another number of channels; the message names their input.
    """

    def load(config: RunConfig, named: str, inputs: Sequence[Path] = ()) -> ImageSet:
        images = load_data(config, training=False, once=once, inputs=inputs)
        if images.images.shape[1] != channels:
            hint = conversion(config.data.entry.options_class(), channels)
            raise InvalidInput(
                f"{named}: expected images with {channels} channel{'s' * (channels > 1)}, as in training, got "
                f"{images.images.shape[1]}{hint}"
            )
        return images

    if not asked.groups:
        return load(asked.config, asked.config.data.entry.described())
    return joined([load(config, str(inputs), inputs.paths) for config, inputs in asked.groups])


def whose_images(asked: AskedImages, data: ImageSet, state: Mapping[str, Any], trained_on: Mapping[str, Any]) -> str:
    """Return in words whether images are those of the run: the digest decides, not the way in which they were named.

    Arguments:
        asked: The images as they were asked for.
        data: The images.
        state: A checkpoint of the run.
        trained_on: The section ``data`` of the run's configuration.
    """
    if list(data.images.shape) == state["images"] and fingerprint(data.images) == state["fingerprint"]:
        return "the run's own images"
    if asked.own:
        return "the images of the run's data set, which are not those of the training any more"
    same = place_of_training(asked, trained_on)
    return f"images of {same}, as the run's own are, but not the same set" if same else "not the run's own images"


def place_of_training(asked: AskedImages, trained_on: Mapping[str, Any]) -> str:
    """Return the data set or the place of the training in words, if the images come from there; else nothing.

    They may be a part of those of the training, or may be converted with other options.
    """
    own, data = trained_on.get("path"), asked.config.data
    named = getattr(data.options, "path", None)
    paths = [path for _, each in asked.groups for path in each.paths] or ([named] if named else [])
    if not isinstance(own, str):
        return f"the data set {data.name}" if not paths and data.name == trained_on.get("name") else ""
    place = path_of(own).expanduser()
    here = [path.expanduser().resolve() for path in paths]
    inside = bool(here) and all(path.is_relative_to(place.resolve()) for path in here)
    return printable(str(place)) if inside else ""


def write_predictions(
    model: Model,
    data: ImageSet,
    batch: int,
    workers: int,
    paths: OutputPaths,
    generation: Generation | None = None,
    names: Mapping[int, str] | None = None,
) -> PredictionOutput:
    """Predict all images and write the results; if several ranks call it, each predicts its share.

    Arguments:
        model: Encoder and prior.
        data: The images.
        batch: Images in each pass through the encoder.
        workers: Processes of each rank that read ahead.
        paths: Where the results go.
        generation: Makes reconstructions, if there are any.
        names: Names of clusters, by number.

    Returns:
        What the first rank has found and written; on other ranks, nothing was added to it.

    Raises:
        InvalidInput: If an image cannot be read, or a file cannot be written.
        TrainingDiverged: If locations or posteriors are not finite.
    """
    output = PredictionOutput(model.prior.clusters, names)
    opened = output.opened(paths, data, model.prior.latent_dim, generation)
    with kept_memory(model.device.type == "cpu"), opened if ranks.current().first else contextlib.nullcontext():
        for prediction in predictions_in_rounds(model, data.images, batch, workers=workers):
            if not prediction.finite:
                raise TrainingDiverged(
                    "the encoder's locations or their posteriors are not finite: training has diverged"
                )
            output.add(prediction)
    return output
