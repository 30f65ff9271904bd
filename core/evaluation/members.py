"""The clusters that pictures show, and real members of them: typical ones, some of all kinds, uncertain ones."""

from __future__ import annotations

import attrs
import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import Evaluation, Prior
from mpcc.core.evaluation.evaluated_images import ModelImages
from mpcc.core.system.kernel_settings import full_precision
from mpcc.core.system.randomness import own_randomness

__all__ = ["ClusterMembers", "ShownClusters", "find_members"]

TYPICAL, SPREAD, UNCERTAIN = 20, 8, 10
# Images whose density is computed at once; a low-rank covariance takes up to a few thousand numbers for each.
DENSITY_BATCH = 4096


@attrs.frozen
class ShownClusters:
    """Which clusters pictures show, and the sizes of all of them; N evaluated images, K clusters.

    Attributes:
        numbers: The clusters that are shown, in the order of their numbers.
        sizes: Evaluated images in each cluster, K numbers.

    Example:
        >>> shown = ShownClusters.of(torch.tensor([4, 4, 1, 4]), 5, wanted=2, seed=0)
        >>> shown.numbers, shown.sizes
        ((1, 4), (0, 1, 0, 0, 3))
        >>> shown.lines(4), shown.lines(0)
        (('cluster 4', '3 images', '75.0 %'), ('cluster 0', 'no images'))
    """

    numbers: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, assignments: Tensor, clusters: int, wanted: int | str, seed: int) -> ShownClusters:
        """Choose the clusters to be shown.

        The seed puts all clusters in a random order. The first clusters of it that have images are taken, so that
        evaluations of a run show the same clusters as long as these have images. Clusters without images are only taken
        if there are not enough others.

        Arguments:
            assignments: The cluster of each evaluated image, int64, shape (N,).
            clusters: K.
            wanted: How many clusters to show, or ``"all"``.
            seed: Of the run. No global random state is used.
        """
        sizes = torch.bincount(assignments, minlength=clusters)
        order = torch.randperm(clusters, generator=torch.Generator().manual_seed(seed))
        order = order[(sizes[order] == 0).long().argsort(stable=True)]
        count = clusters if isinstance(wanted, str) else wanted
        return cls(tuple(sorted(order[:count].tolist())), tuple(sizes.tolist()))

    @property
    def clusters(self) -> int:
        """K."""
        return len(self.sizes)

    @property
    def images(self) -> int:
        """N."""
        return sum(self.sizes)

    @property
    def used(self) -> int:
        """How many clusters have at least one evaluated image."""
        return sum(size > 0 for size in self.sizes)

    def share(self, cluster: int) -> str:
        """Return a cluster's share of the evaluated images as text."""
        percent = 100 * self.sizes[cluster] / self.images
        return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"

    def lines(self, cluster: int) -> tuple[str, ...]:
        """Return number, size and share of a cluster as lines of text."""
        size = self.sizes[cluster]
        if not size:
            return f"cluster {cluster}", "no images"
        return f"cluster {cluster}", f"{size:,} image{'s' * (size != 1)}", self.share(cluster)


@attrs.frozen(eq=False)
class ClusterMembers:
    """Real members of one cluster, chosen by the model; n, s and m images.

    A small cluster has the same images in several places.

    Attributes:
        cluster: Its number.
        typical: The most typical members, the most typical one first; numbers of evaluated images, shape (n,).
        spread: Members at equal distances in the order from the most to the least typical, both included, shape (s,).
        uncertain: The least certain members, the least certain one first, shape (m,).
        confidences: The posterior q(y = cluster|z) of `uncertain`, shape (m,).
        rivals: The most probable other cluster of `uncertain`, shape (m,), or shape (0,) if K = 1.
        typical_images: The pixels of `typical`, uint8, shape (n, D, R, R).
        spread_images: The pixels of `spread`, uint8, shape (s, D, R, R).
        uncertain_images: The pixels of `uncertain`, uint8, shape (m, D, R, R).
    """

    cluster: int
    typical: Tensor
    spread: Tensor
    uncertain: Tensor
    confidences: Tensor
    rivals: Tensor
    typical_images: Tensor
    spread_images: Tensor
    uncertain_images: Tensor


