"""Laws on the contents of a data set: shades, classes, repetitions, places; and on what loading writes."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mpcc.core.testing.data.written_files import written_files
from mpcc.core.testing.datasets import (
    FIRST_SIZE,
    QUICK_SECONDS,
    SECOND_SIZE,
    DatasetCase,
    companions,
    images_fit,
    images_vary,
    sample,
)
from mpcc.core.testing.report import Laws, Warned, broken, require

__all__ = ["CONTENT_LAWS"]

CONTENT_LAWS = Laws[DatasetCase]()
# Fewer grey levels are looked at one by one, and levels that are this near are neighbours.
FEW_LEVELS, NEAR = 16, 3
# Sets of fewer images may be made by hand. Of a larger one, this share of different images is too little.
MANY, DIFFERENT, FEW_DIFFERENT = 20, 0.1, 0.5
# How many images are compared with each other.
COMPARED = 1000
# An image is misplaced if another one is nearer to it than this share of its own distance.
NEARER = 0.5
GRID = 4


@CONTENT_LAWS.add("grey levels are shades between 0 and 255", after=[images_fit.name, images_vary.name])
def shades(case: DatasetCase) -> str:
    levels = torch.unique(sample(case.first().images)).tolist()
    gaps = [after - before for before, after in itertools.pairwise(levels)]
    # Each level has a neighbour: what is left of numbers around 0 that were cast to uint8, where -1 becomes 255.
    lonely = [min(pair) for pair in zip([NEAR + 1, *gaps], [*gaps, NEAR + 1], strict=True) if min(pair) > NEAR]
    require(
        len(levels) >= FEW_LEVELS or bool(lonely),
        f"all pixels are one of {', '.join(map(str, levels))}: expected shades between 0 and 255; were numbers around "
        "0 cast to uint8, where -1 becomes 255? Scale them to 0..255 first",
    )
    return f"{len(levels)} levels"


@CONTENT_LAWS.add("every class has images", after=[companions.name])
def classes(case: DatasetCase) -> str:
    given = case.first()
    if given.labels is None:
        return "no labels"
    names = list(given.class_names)
    known = given.labels[given.labels >= 0]
    counts = torch.bincount(known, minlength=len(names)).tolist()
    used = [label for label, count in enumerate(counts) if count]
    if len(used) == 1 and len(known) > 1:
        told = f"all {len(known)} labels are {used[0]}"
        require(len(names) < 2, f"{told}, but there are {len(names)} class names: expected images of each class")
        return Warned(f"{told}: every clustering agrees with a single class, so a run leaves out what needs labels")
    empty = [names[label] if names else str(label) for label, count in enumerate(counts) if not count]
    if empty:
        return Warned(f"{len(empty)} of {len(counts)} classes have no image, such as {', '.join(empty[:5])}")
    return f"{min(counts)} to {max(counts)} images of each of {len(counts)} classes"


@CONTENT_LAWS.add("images differ from each other", after=[images_fit.name, images_vary.name])
def repetitions(case: DatasetCase) -> str:
    images = evenly(sample(case.first().images), COMPARED)
    different = len(torch.unique(images.flatten(1), dim=0))
    told = f"{different} of {len(images)} images are different"
    if len(images) < MANY or different > FEW_DIFFERENT * len(images):
        return told
    require(different > DIFFERENT * len(images), f"{told}: is one image read again and again?")
    return Warned(f"{told}: are images repeated on purpose?")


@CONTENT_LAWS.add("an image keeps its place at another size", after=[images_fit.name])
def places(case: DatasetCase) -> str:
    if case.seconds >= QUICK_SECONDS:
        return "loading takes long, so no other size was tried"
    first, second = (coarse(evenly(sample(each.images), COMPARED)) for each in (case.first(), case.second()))
    distances = torch.cdist(second, first)
    own = distances.diagonal().clone()
    nearest, which = distances.fill_diagonal_(torch.inf).min(1)
    misplaced = nearest < NEARER * own
    share = float(misplaced.double().mean())
    if len(first) > 1 and share > 0.5:
        at = int(misplaced.double().argmax())
        broken(
            f"{share:.0%} of the images at {SECOND_SIZE} pixels look like others at {FIRST_SIZE} pixels, such as image "
            f"{at} like image {int(which[at])}: labels and paths belong to places, so the order must be the same at "
            "every size"
        )
    return f"R = {FIRST_SIZE} and {SECOND_SIZE}, {len(first)} images"


def evenly(images: Tensor, count: int) -> Tensor:
    """Return at most this many images, evenly spaced."""
    return images[torch.linspace(0, len(images) - 1, min(count, len(images)), dtype=torch.float64).long()]


def coarse(images: Tensor) -> Tensor:
    """Return images as a few numbers each, which do not depend on their size."""
    return F.adaptive_avg_pool2d(images.double(), GRID).flatten(1)


@CONTENT_LAWS.add("loading writes nothing outside of the data folder")
def writes(case: DatasetCase) -> str:
    with written_files() as paths:
        case.load(FIRST_SIZE)
    root = None if case.root is None else Path(case.root).absolute()
    outside = sorted(
        str(path)
        for path in paths
        if path.exists() and "__pycache__" not in path.parts and not (root and path.is_relative_to(root))
    )
    outside = [path for path in outside if not path.startswith("/dev/")]
    require(
        not outside,
        f"it writes {', '.join(outside[:3])}: a data set may write into the data folder only (root), and only if "
        "download is true",
    )
    return f"{len(paths)} files inside of it" if paths else "it writes nothing"
