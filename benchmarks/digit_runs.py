"""Runs that are trained once, and tables of means over seeds, for all benchmarks on digits."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from result_tables import markdown, spread

__all__ = ["parser", "print_table", "train", "train_all"]


def parser(description: str | None, priors: Sequence[str], out: str) -> argparse.ArgumentParser:
    """Return a parser with the flags of every benchmark; other flags go to ``mpcc-run``."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--priors", nargs="+", default=list(priors))
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--out", type=Path, default=Path(out), help="folder of the runs; finished ones are reused")
    return flags


def train(folder: Path, arguments: Sequence[str]) -> None:
    """Train one model with ``mpcc-run``, unless its results exist."""
    if not (folder / "results.json").exists():
        command = [sys.executable, "-c", "from mpcc.core.commands.entry import run_main; run_main()", *arguments]
        # Standard output is for the tables.
        subprocess.run([*command, "--out", str(folder)], check=True, stdout=sys.stderr)


def train_all(flags: argparse.Namespace, arguments: Sequence[str], name: str = "") -> dict[str, list[Path]]:
    """Train a model for each prior and seed, unless its results exist, and return the folders by prior.

    Arguments:
        flags: Those of `parser`.
        arguments: Of ``mpcc-run``.
        name: What the names of the folders begin with.
    """
    folders = {prior: [flags.out / f"{name}{prior}-{seed}" for seed in flags.seeds] for prior in flags.priors}
    for prior, of_prior in folders.items():
        for seed, folder in zip(flags.seeds, of_prior, strict=True):
            train(folder, [*arguments, "--prior", prior, "--seed", str(seed)])
    return folders


def print_table(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print means and standard deviations over seeds in Markdown.

    Arguments:
        rows: The scores of each seed by the name of their column, for each name of a row.
    """
    names = list(next(iter(rows.values()))[0])
    cells = [[label, *(spread([seed[name] for seed in seeds]) for name in names)] for label, seeds in rows.items()]
    print(markdown(["prior", *names], cells))
