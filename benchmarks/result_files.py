"""Results of measurements: one small JSON file for each, and the scores that they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor, as_tensor

from mpcc.core.errors import InvalidInput
from mpcc.core.system.whole_files import write_whole
from mpcc.plugins.metrics.accuracy import accuracy
from mpcc.plugins.metrics.mutual_information import normalized_mutual_information
from mpcc.plugins.metrics.purity import purity
from mpcc.plugins.metrics.rand_index import adjusted_rand_index

__all__ = ["AGAINST_LABELS", "RESULTS", "read_results", "scores", "seeds_of", "write_result"]

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
# The scores that read labels; all others of a run are label-free.
AGAINST_LABELS = ("acc", "purity", "nmi", "ari")


def scores(clusters: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> dict[str, float]:
    """Return acc, purity, nmi and ari of a clustering.

    Arguments:
        clusters: Shape (N,), integers >= 0.
        labels: Shape (N,), integers; negative ones are unknown, and these images do not count.

    Returns:
        Nothing if no label is known.
    """
    clusters, labels = as_tensor(clusters), as_tensor(labels)
    known = labels >= 0
    if not bool(known.any()):
        return {}
    functions = (accuracy, purity, normalized_mutual_information, adjusted_rand_index)
    pairs = zip(AGAINST_LABELS, functions, strict=True)
    return {name: function(clusters[known], labels[known]) for name, function in pairs}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return all results in a folder, in the order of their file names.

    Raises:
        InvalidInput: If a file is not JSON.
    """
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InvalidInput(f"{path} is not JSON ({error}): expected a result; delete it to measure anew") from error
    return results


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result: the file is there as a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def seeds_of(words: Sequence[str]) -> list[int]:
    """Return the seeds that words such as ``3`` and ``20-29`` name.

    Raises:
        InvalidInput: If a word is neither.

    Example:
        >>> seeds_of(["3", "20-22,7"])
        [3, 20, 21, 22, 7]
    """
    seeds: list[int] = []
    for word in ",".join(words).split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", word, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise InvalidInput(f"seeds: expected numbers or ranges such as 3 or 20-29, got {word!r}")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))
