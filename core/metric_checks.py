"""Laws of a metric: finite for every clustering, blind to names and order, better for a better clustering."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from mpcc.core.contract_report import Law, broken, law, require
from mpcc.core.contracts import Evaluation, Metric

__all__ = ["METRIC_LAWS", "MetricCase"]

SAME = 1e-6
CLASSES, COUNT, LATENT_DIM = 4, 60, 3


@attrs.frozen
class MetricCase:
    """A metric's class and options.

    Attributes:
        cls: The class under test.
        options: Its options.
        seed: Of the clusterings that it scores.
    """

    cls: Callable[[Any], Metric]
    options: Any
    seed: int

    def make(self) -> Metric:
        """Make the metric."""
        return self.cls(self.options)

    def score(self, evaluation: Evaluation, words: str) -> float:
        """Return a score, a finite float."""
        found = self.make().compute(evaluation)
        require(isinstance(found, float), f"{words}: expected a float, got {type(found).__name__}")
        require(math.isfinite(found), f"{words}: expected a finite number, got {found}")
        return found


def evaluation(clusters: Tensor, labels: Tensor, count: int, softness: float = 0.0) -> Evaluation:
    """Make an evaluation of given clusters, K = ``count``; locations lie around a centre for each class."""
    generator = torch.Generator().manual_seed(int(labels.sum()) + len(labels))
    posterior = F.one_hot(clusters, count).float()
    # Less than half a unit of noise: the most probable cluster stays the given one.
    posterior = posterior + softness * torch.rand(posterior.shape, generator=generator)
    centres = 10 * torch.randn(int(labels.max()) + 1, LATENT_DIM, generator=generator)
    locations = centres[labels] + torch.randn(len(labels), LATENT_DIM, generator=generator)
    return Evaluation(posterior / posterior.sum(1, keepdim=True), locations, labels)


def clusterings() -> dict[str, Evaluation]:
    """Return clusterings good, bad and degenerate, by name."""
    labels = torch.arange(COUNT) % CLASSES
    anywhere = torch.randint(CLASSES, (COUNT,))
    half = torch.where(torch.rand(COUNT) < 0.5, labels, anywhere)
    many, few = torch.randint(9, (COUNT,)), torch.randint(2, (COUNT,))
    one = torch.zeros(1, dtype=torch.int64)
    return {
        "a typical clustering": evaluation(half, labels, CLASSES, softness=0.9),
        "a perfect one": evaluation(labels, labels, CLASSES),
        "a random one": evaluation(anywhere, labels, CLASSES),
        "one cluster for all": evaluation(torch.zeros_like(labels), labels, CLASSES),
        "K = 1": evaluation(torch.zeros_like(labels), labels, 1),
        "all singletons": evaluation(torch.arange(COUNT), labels, COUNT),
        "more clusters than classes": evaluation(many, labels, 9, softness=0.9),
        "fewer clusters than classes": evaluation(few, labels, 2, softness=0.9),
        "one class": evaluation(half, torch.zeros_like(labels), CLASSES),
        "a single image": evaluation(one, one + 2, CLASSES),
    }


def reordered(found: Evaluation, order: Tensor, names: Tensor | None = None) -> Evaluation:
    """Return an evaluation with its images in another order, and its clusters renamed."""
    posterior = found.posterior if names is None else found.posterior[:, names]
    labels = None if found.labels is None else found.labels[order]
    return Evaluation(posterior[order], found.locations[order], labels)


@law("it is a Metric that says what it needs and which direction is better", essential=True)
def builds(case: MetricCase) -> str:
    made = case.make()
    require(isinstance(made, Metric), f"expected a subclass of Metric, got {type(made).__name__}")
    for name in ("needs_labels", "higher_is_better"):
        value = getattr(made, name)
        require(isinstance(value, bool), f"{name}: expected True or False, got {value!r}")
    better = "higher" if made.higher_is_better else "lower"
    return f"{'needs labels' if made.needs_labels else 'needs no labels'}, {better} is better"


@law("the score is a finite float for every clustering")
def finite(case: MetricCase) -> str:
    scores = {words: case.score(found, words) for words, found in clusterings().items()}
    return ", ".join(f"{words} {score:.3g}" for words, score in scores.items())


@law("the numbers of the clusters do not matter")
def renaming(case: MetricCase) -> str:
    for words, found in clusterings().items():
        clusters = found.clusters
        names = torch.randperm(clusters)
        before = case.score(found, words)
        after = case.score(reordered(found, torch.arange(len(found.posterior)), names), words)
        require(abs(before - after) <= SAME * (1 + abs(before)), f"{words}: {before:.6g}, renamed {after:.6g}")
    return f"{len(clusterings())} clusterings"


@law("the order of the images does not matter")
def ordering(case: MetricCase) -> str:
    for words, found in clusterings().items():
        before = case.score(found, words)
        after = case.score(reordered(found, torch.randperm(len(found.posterior))), words)
        require(abs(before - after) <= SAME * (1 + abs(before)), f"{words}: {before:.6g}, shuffled {after:.6g}")
    return f"{len(clusterings())} clusterings"


@law("a perfect clustering scores at least as well as a random one")
def direction(case: MetricCase) -> str:
    found = clusterings()
    perfect, chance = (case.score(found[words], words) for words in ("a perfect one", "a random one"))
    higher = case.make().higher_is_better
    holds = perfect >= chance - SAME if higher else perfect <= chance + SAME
    require(
        holds,
        f"perfect {perfect:.4g}, random {chance:.4g}, although {'higher' if higher else 'lower'} is said to be better",
    )
    return f"perfect {perfect:.4g}, random {chance:.4g}"


@law("needs_labels says whether it works without labels")
def without_labels(case: MetricCase) -> str:
    blind = attrs.evolve(clusterings()["a typical clustering"], labels=None)
    if not case.make().needs_labels:
        return f"without labels {case.score(blind, 'without labels'):.4g}"
    try:
        found = case.make().compute(blind)
    except Exception as error:
        return f"without labels it refuses: {' '.join(str(error).split())}"
    broken(f"needs_labels is True, but without labels it gives {found}")


@law("it leaves its input alone and gives the same score again")
def pure(case: MetricCase) -> str:
    found = clusterings()["a typical clustering"]
    kept = reordered(found, torch.arange(COUNT))
    kept = Evaluation(found.posterior.clone(), found.locations.clone(), kept.labels)
    made = case.make()
    first = made.compute(found)
    torch.manual_seed(case.seed + 1)
    second, third = made.compute(found), case.make().compute(found)
    require(first == second == third, f"scores of the same clustering: {first}, {second}, {third}")
    for name in ("posterior", "locations", "labels"):
        require(torch.equal(getattr(found, name), getattr(kept, name)), f"it changes {name}")
    return f"{first:.4g} three times"


METRIC_LAWS: tuple[Law[MetricCase], ...] = (builds, finite, renaming, ordering, direction, without_labels, pure)
