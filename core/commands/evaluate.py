"""The command ``mpcc evaluate``: repeat the evaluation of a run from a checkpoint."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mpcc.core.commands.flags import Parser, PluginFiles, RunFiles
from mpcc.core.config import SECTIONS, Layer, RunConfig, RunSettings, environment_layer, flag, resolve, used
from mpcc.core.config.asked_images import AskedImages, are_own, asked_by_flags
from mpcc.core.config.layers import METRICS
from mpcc.core.config.locations import check_only_places, entries_of, hint_if_moved, places
from mpcc.core.config.options import option
from mpcc.core.registry import Registry
from mpcc.core.run.saved_run import check_checkpoint, run_layer
from mpcc.core.system.whole_files import check_new

if TYPE_CHECKING:
    from torch import Tensor

    from mpcc.core.evaluation.findings import Findings
    from mpcc.core.evaluation.inference import Prediction
    from mpcc.core.run.run import Run
    from mpcc.core.storage.run_folder import RunFolder

__all__ = ["EvaluateFlags", "evaluate_run", "of_own_images", "origin", "restored", "write_evaluation"]

PURPOSE = (
    "Evaluate a checkpoint anew: scores, pictures, tables and a report in a new folder; the run's own files stay. "
    "--data NAME and options such as --data.split choose other images. If the run's images have been moved, an option "
    "such as --data.path names their new place."
)
DATA_HELP = "data set to evaluate instead of the run's, with options --data.OPTION VALUE"
# Letters of the name of a folder that come from the names of images.
LONGEST_NAME = 60

Tables = Mapping[str, Mapping[str, Any]]
SETTINGS = (
    *("metrics", "eval_images", "picture_clusters", "features", "feature_weights", "generated_images"),
    *("data_root", "download", "device", "threads"),
)


@attrs.frozen(slots=False)
class EvaluateFlags(PluginFiles, RunFiles):
    """The command's own flags."""

    out: Path | None = option(
        None, "folder to create; by default evaluation-ITERATION in the run folder, for other images with their name"
    )


def evaluate_run(words: list[str]) -> int:
    """Execute ``mpcc evaluate`` and return the exit status."""
    parser = Parser("mpcc evaluate", PURPOSE, "RUN [flags]")
    parser.declare("Command", EvaluateFlags)
    parser.declare_names("Images", {"data": DATA_HELP})
    parser.declare("Settings, by default those of the run", RunSettings, "run", only=SETTINGS)
    typed = parser.read_all(words, dotted=(*SECTIONS, METRICS))
    flags = typed.make(EvaluateFlags)
    run, out, source = flags.folder, flags.out, flags.source
    layer = run_layer(run)
    registry = flags.load(layer)
    movable = places(entries_of(registry, layer.tables))
    asked = other_images(registry, run, layer, typed.tables)
    own = {section: values for section, values in typed.tables.items() if not section.startswith(METRICS)}
    others = {section: values for section, values in own.items() if asked is None or section != "data"}
    check_only_places(others, layer.tables, movable, SETTINGS, "a run is evaluated")
    if asked is None:
        config = resolve(registry, [environment_layer(), layer, Layer("flag", typed.tables)], "none")
    else:
        config = asked.config
        for line in asked.told:
            print(line, file=sys.stderr)
    if out is not None:
        check_new(out, "--out")
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
    remedies = f"lower --eval-images {config.run.eval_images}, or choose --device cpu"
    with memory_errors("evaluating", remedies), attributed(used(registry, config)), hint_if_moved(config):
        if asked is None:
            findings, record = of_own_images(restored(registry, config, state, source), config)
        else:
            findings, record = of_other_images(registry, asked, state, source)
    own = record["data"]["fingerprint"] == state["fingerprint"]
    name = f"evaluation-{state['iteration']}" + ("" if own else f"-{named(config, typed.tables)}")
    folder = RunFolder(out or run / name, named=out is not None)
    record |= {"own_images": own, "evaluation_seconds": round(time.monotonic() - started, 3)}
    write_evaluation(registry, folder, findings, record | origin(run, source, state, config))
    if not own:
        print(f"not the run's own images: {findings.data.description or config.data.name}")
        if seen := perhaps_seen(layer, config):
            print(seen)
    return 0


