"""Laws of a metric: finite for every clustering, blind to names and order, better for a better clustering.

A metric that needs images is given made-up ones; one that asks for features is prepared with `PixelFeatures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from mpcc.core.contracts import EvaluatedImages, Evaluation, FeatureRequest, Metric
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.report import Law, broken, law, require

__all__ = ["METRIC_LAWS", "MadeUpImages", "MetricCase", "PixelFeatures"]

SAME = 1e-6
CLASSES, COUNT, LATENT_DIM = 4, 60, 3
CHANNELS, SIZE, BATCH = 1, 8, 25


class PixelFeatures:
    """A feature extractor for checks, small and without weights: means over 2x2 pixels, and three logits of them."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features, shape (n, D R^2 / 4), and logits, shape (n, 3), of uint8 images (n, D, R, R)."""
        features = F.avg_pool2d(images.float() / 255, 2).flatten(1)
        return features, torch.stack([features[:, part::3].sum(1) for part in range(3)], dim=1)


REQUEST = FeatureRequest(extractor=f"{PixelFeatures.__module__}:{PixelFeatures.__name__}", samples=COUNT)


class MadeUpImages(EvaluatedImages):
    """Images with known contents: noise, brighter for a higher class; reconstructions are their images, inverted.

    Arguments:
        images: The evaluated ones, uint8, shape (N, D, R, R).
        request: For metrics of features.
    """

    def __init__(self, images: Tensor, request: FeatureRequest = REQUEST) -> None:
        self.images = images
        self.request = request
        self.device = torch.device("cpu")
        self.cache: dict[str, object] = {}
        self.record: dict[str, object] = {}

    @classmethod
    def of(cls, labels: Tensor) -> MadeUpImages:
        """Make images for labels, shape (N,)."""
        generator = torch.Generator().manual_seed(len(labels))
        noise = torch.randint(128, (len(labels), CHANNELS, SIZE, SIZE), generator=generator)
        return cls((noise + 30 * labels.view(-1, 1, 1, 1)).to(torch.uint8))

    def real(self) -> Iterator[Tensor]:
        """Yield the images."""
        yield from torch.split(self.images, BATCH)

    def generated(self, count: int) -> Iterator[Tensor]:
        """Yield noise, the same each time."""
        shape = (count, *self.images.shape[1:])
        noise = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        yield from torch.split(noise, BATCH)

    def reconstruction_errors(self) -> Tensor:
        """Return the mean squared difference between each image in [-1, 1] and its negative."""
        return self._differences().square().mean(1)

    def mean_errors(self) -> Tensor:
        """Return the mean difference between them."""
        return self._differences().mean(1)

    def _differences(self) -> Tensor:
        # x - (-x), with x = pixels / 127.5 - 1.
        return 2 * (self.images.flatten(1).float() / 127.5 - 1)


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
        """Make the metric, prepared for features of pixels."""
        made = self.cls(self.options)
        if isinstance(made, Metric):
            made.prepare(REQUEST)
        return made

    def scores(self, evaluation: Evaluation, words: str) -> dict[str, float]:
        """Return the scores, finite floats, by name; a single one has the empty name."""
        found = self.make().compute(evaluation)
        named = dict(found) if isinstance(found, Mapping) else {"": found}
        require(bool(named), f"{words}: expected at least one score, got an empty mapping")
        for name, value in named.items():
            require(isinstance(name, str), f"{words}: expected texts as names of scores, got {name!r}")
            where = f"{words}: {name}" if name else words
            require(isinstance(value, float), f"{where}: expected a float, got {type(value).__name__}")
            require(math.isfinite(value), f"{where}: expected a finite number, got {value}")
        return named


def evaluation(clusters: Tensor, labels: Tensor, count: int, softness: float = 0.0) -> Evaluation:
    """Make an evaluation of given clusters, K = ``count``; locations lie around a centre for each class."""
    generator = torch.Generator().manual_seed(int(labels.sum()) + len(labels))
    posterior = F.one_hot(clusters, count).float()
    # Less than half a unit of noise: the most probable cluster stays the given one.
    posterior = posterior + softness * torch.rand(posterior.shape, generator=generator)
    centres = 10 * torch.randn(int(labels.max()) + 1, LATENT_DIM, generator=generator)
    locations = centres[labels] + torch.randn(len(labels), LATENT_DIM, generator=generator)
    return Evaluation(posterior / posterior.sum(1, keepdim=True), locations, labels, MadeUpImages.of(labels))


def clusterings(case: MetricCase) -> dict[str, Evaluation]:
    """Return clusterings good, bad and degenerate, by name; with images for a metric that needs them."""
    found = all_clusterings()
    if not case.make().needs_images:
        return {words: attrs.evolve(each, images=None) for words, each in found.items()}
    return found


def all_clusterings() -> dict[str, Evaluation]:
    """Return the clusterings, all of them with images."""
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
    images = MadeUpImages(found.images.images[order]) if isinstance(found.images, MadeUpImages) else None
    return Evaluation(posterior[order], found.locations[order], labels, images)


