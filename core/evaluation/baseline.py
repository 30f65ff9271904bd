"""A baseline beside the scores: k-means on the pixels of the evaluated images, which knows nothing of the model.

It tells whether a run has found more than the pixels say: whether its scores are higher, and without labels, how far
its clusters agree with those of the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from mpcc.core.contracts import Evaluation, ImageSet, Metric
from mpcc.core.evaluation.evaluation import choose_images, left_out, score

__all__ = ["PixelBaseline", "PixelClusters"]

# At most so many images are clustered, and fewer of a set that is read from the disk for it.
MOST_IMAGES, MOST_READ = 10_000, 2_000
# Products of images, pixels and clusters: so many take about 2 s on one core. With several starts they take less each
# and more steps; for these the product may be a fifth. Fewer images would make the clusters of the pixels worse than
# they are.
WORK, WORK_OF_STARTS = 4e8, 8e7
STARTS, STEPS = 10, 50
FEWEST_IMAGES, FEWEST_OF_A_CLUSTER = 2_000, 20
# Values in memory, float32.
VALUES = 4e7
# Images are not made smaller than this for it.
SMALLEST = 8
BATCH = 256


@attrs.frozen
class Effort:
    """How much is clustered.

    Attributes:
        images: How many images.
        size: R, to which they are averaged.
        starts: From how many choices of centres k-means starts.
    """

    images: int
    size: int
    starts: int

    @classmethod
    def within(cls, images: int, channels: int, size: int, clusters: int) -> Effort:
        """Return the most that takes about two seconds: images are cut first, then pixels.

        Example:
            >>> Effort.within(1797, 1, 8, 10), Effort.within(10_000, 3, 32, 100)
            (Effort(images=1797, size=8, starts=10), Effort(images=5208, size=16, starts=1))
        """
        least = min(images, max(FEWEST_IMAGES, FEWEST_OF_A_CLUSTER * clusters))
        while True:
            values = channels * size**2
            fitting = min(images, int(WORK / (values * clusters)), int(VALUES / values))
            if fitting >= least or size % 2 or size // 2 < SMALLEST:
                count = max(fitting, min(least, int(VALUES / values)))
                starts = int(WORK_OF_STARTS / (count * values * clusters))
                return cls(count, size, min(max(starts, 1), STARTS))
            size //= 2


@attrs.frozen(eq=False)
class PixelClusters:
    """Images in the clusters of their pixels.

    Attributes:
        positions: Which of the evaluated images were clustered: numbers in 0..N-1, int64, shape (n,).
        clusters: The cluster of each, int64, shape (n,).
        distances: Of each to the centre of its cluster, float32, shape (n,).
        total: K, or the number of different images if that is less.
        size: R, to which the images were averaged.
    """

    positions: Tensor
    clusters: Tensor
    distances: Tensor
    total: int
    size: int


class PixelBaseline:
    """Clusters the pixels of evaluated images once, and compares every evaluation of them.

    Arguments:
        data: The images.
        clusters: K.
        seed: Of the run; it chooses the images and the starts.
    """

    def __init__(self, data: ImageSet, clusters: int, seed: int) -> None:
        self._data = data
        self._clusters = clusters
        self._seed = seed
        self._found: tuple[Tensor, PixelClusters] | None = None

    def clusters(self, indices: Tensor) -> PixelClusters:
        """Return the clusters of the pixels of evaluated images; those of the last ones are kept.

        Arguments:
            indices: The evaluated images, shape (N,).

        Raises:
            InvalidInput: If an image cannot be read.
        """
        if self._found is None or not torch.equal(self._found[0], indices):
            self._found = indices, self._computed(indices)
        return self._found[1]

    def _computed(self, indices: Tensor) -> PixelClusters:
        # The import takes a moment, and commands that only print do not need it.
        from sklearn.cluster import KMeans

        channels, size = self._data.images.shape[1:3]
        most = MOST_IMAGES if isinstance(self._data.images, Tensor) else MOST_READ
        effort = Effort.within(min(most, len(indices)), channels, size, self._clusters)
        positions = choose_images(len(indices), effort.images, self._seed)
        batches = (self._data.images[indices[chosen]] for chosen in torch.split(positions, BATCH))
        pixels = torch.cat([averaged(batch, effort.size) for batch in batches])
        # k-means warns if there are fewer different images than clusters.
        total = min(self._clusters, len({row.tobytes() for row in pixels.numpy()}))
        means = KMeans(total, n_init=effort.starts, max_iter=STEPS, random_state=self._seed % 2**32, copy_x=False)
        found = torch.from_numpy(means.fit_predict(pixels.numpy())).long()
        centres = torch.from_numpy(means.cluster_centers_).float()
        distances = [
            (some - centres[own]).norm(dim=1)
            for some, own in zip(torch.split(pixels, BATCH), torch.split(found, BATCH), strict=True)
        ]
        return PixelClusters(positions, found, torch.cat(distances), total, effort.size)

    def record(self, evaluation: Evaluation, indices: Tensor, metrics: Mapping[str, Metric]) -> dict[str, Any]:
        """Return what ``results.json`` says about the baseline.

        The scores are those of the chosen metrics that need labels and no more than clusters. ``agreement`` is the
        adjusted Rand index of the clusters of the run and those of the pixels, which needs no labels.

        Arguments:
            evaluation: Of the run.
            indices: The evaluated images, shape (N,).
            metrics: Those of the run, by name.
        """
        from sklearn.metrics import adjusted_rand_score

        found = self.clusters(indices)
        judges = {
            name: metric
            for name, metric in metrics.items()
            if metric.needs_labels and not metric.needs_images and not metric.on_request
        }
        labels = None if evaluation.labels is None else evaluation.labels[found.positions]
        posterior = F.one_hot(found.clusters, self._clusters).float()
        scores = {} if left_out(judges, labels) else score(judges, Evaluation(posterior, posterior, labels))
        own = evaluation.assignments[found.positions]
        return {
            "method": "k-means on pixels",
            "images": len(found.positions),
            "size": found.size,
            "clusters": found.total,
            "metrics": scores,
            "agreement": float(adjusted_rand_score(own.numpy(), found.clusters.numpy())),
        }


def averaged(images: Tensor, size: int) -> Tensor:
    """Return images as rows of values in [0, 255], float32, shape (n, D size^2), each value the mean of a square.

    Arguments:
        images: uint8, shape (n, D, R, R).
        size: R, or R divided by a power of two.
    """
    values = images.cpu().float()
    step = images.shape[-1] // size
    return (F.avg_pool2d(values, step) if step > 1 else values).flatten(1)
