"""Sets that are made from published ones, the same at every call: unbalanced digits, a folder of garments and digits.

    python benchmarks/made_sets.py unbalanced-mnist runs/made

The published sets are read from ``MPCC_DATA``. The first 10,000 images of each are left out: settings were chosen on
them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mpcc.core.config import Layer, environment_layer, resolve
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import load_registry
from mpcc.core.system.whole_files import whole_file

__all__ = ["MADE", "main", "make"]

CHOSEN_IMAGES = 10_000
# The class that keeps a tenth of what most classes have, and the class that has twice as many.
RARE, FREQUENT, IMAGES_OF_A_CLASS = 5, 1, 2_700
GARMENTS = {0: "t-shirt", 1: "trouser", 3: "dress", 5: "sandal", 8: "bag", 9: "ankle-boot"}
DIGITS = {0: "zero", 1: "one", 3: "three", 7: "seven"}
PICTURES_OF_A_CLASS, SMALLEST, LARGEST = 150, 24, 52


def published(name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images of a published set that nothing was chosen on, 28 x 28, and their labels.

    Raises:
        InvalidInput: If the set is missing.
    """
    config = resolve(load_registry(), [environment_layer(), Layer("flag", {"data": {"name": name}})])
    data = config.data.make().load(28, config.run.data_root, False)
    assert data.labels is not None  # every published set has them
    return data.images[CHOSEN_IMAGES:, 0].numpy(), data.labels[CHOSEN_IMAGES:].numpy()


def unbalanced(path: Path) -> None:
    """Write MNIST with one class cut to a tenth of the others and another twice as large; no image is there twice."""
    images, labels = published("mnist")
    counts = dict.fromkeys(range(10), IMAGES_OF_A_CLASS)
    counts |= {RARE: IMAGES_OF_A_CLASS // 10, FREQUENT: 2 * IMAGES_OF_A_CLASS}
    # The first ones of each class, in the order of the set.
    parts = [np.flatnonzero(labels == label)[:count] for label, count in counts.items()]
    chosen = np.sort(np.concatenate(parts))
    with whole_file(path) as file:
        np.savez_compressed(file, images=images[chosen], labels=labels[chosen])


def garments_and_digits(folder: Path) -> None:
    """Write 1,500 pictures of six garments and four digits: PNG and JPEG, 24 to 52 pixels, a folder for each class."""
    random = np.random.default_rng(0)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for name, classes in (("fashion-mnist", GARMENTS), ("mnist", DIGITS)):
        images, labels = published(name)
        for label, title in classes.items():
            (part / title).mkdir(parents=True)
            for number, index in enumerate(np.flatnonzero(labels == label)[:PICTURES_OF_A_CLASS]):
                side = int(random.integers(SMALLEST, LARGEST + 1))
                picture = Image.fromarray(images[index]).resize((side, side), Image.Resampling.BICUBIC)
                if number % 2:
                    picture.save(part / title / f"{number:03}.jpg", quality=90)
                else:
                    picture.save(part / title / f"{number:03}.png")
    part.replace(folder)


MADE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "unbalanced-mnist": ("unbalanced-mnist.npz", unbalanced),
    "garments-and-digits": ("garments-and-digits", garments_and_digits),
}


def make(name: str, folder: Path) -> Path:
    """Return the path of a made set, which is built if it is not there.

    Arguments:
        name: Of `MADE`.
        folder: Where made sets are.

    Raises:
        InvalidInput: If there is no such set, or a published set that it needs is missing.
    """
    if name not in MADE:
        raise unknown_name("made set", name, MADE)
    file, build = MADE[name]
    path = folder / file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        build(path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help=f"one of {', '.join(MADE)}")
    parser.add_argument("folder", type=Path)
    flags = parser.parse_args(arguments)
    try:
        print(make(flags.name, flags.folder))
    except InvalidInput as error:
        print(f"made_sets.py: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
