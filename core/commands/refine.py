"""The command ``mpcc refine``: sharpen the clusters of a trained run, without labels or further training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mpcc.core.commands.evaluate import of_own_images, origin, restored, write_evaluation
from mpcc.core.commands.flags import Parser, PluginFiles, RunFiles
from mpcc.core.config import SECTIONS, Layer, RunConfig, RunSettings, environment_layer, resolve, used
from mpcc.core.config.layers import METRICS
from mpcc.core.config.locations import check_only_places, entries_of, hint_if_moved, places
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput
from mpcc.core.images.invariances import Invariances
from mpcc.core.run.saved_run import check_checkpoint, run_layer
from mpcc.core.system.whole_files import check_new

if TYPE_CHECKING:
    from torch import Tensor

    from mpcc.core.evaluation.inference import Prediction
    from mpcc.core.run.run import Run

__all__ = ["RefineFlags", "refine_run"]

PURPOSE = (
    "Sharpen the clusters of a trained run: small classifiers on the features of its networks begin as its clusters, "
    "then grow more informative, without labels. A new folder has the clusters of the run's images, scores, pictures "
    "and a report, as mpcc evaluate writes them. The run stays as it is."
)
SETTINGS = (
    *("metrics", "eval_images", "picture_clusters", "features", "feature_weights", "generated_images"),
    *("data_root", "download", "device", "threads"),
)


@attrs.frozen(slots=False)
class RefineFlags(PluginFiles, RunFiles):
    """The command's own flags."""

    out: Path | None = option(None, "folder to create; by default refined-ITERATION in the run folder")
    invariant_to: str | None = option(
        None, "what leaves the group of an image as it is, such as shift,scale=0.1; by default that of the run"
    )
    steps: int = option(600, "steps of each classifier", least=1)
    heads: int = option(3, "classifiers that are trained; the one with the most information is kept", least=1)


def refine_run(words: list[str]) -> int:
    """Execute ``mpcc refine`` and return the exit status."""
    parser = Parser("mpcc refine", PURPOSE, "RUN [flags]")
    parser.declare("Command", RefineFlags)
    parser.declare("Settings, by default those of the run", RunSettings, "run", only=SETTINGS)
    typed = parser.read_all(words, dotted=(*SECTIONS, METRICS))
    flags = typed.make(RefineFlags)
    run, source = flags.folder, flags.source
    layer = run_layer(run)
    registry = flags.load(layer)
    movable = places(entries_of(registry, layer.tables))
    own = {section: values for section, values in typed.tables.items() if not section.startswith(METRICS)}
    check_only_places(own, layer.tables, movable, SETTINGS, "a run is refined")
    config = resolve(registry, [environment_layer(), layer, Layer("flag", typed.tables)], "none")
    if flags.out is not None:
        check_new(flags.out, "--out")
    invariances = changes(flags, config)
    if config.run.clusters < 2:
        raise InvalidInput(
            f"{run}: a run of {config.run.clusters} cluster has nothing to refine: expected a run with two or more"
        )
    # The checks above do not need torch; the imports below load it.
    from mpcc.core.registry.attribution import attributed
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.storage.cluster_names import read_names
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.system.resources import memory_errors

    state = load_checkpoint(source)
    check_checkpoint(state, source, layer.tables, movable)
    read_names(run, config.run.clusters)
    started = time.monotonic()
    with (
        memory_errors("refining", "lower --heads, or choose --device cpu"),
        attributed(used(registry, config)),
        hint_if_moved(config),
    ):
        assembled = restored(registry, config, state, source)
        predicted, refinement = refined_predictions(assembled, invariances, flags)
        findings, record = of_own_images(assembled, config, predicted)
    folder = RunFolder(flags.out or run / f"refined-{state['iteration']}", named=flags.out is not None)
    record |= {"refinement": refinement, "own_images": True}
    record["evaluation_seconds"] = round(time.monotonic() - started, 3)
    write_evaluation(registry, folder, findings, record | origin(run, source, state, config))
    return 0


def changes(flags: RefineFlags, config: RunConfig) -> Invariances:
    """Return the changes that leave a group as it is.

    Raises:
        InvalidInput: If they are not valid, or there are none.
    """
    text = config.run.invariant_to if flags.invariant_to is None else flags.invariant_to
    try:
        found = Invariances.parse(text)
    except ValueError as error:
        raise InvalidInput(f"--invariant-to {text}: {error}") from error
    if not found:
        raise InvalidInput(
            f"--invariant-to {text}: two changed copies of each image are compared: expected changes that leave a "
            "group as it is (nearest valid choice: --invariant-to shift)"
        )
    return found


def refined_predictions(assembled: Run, invariances: Invariances, flags: RefineFlags) -> tuple[Any, dict[str, Any]]:
    """Train classifiers on all images of a run.

    Arguments:
        assembled: The run, with weights.
        invariances: The changes that leave a group as it is.
        flags: Steps and number of classifiers.

    Returns:
        A function that predicts images by their indices, and a record for ``results.json``.
    """
    import torch

    from mpcc.core.evaluation.inference import EVALUATION_BATCH, Prediction, predictions
    from mpcc.core.refinement.heads import RefinementSettings, refined, shared_layers

    images = assembled.data.images
    # What cannot be refined is refused before all images are encoded.
    shared_layers(assembled.trainer.model, images[torch.arange(min(2, images.shape[0]))])
    each = list(predictions(assembled.trainer.model, images))
    locations, posterior = torch.cat([one.locations for one in each]), torch.cat([one.posterior for one in each])
    wanted = RefinementSettings(flags.steps, flags.heads, invariances, assembled.config.run.seed)
    found = refined(assembled.trainer.model, images, posterior, wanted)

    def predicted(indices: Tensor) -> Sequence[Prediction]:
        parts = torch.split(indices, EVALUATION_BATCH)
        return [Prediction(locations[part], found.posterior(images[part])) for part in parts]

    record = {"steps": flags.steps, "heads": flags.heads, "invariant_to": str(invariances)}
    return predicted, {**record, "information": [round(share, 6) for share in found.information]}
