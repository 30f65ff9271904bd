"""What a run came to, in one line at its end: whether its clusters are of use, beside those of k-means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mpcc.core.reporting.pace import counted
from mpcc.core.reporting.symptoms import FEW, TOO_SHORT
from mpcc.core.reporting.vitals import effective_clusters

__all__ = ["verdict"]

# Symptoms with which the clusters of a run are of no use.
USELESS = ("collapsed_assignments", "undecided_posteriors", "ignored_clusters")
# The scores in which a run is compared with k-means, the first one that both have.
COMPARED = ("acc", "purity", "nmi", "ari")
LONGER = "train longer: mpcc-run --resume {folder} --minutes {minutes}"
# A run goes on for as many iterations again, and until it has so many.
ENOUGH = 2000


def verdict(results: Mapping[str, Any], folder: str) -> str:
    """Return the line.

    Arguments:
        results: The contents of ``results.json``.
        folder: The run folder, as it is typed.

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
        '2 of 2 clusters in use; acc 0.950, of k-means on the pixels 0.800'
        >>> short = verdict({**results, "iterations": 77}, "runs/a")
        >>> short[:64]
        'too short to judge: 77 iterations, clusters need 1,000 or more; '
        >>> short[64:]
        'train longer: mpcc-run --resume runs/a --minutes 7'
    """
    done, clusters = int(results["iterations"]), results["clusters"]
    more = max(done, ENOUGH - done) / results["iterations_per_second"]
    longer = LONGER.format(folder=folder, minutes=max(2, math.ceil(more / 60)))
    if done < TOO_SHORT:
        return f"too short to judge: {counted(done, 'iteration')}, clusters need {2 * TOO_SHORT:,} or more; {longer}"
    effective = effective_clusters(clusters["sizes"])
    if clusters["total"] > 1 and effective < FEW * clusters["total"]:
        return (
            f"no use yet: the images are spread over the {clusters['total']} clusters as over {effective:.1f} equal "
            f"ones; {longer}, or follow the warnings"
        )
    seen = [warning["name"] for warning in results["health"]["warnings"] if warning["name"] in USELESS]
    if seen:
        return f"no use yet, as the warnings say ({', '.join(seen)}); {longer}, or follow the warnings"
    used = f"{clusters['used']} of {clusters['total']} cluster{'s' * (clusters['total'] != 1)} in use"
    baseline, scores = results["baseline"], results["metrics"]
    name = next((name for name in COMPARED if name in scores and name in baseline["metrics"]), None)
    if name is None:
        return (
            f"{used}; {baseline['agreement']:.0%} agreement with k-means on the pixels (adjusted Rand index): compare "
            "clusters.png with kmeans.png"
        )
    own, other = scores[name], baseline["metrics"][name]
    text = f"{used}; {name} {own:.3f}, of k-means on the pixels {other:.3f}"
    return text if own > other else f"{text}: not better; {longer}"
