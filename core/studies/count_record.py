"""``choose-k.json``: which numbers of clusters are compared, what came of each, and how they rank without labels.

The module imports no torch: commands read the file to find the chosen run.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.studies.seed_record import chosen_seed, whole
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.whole_files import write_whole

__all__ = [
    "COUNT_RECORD",
    "Count",
    "CountRecord",
    "Stability",
    "chosen_run",
    "compares_counts",
    "count_folder",
    "stability_of",
]

COUNT_RECORD = "choose-k.json"
# Fewer images that all seeds have evaluated say nothing about a pair of clusterings.
FEWEST_IMAGES = 50
# Below this there is nothing left to be known beyond chance.
NOTHING_LEFT = 1e-9


def count_folder(clusters: int) -> str:
    """Return the name of the folder in which the seeds of one number of clusters are compared."""
    return f"clusters-{clusters}"


@attrs.frozen
class Stability:
    """How alike the clusterings of different seeds are.

    Attributes:
        mean: The mean over all pairs of seeds, as `alike` measures it: 1 at most, 0 by chance.
        error: Its standard error by the jackknife over seeds; None for two seeds.
        of_seeds: For each seed, the mean over the pairs that it belongs to.
        images: The fewest images that both seeds of a pair have evaluated.
    """

    mean: float
    error: float | None
    of_seeds: Mapping[int, float]
    images: int


def alike(one: Sequence[int], two: Sequence[int], clusters: int) -> float:
    r"""Return how alike two clusterings of the same images are, times the share of the clusters that they use.

    .. math:: \frac{I(y; y') - E[I]}{\log K - E[I]} \cdot \frac{\exp \frac{1}{2} (H(y) + H(y'))}{K}

    E[I] is the mutual information by chance, and exp H the number of equally large clusters of the same entropy. The
    result is 1 for equal clusterings with K equally large clusters, 0 on average by chance. A collapse is not
    rewarded: two clusterings with the same u clusters in use are alike by at most about u log u / (K log K).

    Arguments:
        one: Clusters of the images, in 0..K-1, shape (N,).
        two: Others, same shape.
        clusters: K, at least 2.

    Example:
        >>> images = list(range(100))
        >>> round(alike([i % 4 for i in images], [(i + 1) % 4 for i in images], 4), 9)
        1.0
        >>> alike([0] * 100, [0] * 100, 4)
        0.0
    """
    # They take a moment to import, and other commands that read the record do not need them.
    import numpy as np
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    table = contingency_matrix(one, two, sparse=True)
    chance = float(expected_mutual_information(table, len(one)))
    room = math.log(clusters) - chance
    if room < NOTHING_LEFT:
        return 0.0
    entropy = 0.0
    for axis in (0, 1):
        share = np.asarray(table.sum(axis=axis)).ravel() / len(one)
        entropy -= float((share * np.log(share)).sum()) / 2
    shared = float(mutual_info_score(None, None, contingency=table))
    return (shared - chance) / room * math.exp(entropy) / clusters


def stability_of(clusterings: Mapping[int, Mapping[int, int]], clusters: int) -> Stability | None:
    """Compare the clusterings of all pairs of seeds.

    Arguments:
        clusterings: For each seed, the cluster of each evaluated image, by the image's index.
        clusters: K, the number of clusters that they could use.

    Returns:
        None if there are fewer than two seeds, or some pair shares fewer than 50 images.

    Reference:
        Stability as a criterion for the number of clusters: Ben-Hur, Elisseeff and Guyon, 2002; von Luxburg,
        Clustering stability: an overview, 2010. Jackknife: Efron, 1982.

    Example:
        >>> one = {image: image % 3 for image in range(60)}
        >>> stability_of({0: one, 7: {image: 2 - cluster for image, cluster in one.items()}}, 3)
        Stability(mean=1.0, error=None, of_seeds={0: 1.0, 7: 1.0}, images=60)
    """
    index: dict[tuple[int, int], float] = {}
    fewest = math.inf
    for one, two in itertools.combinations(clusterings, 2):
        first, second = clusterings[one], clusterings[two]
        shared = [image for image in first if image in second]
        fewest = min(fewest, len(shared))
        if len(shared) < FEWEST_IMAGES:
            return None
        index[one, two] = alike([first[i] for i in shared], [second[i] for i in shared], clusters)
    if not index:
        return None
    of_seeds = {
        seed: round(statistics.fmean(value for pair, value in index.items() if seed in pair), 9) for seed in clusterings
    }
    error = None
    if (seeds := len(clusterings)) > 2:
        without = [statistics.fmean(value for pair, value in index.items() if seed not in pair) for seed in clusterings]
        error = round(math.sqrt((seeds - 1) * statistics.pvariance(without)), 9)
    return Stability(round(statistics.fmean(index.values()), 9), error, of_seeds, int(fewest))


def clusters_of_images(run: Path) -> dict[int, int]:
    """Return the cluster of each evaluated image of a run, by the image's index.

    Raises:
        OSError: If ``assignments.csv`` cannot be read.
        ValueError: If it is damaged.
    """
    with (run / "assignments.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        try:
            return {int(row["index"]): int(row["cluster"]) for row in csv.DictReader(file)}
        except (KeyError, TypeError) as error:
            raise ValueError(f"a column or a value is missing ({error})") from error


def iteration_of(run: Path) -> int:
    """Return the iteration of a run's newest results.

    Raises:
        OSError: If ``results.json`` cannot be read.
        ValueError: If it is damaged.
    """
    try:
        return whole(json.loads((run / "results.json").read_bytes())["iterations"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"results.json is damaged ({error!r})") from error


@attrs.define
class Count:
    """What came of one number of clusters.

    Attributes:
        clusters: K.
        spreads: Of every score over the seeds that were compared, as `mpcc.core.studies.spread.spreads` returns them.
        stability: How alike the seeds' clusterings are; None if it is not known.
        failures: Why seeds failed, by seed.
        done: Whether all its seeds have been compared, or have failed.
    """

    clusters: int
    spreads: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    stability: Stability | None = None
    failures: dict[int, str] = attrs.field(factory=dict)
    done: bool = False

    @property
    def folder(self) -> str:
        """The name of the folder of its seeds."""
        return count_folder(self.clusters)

    @property
    def used(self) -> float | None:
        """The mean number of clusters with images; None if it was not computed."""
        return self.spreads.get("occupancy_used", {}).get("mean")


@attrs.define
class CountRecord:
    """A comparison of numbers of clusters and its course so far.

    Attributes:
        counts: One for each number, in ascending order.
        seeds: The seeds of each number.
        part: The share of a run after which everything is compared.
        iterations: Of a whole run; None as long as minutes have not come to a number.
        compared_at: The iteration of the comparison; None as long as it is not known.
        label_scores: The names of scores against labels; they choose nothing.
    """

    counts: list[Count]
    seeds: tuple[int, ...]
    part: float
    iterations: int | None = None
    compared_at: int | None = None
    label_scores: list[str] = attrs.field(factory=list)

    def ranking(self) -> list[Count]:
        """Return the numbers whose stability is known, the most stable first; of equal ones the smaller first."""
        known = [count for count in self.counts if count.stability is not None]
        return sorted(known, key=lambda count: (-(count.stability.mean if count.stability else 0), count.clusters))

    def chosen(self) -> Count | None:
        """Return the most stable number, or None if no stability is known. Labels have no part in it."""
        return next(iter(self.ranking()), None)

    def plain(self) -> dict[str, Any]:
        """Return the contents of ``choose-k.json``."""
        chosen = self.chosen()
        return {
            "chosen": None if chosen is None else {"clusters": chosen.clusters, "folder": chosen.folder},
            "chosen_by": "stability",
            "ranking": [count.clusters for count in self.ranking()],
            "seeds": list(self.seeds),
            "part": self.part,
            "iterations": self.iterations,
            "compared_at": self.compared_at,
            "label_scores": self.label_scores,
            "counts": [
                {
                    **{"clusters": count.clusters, "folder": count.folder, "done": count.done},
                    "stability": None
                    if count.stability is None
                    else {
                        **{"mean": count.stability.mean, "error": count.stability.error},
                        "seeds": {str(seed): value for seed, value in count.stability.of_seeds.items()},
                        "images": count.stability.images,
                    },
                    "spreads": count.spreads,
                    "failures": {str(seed): reason for seed, reason in count.failures.items()},
                }
                for count in self.counts
            ],
        }

    def write(self, folder: Path) -> None:
        """Write ``choose-k.json``.

        Raises:
            OSError: If it cannot be written; the file is as it was.
        """
        write_whole(folder / COUNT_RECORD, (json.dumps(self.plain(), indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> CountRecord:
        """Read ``choose-k.json``.

        Raises:
            InvalidInput: If it cannot be read, or does not hold what `write` writes.
        """
        path = folder / COUNT_RECORD
        try:
            plain = json.loads(path.read_bytes())
            record = cls(
                counts=[count_of(each) for each in plain["counts"]],
                seeds=tuple(whole(seed) for seed in plain["seeds"]),
                part=float(plain["part"]),
                iterations=None if plain["iterations"] is None else whole(plain["iterations"]),
                compared_at=None if plain["compared_at"] is None else whole(plain["compared_at"]),
                label_scores=[str(name) for name in plain["label_scores"]],
            )
            numbers = [count.clusters for count in record.counts]
            if not record.seeds or len(numbers) < 2 or numbers != sorted(set(numbers)) or not 0 < record.part <= 1:
                raise ValueError(
                    "expected seeds, a share of a run, and different numbers of clusters in ascending order"
                )
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput(
                f"{path} is damaged: expected the record of a comparison of numbers of clusters "
                f"({type(error).__name__}: {error})"
            ) from error
        return record


def count_of(plain: Mapping[str, Any]) -> Count:
    """Return one number of clusters of a record."""
    stable = plain["stability"]
    return Count(
        clusters=whole(plain["clusters"]),
        spreads={str(name): {**spread} for name, spread in plain["spreads"].items()},
        stability=None
        if stable is None
        else Stability(
            mean=float(stable["mean"]),
            error=None if stable["error"] is None else float(stable["error"]),
            of_seeds={int(seed): float(value) for seed, value in stable["seeds"].items()},
            images=whole(stable["images"]),
        ),
        failures={int(seed): str(reason) for seed, reason in plain["failures"].items()},
        done=bool(plain["done"]),
    )


def compares_counts(folder: Path) -> bool:
    """Return whether a folder holds a comparison of numbers of clusters."""
    try:
        return (folder / COUNT_RECORD).is_file()
    except OSError:
        return False


def chosen_run(folder: Path) -> Path:
    """Return the folder of the chosen run if a folder compares numbers of clusters or seeds, or else the folder itself.

    Raises:
        InvalidInput: If no run has been chosen yet, or a record cannot be read.
    """
    if not compares_counts(folder):
        return chosen_seed(folder)
    chosen = CountRecord.read(folder).chosen()
    if chosen is None:
        raise InvalidInput(
            f"{folder} compares numbers of clusters, and none is chosen yet: go on with mpcc choose-k --resume "
            f"{quoted(folder)}"
        )
    return chosen_seed(folder / chosen.folder)
