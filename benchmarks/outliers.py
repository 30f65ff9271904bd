"""Priors under contamination: cluster digits among foreign images, score the clean digits alone.

    python benchmarks/outliers.py --priors gmm student_t --seeds 0 1 2 --kind noise --fraction 0.1

Each run is an ordinary ``mpcc-run`` with the preset of the digits; K stays 10, so that foreign images have no cluster
to themselves unless they take it from the digits. Labels are read after training, from assignments.csv. Runs that are
in the output folder already are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from mpcc.plugins.metrics.accuracy import accuracy
from mpcc.plugins.metrics.mutual_information import normalized_mutual_information

PLUGIN = Path(__file__).with_name("contaminated_digits.py")


def run(folder: Path, prior: str, seed: int, kind: str, fraction: float, further: list[str]) -> None:
    """Train one model unless its results are there."""
    if (folder / "results.json").exists():
        return
    command = [sys.executable, "-c", "from mpcc.core.cli import run_main; run_main()", "--plugin", str(PLUGIN)]
    command += ["--data", "contaminated_digits", "--preset", "digits", "--prior", prior, "--seed", str(seed)]
    command += ["--data.kind", kind, "--data.fraction", str(fraction), "--out", str(folder), *further]
    subprocess.run(command, check=True)


def score(folder: Path) -> dict[str, float]:
    """Return acc and nmi of the clean digits, and how well a low confidence tells foreign images from them."""
    with (folder / "assignments.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clean = [row for row in rows if row["path"].startswith("digits#")]
    clusters, labels = (torch.tensor([int(row[name]) for row in clean]) for name in ("cluster", "label"))
    scores = {
        "acc of clean digits": accuracy(clusters, labels),
        "nmi of clean digits": normalized_mutual_information(clusters, labels),
    }
    foreign = [not row["path"].startswith("digits#") for row in rows]
    if any(foreign):
        scores["auroc of low confidence"] = roc_auc_score(foreign, [-float(row["confidence"]) for row in rows])
    return scores


def main() -> None:
    """Run everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--priors", nargs="+", default=["gmm", "student_t", "cauchy", "laplace"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kind", default="noise", choices=["noise", "corrupted"])
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/outliers"), help="folder for the run folders")
    arguments, further = parser.parse_known_args()
    table: dict[str, list[dict[str, float]]] = {}
    for prior in arguments.priors:
        for seed in arguments.seeds:
            folder = arguments.out / f"{arguments.kind}-{arguments.fraction:g}-{prior}-{seed}"
            run(folder, prior, seed, arguments.kind, arguments.fraction, further)
            table.setdefault(prior, []).append(score(folder))
    names = list(table[arguments.priors[0]][0])
    print(f"{arguments.kind}, fraction {arguments.fraction:g}, seeds {arguments.seeds}: mean and standard deviation")
    print(f"| prior | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for prior, rows in table.items():
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {prior} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
