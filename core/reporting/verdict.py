"""What a run came to, in one line at its end: whether its clusters are of use, beside those of k-means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mpcc.core.reporting.pace import counted
from mpcc.core.reporting.symptoms import CLUSTERS_NEED, TOO_SHORT

__all__ = ["verdict"]

# Symptoms with which the clusters of a run are of no use.
USELESS = ("undecided_posteriors", "ignored_clusters")
# A run that is of no use goes on for as many iterations again, and until it has so many.
ENOUGH = 2000


def verdict(results: Mapping[str, Any], folder: str, *, warm: bool = False) -> str:
    """Return the line.

    Arguments:
        results: The contents of ``results.json``.
        folder: The run folder, as it is typed.
        warm: Whether the run started from the weights of another one, so that its own iterations say little.

    Example:
        >>> results = {
        ...     "iterations": 1000,
        ...     "iterations_per_second": 5.0,
        ...     "clusters": {"total": 2, "used": 2, "sizes": [60, 40]},
        ...     "metrics": {"acc": 0.95},
        ...     "baseline": {"metrics": {"acc": 0.8}, "agreement": 0.6},
        ...     "health": {"warnings": []},
        ... }
        >>> verdict(results, "runs/a")
        '2 of 2 clusters in use; acc 0.950 (k-means on the pixels: 0.800)'
        >>> verdict({**results, "iterations": 77}, "runs/a")[:63]
        'too short to judge, 77 iterations: clusters need 1,000 or more;'
    """
    done, total, used = int(results["iterations"]), results["clusters"]["total"], results["clusters"]["used"]
    longer = f"train longer: mpcc-run --resume {folder}{minutes(done, results['iterations_per_second'])}"
    if done < TOO_SHORT and not warm:
        return f"too short to judge, {counted(done, 'iteration')}: {CLUSTERS_NEED}; {longer}"
    if total == 1:
        return "one cluster: all images are in it"
    if used == 1:
        return f"not useful yet: all images are in one of the {total} clusters; {longer}"
    seen = [warning["name"] for warning in results["health"]["warnings"] if warning["name"] in USELESS]
    if seen:
        return f"not useful yet, see the warnings ({', '.join(seen)}); {longer}"
    text = f"{used} of {total} clusters in use"
    baseline, scores = results["baseline"], results["metrics"]
    name = next((name for name in baseline["metrics"] if name in scores), None)
    if name is not None:
        return f"{text}; {name} {scores[name]:.3f} (k-means on the pixels: {baseline['metrics'][name]:.3f})"
    return (
        f"{text}; compare clusters.png with kmeans.png, the groups of k-means on the pixels (adjusted Rand index of "
        f"both: {baseline['agreement']:.2f}, 1 for the same groups)"
    )


def minutes(done: int, rate: float) -> str:
    """Return the flag for the time that a run needs until its clusters may be of use; nothing if its rate is not known.

    Arguments:
        done: Iterations so far.
        rate: Iterations per second.

    Example:
        >>> minutes(77, 5.0), minutes(3000, 5.0), minutes(3, 0.0)
        (' --minutes 7', ' --minutes 10', '')
    """
    return f" --minutes {max(2, math.ceil(max(done, ENOUGH - done) / rate / 60))}" if rate > 0 else ""
