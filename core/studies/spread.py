"""Means and standard deviations over runs, and how well one score agrees with others."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["agreement", "spreads"]


def spreads(scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the spread of every score over runs.

    Arguments:
        scores: The scores of each run, by name.

    Returns:
        For each score: ``mean``; ``sd``, the standard deviation with n - 1, None for a single run; ``least``, ``most``;
        and ``n``, the number of runs that have the score.

    Example:
        >>> spreads([{"acc": 0.5}, {"acc": 0.9}, {"acc": 0.7}])["acc"]
        {'mean': 0.7, 'sd': 0.2, 'least': 0.5, 'most': 0.9, 'n': 3}
    """
    names = dict.fromkeys(name for each in scores for name in each)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        values = [float(each[name]) for each in scores if name in each]
        found[name] = {
            "mean": round(statistics.fmean(values), 9),
            "sd": round(statistics.stdev(values), 9) if len(values) > 1 else None,
            "least": min(values),
            "most": max(values),
            "n": len(values),
        }
    return found


def agreement(
    scores: Sequence[Mapping[str, float]], judge: str, others: Mapping[str, bool], *, higher: bool
) -> dict[str, dict[str, Any]]:
    """Return Spearman's rank correlation of one score with others over runs.

    Arguments:
        scores: The scores of each run, by name.
        judge: The score that needs no labels.
        others: Scores against labels, each with whether higher is better.
        higher: Whether higher is better in ``judge``. Where lower is better, the sign is turned: 1 always means that
            both scores order the runs alike.

    Returns:
        For each of the others: ``rank_correlation``, None if it is not defined (fewer than 3 runs, or equal scores);
        ``n``, the number of runs; and ``by_chance``, the standard deviation 1/sqrt(n - 1) of the rank correlation of
        scores that have nothing to do with each other.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, other_higher in others.items():
        signs = 1 if higher else -1, 1 if other_higher else -1
        pairs = [(signs[0] * each[judge], signs[1] * each[name]) for each in scores if {judge, name} <= {*each}]
        if not pairs:
            continue
        found[name] = {
            "rank_correlation": rank_correlation(pairs),
            "n": len(pairs),
            "by_chance": round((len(pairs) - 1) ** -0.5, 6) if len(pairs) > 1 else None,
        }
    return found


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Spearman's rank correlation, or None if there are fewer than 3 pairs or one side is constant.

    Example:
        >>> rank_correlation([(0.1, 0.5), (0.2, 0.7), (0.3, 0.6)]), rank_correlation([(0.1, 0.5), (0.2, 0.7)])
        (0.5, None)
    """
    one, two = zip(*pairs, strict=True)
    if len(pairs) < 3 or len({*one}) == 1 or len({*two}) == 1:
        return None
    # scipy takes a moment to import, and most runs do not need it.
    from scipy.stats import spearmanr

    return round(float(spearmanr(one, two).statistic), 9)