def require_same(before: Mapping[str, float], after: Mapping[str, float], words: str, change: str) -> None:
    """Check that scores have not changed.

    Raises:
        LawBroken: Naming the score, if one has.
    """
    require(before.keys() == after.keys(), f"{words}: scores {sorted(before)}, {change} {sorted(after)}")
    for name, value in before.items():
        where = f"{words}: {name}" if name else words
        require(
            abs(value - after[name]) <= SAME * (1 + abs(value)), f"{where}: {value:.6g}, {change} {after[name]:.6g}"
        )


def listed(scores: Mapping[str, float]) -> str:
    """Return scores in one line."""
    return " ".join(f"{name} {value:.3g}".strip() for name, value in scores.items())


@law("it is a Metric that says what it needs and which direction is better", essential=True)
def builds(case: MetricCase) -> str:
    made = case.make()
    require(isinstance(made, Metric), f"expected a subclass of Metric, got {type(made).__name__}")
    for name in ("needs_labels", "needs_images", "on_request", "higher_is_better"):
        value = getattr(made, name)
        require(isinstance(value, bool), f"{name}: expected True or False, got {value!r}")
    needs = [f"needs {'' if needed else 'no '}{what}" for what, needed in needed_parts(made).items()]
    better = "higher" if made.higher_is_better else "lower"
    return f"{', '.join(needs)}, {better} is better{', on request only' if made.on_request else ''}"


def needed_parts(made: Metric) -> dict[str, bool]:
    """Return whether a metric needs labels and images."""
    return {"labels": made.needs_labels, "images": made.needs_images}


@law("the score is a finite float for every clustering")
def finite(case: MetricCase) -> str:
    scores = []
    for words, found in clusterings(case).items():
        try:
            scores.append(f"{words} {listed(case.scores(found, words))}")
        except InvalidInput as error:
            # Two images make a distribution, one does not: that is the user's mistake, not a score.
            require(found.images is not None and len(found.locations) == 1, f"{words}: it refuses: {error}")
            scores.append(f"{words} refused")
    return ", ".join(scores)


def several(case: MetricCase) -> dict[str, Evaluation]:
    """Return the clusterings of more than one image."""
    return {words: found for words, found in clusterings(case).items() if len(found.locations) > 1}


@law("the numbers of the clusters do not matter")
def renaming(case: MetricCase) -> str:
    for words, found in several(case).items():
        clusters = found.clusters
        names = torch.randperm(clusters)
        renamed = reordered(found, torch.arange(len(found.posterior)), names)
        require_same(case.scores(found, words), case.scores(renamed, words), words, "renamed")
    return f"{len(several(case))} clusterings"


@law("the order of the images does not matter")
def ordering(case: MetricCase) -> str:
    for words, found in several(case).items():
        shuffled = reordered(found, torch.randperm(len(found.posterior)))
        require_same(case.scores(found, words), case.scores(shuffled, words), words, "shuffled")
    return f"{len(several(case))} clusterings"


@law("a perfect clustering scores at least as well as a random one")
def direction(case: MetricCase) -> str:
    made = case.make()
    if not made.needs_labels:
        # Without labels there is no perfect clustering: silhouette, say, or FID, may prefer another one.
        return "does not apply: it needs no labels"
    found = clusterings(case)
    perfect, chance = (case.scores(found[words], words) for words in ("a perfect one", "a random one"))
    if len(perfect) > 1:
        return "does not apply: it gives several scores"
    higher = made.higher_is_better
    for name, value in perfect.items():
        holds = value >= chance[name] - SAME if higher else value <= chance[name] + SAME
        require(
            holds,
            f"perfect {value:.4g}, random {chance[name]:.4g}, although {'higher' if higher else 'lower'} is said to "
            "be better",
        )
    return f"perfect {listed(perfect)}, random {listed(chance)}"


@law("needs_labels says whether it works without labels")
def without_labels(case: MetricCase) -> str:
    blind = attrs.evolve(clusterings(case)["a typical clustering"], labels=None)
    if not case.make().needs_labels:
        return f"without labels {listed(case.scores(blind, 'without labels'))}"
    try:
        found = case.make().compute(blind)
    except Exception as error:
        return f"without labels it refuses: {' '.join(str(error).split())}"
    broken(f"needs_labels is True, but without labels it gives {found}")


@law("it leaves its input alone and gives the same score again")
def pure(case: MetricCase) -> str:
    found = clusterings(case)["a typical clustering"]
    kept = reordered(found, torch.arange(COUNT))
    kept = Evaluation(found.posterior.clone(), found.locations.clone(), kept.labels, kept.images)
    made = case.make()
    first = made.compute(found)
    torch.manual_seed(case.seed + 1)
    second, third = made.compute(found), case.make().compute(found)
    require(first == second == third, f"scores of the same clustering: {first}, {second}, {third}")
    for name in ("posterior", "locations", "labels"):
        require(torch.equal(getattr(found, name), getattr(kept, name)), f"it changes {name}")
    if isinstance(found.images, MadeUpImages) and isinstance(kept.images, MadeUpImages):
        require(torch.equal(found.images.images, kept.images.images), "it changes the images")
        # Nothing from the cache of another evaluation.
        again = case.make().compute(kept)
        require(first == again, f"scores of the same clustering: {first}, with an empty cache {again}")
    named = first if isinstance(first, Mapping) else {"": first}
    return f"{listed(named)} three times"


METRIC_LAWS: tuple[Law[MetricCase], ...] = (builds, finite, renaming, ordering, direction, without_labels, pure)