def find_members(images: ModelImages, evaluation: Evaluation, shown: ShownClusters) -> tuple[ClusterMembers, ...]:
    r"""Choose members of the clusters that are shown, and read their pixels.

    A member is typical if its joint log density is high,

    .. math:: \log \phi_k + \log p(z \mid k)

    at the encoder's location z, where k is its cluster. Among members of one cluster phi_k does not matter. The
    posterior could not tell them apart: it is 1 in floating point for most images of a trained model, far out in a
    cluster's tail as well as in its middle. A density says how well an image fits its own cluster, for any prior; a
    distance to the middle would need one, which a prior need not have. Members whose density is not a number or 0 come
    last. Equally typical members are sorted by posterior, then by number.

    The most typical members of a cluster that mixes things may all be of one kind. Therefore some are taken at equal
    distances in the order of their densities, down to the lowest.

    A member is uncertain if the posterior of its own cluster is low. Equally certain members are sorted by density, the
    lowest first, then by number.

    Only the images that are shown are read. No random state changes.

    Arguments:
        images: Of the evaluation; prior and pixels.
        evaluation: Locations, and posterior.
        shown: Which clusters.

    Returns:
        The members of each cluster in ``shown.numbers``: at most 20 typical, 8 spread and 10 uncertain ones.
    """
    with full_precision(images.device), own_randomness(0, images.device):
        wanted = np.isin(np.arange(shown.clusters), shown.numbers)
        density = log_densities(images.model.prior, evaluation, torch.from_numpy(wanted)).numpy()
        assignments = evaluation.assignments.numpy()
        own = evaluation.posterior.max(dim=1).values.double().numpy()
        # Sorted by cluster first; the last key counts most, and equal images stay in their order.
        by_density = torch.from_numpy(np.lexsort((-own, -density, assignments)))
        by_certainty = torch.from_numpy(np.lexsort((density, own, assignments)))
        ends = np.cumsum(shown.sizes)
        chosen = []
        for cluster in shown.numbers:
            first, last = int(ends[cluster]) - shown.sizes[cluster], int(ends[cluster])
            ordered, uncertain = by_density[first:last], by_certainty[first:last][:UNCERTAIN]
            every = torch.linspace(0, len(ordered) - 1, min(SPREAD, len(ordered)), dtype=torch.float64).round().long()
            chosen.append(_members(images, evaluation, cluster, ordered[:TYPICAL], ordered[every], uncertain))
        return tuple(chosen)


@torch.no_grad()
def log_densities(prior: Prior, evaluation: Evaluation, wanted: Tensor) -> Tensor:
    """Return log p(z|k) of each image for its own cluster k, float64, shape (N,), on the CPU.

    It is minus infinity where it is not a number, and for images of clusters that are not wanted.

    Arguments:
        prior: Whose components.
        evaluation: Locations and clusters.
        wanted: Whether a cluster is wanted, bool, shape (K,).
    """
    device = prior.weights().device
    densities = torch.full((len(evaluation.locations),), -torch.inf, dtype=torch.float64)
    assignments = evaluation.assignments
    for part in torch.split(wanted[assignments].nonzero().flatten(), DENSITY_BATCH):
        z, y = evaluation.locations[part].to(device), assignments[part].to(device)
        with prior.full_precision():
            densities[part] = prior.component(y).log_prob(z).double().cpu()
    return densities.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _members(
    images: ModelImages, evaluation: Evaluation, cluster: int, typical: Tensor, spread: Tensor, uncertain: Tensor
) -> ClusterMembers:
    """Return chosen members with their pixels, each of which is read once."""
    numbers, places = torch.unique(torch.cat([typical, spread, uncertain]), return_inverse=True)
    # Whoever reads files need not know what no image at all is.
    pixels = images.pixels(numbers) if len(numbers) else torch.empty((0, *images.shape), dtype=torch.uint8)
    others = evaluation.posterior[uncertain]
    confidences = others[:, cluster].clone()
    others[:, cluster] = -1
    rivals = others.argmax(dim=1) if others.shape[1] > 1 else torch.empty(0, dtype=torch.int64)
    parts = (pixels[part] for part in places.split([len(typical), len(spread), len(uncertain)]))
    return ClusterMembers(cluster, typical, spread, uncertain, confidences, rivals, *parts)
