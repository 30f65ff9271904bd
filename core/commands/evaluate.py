"""The command ``mpcc evaluate``: compute everything that an evaluation finds anew, from a checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from mpcc.core.commands.plugin_flags import PluginFiles, RegistryFiles
from mpcc.core.config import Layer, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry
from mpcc.core.run.saved_run import check_checkpoint, run_layer

__all__ = ["evaluate_run"]


def evaluate_run(
    run: Annotated[Path, Parameter(help="run folder, of mpcc-run")],
    *,
    metrics: Annotated[
        str | None, Parameter(help="metrics to compute, separated by commas, or all; by default those of the run")
    ] = None,
    eval_images: Annotated[str | None, Parameter(help="how many images to evaluate: a number or all")] = None,
    features: Annotated[
        str | None, Parameter(help="feature extractor of fid, kid and inception_score, module:name")
    ] = None,
    feature_weights: Annotated[str | None, Parameter(help="file with the weights of the standard Inception")] = None,
    generated_images: Annotated[str | None, Parameter(help="images to generate for scores of features")] = None,
    data_root: Annotated[str | None, Parameter(help="folder of the data sets; by default that of the run")] = None,
    download: Annotated[bool, Parameter(negative="", help="fetch missing data and feature weights")] = False,
    device: Annotated[str | None, Parameter(help="where to compute: auto, cpu or cuda")] = None,
    checkpoint: Annotated[
        Path | None, Parameter(help="checkpoint of the run; by default its newest, checkpoints/last.pt")
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="folder to be made; by default evaluation-ITERATION in the run folder")
    ] = None,
    plugin: PluginFiles = None,
    registry: RegistryFiles = None,
) -> int:
    """Evaluate a checkpoint anew: scores, pictures and tables in a new folder; the run's own files stay."""
    given = {
        "metrics": metrics,
        "eval_images": eval_images,
        "features": features,
        "feature_weights": feature_weights,
        "generated_images": generated_images,
        "data_root": data_root,
        "download": download or None,
        "device": device,
    }
    layer = run_layer(run)
    found = load_registry(plugins=[*layer.plugins, *(plugin or ())], registries=[*layer.registries, *(registry or ())])
    # Not at the top: the commands' module imports this one.
    from mpcc.core.config import environment_layer, used

    lower = [environment_layer(), layer]
    flags = Layer("flag", {"run": {name: value for name, value in given.items() if value is not None}})
    config = resolve(found, [*lower, flags], "none")
    if out is not None and (out.exists() or out.is_symlink()):
        raise InvalidInput(f"--out {out} already exists: expected a new folder")
    # From here on torch is needed; everything above has been checked without it.
    from mpcc.core.evaluation.findings import find
    from mpcc.core.registry.attribution import attributed
    from mpcc.core.run.run import Run
    from mpcc.core.storage.checkpoint import load_checkpoint
    from mpcc.core.storage.run_folder import RunFolder
    from mpcc.core.system.resources import memory_errors

    source = checkpoint or run / "checkpoints" / "last.pt"
    state = load_checkpoint(source)
    check_checkpoint(state, source, layer.tables)
    started = time.monotonic()
    remedies = f"lower --eval-images {config.run.eval_images}, or choose --device cpu"
    with memory_errors("evaluating", remedies), attributed(used(found, config)):
        # An evaluation computes in float32, whatever the run was trained in and wherever it is evaluated.
        exact = attrs.evolve(config, run=attrs.evolve(config.run, precision="float32"))
        assembled = Run.assemble(found, exact)
        assembled.restore_model(state, source)
        findings = find(assembled.trainer.model, assembled.data, assembled.indices, assembled.metrics, config.run)
    folder = RunFolder(out or run / f"evaluation-{state['iteration']}", named=out is not None)
    with folder.filled():
        folder.write_findings(findings)
        if assembled.data.skipped:
            folder.write_skipped(assembled.data.skipped)
        folder.write_results(
            {
                **findings.summary(),
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
