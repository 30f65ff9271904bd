"""Priors trained under contamination: cluster digits among foreign images, score the clean digits alone.

    python benchmarks/outliers.py --priors gmm student_t cauchy --seeds 0 1 2 --kind noise --fraction 0.1

Each run is an ordinary ``mpcc-run`` with the preset of the digits. K stays 10, so foreign images have no cluster of
their own unless they take it from the digits. Labels are read after training, from assignments.csv.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from digit_runs import parser, print_table, train_all
from sklearn.metrics import roc_auc_score

from mpcc.plugins.metrics.accuracy import accuracy
from mpcc.plugins.metrics.mutual_information import normalized_mutual_information

PLUGIN = Path(__file__).with_name("contaminated_digits.py")


def scores(folder: Path) -> dict[str, float]:
    """Return acc and nmi of the clean digits, and the AUROC of low confidence as a detector of the other images."""
    with (folder / "assignments.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clean = [row for row in rows if row["path"].startswith("digits#")]
    clusters, labels = (torch.tensor([int(row[name]) for row in clean]) for name in ("cluster", "label"))
    values = {
        "acc of clean digits": accuracy(clusters, labels),
        "nmi of clean digits": normalized_mutual_information(clusters, labels),
    }
    foreign = [not row["path"].startswith("digits#") for row in rows]
    if any(foreign):
        values["auroc of low confidence"] = roc_auc_score(foreign, [-float(row["confidence"]) for row in rows])
    return values


def main() -> None:
    """Train missing runs and print the table."""
    command_line = parser(__doc__, ["gmm", "student_t", "cauchy"], "runs/outliers")
    command_line.add_argument("--kind", default="noise", choices=["noise", "corrupted"])
    command_line.add_argument("--fraction", type=float, default=0.1)
    flags, further = command_line.parse_known_args()
    arguments = ["--plugin", str(PLUGIN), "--data", "contaminated_digits", "--preset", "digits", *further]
    arguments += ["--data.kind", flags.kind, "--data.fraction", str(flags.fraction)]
    folders = train_all(flags, arguments, f"{flags.kind}-{flags.fraction:g}-")
    print(f"{flags.kind}, fraction {flags.fraction:g}, seeds {flags.seeds}: mean and standard deviation")
    print_table({prior: [scores(folder) for folder in of_prior] for prior, of_prior in folders.items()})


if __name__ == "__main__":
    main()
