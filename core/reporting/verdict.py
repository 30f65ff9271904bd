"""What a run came to, in one line at its end: whether its clusters are of use, beside those of k-means."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.reporting.pace import counted

__all__ = ["CLUSTERS_NEED", "TOO_SHORT", "Verdict", "caution", "verdict"]

# A run of fewer iterations is too short for clusters, whatever its settings.
TOO_SHORT, CLUSTERS_NEED = 1000, "clusters need 1,000 or more"
# Symptoms with which the clusters of a run are of no use, in plain words.
USELESS = {
    "undecided_posteriors": "most images belong to no cluster clearly",
    "ignored_clusters": "the images that are generated for a cluster do not belong to it",
}
# A run that is of no use goes on for as many iterations again, and until it has so many.
ENOUGH = 2000
# Fewer iterations tell no rate.
FEW = 20
# A cluster with less than this share of an equal share of the images is small.
SMALL = 0.1


@attrs.frozen
class Verdict:
    """What a run came to.

    Attributes:
        text: In words.
        advice: What to do if its clusters are of no use yet, or nothing.
    """

    text: str
    advice: str = ""

    @property
    def line(self) -> str:
        """All of it."""
        return f"{self.text}; {self.advice}" if self.advice else self.text


def verdict(results: Mapping[str, Any], folder: str, *, warm: bool = False) -> Verdict:
    """Judge a run.

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
        >>> verdict(results, "runs/a").line
        '2 of 2 clusters in use; acc 0.950 (k-means on the pixels: 0.800)'
        >>> verdict({**results, "iterations": 77}, "runs/a").line[:63]
        'too short to judge, 77 iterations: clusters need 1,000 or more;'
    """
    done, sizes = int(results["iterations"]), results["clusters"]["sizes"]
    total, used = results["clusters"]["total"], results["clusters"]["used"]
    longer = f"train longer: mpcc-run --resume {folder}{minutes(done, results['iterations_per_second'])}"
    if done < TOO_SHORT and not warm:
        return Verdict(f"too short to judge, {counted(done, 'iteration')}: {CLUSTERS_NEED}", longer)
    if total == 1:
        return Verdict("one cluster: all images are in it")
    if used == 1:
        return Verdict(f"not useful yet: all images are in one of the {total} clusters", longer)
    seen = [USELESS[warning["name"]] for warning in results["health"]["warnings"] if warning["name"] in USELESS]
    if seen:
        return Verdict(f"not useful yet: {', and '.join(seen)}", longer)
    text = f"{used} of {total} clusters in use"
    small = sum(0 < size < SMALL * sum(sizes) / total for size in sizes)
    if small:
        text += f", {small} of them with very few images"
    baseline, scores = results["baseline"], results["metrics"]
    name = next((name for name in baseline["metrics"] if name in scores), None)
    if name is not None:
        text += f"; {name} {scores[name]:.3f} (k-means on the pixels: {baseline['metrics'][name]:.3f})"
    else:
        text += (
            "; compare clusters.png with kmeans.png, the groups of k-means on the pixels (adjusted Rand index of both: "
            f"{baseline['agreement']:.2f}, 1 for the same groups)"
        )
    if warned := [warning["name"] for warning in results["health"]["warnings"]]:
        text += f"; {counted(len(warned), 'warning')}, see Health in report.html: {', '.join(warned)}"
    return Verdict(text)


def caution(folder: Path, *, warm: bool = False) -> Verdict | None:
    """Return the verdict of a run whose clusters are of no use yet, for whoever uses it; None for any other run.

    Arguments:
        folder: The run folder. Without a readable ``results.json`` there is nothing to judge.
        warm: As for `verdict`.
    """
    try:
        judged = verdict(json.loads((folder / "results.json").read_bytes()), str(folder), warm=warm)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # of an earlier version, or damaged
        return None
    return judged if judged.advice else None


def minutes(done: int, rate: float) -> str:
    """Return the flag for the time that a run needs until its clusters may be of use; nothing if that is not known.

    The first iterations of a process take longer, so a few of them tell no rate.

    Arguments:
        done: Iterations so far.
        rate: Iterations per second.

    Example:
        >>> minutes(77, 5.0), minutes(3000, 5.0), minutes(3, 0.5)
        (' --minutes 7', ' --minutes 10', '')
    """
    return f" --minutes {max(2, math.ceil(max(done, ENOUGH - done) / rate / 60))}" if done >= FEW and rate > 0 else ""
