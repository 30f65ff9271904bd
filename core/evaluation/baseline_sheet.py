"""The clusters of the pixels as a picture beside those of the run, so that a person can compare both without labels."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation.baseline import PixelClusters
from mpcc.core.evaluation.members import ShownClusters
from mpcc.core.evaluation.page import Row, rows_page, sections_page, tiles

__all__ = ["PixelGroup", "baseline_sheet", "counterparts", "find_groups"]

# Images of a row: those nearest to the centre, and those at equal steps from the nearest to the farthest.
NEAREST, SPREAD = 4, 8


def counterparts(assignments: Tensor, pixels: PixelClusters, clusters: int) -> dict[int, int]:
    """Return which cluster of the pixels stands beside a cluster of the run: pairs that share most images in all.

    Arguments:
        assignments: The cluster of each evaluated image, int64, shape (N,).
        pixels: Clusters of the pixels of n of these images.
        clusters: K.

    Example:
        >>> own = torch.tensor([0, 0, 1, 1, 1])
        >>> pixels = PixelClusters(torch.arange(5), torch.tensor([1, 1, 0, 0, 1]), torch.zeros(5), total=2, size=8)
        >>> counterparts(own, pixels, clusters=2)
        {0: 1, 1: 0}
    """
    pairs = assignments[pixels.positions] * pixels.total + pixels.clusters
    shared = torch.bincount(pairs, minlength=clusters * pixels.total).view(clusters, pixels.total)
    rows, columns = linear_sum_assignment(shared.numpy(), maximize=True)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))


@attrs.frozen(eq=False)
class PixelGroup:
    """A cluster of the pixels beside one of the run; n and s of its images.

    Attributes:
        cluster: The number of the run's cluster.
        size: How many images the group has, of those that k-means has clustered.
        shared: How many of them are in the run's cluster.
        nearest: Images nearest to its centre, uint8, shape (n, D, R, R).
        spread: Images at equal steps from the nearest to the farthest, uint8, shape (s, D, R, R).
    """

    cluster: int
    size: int
    shared: int
    nearest: Tensor
    spread: Tensor


def find_groups(
    data: ImageSet, indices: Tensor, assignments: Tensor, pixels: PixelClusters, shown: ShownClusters
) -> tuple[PixelGroup, ...]:
    """Return the group beside each cluster that pictures show, if it has one with which it shares an image.

    Arguments:
        data: The images.
        indices: The evaluated ones, shape (N,).
        assignments: Their clusters in the run, int64, shape (N,).
        pixels: The clusters of their pixels.
        shown: Which clusters of the run pictures show.
    """
    beside = counterparts(assignments, pixels, shown.clusters)
    own, groups = assignments[pixels.positions], []
    for cluster in shown.numbers:
        members = (pixels.clusters == beside.get(cluster, -1)).nonzero().flatten()
        shared = int((own[members] == cluster).sum())
        if not shared:
            continue
        members = members[pixels.distances[members].argsort(stable=True)]
        every = torch.linspace(0, len(members) - 1, min(SPREAD, len(members)), dtype=torch.float64).round().long()
        wanted = torch.cat([members[:NEAREST], members[every]])
        # Sets on a disk are read in order, each image once.
        numbers, places = torch.unique(indices[pixels.positions[wanted]], return_inverse=True)
        images = data.images[numbers][places]
        groups.append(PixelGroup(cluster, len(members), shared, images[: -len(every)], images[-len(every) :]))
    return tuple(groups)


def baseline_sheet(groups: Sequence[PixelGroup], pixels: PixelClusters, shown: ShownClusters) -> Tensor:
    """Return images of the pixels' clusters, a row for each cluster of the run, uint8, shape (3, height, width).

    Arguments:
        groups: From `find_groups`.
        pixels: The clusters of the pixels.
        shown: Which clusters of the run pictures show.
    """
    title = f"for comparison: {pixels.total} groups by k-means on the pixels of {len(pixels.clusters):,} images"
    if not groups:
        return sections_page(f"{title}; none of them belongs to a cluster that is shown", [])
    beside = {group.cluster: group for group in groups}
    rows = []
    for cluster in shown.numbers:
        label = f"beside cluster {cluster}"
        if (group := beside.get(cluster)) is None:
            rows.append(Row((label,), ("no group", "")))
            continue
        sizes = (f"{group.size:,} image{'s' * (group.size != 1)}", f"{group.shared:,} in cluster {cluster}")
        rows.append(Row((label, *sizes), (tiles(group.nearest), tiles(group.spread))))
    return rows_page(title, ["nearest to the centre", "from the nearest to the farthest"], rows)
