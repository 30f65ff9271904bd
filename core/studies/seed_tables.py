"""A comparison of seeds as tables: ``seeds.csv``, and lines for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpcc.core.studies.seed_record import SeedRecord

__all__ = ["lines", "rows", "scores_in_words"]

# Columns of seeds in the terminal; more seeds are in the file only.
MOST_COLUMNS = 10


def scores_in_words(scores: Mapping[str, float]) -> str:
    """Return scores in one line.

    Example:
        >>> scores_in_words({"acc": 0.5, "nmi": 0.25})
        'acc 0.500 nmi 0.250'
    """
    return " ".join(f"{name} {value:.3f}" for name, value in scores.items())


def rows(record: SeedRecord) -> list[list[Any]]:
    """Return the rows of ``seeds.csv``, its header first.

    A row for every seed, with its scores where the seeds are compared; then mean, standard deviation and rank
    correlation over those; then a row for every run that has also been evaluated at the end.
    """
    at, spread, agreement = record.counted_at, record.spreads(), record.agreement()
    names = list(spread)
    chosen = record.chosen()
    table: list[list[Any]] = [["seed", "state", "chosen", "iterations", *names]]
    for run in record.runs:
        scores = run.scores.get(at)
        state = record.state_of(run)
        shown = [] if scores is None else [scores.get(name, "") for name in names]
        table.append([run.seed, state, yes(run is chosen), "" if scores is None else at, *(shown or [""] * len(names))])
    count = f"n={len(record.compared)}"
    for kind in ("mean", "sd"):
        table.append([kind, count, "", at, *(blank(spread[name][kind]) for name in names)])
    if agreement:
        values = [blank(agreement.get(name, {}).get("rank_correlation")) for name in names]
        table.append([f"rank correlation with {record.score}", count, "", at, *values])
    if at != record.iterations:
        for run in record.runs:
            if record.iterations in run.scores:
                final = [run.scores[record.iterations].get(name, "") for name in names]
                table.append([run.seed, record.state_of(run), yes(run is chosen), record.iterations, *final])
    return table


def yes(value: bool) -> str:
    """Return ``yes`` or nothing."""
    return "yes" if value else ""


def blank(value: float | None) -> float | str:
    """Return a number, or nothing if there is none."""
    return "" if value is None else value


def lines(record: SeedRecord) -> list[str]:
    """Return the comparison as lines: a row for each score, a column for each seed, mean and standard deviation."""
    at, compared, spread = record.counted_at, record.compared, record.spreads()
    if not compared:
        return [f"none of {len(record.runs)} seeds has reached iteration {at}"]
    text = [f"{len(compared)} of {len(record.runs)} seeds after {at} of {record.iterations} iterations:"]
    shown = compared if len(compared) <= MOST_COLUMNS else []
    head = ["score", *(f"seed {run.seed}" for run in shown), "mean", "sd", *([] if shown else ["least", "most"])]
    table = [head]
    for name, values in spread.items():
        of_seeds = [number(run.scores[at].get(name)) for run in shown]
        kinds = ["mean", "sd", *([] if shown else ["least", "most"])]
        table.append([name, *of_seeds, *(number(values[kind]) for kind in kinds)])
    text += aligned(table)
    agreement = record.agreement()
    known = {name: each for name, each in agreement.items() if each["rank_correlation"] is not None}
    if known:
        told = ", ".join(f"{name} {each['rank_correlation']:.2f}" for name, each in known.items())
        first = next(iter(known.values()))
        text.append(
            f"rank correlation of {record.score}, which needs no labels, with {told} over {first['n']} seeds "
            f"(by chance: 0 +- {first['by_chance']:.2f})"
        )
    elif agreement:
        text.append(
            f"rank correlation of {record.score} with the scores against labels: "
            "not defined for fewer than 3 seeds, or for equal scores"
        )
    text += [f"seed {run.seed} failed: {run.error}" for run in record.failed]
    return text


def number(value: float | None) -> str:
    """Return a score for the terminal."""
    return "-" if value is None else f"{value:.3f}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return rows with columns of equal width, the first one to the left.

    Example:
        >>> aligned([["score", "mean"], ["acc", "0.5"]])
        ['  score  mean', '  acc     0.5']
    """
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
