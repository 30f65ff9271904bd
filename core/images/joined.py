"""Several sets of images as one, in their order, without a copy of their images."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mpcc.core.contracts import ImageSet, ImageSource
from mpcc.core.errors import InvalidInput

__all__ = ["joined"]


def joined(sets: Sequence[ImageSet]) -> ImageSet:
    """Return several sets as one.

    Arguments:
        sets: At least one; their images have equal shapes (D, R, R).

    Returns:
        All images in their order. A label keeps its name; images of a set without labels have the label -1. What a set
        has settled for other images (`ImageSet.settled`) is left out.

    Raises:
        InvalidInput: If the shapes differ.

    Example:
        >>> two = [ImageSet(torch.full((n, 1, 2, 2), n, dtype=torch.uint8)) for n in (1, 2)]
        >>> both = joined(two)
        >>> len(both), both.images[torch.tensor([2, 0])][:, 0, 0, 0].tolist()
        (3, [2, 1])
    """
    if len(sets) == 1:
        return sets[0]
    first = sets[0].images.shape[1:]
    for other in sets[1:]:
        if other.images.shape[1:] != first:
            raise InvalidInput(
                f"images of different shapes: {sets[0].description} and {other.description}: expected all alike"
            )
    labels, class_names = _labels(sets)
    return ImageSet(
        images=_JoinedImages([each.images for each in sets]),
        labels=labels,
        class_names=class_names,
        # A set without paths beside one with paths has empty ones.
        paths=[path for each in sets for path in each.paths or [""] * len(each)] if any(s.paths for s in sets) else [],
        description="; ".join(each.description for each in sets),
        skipped=[line for each in sets for line in each.skipped],
        originals=_JoinedOriginals(sets),
    )


class _JoinedImages:
    """The images of several sources: an `mpcc.core.contracts.ImageSource`.

    Arguments:
        sources: uint8, shapes (n, D, R, R).
    """

    def __init__(self, sources: Sequence[Tensor | ImageSource]) -> None:
        self._sources = sources
        self._starts = _starts(sources)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D, R, R)."""
        return (self._starts[-1], *self._sources[0].shape[1:])

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Read images, uint8, shape (n, D, R, R), for indices of shape (n,)."""
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        ends = torch.tensor(self._starts[1:])
        owners = torch.bucketize(indices, ends, right=True)
        for owner in sorted(set(owners.tolist())):
            here = owners == owner
            images[here] = self._sources[owner][indices[here] - self._starts[owner]]
        return images


class _JoinedOriginals:
    """The originals of several sets: `mpcc.core.contracts.Originals`."""

    def __init__(self, sets: Sequence[ImageSet]) -> None:
        self._originals = [each.originals for each in sets]
        self._images = [each.images for each in sets]
        self._starts = _starts(self._images)

    def original(self, index: int) -> Path | bytes | Tensor:
        """Return one image as its set has it; of a set that knows no more, the square."""
        owner = bisect.bisect_right(self._starts, index) - 1
        originals, place = self._originals[owner], index - self._starts[owner]
        if originals is None:
            return self._images[owner][torch.tensor([place])][0]
        return originals.original(place)


def _starts(sources: Sequence[Tensor | ImageSource]) -> list[int]:
    """Return where each source begins, and the number of all images."""
    return [0, *itertools.accumulate(source.shape[0] for source in sources)]


def _labels(sets: Sequence[ImageSet]) -> tuple[Tensor | None, list[str]]:
    """Return the labels of all sets and their names, the names of the first set that has one first."""
    if all(each.labels is None for each in sets):
        return None, []
    number: dict[str, int] = {}
    parts = []
    for each in sets:
        if each.labels is None:
            parts.append(torch.full((len(each),), -1))
            continue
        names = list(each.class_names) or [str(label) for label in range(int(each.labels.max()) + 1)]
        table = torch.tensor([number.setdefault(name, len(number)) for name in names] + [-1])
        parts.append(table[each.labels])
    return torch.cat(parts), list(number)