def origin(run: Path, source: Path, state: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Return what ``results.json`` says about the run that was evaluated.

    Arguments:
        run: Its folder.
        source: The file of the checkpoint.
        state: The checkpoint.
        config: Names the images.
    """
    return {
        "iterations": state["iteration"],
        "run": str(run.absolute()),
        "checkpoint": str(source.absolute()),
        "images_of": config.to_tables()["data"],
    }


def write_evaluation(registry: Registry, folder: RunFolder, findings: Findings, record: Mapping[str, Any]) -> None:
    """Write the folder of an evaluation, and print where it is and the scores.

    Arguments:
        registry: Explains the metrics in the report.
        folder: A new folder.
        findings: What was found.
        record: What the result depends on, for ``results.json``.
    """
    from mpcc.core.report.report_page import write_report

    with folder.filled():
        folder.write_findings(findings)
        if findings.data.skipped:
            folder.write_skipped(findings.data.skipped)
        folder.write_results({**findings.summary(), **record})
        write_report(folder.path, registry.summaries("metric"))
    scores = " ".join(f"{name} {value:.3f}" for name, value in findings.scores.items())
    print(f"{folder.path}: iteration {record['iterations']}, {len(findings.indices)} images {scores}".rstrip())


def other_images(registry: Registry, run: Path, layer: Layer, tables: Tables) -> AskedImages | None:
    """Return the images that flags name in place of the run's own ones, or None.

    The flags name the run's own images if they name new places of files that are gone, or repeat values of the run.

    Arguments:
        registry: Knows the data sets.
        run: The run folder.
        layer: The run's configuration.
        tables: Values of flags by section and name.

    Raises:
        InvalidInput: If a name or a value is not valid.
    """
    own, given = layer.tables.get("data", {}), tables.get("data", {})
    changed = {name: value for name, value in given.items() if str(value).lower() != str(own.get(name, "")).lower()}
    return asked_by_flags(registry, run, layer, tables) if not are_own(registry, layer, changed) else None


def restored(registry: Registry, config: RunConfig, state: dict[str, Any], source: Path) -> Run:
    """Return a run with the weights of a checkpoint and its images, to be evaluated.

    Raises:
        InvalidInput: If the checkpoint does not fit the configuration or the data.
    """
    from mpcc.core.run.run import Run

    # An evaluation keeps no best.pt. It computes in float32 with torch's kernels, however the run was trained.
    settings = attrs.evolve(config.run, precision="float32", kernels="torch", best_by="none")
    assembled = Run.assemble(registry, attrs.evolve(config, run=settings))
    assembled.restore_model(state, source)
    return assembled


def of_own_images(
    assembled: Run, config: RunConfig, predicted: Callable[[Tensor], Sequence[Prediction]] | None = None
) -> tuple[Findings, dict[str, Any]]:
    """Evaluate a run on its own images; return what is found and the record of it.

    Arguments:
        assembled: The run, with weights.
        config: Says what is evaluated.
        predicted: Predicts images by their indices; by default encoder and prior do.
    """
    from mpcc.core.evaluation.findings import find

    findings = find(
        assembled.trainer.model,
        assembled.data,
        assembled.indices,
        assembled.metrics,
        config.run,
        assembled.baseline,
        predicted,
    )
    baseline = assembled.baseline.record(findings.evaluation, findings.indices, assembled.metrics)
    return findings, {"baseline": baseline, **assembled.record()}


def of_other_images(
    registry: Registry, asked: AskedImages, state: dict[str, Any], source: Path
) -> tuple[Findings, dict[str, Any]]:
    """Evaluate a checkpoint on other images; return what is found and the record of it.

    Raises:
        InvalidInput: If the images cannot be read or do not fit.
    """
    from mpcc.core.run.other_images import OtherImages

    assembled = OtherImages.assemble(registry, asked, state, source)
    findings = assembled.findings()
    baseline = assembled.baseline.record(findings.evaluation, findings.indices, assembled.metrics)
    return findings, {"baseline": baseline, **assembled.record()}


def named(config: RunConfig, tables: Tables) -> str:
    """Return a name for other images, from the data set and the part of it that was typed.

    Arguments:
        config: The configuration that reads them.
        tables: Values of flags by section and name.
    """
    given = tables.get("data", {})
    path = getattr(config.data.options, "path", None) if {"path", "name"} & {*given} else None
    words = [
        config.data.name,
        *([Path(path).stem] if path else []),
        *([str(given["split"])] if "split" in given else []),
    ]
    return re.sub(r"[^\w.-]+", "-", "-".join(words))[:LONGEST_NAME]


def perhaps_seen(layer: Layer, config: RunConfig) -> str:
    """Return a line if the run was trained on images of the same data set, such as another split; else nothing.

    Arguments:
        layer: The run's configuration.
        config: The configuration that reads the other images.
    """
    own, now = dict(layer.tables.get("data", {})), config.to_tables()["data"]
    changed = [name for name in own if name in now and own[name] != now[name]]
    if own.get("name") != now["name"] or own.get("path") != now.get("path") or not changed:
        return ""
    told = ", ".join(f"{flag('data', name)} {own[name]}" for name in changed)
    return f"the run was trained on the same data set with {told}: it may have seen these images"
