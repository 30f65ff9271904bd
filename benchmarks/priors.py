"""All priors on digits, with the same budget, without and with outliers among the coordinates of z.

    python benchmarks/priors.py --priors gmm student_t cauchy --seeds 0 1 2

The first table shows acc and nmi after training with the preset of the digits, every prior with its own defaults. For
the second table, the trained encoder's locations get outliers: in each image, some of the J coordinates, chosen at
random, move by a shift of random sign. The responsibilities of a Gaussian follow the square of the largest deviation.
Those of a heavy tail follow only its logarithm, so the other coordinates decide.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from digit_runs import parser, print_table, train_all
from torch import Tensor

from mpcc.core.config import read_config, resolve
from mpcc.core.evaluation.evaluation import evaluate
from mpcc.core.registry import load_registry
from mpcc.core.run.run import Run
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.plugins.metrics.accuracy import accuracy

PRIORS = ["gmm", "student_t", "cauchy", "laplace", "logistic", "gumbel", "lowrank_gmm"]
OUTLIERS = ((0, 0.0), (1, 5.0), (1, 10.0), (3, 10.0))


def spoil(locations: Tensor, count: int, shift: float) -> Tensor:
    """Move ``count`` coordinates of each row by a shift of random sign, the same for every prior.

    Arguments:
        locations: z, shape (N, J).
        count: The number of coordinates, at most J.
        shift: The size of the shift, in units of z.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(locations.shape, generator=generator).argsort(1)[:, :count]
    signs = torch.randint(2, chosen.shape, generator=generator) * 2 - 1
    return locations.scatter_add(1, chosen, shift * signs.to(locations.dtype))


def trained(folder: Path) -> dict[str, float]:
    """Return acc and nmi of a trained run."""
    metrics = json.loads((folder / "results.json").read_text(encoding="utf-8"))["metrics"]
    return {name: metrics[name] for name in ("acc", "nmi")}


@torch.no_grad()
def under_outliers(folder: Path) -> dict[str, float]:
    """Return acc of a trained run for each kind of outlier."""
    run = Run.assemble(load_registry(), resolve(load_registry(), [read_config(folder / "config.toml")]))
    run.trainer.restore(load_checkpoint(folder / "checkpoints" / "last.pt"))
    evaluation = evaluate(run.trainer.model, run.data, run.indices)
    assert evaluation.labels is not None
    scores = {}
    for count, shift in OUTLIERS:
        z = spoil(evaluation.locations, count, shift)
        clusters = run.trainer.model.prior.log_responsibilities(z).argmax(1)
        name = f"{count} of {z.shape[1]} off by {shift:g}" if count else "clean"
        scores[name] = accuracy(clusters, evaluation.labels)
    return scores


def main() -> None:
    """Train missing runs and print both tables."""
    flags, further = parser(__doc__, PRIORS, "runs/priors").parse_known_args()
    folders = train_all(flags, ["--data", "digits", *further])
    print(f"digits, seeds {flags.seeds}: mean and standard deviation")
    print_table({prior: [trained(folder) for folder in of_prior] for prior, of_prior in folders.items()})
    print("\nacc with outliers among the coordinates of z")
    print_table({prior: [under_outliers(folder) for folder in of_prior] for prior, of_prior in folders.items()})


if __name__ == "__main__":
    main()
