"""Laws on the scores of a metric: their directions, classes without an order, many images, what is recorded."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import Direction, Evaluation
from mpcc.core.system.plain_values import plain_value
from mpcc.core.testing.metrics import CLASSES, REQUEST, SAME, MetricCase, evaluation, finite, named, renaming
from mpcc.core.testing.report import Laws, Undecided, Warned, broken, require

__all__ = ["SCORE_LAWS"]

SCORE_LAWS = Laws[MetricCase]()
# Images of an evaluation that is larger than what a metric may take as it is, and the seconds that are long for it.
MANY, LONG = 3000, 60.0


@SCORE_LAWS.add("the numbers of the classes do not matter", after=[finite.name, renaming.name])
def classes(case: MetricCase) -> str:
    return case.require_indifferent("classes renamed", classes=True)


@SCORE_LAWS.add("its scores carry the names that it announces, and no other metric's")
def names(case: MetricCase) -> str:
    metric, name = case.prepared(), "its_name"
    announced = metric.scores(name, REQUEST)
    for score, better in announced.items():
        require(better in get_args(Direction), f"{score}: expected one of {get_args(Direction)}, got {better!r}")
    computed = named(metric.compute(case.clusterings()["a typical clustering"]))
    given = {score or name for score in computed}
    for score in sorted(given | set(announced)):
        require(score not in case.taken, f"{score!r} is the name of another metric: expected a name of its own")
    require(given == set(announced), f"scores() announces {sorted(announced)}, compute() gives {sorted(given)}")
    # Alone, a score carries the name under which the metric is registered.
    return ", ".join(f"{'the score' if score == name else score}: {better}" for score, better in announced.items())


@SCORE_LAWS.add("a perfect clustering scores at least as well as a random one", after=[finite.name])
def direction(case: MetricCase) -> str:
    metric, name = case.prepared(), "score"
    announced = metric.scores(name, REQUEST)
    if not metric.needs_labels:
        # The silhouette or FID, for example, may prefer another clustering.
        return Undecided(
            f"not decided, for it needs no labels: nobody has checked that {in_words(announced)} is better"
        )
    clusterings = case.clusterings()
    perfect, chance = (named(metric.compute(clusterings[each])) for each in ("a perfect one", "a random one"))
    told = []
    for score, value in perfect.items():
        better = announced.get(score or name, "neither")
        figures = f"{score}: perfect {value:.4g}, random {chance[score]:.4g}".removeprefix(": ")
        gain = {"higher": value - chance[score], "lower": chance[score] - value}.get(better, 0.0)
        require(gain >= -SAME, f"{figures}, but it declares that {better} is better")
        told.append(figures)
    return "; ".join(told)


def in_words(announced: Mapping[str, str]) -> str:
    """Return the directions of scores in words, such as ``higher`` or ``higher of a, lower of b``."""
    if len(announced) == 1:
        return next(iter(announced.values()))
    return ", ".join(f"{better} of {score}" for score, better in announced.items())


@SCORE_LAWS.add(f"{MANY:,} images get the same score twice", after=[finite.name])
def many(case: MetricCase) -> str:
    started, before = time.monotonic(), peak_memory()
    first, second = (named(case.prepared().compute(many_images(case, seed))) for seed in (1, 2))
    seconds = (time.monotonic() - started) / 2
    for score, value in first.items():
        require(
            value == second[score],
            f"{score}: {value:.6g} and {second[score]:.6g} for the same {MANY} images".removeprefix(": ")
            + ": draw no images at random, or from a generator of a fixed seed",
        )
    told = f"{seconds:.2g} s, {max(0, peak_memory() - before) / 2**20:.0f} MiB more at the peak"
    return told if seconds < LONG else Warned(f"{told}: a run computes it at each evaluation")


def many_images(case: MetricCase, seed: int) -> Evaluation:
    """Return the same large evaluation for each seed, with torch's and NumPy's random states at the seed."""
    generator = torch.Generator().manual_seed(case.seed)
    labels = torch.arange(MANY) % CLASSES
    other = torch.randint(CLASSES, (MANY,), generator=generator)
    clusters = torch.where(torch.rand(MANY, generator=generator) < 0.5, labels, other)
    made = evaluation(clusters, labels, CLASSES)
    torch.manual_seed(seed)
    np.random.seed(seed)
    return made if case.prepared().needs_images else Evaluation(made.posterior, made.locations, made.labels)


def peak_memory() -> int:
    """Return the most memory that the process has held so far, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@SCORE_LAWS.add("what it records is plain: numbers, texts, lists and dicts")
def record(case: MetricCase) -> str:
    given = case.clusterings()["a typical clustering"]
    if given.images is None:
        return "does not apply: it needs no images"
    case.prepared().compute(given)
    try:
        plain = plain_value(given.images.record, "record")
    except ValueError as error:
        broken(str(error))
    require_plain(given.images.record, "record")
    return ", ".join(plain) or "nothing"


def require_plain(value: object, place: str) -> None:
    """Check that a value holds no tensor and no array, at any depth."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        one = value.numel() == 1 if isinstance(value, Tensor) else value.size == 1
        remedy = "float(x) or int(x)" if one else "x.tolist()"
        broken(f"{place} is a {type(value).__name__}: expected what JSON holds, such as {remedy}")
    if isinstance(value, Mapping):
        for key, each in value.items():
            require_plain(each, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            require_plain(each, f"{place}[{index}]")
