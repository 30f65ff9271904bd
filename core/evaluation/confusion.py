"""Classes against clusters: a table and a heat map, with clusters in the order of their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mpcc.core.contracts import Evaluation
from mpcc.core.evaluation.contingency import matching, paired, true_labels

__all__ = ["Confusion", "confusion_sheet"]

# Pixels: the intended size of the picture; the largest width of all cells; the smallest cell, unless that makes them
# wider; the largest cell; the cell from which counts and names fit.
AIM, WIDEST, SMALLEST, LARGEST, NUMBERED, NAMED = 1000, 2200, 4, 48, 26, 13
TEXT_SIZE = 12
LONGEST_NAME = 24
INK = np.array([8.0, 48.0, 107.0])
GRID, FRAME = (225, 225, 225), (200, 60, 30)


@attrs.frozen(eq=False)
class Confusion:
    """Counts of images by class and cluster; C classes with images, K clusters.

    Column k is cluster k, as in all files of a run. The first rows are the classes that the best one-to-one matching
    gives a cluster with images of them, in the order of these clusters, so that matched cells go down from left to
    right. The other classes follow, in their own order.

    Attributes:
        classes: The names of the rows.
        counts: Shape (C, K).
        matched: The clusters of the first rows, in ascending order; the other rows have none.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    matched: tuple[int, ...]

    @classmethod
    def of(cls, evaluation: Evaluation, class_names: Sequence[str] = ()) -> Confusion:
        """Count the images of an evaluation with labels.

        Arguments:
            evaluation: With labels.
            class_names: The name of each label; without names, rows are called by their numbers.

        Raises:
            ValueError: If there are no labels.

        Example:
            >>> posterior = torch.eye(3)[[2, 2, 0, 0, 0]]
            >>> table = Confusion.of(Evaluation(posterior, posterior, torch.tensor([0, 0, 1, 1, 0])), ["cat", "dog"])
            >>> print(table.classes, table.counts.tolist(), table.matched)
            ('dog', 'cat') [[2, 0, 0], [1, 0, 2]] (0, 2)
        """
        clusters, labels = paired(evaluation.assignments, true_labels(evaluation))
        numbers, rows = np.unique(labels, return_inverse=True)
        counts: NDArray[np.int64] = np.zeros((len(numbers), evaluation.clusters), dtype=np.int64)
        np.add.at(counts, (rows, clusters), 1)
        class_of = {
            int(column): int(row) for column, row in zip(*matching(counts.T), strict=True) if counts[row, column]
        }
        matched = sorted(class_of)
        first = [class_of[column] for column in matched]
        order = [*first, *(row for row in range(len(numbers)) if row not in set(first))]
        names = tuple(str(class_names[number] if class_names else number) for number in numbers[order])
        return cls(names, counts[order], tuple(matched))

    def rows(self) -> list[list[str]]:
        """Return the table as texts.

        The header is ``class``, the numbers of the clusters, ``matched_cluster``; then comes a row for each class.
        """
        table = [["class", *map(str, range(self.counts.shape[1])), "matched_cluster"]]
        for row, name in enumerate(self.classes):
            matched = str(self.matched[row]) if row < len(self.matched) else ""
            table.append([name, *map(str, self.counts[row]), matched])
        return table


def confusion_sheet(confusion: Confusion) -> Tensor:
    """Return the table as a heat map, uint8, shape (3, height, width).

    A shade is the square root of a cell's share of its class, so that a few images are visible, too. Counts and names
    are shown where there is room; with many classes or clusters, only every n-th name. Matched cells that are not tiny
    have a frame.
    """
    count, columns = confusion.counts.shape
    cell = max(1, min(LARGEST, max(SMALLEST, AIM // max(count, columns)), WIDEST // columns))
    font = ImageFont.load_default(TEXT_SIZE)
    names = [shown(name) for name in confusion.classes]
    left = 12 + max(int(font.getlength(name)) for name in [*names, "class"])
    top = 40
    width = max(left + columns * cell + 12, 240)
    shares = confusion.counts / confusion.counts.sum(axis=1, keepdims=True)
    shades = np.rint(255 + (INK - 255) * np.sqrt(shares)[..., None]).astype(np.uint8)
    picture = Image.new("RGB", (width, top + count * cell + 12), "white")
    picture.paste(Image.fromarray(shades.repeat(cell, axis=0).repeat(cell, axis=1)), (left, top))
    draw = ImageDraw.Draw(picture)
    draw.text((left, 4), "cluster", "black", font)
    draw.text((6, top - 16), "class", "black", font)
    for row in range(0, count, -(-NAMED // cell)):
        draw.text((left - 6, top + (row + 0.5) * cell), names[row], "black", font, anchor="rm")
    room = 4 + int(font.getlength("0" * len(str(columns - 1))))
    for column in range(0, columns, -(-room // cell)):
        draw.text((left + (column + 0.5) * cell, top - 10), str(column), "black", font, anchor="mm")
    if cell >= NAMED:
        for row in range(count + 1):
            draw.line((left, top + row * cell, left + columns * cell, top + row * cell), GRID)
        for column in range(columns + 1):
            draw.line((left + column * cell, top, left + column * cell, top + count * cell), GRID)
        for row, column in enumerate(confusion.matched):
            x, y = left + column * cell, top + row * cell
            draw.rectangle((x, y, x + cell, y + cell), outline=FRAME)
    if cell >= NUMBERED:
        for row, column in np.argwhere(confusion.counts).tolist():
            number = str(confusion.counts[row, column])
            if font.getlength(number) <= cell - 2:
                ink = "white" if shares[row, column] > 0.25 else "black"
                place = left + (column + 0.5) * cell + 0.5, top + (row + 0.5) * cell + 0.5
                draw.text(place, number, ink, font, anchor="mm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def shown(name: str) -> str:
    """Return a name that can be drawn on one line, cut to its first letters.

    Example:
        >>> shown("cat"), shown("two\\nlines"), shown("a name of more than twenty-four letters")
        ('cat', 'two?lines', 'a name of more than tw..')
    """
    drawable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return drawable if len(drawable) <= LONGEST_NAME else f"{drawable[: LONGEST_NAME - 2]}.."
