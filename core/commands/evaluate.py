"""The command ``mpcc evaluate``: repeat the evaluation of a run from a checkpoint."""

from __future__ import annotations

import time
from pathlib import Path

import attrs

from mpcc.core.commands.flags import Parser, PluginFiles, RunFiles
from mpcc.core.config import SECTIONS, Layer, RunSettings, environment_layer, resolve, used
from mpcc.core.config.locations import check_only_places, entries_of, hint_if_moved, places
from mpcc.core.config.options import option
from mpcc.core.run.saved_run import check_checkpoint, run_layer
from mpcc.core.system.whole_files import check_new

__all__ = ["EvaluateFlags", "evaluate_run"]

PURPOSE = (
    "Evaluate a checkpoint anew: scores, pictures and tables in a new folder; the run's own files stay. If the images "
    "have been moved, an option such as --data.path names their new place."
)
SETTINGS = (
    *("metrics", "eval_images", "picture_clusters", "features", "feature_weights", "generated_images"),
    *("data_root", "download", "device", "threads"),
)


@attrs.frozen(slots=False)
class EvaluateFlags(PluginFiles, RunFiles):
    """The command's own flags."""

    out: Path | None = option(None, "folder to create; by default evaluation-ITERATION in the run folder")


def evaluate_run(words: list[str]) -> int:
    """Execute ``mpcc evaluate`` and return the exit status."""
    parser = Parser("mpcc evaluate", PURPOSE, "RUN [flags]")
    parser.declare("Command", EvaluateFlags)
    parser.declare("Settings, by default those of the run", RunSettings, "run", only=SETTINGS)
    typed = parser.read_all(words, dotted=SECTIONS)
    flags = typed.make(EvaluateFlags)
    run, out, source = flags.folder, flags.out, flags.source
    layer = run_layer(run)
    registry = flags.load(layer)
    movable = places(entries_of(registry, layer.tables))
    check_only_places(typed.tables, layer.tables, movable, SETTINGS, "a run is evaluated")
    config = resolve(registry, [environment_layer(), layer, Layer("flag", typed.tables)], "none")
    if out is not None:
        check_new(out, "--out")
    # The checks above do not need torch; the imports below load it.
    from mpcc.core.evaluation.findings import find
    from mpcc.core.registry.attribution import attributed
    from mpcc.core.run.run import Run
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.system.resources import memory_errors

    state = load_checkpoint(source)
    check_checkpoint(state, source, layer.tables, movable)
    started = time.monotonic()
    remedies = f"lower --eval-images {config.run.eval_images}, or choose --device cpu"
    with memory_errors("evaluating", remedies), attributed(used(registry, config)), hint_if_moved(config):
        # An evaluation keeps no best.pt, and computes in float32, whatever the precision of the training and device.
        exact = attrs.evolve(config, run=attrs.evolve(config.run, precision="float32", best_by="none"))
        assembled = Run.assemble(registry, exact)
        assembled.restore_model(state, source)
        findings = find(assembled.trainer.model, assembled.data, assembled.indices, assembled.metrics, config.run)
        baseline = assembled.baseline.record(findings.evaluation, findings.indices, assembled.metrics)
    folder = RunFolder(out or run / f"evaluation-{state['iteration']}", named=out is not None)
    with folder.filled():
        folder.write_findings(findings)
        if assembled.data.skipped:
            folder.write_skipped(assembled.data.skipped)
        folder.write_results(
            {
                **findings.summary(),
                "baseline": baseline,
                "iterations": state["iteration"],
                "run": str(run.absolute()),
                "checkpoint": str(source.absolute()),
                "evaluation_seconds": round(time.monotonic() - started, 3),
                **assembled.record(),
            }
        )
    scores = " ".join(f"{name} {value:.3f}" for name, value in findings.scores.items())
    print(f"{folder.path}: iteration {state['iteration']}, {len(findings.indices)} images {scores}".rstrip())
    return 0
