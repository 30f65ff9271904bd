"""A comparison of numbers of clusters as tables: ``choose-k.csv``, and lines for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mpcc.core.reporting.pace import counted
from mpcc.core.studies.count_record import Count, CountRecord
from mpcc.core.studies.seed_tables import aligned, blank

__all__ = ["STABLE", "lines", "rows", "trust"]

# Below this, two seeds share less than half of what they could: no number is stable.
STABLE = 0.5
# A number is in use if so large a share of its clusters has images.
IN_USE = 0.95


def score_names(record: CountRecord) -> list[str]:
    """Return the names of all scores, those against labels last."""
    names = dict.fromkeys(name for count in record.counts for name in count.spreads)
    return sorted(names, key=lambda name: name in record.label_scores)


def rows(record: CountRecord) -> list[list[Any]]:
    """Return the rows of ``choose-k.csv``, its header first: a row for each number of clusters."""
    names = score_names(record)
    head = ["clusters", "rank", "seeds", "stability", "stability_error", "stability_images"]
    table: list[list[Any]] = [[*head, *(each for name in names for each in (name, f"{name}_sd"))]]
    ranks = {count.clusters: rank for rank, count in enumerate(record.ranking(), start=1)}
    for count in record.counts:
        stable = count.stability
        values: list[Any] = [count.clusters, ranks.get(count.clusters, ""), compared(record, count)]
        values += ["", "", ""] if stable is None else [stable.mean, blank(stable.error), stable.images]
        for name in names:
            spread: Mapping[str, Any] = count.spreads.get(name, {"mean": None, "sd": None})
            values += [blank(spread["mean"]), blank(spread["sd"])]
        table.append(values)
    return table


def compared(record: CountRecord, count: Count) -> int:
    """Return how many seeds of a number have been compared."""
    return len(record.seeds) - len(count.failures) if count.done else 0


def lines(record: CountRecord) -> list[str]:
    """Return the comparison as lines: a row for each number of clusters, with means and spreads over seeds."""
    names = score_names(record)
    table = [["clusters", "stability", *names]]
    for count in record.counts:
        stable = count.stability
        first = "-" if stable is None else spread_text(stable.mean, stable.error)
        scores = (count.spreads.get(name) for name in names)
        table.append(
            [str(count.clusters), first, *("-" if s is None else spread_text(s["mean"], s["sd"]) for s in scores)]
        )
    text = []
    if record.compared_at is not None:
        text.append(
            f"{counted(len(record.seeds), 'seed')} for each number, compared after {record.compared_at:,} of "
            f"{record.iterations:,} iterations; mean +- spread over seeds:"
        )
    return [*text, *aligned(table), *trust(record)]


def spread_text(mean: float, spread: float | None) -> str:
    """Return a mean and its spread.

    Example:
        >>> spread_text(0.5, 0.125), spread_text(0.5, None)
        ('0.500 +- 0.125', '0.500')
    """
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} +- {spread:.3f}"


def trust(record: CountRecord) -> list[str]:
    """Return in words which number is the best, and how far to trust that."""
    ranking = record.ranking()
    if not ranking:
        return ["no number can be chosen: no stability is known"]
    best, *others = ranking
    assert best.stability is not None
    if best.stability.mean < STABLE:
        return [
            f"no number can be recommended: the highest stability is {best.stability.mean:.3f}, and below {STABLE:g} "
            "two seeds share less than half of what they could: train longer, with --part, --iterations or --minutes",
            *remarks(record),
        ]
    text = [f"{best.clusters} clusters: the most stable, {best.stability.mean:.3f}; labels had no part in it"]
    unknown = [count for count in (best, *others) if count.stability and count.stability.error is None]
    near = [count.clusters for count in others if count not in unknown and not apart(best, count)]
    if not others:
        text.append("there is nothing to compare it with: no other number has a stability")
    elif best in unknown or len(unknown) == len(others):
        text.append("how sure that is cannot be said with two seeds: take --seeds 3 or more")
    elif near:
        text.append(
            f"not told apart from {', '.join(map(str, near))}: the difference is less than twice its standard error; "
            "look at both, or take more seeds"
        )
    else:
        known = "every other number" if not unknown else "the other numbers with three seeds"
        text.append(f"the difference to {known} is more than twice its standard error")
    if best in (record.counts[0], record.counts[-1]):
        end = "smallest" if best is record.counts[0] else "largest"
        text.append(
            f"{best.clusters} is the {end} that was compared: {'smaller' if end == 'smallest' else 'larger'} "
            "ones may be better still"
        )
    return [*text, *remarks(record)]


def remarks(record: CountRecord) -> list[str]:
    """Return in words which numbers have empty clusters, and which seeds failed."""
    text = []
    for count in record.counts:
        if count.used is not None and count.used < IN_USE * count.clusters:
            text.append(f"{count.clusters} clusters: only {count.used:.3g} of them have images, on average")
        text += [f"{count.clusters} clusters, seed {seed} failed: {reason}" for seed, reason in count.failures.items()]
    return text


def apart(best: Count, other: Count) -> bool:
    """Return whether two stabilities differ by more than twice the standard error of the difference."""
    one, two = best.stability, other.stability
    if one is None or two is None or one.error is None or two.error is None:
        return False
    return one.mean - two.mean > 2 * math.hypot(one.error, two.error)
