"""What the benchmarks on digits share: runs that are trained once, and tables of means over seeds."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["parser", "print_table", "train"]


def parser(description: str | None, priors: Sequence[str], out: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark; flags that it doesn't know go to ``mpcc-run``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--priors", nargs="+", default=list(priors))
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    made.add_argument("--out", type=Path, default=Path(out), help="folder for the run folders; those there are reused")
    return made


def train(folder: Path, arguments: Sequence[str]) -> None:
    """Train one model with ``mpcc-run`` unless its results are there."""
    if not (folder / "results.json").exists():
        command = [sys.executable, "-c", "from mpcc.core.commands.entry import run_main; run_main()", *arguments]
        # Standard output is for the tables.
        subprocess.run([*command, "--out", str(folder)], check=True, stdout=sys.stderr)


def print_table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print means and standard deviations over seeds in Markdown.

    Arguments:
        rows: For each name of a row the scores of each seed, by name of the column.
    """
    names = list(next(iter(rows.values()))[0])
    print(f"| prior | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for label, seeds in rows.items():
        cells = []
        for name in names:
            values = [seed[name] for seed in seeds]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {label} | {' | '.join(cells)} |")
