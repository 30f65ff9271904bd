"""How well the confidence of trained runs is calibrated, with q(y|x) and with q(y|z) at the encoder's location.

    python benchmarks/calibration.py RUN...

A run needs labels. Its images are read anew, and the newest checkpoint assigns them: at most 10,000, a fixed choice.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import mpcc
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.evaluation import choose_images, evaluate
from mpcc.core.method.model import Model
from mpcc.core.run.assembly import load_data
from mpcc.plugins.metrics.accuracy import accuracy
from mpcc.plugins.metrics.calibration import calibration_error, right_images

__all__ = ["errors_of", "main"]

IMAGES = 10_000


def errors_of(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Return accuracy and both calibration errors, matched and majority, by the name of the posterior.

    Raises:
        InvalidInput: If the run cannot be read, or its images have no labels.
    """
    run = mpcc.load(folder, device="cpu")
    data = load_data(run.config, training=False)
    if data.labels is None:
        raise InvalidInput(f"{folder}: its images have no labels")
    model: Model = run.model
    evaluation = evaluate(model, data, choose_images(len(data), IMAGES, 0))
    with torch.no_grad():
        at_location = model.prior.log_responsibilities(evaluation.locations).exp()
    found = {}
    for name, posterior in (("q(y|z) at the location", at_location), ("q(y|x)", evaluation.posterior)):
        sure, clusters = posterior.max(dim=1)
        matched, majority = right_images(clusters, evaluation.labels)
        found[name] = (
            accuracy(clusters, evaluation.labels),
            calibration_error(sure, matched),
            calibration_error(sure, majority),
        )
    return found


def main() -> None:
    """Print a table."""
    print("| run | posterior | acc | error, matched | error, majority |\n| --- | --- | --- | --- | --- |")
    for folder in map(Path, sys.argv[1:]):
        for name, numbers in errors_of(folder).items():
            print(f"| {folder.name} | {name} | {' | '.join(f'{number:.3f}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
