"""Sheets of pictures: what the clusters hold, what the generator makes of each, reconstructions (supplement, E).

All sheets show clusters in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from mpcc.core.evaluation.baseline_sheet import baseline_sheet
from mpcc.core.evaluation.confusion import confusion_sheet
from mpcc.core.evaluation.evaluation import Pictures
from mpcc.core.evaluation.findings import Findings
from mpcc.core.evaluation.members import ClusterMembers, ShownClusters
from mpcc.core.evaluation.page import Row, Section, beside, most_in_a_row, rows_page, sections_page, tiles

__all__ = [
    *(
        "generated_sheet",
        "interpolation_sheet",
        "member_sheet",
        "member_sheets",
        "overview_sheet",
        "reconstruction_sheet",
        "sample_sheet",
    ),
    "sheets",
]

# Typical and generated images in a row of the overview.
FEW, SOME = 4, 8
# A posterior from here on would be rounded to 1.
NEARLY_SURE = 0.995


def sheets(findings: Findings) -> Iterator[tuple[str, Tensor]]:
    """Draw the sheets of an evaluation, one after the other, each with its name in files and logs."""
    pictures, shown = findings.pictures, findings.shown
    yield "clusters", overview_sheet(pictures, shown, findings.members)
    yield "samples", sample_sheet(pictures, shown)
    yield "interpolations", interpolation_sheet(findings.interpolations, shown)
    yield "reconstructions", reconstruction_sheet(pictures, shown)
    if findings.confusion is not None:
        yield "confusion", confusion_sheet(findings.confusion)
    if findings.pixels is not None:
        yield "kmeans", baseline_sheet(findings.groups, findings.pixels, shown)


def member_sheets(findings: Findings) -> Iterator[Tensor]:
    """Draw a `member_sheet` of each cluster that is shown, one after the other."""
    for found in findings.members:
        yield member_sheet(found, findings.shown)


def overview_sheet(pictures: Pictures, shown: ShownClusters, members: Sequence[ClusterMembers]) -> Tensor:
    """Return real members of each cluster beside generated images of it, uint8, shape (3, height, width)."""
    rows = []
    for found in members:
        typical = tiles(found.typical_images[:FEW]) if len(found.typical) else "no members"
        generated = tiles(pictures.samples[found.cluster, :SOME])
        rows.append(Row(shown.lines(found.cluster), (typical, tiles(found.spread_images), generated)))
    used = f"{shown.used} of {shown.clusters} cluster{'s' * (shown.clusters > 1)}"
    title = f"{shown.images:,} evaluated image{'s' * (shown.images > 1)} in {used}{_choice(shown)}"
    return rows_page(title, ["most typical real images", "from the most to the least typical", "generated"], rows)


def sample_sheet(pictures: Pictures, shown: ShownClusters) -> Tensor:
    """Return samples with a row for each cluster, uint8, shape (3, height, width)."""
    rows = [Row(shown.lines(cluster), (tiles(pictures.samples[cluster]),)) for cluster in shown.numbers]
    return rows_page(f"generated images of each cluster{_choice(shown)}", [""], rows)


def interpolation_sheet(interpolations: Tensor, shown: ShownClusters) -> Tensor:
    """Return the way in z between two samples, a row for each cluster that is shown, uint8, shape (3, height, width).

    Arguments:
        interpolations: uint8, shape (clusters, steps, D, R, R).
        shown: The clusters.
    """
    rows = [Row(shown.lines(n), (tiles(images),)) for n, images in zip(shown.numbers, interpolations, strict=True)]
    return rows_page(f"between two generated images of each cluster, in equal steps of z{_choice(shown)}", [""], rows)


def generated_sheet(title: str, images: Tensor, clusters: Sequence[int], columns: int) -> Tensor:
    """Return generated images in rows that each belong to one cluster, uint8, shape (3, height, width).

    Arguments:
        title: A line at the top.
        images: uint8, shape (N, D, R, R), those of a cluster one after another.
        clusters: The cluster of each.
        columns: The most images in a row; what does not fit beside them goes to the next row.
    """
    drawn, rows, start = tiles(images), [], 0
    columns = min(columns, most_in_a_row(drawn.shape[2]))
    while start < len(clusters):
        end = start + 1
        while end < len(clusters) and end - start < columns and clusters[end] == clusters[start]:
            end += 1
        rows.append(Row((f"cluster {clusters[start]}",), (drawn[start:end],)))
        start = end
    return rows_page(title, [""], rows)


def reconstruction_sheet(pictures: Pictures, shown: ShownClusters) -> Tensor:
    """Return real images at the left of their reconstructions, in pairs, uint8, shape (3, height, width)."""
    pairs = beside(tiles(pictures.originals), tiles(pictures.reconstructions))
    captions = tuple(f"{cluster} ({shown.sizes[cluster]:,})" for cluster in pictures.clusters.tolist())
    heading = "left: real image; right: its reconstruction; below: its cluster (and how many images that has)"
    title = f"reconstructions of {len(pairs):,} of {shown.images:,} evaluated images"
    return sections_page(title, [Section(heading, pairs, captions)])


def member_sheet(found: ClusterMembers, shown: ShownClusters) -> Tensor:
    """Return typical, spread and uncertain real members of a cluster, uint8, shape (3, height, width)."""
    cluster, size = found.cluster, shown.sizes[found.cluster]
    if not size:
        return sections_page(f"cluster {cluster}: none of the {shown.images:,} evaluated images", [])
    title = f"cluster {cluster}: {size:,} of {shown.images:,} evaluated images ({shown.share(cluster)})"
    typical = f"typical: highest density p(z | y = {cluster}){_part(len(found.typical), size)}"
    spread = f"at equal distances from the most to the least typical{_part(len(found.spread), size)}"
    uncertain = f"least certain: lowest q(y = {cluster} | x), written below{_part(len(found.uncertain), size)}"
    captions = [f"{value:.2f}" if value < NEARLY_SURE else "> 0.99" for value in found.confidences.tolist()]
    if len(found.rivals):
        uncertain += "; in brackets, the next cluster"
        captions = [f"{text} ({rival})" for text, rival in zip(captions, found.rivals.tolist(), strict=True)]
    sections = [
        Section(typical, tiles(found.typical_images)),
        Section(spread, tiles(found.spread_images)),
        Section(uncertain, tiles(found.uncertain_images), tuple(captions)),
    ]
    return sections_page(title, sections)


def _choice(shown: ShownClusters) -> str:
    """Return how the clusters have been chosen, or nothing if all are shown."""
    count = len(shown.numbers)
    if count == shown.clusters:
        return ""
    rule = "chosen at random" if shown.used == shown.clusters else "chosen at random, those with images first"
    return f"; {count} of {shown.clusters} clusters, {rule}"


def _part(count: int, size: int) -> str:
    """Return that all members are shown, or nothing.

    Example:
        >>> _part(3, 3), _part(20, 182)
        (' (all members)', '')
    """
    return " (all members)" if count == size else ""
