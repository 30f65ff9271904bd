"""Pages: images enlarged by whole factors, in rows beside a text or in sections below one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mpcc.core.images.pictures import with_colours

__all__ = ["GAP", "Row", "Section", "Tiles", "beside", "most_in_a_row", "rows_page", "sections_page", "tiles"]

# Pixels: the smallest image after enlargement; the widest page; the space around a page, images and rows.
SMALLEST, WIDEST = 48, 2400
MARGIN, GAP, ROW_GAP = 12, 4, 8
# Room for a short label, such as "cluster 1234".
LABEL = 160
TITLE_SIZE, TEXT_SIZE, CAPTION_SIZE = 18, 14, 12
PAPER, INK, PALE = (240, 240, 240), (0, 0, 0), (85, 85, 85)

# Images as they are drawn: uint8, shape (n, height, width, 3).
Tiles: TypeAlias = NDArray[np.uint8]


@attrs.frozen(eq=False)
class Row:
    """A row of a page.

    Attributes:
        label: Lines at the left.
        groups: Under each heading of the page, any number of images, or a remark.
    """

    label: tuple[str, ...]
    groups: tuple[Tiles | str, ...]


@attrs.frozen(eq=False)
class Section:
    """A part of a page, below a line of text.

    Attributes:
        heading: That line.
        images: Any number, n.
        captions: Below each image: n texts, or none.
    """

    heading: str
    images: Tiles
    captions: tuple[str, ...] = ()


def tiles(images: Tensor) -> Tiles:
    """Return images as colour pictures, enlarged by the smallest whole factor that makes them 48 pixels wide or more.

    The mean over the channels is shown of images whose number of channels is neither 1 nor 3: they have no colours.

    Arguments:
        images: uint8, shape (n, D, R, R).

    Example:
        >>> tiles(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        (2, 56, 56, 3)
    """
    factor = -(-SMALLEST // images.shape[-1])
    colours: Tiles = with_colours(images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    return colours.repeat(factor, axis=1).repeat(factor, axis=2)


def beside(left: Tiles, right: Tiles) -> Tiles:
    """Return pairs of images, each as one image, with a narrow line between them."""
    line: Tiles = np.full((len(left), left.shape[1], GAP // 2, 3), 255, dtype=np.uint8)
    return np.concatenate([left, line, right], axis=2)


def most_in_a_row(side: int) -> int:
    """Return how many images fit beside a short label on the widest page."""
    return max(1, (WIDEST - LABEL) // (side + GAP))


def rows_page(title: str, headings: Sequence[str], rows: Sequence[Row]) -> Tensor:
    """Draw a page of rows, uint8, shape (3, height, width).

    Each heading stands above its images. If a page would be too wide, the last images of each group are left out.

    Arguments:
        title: A line at the top.
        headings: One for each group of images; empty texts take no line.
        rows: At least one, with images in at least one group; all images have the same size.
    """
    large, font = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(TEXT_SIZE)
    height, side = next(group.shape[1:3] for row in rows for group in row.groups if not isinstance(group, str))
    left = MARGIN + wide(font, *(line for row in rows for line in row.label)) + MARGIN
    most = max(1, ((WIDEST - left) // len(headings) - MARGIN) // (side + GAP))
    offsets, right = [], left
    for number, heading in enumerate(headings):
        texts = [row.groups[number] for row in rows if isinstance(row.groups[number], str)]
        counts = [len(row.groups[number]) for row in rows if not isinstance(row.groups[number], str)]
        offsets.append(right)
        images = min(most, max(counts, default=0)) * (side + GAP) - GAP
        right += max(images, wide(font, heading, *map(str, texts))) + 2 * MARGIN
    line = TEXT_SIZE + 2
    above = MARGIN + TITLE_SIZE + 2 * ROW_GAP + line * any(headings)
    row_height = max([height, *(line * len(row.label) for row in rows)]) + ROW_GAP
    width = max(right - MARGIN, wide(large, title) + 2 * MARGIN)
    page = Image.new("RGB", (width, above + row_height * len(rows) + MARGIN - ROW_GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, INK, large)
    for offset, heading in zip(offsets, headings, strict=True):
        draw.text((offset, MARGIN + TITLE_SIZE + ROW_GAP), heading, PALE, font)
    for number, row in enumerate(rows):
        top = above + number * row_height
        for place, text in enumerate(row.label):
            draw.text((MARGIN, top + place * line), text, PALE if place else INK, font)
        for offset, group in zip(offsets, row.groups, strict=True):
            if isinstance(group, str):
                draw.text((offset, top + height // 2), group, PALE, font, anchor="lm")
                continue
            for column, image in enumerate(group[:most]):
                page.paste(Image.fromarray(image), (offset + column * (side + GAP), top))
    return as_tensor(page)


def sections_page(title: str, sections: Sequence[Section], columns: int = 10) -> Tensor:
    """Draw a page of sections, uint8, shape (3, height, width).

    Arguments:
        title: A line at the top.
        sections: Any number.
        columns: Images in a row, fewer if the page would be too wide.
    """
    large, font, small = (ImageFont.load_default(size) for size in (TITLE_SIZE, TEXT_SIZE, CAPTION_SIZE))
    top, right = MARGIN + TITLE_SIZE + ROW_GAP, MARGIN + wide(large, title)
    places: list[tuple[int, int, int, int]] = []
    for section in sections:
        count, height, width = section.images.shape[:3]
        across = max(width, wide(small, *section.captions)) + GAP
        down = height + (CAPTION_SIZE + GAP if section.captions else 0) + GAP
        in_row = max(1, min(columns, (WIDEST - 2 * MARGIN) // across))
        start = top + TEXT_SIZE + ROW_GAP
        places.append((start, across, down, in_row))
        right = max(right, MARGIN + wide(font, section.heading), MARGIN + min(count, in_row) * across)
        top = start + -(-count // in_row) * down + ROW_GAP
    page = Image.new("RGB", (right + MARGIN, top - ROW_GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, INK, large)
    for section, (start, across, down, in_row) in zip(sections, places, strict=True):
        draw.text((MARGIN, start - TEXT_SIZE - ROW_GAP + 2), section.heading, PALE, font)
        for number, image in enumerate(section.images):
            x, y = MARGIN + number % in_row * across, start + number // in_row * down
            page.paste(Image.fromarray(image), (x, y))
            if section.captions:
                middle = (x + image.shape[1] / 2, y + image.shape[0] + 2)
                draw.text(middle, section.captions[number], INK, small, anchor="ma")
    return as_tensor(page)


def wide(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, *texts: str) -> int:
    """Return the width of the widest text, in pixels; 0 if there is none."""
    return max((int(font.getlength(text)) + 1 for text in texts if text), default=0)


def as_tensor(page: Image.Image) -> Tensor:
    """Return a picture as uint8, shape (3, height, width)."""
    return torch.from_numpy(np.array(page)).permute(2, 0, 1).contiguous()
