"""Laws of a metric: finite for every clustering, blind to names and order, better for a better clustering.

A metric that needs images is given made-up ones; one that asks for features is prepared with `PixelFeatures`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping

import attrs
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mpcc.core.contracts import EvaluatedImages, Evaluation, FeatureRequest, Metric
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.cases import Case
from mpcc.core.testing.comparison import require_instance, require_plugin
from mpcc.core.testing.report import Laws, broken, require

__all__ = [
    "CLASSES",
    "METRIC_LAWS",
    "REQUEST",
    "SAME",
    "MadeUpImages",
    "MetricCase",
    "PixelFeatures",
    "evaluation",
    "finite",
    "named",
]

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

    The cluster of a reconstruction is that of the image which is closest in brightness, most often one of its class.

    Arguments:
        images: The evaluated ones, uint8, shape (N, D, R, R).
        clusters: The most probable cluster of each, int64, shape (N,).
        request: For metrics of features.
    """

    def __init__(self, images: Tensor, clusters: Tensor, request: FeatureRequest = REQUEST) -> None:
        self.images = images
        self.clusters = clusters
        self.request = request
        self.device = torch.device("cpu")
        self.cache: dict[str, object] = {}
        self.record: dict[str, object] = {}

    @classmethod
    def of(cls, labels: Tensor, clusters: Tensor) -> MadeUpImages:
        """Make images for labels, shape (N,), in clusters, shape (N,)."""
        generator = torch.Generator().manual_seed(len(labels))
        noise = torch.randint(128, (len(labels), CHANNELS, SIZE, SIZE), generator=generator)
        return cls((noise + 30 * labels.view(-1, 1, 1, 1)).to(torch.uint8), clusters)

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

    def reconstructed_clusters(self) -> Tensor:
        """Return the cluster of the image that is closest in brightness to each image; of a single image, its own."""
        pixels = self.images.flatten(1).double()
        # The small unequal weights tell images of equal brightness apart.
        unequal = torch.rand(pixels.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        brightness = pixels @ (1 + 1e-3 * unequal)
        distances = (brightness[:, None] - brightness).abs().fill_diagonal_(torch.inf)
        return self.clusters[distances.argmin(1)]

    def published_error(self) -> float:
        """Return the squared mean difference between them, all images being one batch."""
        return float(self._differences().double().mean().square())

    def _differences(self) -> Tensor:
        # x - (-x), with x = pixels / 127.5 - 1.
        return 2 * (self.images.flatten(1).float() / 127.5 - 1)


@attrs.define
class MetricCase(Case[Metric]):
    """A metric's class and options; the seed is that of the clusterings that it scores.

    Attributes:
        taken: The names of other metrics.
    """

    taken: frozenset[str] = frozenset()

    def prepared(self) -> Metric:
        """Make the metric, prepared for features of pixels."""
        metric = self.make()
        if isinstance(metric, Metric):
            metric.prepare(REQUEST)
        return metric

    def scores(self, evaluation: Evaluation, clustering: str) -> dict[str, float]:
        """Return the scores, finite floats, each under the names of the clustering and the score."""
        scores = named(self.prepared().compute(evaluation))
        require(bool(scores), f"{clustering}: expected at least one score, got an empty mapping")
        by_place = {}
        for name, score in scores.items():
            place = f"{clustering}: {require_instance(f'{clustering}: name of a score', name, str)}".removesuffix(": ")
            is_number = isinstance(score, numbers.Real) and not isinstance(score, bool)
            require(is_number, f"{place}: expected a float, got {type(score).__name__}")
            by_place[place] = float(score)
            require(math.isfinite(score), f"{place}: expected a finite number, got {score}")
        return by_place

    def clusterings(self) -> dict[str, Evaluation]:
        """Return good, bad and degenerate clusterings by name, with images for a metric that needs them."""
        labels = torch.arange(COUNT) % CLASSES
        anywhere = torch.randint(CLASSES, (COUNT,))
        half = without_ties(
            labels, lambda: torch.where(torch.rand(COUNT) < 0.5, labels, torch.randint(CLASSES, (COUNT,)))
        )
        # Most clusters of nine prefer a class.
        many = without_ties(
            labels,
            lambda: torch.where(
                torch.rand(COUNT) < 0.7,
                (labels + CLASSES * torch.randint(3, (COUNT,))) % 9,
                torch.randint(9, (COUNT,)),
            ),
        )
        few = without_ties(labels, lambda: torch.randint(2, (COUNT,)))
        nothing, one = torch.zeros_like(labels), torch.zeros(1, dtype=torch.int64)
        evaluations = {
            "a typical clustering": evaluation(half, labels, CLASSES, softness=0.9),
            "a perfect one": evaluation(labels, labels, CLASSES),
            "a random one": evaluation(anywhere, labels, CLASSES),
            "a collapsed one": evaluation(labels // 2, labels, CLASSES),
            "one cluster for all": evaluation(nothing, labels, CLASSES),
            "K = 1": evaluation(nothing, labels, 1),
            "all singletons": evaluation(torch.arange(COUNT), labels, COUNT),
            "more clusters than classes": evaluation(many, labels, 9, softness=0.9),
            "fewer clusters than classes": evaluation(few, labels, 2, softness=0.9),
            "one class": evaluation(half, nothing, CLASSES),
            "a single image": evaluation(one, one + 2, CLASSES),
        }
        if self.prepared().needs_images:
            return evaluations
        return {name: attrs.evolve(each, images=None) for name, each in evaluations.items()}

    def require_indifferent(self, change: str, order: bool = False, names: bool = False, classes: bool = False) -> str:
        """Check that scores of more than one image stay the same.

        Arguments:
            change: What is done to the clusterings, for the message.
            order: Whether the images are shuffled.
            names: Whether the clusters are renamed.
            classes: Whether the classes are renamed; the images stay the same.
        """
        several = {name: each for name, each in self.clusterings().items() if len(each.locations) > 1}
        for clustering, before in several.items():
            images, clusters = len(before.locations), before.clusters
            after = reordered(
                before,
                torch.randperm(images) if order else torch.arange(images),
                torch.randperm(clusters) if names else torch.arange(clusters),
            )
            if classes and before.labels is not None:
                after = attrs.evolve(after, labels=torch.randperm(int(before.labels.max()) + 1)[before.labels])
            scores, changed = self.scores(before, clustering), self.scores(after, clustering)
            require(scores.keys() == changed.keys(), f"scores {sorted(scores)}, {change} {sorted(changed)}")
            for place, score in scores.items():
                same = abs(score - changed[place]) <= SAME * (1 + abs(score))
                require(same, f"{place}: {score:.6g}, {change} {changed[place]:.6g}")
        return f"{len(several)} clusterings"


def without_ties(labels: Tensor, draw: Callable[[], Tensor]) -> Tensor:
    """Draw clusters, shape (N,), until each has one majority class and their matching with classes is the only best.

    With ties, a right metric may choose one of several classes for a cluster, and the choice may follow the numbers.
    """
    while True:
        clusters = draw()
        table = torch.zeros(int(clusters.max()) + 1, CLASSES, dtype=torch.float64)
        table.index_put_((clusters, labels), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
        top = table.topk(2, dim=1).values
        if bool((top[:, 0] > top[:, 1]).all()) and only_matching(table):
            return clusters


def only_matching(table: Tensor) -> bool:
    """Tell whether one matching of rows and columns has the largest sum: every other one is worse by 1 or more."""
    rows, columns = linear_sum_assignment(table, maximize=True)
    best = float(table[rows, columns].sum())
    for row, column in zip(rows, columns, strict=True):
        # A matching without this pair.
        other = table.clone()
        other[row, column] = -len(table) * float(table.sum())
        if float(other[linear_sum_assignment(other, maximize=True)].sum()) >= best:
            return False
    return True


METRIC_LAWS = Laws[MetricCase]()


def named(scores: float | Mapping[str, float]) -> dict[str, float]:
    """Return scores by name; a single one has the empty name."""
    return dict(scores) if isinstance(scores, Mapping) else {"": scores}


def evaluation(clusters: Tensor, labels: Tensor, count: int, softness: float = 0.0) -> Evaluation:
    """Make an evaluation of given clusters, K = ``count``; locations lie around a centre for each class."""
    generator = torch.Generator().manual_seed(int(labels.sum()) + len(labels))
    posterior = F.one_hot(clusters, count).float()
    # Less than half a unit of noise: the most probable cluster stays the given one.
    posterior = posterior + softness * torch.rand(posterior.shape, generator=generator)
    centres = 10 * torch.randn(int(labels.max()) + 1, LATENT_DIM, generator=generator)
    locations = centres[labels] + torch.randn(len(labels), LATENT_DIM, generator=generator)
    return Evaluation(posterior / posterior.sum(1, keepdim=True), locations, labels, MadeUpImages.of(labels, clusters))


def reordered(given: Evaluation, order: Tensor, names: Tensor) -> Evaluation:
    """Return a copy of an evaluation with its images in another order, and its clusters renamed."""
    labels = None if given.labels is None else given.labels[order]
    posterior = given.posterior[order][:, names]
    images = None
    if isinstance(given.images, MadeUpImages):
        images = MadeUpImages(given.images.images[order], posterior.argmax(1))
    return Evaluation(posterior, given.locations[order], labels, images)


def listed(scores: Mapping[str, float]) -> str:
    """Return scores in one line."""
    return ", ".join(f"{place} {score:.3g}" for place, score in scores.items())


@METRIC_LAWS.add("it is a Metric that says what it needs and which direction is better", essential=True)
def builds(case: MetricCase) -> str:
    metric = require_plugin(case.prepared(), Metric)
    for name in ("needs_labels", "needs_images", "on_request", "higher_is_better"):
        value = getattr(metric, name)
        require(isinstance(value, bool), f"{name}: expected True or False, got {value!r}")
    needed = {"labels": metric.needs_labels, "images": metric.needs_images}
    needs = ", ".join(f"needs {'' if is_needed else 'no '}{what}" for what, is_needed in needed.items())
    better = "higher" if metric.higher_is_better else "lower"
    return f"{needs}, {better} is better{', on request only' if metric.on_request else ''}"


@METRIC_LAWS.add("the score is a finite float for every clustering")
def finite(case: MetricCase) -> str:
    summaries = []
    for clustering, given in case.clusterings().items():
        try:
            summaries.append(listed(case.scores(given, clustering)))
        except InvalidInput as error:
            # A metric may refuse a single image, which makes no distribution: that is the user's mistake.
            require(given.images is not None and len(given.locations) == 1, f"{clustering}: it refuses: {error}")
            summaries.append(f"{clustering} refused")
    return ", ".join(summaries)


@METRIC_LAWS.add("the numbers of the clusters do not matter", after=[finite.name])
def renaming(case: MetricCase) -> str:
    return case.require_indifferent("renamed", names=True)


@METRIC_LAWS.add("the order of the images does not matter", after=[finite.name])
def ordering(case: MetricCase) -> str:
    return case.require_indifferent("shuffled", order=True)


@METRIC_LAWS.add("a score that judges clusterings prefers a perfect one to a collapsed one and to a random one")
def judgement(case: MetricCase) -> str:
    metric = case.prepared()
    if not metric.judges_clusterings:
        return "does not apply: it does not judge clusterings"
    require(not metric.needs_labels, "it judges clusterings, but needs labels, which training must not use")
    announced = metric.scores("", REQUEST)
    comparable = [score for score, better in announced.items() if better != "neither"]
    require(len(comparable) == 1, f"it judges clusterings: expected one score with a direction, got {len(comparable)}")
    sign = 1 if announced[comparable[0]] == "higher" else -1
    clusterings, found = case.clusterings(), {}
    for clustering in ("a perfect one", "a collapsed one", "one cluster for all", "a random one"):
        found[clustering] = named(metric.compute(clusterings[clustering]))[comparable[0]]
    best, *others = found.values()
    require(all(sign * (best - other) > SAME for other in others), listed(found))
    return listed(found)


@METRIC_LAWS.add("needs_labels says whether it works without labels")
def without_labels(case: MetricCase) -> str:
    blind = attrs.evolve(case.clusterings()["a typical clustering"], labels=None)
    if not case.prepared().needs_labels:
        return listed(case.scores(blind, "without labels"))
    try:
        score = case.prepared().compute(blind)
    except Exception as error:  # how it refuses is its own choice
        return f"without labels it refuses: {' '.join(str(error).split())}"
    broken(f"needs_labels is True, but without labels it gives {score}")


@METRIC_LAWS.add("it leaves its input alone and gives the same score again", after=[finite.name])
def pure(case: MetricCase) -> str:
    given = case.clusterings()["a typical clustering"]
    copy = reordered(given, torch.arange(COUNT), torch.arange(given.clusters))
    metric = case.prepared()
    first = metric.compute(given)
    for name in ("posterior", "locations", "labels"):
        changed = not torch.equal(getattr(given, name), getattr(copy, name))
        require(not changed, f"it changes {name} of its input in place: compute on a copy")
    if isinstance(given.images, MadeUpImages) and isinstance(copy.images, MadeUpImages):
        require(torch.equal(given.images.images, copy.images.images), "it changes the images in place")
    torch.manual_seed(case.seed + 1)
    second, third = metric.compute(given), case.prepared().compute(given)
    require(first == second == third, f"scores of the same clustering: {first}, {second}, {third}")
    if isinstance(given.images, MadeUpImages) and isinstance(copy.images, MadeUpImages):
        # The copy has a cache of its own.
        again = case.prepared().compute(copy)
        require(first == again, f"scores of the same clustering: {first}, with an empty cache {again}")
    return f"{listed(named(first)).strip()} three times"
