"""What a report says about each cluster: size, certainty, classes, the nearest other one, images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import attrs
import numpy as np

from mpcc.core.report.embedded_images import EmbeddedCluster, embedded, uri
from mpcc.core.report.run_record import Evaluated, RunRecord

__all__ = ["ClusterEntry", "Shown", "cluster_entries", "nearest_clusters"]

# Bytes for the images of all clusters; the rest of a page with 50 clusters takes less than 500,000.
LIMIT = 4_200_000
# The most frequent classes that are named.
CLASSES = 3
# A posterior from here on would be rounded to 1.
NEARLY_SURE = 0.995


@attrs.frozen
class Shown:
    """An image of a page.

    Attributes:
        source: Its address, with the image in it.
        text: What it is, for those who do not see it.
        caption: What stands below it, or nothing.
    """

    source: str
    text: str
    caption: str = ""


@attrs.frozen(eq=False)
class ClusterEntry:
    """What a report says about a cluster.

    Attributes:
        number: Its number.
        name: The name that the user gave it, or nothing.
        namesakes: The other clusters with this name.
        together: The share of all images that it has with them, as text.
        hue: Its colour, in degrees.
        size: Evaluated images in it.
        share: The same as a share of all, as text.
        confidence: The mean posterior of its images, as text; empty without images.
        nearest: The other cluster that its images belong to next, or None.
        classes: The most frequent classes, each with its count and share as text; empty without labels.
        other_classes: How many further classes it has.
        groups: Images, below a title.
        sheet: An image of the whole cluster, from the folder of an earlier version, or None.
        file: The name of its picture beside the page, or nothing.
        linked: Whether its images are only there, as there was no room for them.
    """

    number: int
    name: str
    namesakes: tuple[int, ...]
    together: str
    hue: int
    size: int
    share: str
    confidence: str
    nearest: int | None
    classes: tuple[tuple[str, int, str], ...]
    other_classes: int
    groups: tuple[tuple[str, tuple[Shown, ...]], ...]
    sheet: Shown | None
    file: str
    linked: bool

    @property
    def title(self) -> str:
        """Its number and its name."""
        return f"cluster {self.number}" + (f": {self.name}" if self.name else "")


def cluster_entries(record: RunRecord, hues: list[int]) -> list[ClusterEntry]:
    """Return an entry for each cluster, in the order of their numbers.

    Arguments:
        record: What the folder says.
        hues: The colour of each cluster, in degrees.
    """
    evaluated, sizes = record.evaluated, record.sizes
    images = {} if record.images is None else embedded(record.images.values(), LIMIT)
    nearest = nearest_clusters(evaluated, record.clusters)
    room, entries = LIMIT, []
    for number in range(record.clusters):
        members = (evaluated.clusters == number).nonzero()[0]
        classes = Counter(evaluated.labels[row] for row in members if evaluated.labels[row]) if evaluated.labels else {}
        common = Counter(classes).most_common(CLASSES)
        known = sum(classes.values())
        alike = record.alike(number)
        path = picture_of(record.folder, number, record.clusters)
        sheet = None
        if record.images is None and path is not None and path.stat().st_size * 4 / 3 < room:
            source = uri(path.read_bytes(), "image/png")
            sheet, room = Shown(source, f"typical and least certain images of cluster {number}"), room - len(source)
        entries.append(
            ClusterEntry(
                number,
                record.names.get(number, ""),
                tuple(other for other in alike if other != number),
                percent(sum(sizes[each] for each in alike) / max(sum(sizes), 1)),
                hues[number],
                sizes[number],
                percent(sizes[number] / max(sum(sizes), 1)),
                sureness(float(evaluated.confidences[members].mean())) if len(members) else "",
                nearest[number],
                tuple((name, count, percent(count / known)) for name, count in common),
                len(classes) - len(common),
                groups_of(record, number, images[number]) if number in images else (),
                sheet,
                path.relative_to(record.folder).as_posix() if path is not None else "",
                linked=sheet is None and number not in images and path is not None,
            )
        )
    return entries


def groups_of(record: RunRecord, number: int, images: EmbeddedCluster) -> tuple[tuple[str, tuple[Shown, ...]], ...]:
    """Return the images of a cluster in groups, each with a title."""
    assert record.images is not None, "there are images"
    own, evaluated = record.images[number], record.evaluated
    typical = tuple(
        Shown(source, described(evaluated, row))
        for source, row in zip(images.images["typical"], own.typical_rows.tolist(), strict=False)
    )
    uncertain = []
    for place, source in enumerate(images.images["uncertain"]):
        caption = sureness(float(own.confidences[place]))
        if len(own.rivals):
            caption += f" ({own.rivals[place]})"
        uncertain.append(Shown(source, described(evaluated, int(own.uncertain_rows[place])), caption))
    generated = tuple(
        Shown(source, f"generated image {place}") for place, source in enumerate(images.images["generated"], start=1)
    )
    return ("Typical", typical), ("Least certain", tuple(uncertain)), ("Generated", generated)


def described(evaluated: Evaluated, row: int) -> str:
    """Return the number of an image in its data set and, if it has one, its class."""
    label = evaluated.labels[row] if evaluated.labels else ""
    return f"image {evaluated.numbers[row]}" + (f", class {label}" if label else "")


def nearest_clusters(evaluated: Evaluated, clusters: int) -> list[int | None]:
    """Return, for each cluster with images, the other one with the highest mean q(y|x) of these images.

    It is None for a cluster without images, and for one whose images have a probability of 0 in all others.

    Arguments:
        evaluated: Clusters and posterior.
        clusters: K.
    """
    found: list[int | None] = [None] * clusters
    if evaluated.posterior is None:
        return found
    for cluster in np.unique(evaluated.clusters).tolist():
        means = evaluated.posterior[evaluated.clusters == cluster].mean(axis=0, dtype=np.float64)
        means[cluster] = 0
        if means.any():
            found[cluster] = int(means.argmax())
    return found


def picture_of(folder: Path, number: int, clusters: int) -> Path | None:
    """Return the picture of a cluster beside the report, or None."""
    path = folder / "clusters" / f"{number:0{len(str(clusters - 1))}}.png"
    return path if path.exists() else None


def percent(share: float) -> str:
    """Return a share as text.

    Example:
        >>> percent(0.1234), percent(0.0004), percent(0.0)
        ('12.3\\xa0%', '<\\xa00.1\\xa0%', '0.0\\xa0%')
    """
    # Spaces at which no line breaks.
    text = "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"
    return text.replace(" ", "\xa0")


def sureness(value: float) -> str:
    """Return a posterior as text.

    Example:
        >>> sureness(0.914), sureness(0.9999)
        ('0.91', '> 0.99')
    """
    return f"{value:.2f}" if value < NEARLY_SURE else "> 0.99"
