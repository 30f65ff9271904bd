"""Build ``ROOT/cifar-100-python`` from sheets of images, with the test split of CIFAR-100 only.

    python benchmarks/cifar100_pickles.py SHEETS --root ROOT

SHEETS is a folder with ``test-00.webp``, ``test-01.webp``, .. (lossless sheets of 32 x 32 tiles, row by row) and
``labels.npz`` (``test_fine``, ``test_coarse``, ``fine_classes``, ``coarse_classes``, ``test_filenames``). The new files
have the layout of the published ones, down to the text type of Python 2, but other md5 sums, and the sheets have no
train split. By default the published *test* images are divided into two disjoint files of the same class counts,
``train`` and ``test``. Both splits can then be read, and ``--data.split all`` is the published test split, each image
once. With ``--test-only``, ``test`` is the whole test split and there is no ``train``. Either way results are for
10,000 images, without any image of the published train split: say so where you report them. ``ORIGIN.txt`` beside the
files says the same, and the log of a run says that there are fewer images than were published.
"""

from __future__ import annotations

import argparse
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from PIL import Image

__all__ = ["Python2Pickler", "build", "deal", "tiles"]

PIXELS = 32


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes protocol 2 as Python 2 and numpy 1 do, with one type for text and bytes."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, protocol=2)

    def save_text(self, value: str | bytes) -> None:
        data = value.encode("ascii") if isinstance(value, str) else value
        short = len(data) < 256
        code = pickle.SHORT_BINSTRING if short else pickle.BINSTRING
        self.write(code + struct.pack("<B" if short else "<i", len(data)) + data)
        self.memoize(value)

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__qualname__}\n".encode("ascii"))
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text
    dispatch[type(pickle.loads)] = dispatch[type] = save_global


def tiles(sheet: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Cut a sheet into its tiles, uint8 (n, 32, 32, 3), row by row."""
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    rows, columns = pixels.shape[0] // PIXELS, pixels.shape[1] // PIXELS
    cut = pixels.reshape(rows, PIXELS, columns, PIXELS, 3).transpose(0, 2, 1, 3, 4)
    return cut.reshape(-1, PIXELS, PIXELS, 3)


def deal(labels: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[list[int], list[int]]:
    """Divide images into two halves; the images of each class go to both halves in turn.

    Returns:
        The sorted indices of each half; no index is in both.
    """
    halves: tuple[list[int], list[int]] = ([], [])
    for label in np.unique(labels):
        for turn, index in enumerate(np.flatnonzero(labels == label)):
            halves[turn % 2].append(int(index))
    return sorted(halves[0]), sorted(halves[1])


def build(sheets: Path, root: Path, *, test_only: bool) -> Path:
    """Write the files and return their folder."""
    images = np.concatenate([tiles(sheet) for sheet in sorted(sheets.glob("test-*.webp"))])
    with np.load(sheets / "labels.npz", allow_pickle=False) as archive:
        fine, coarse = archive["test_fine"], archive["test_coarse"]
        names = {key: [str(name) for name in archive[f"{key}_classes"]] for key in ("fine", "coarse")}
        filenames = [str(name) for name in archive["test_filenames"]]
    if not len(images) == len(fine) == len(coarse) == len(filenames):
        raise SystemExit(
            f"{sheets}: {len(images)} images but {len(fine)}, {len(coarse)} labels, {len(filenames)} names"
        )
    whole = list(range(len(images)))
    parts = {"test": whole} if test_only else dict(zip(("train", "test"), deal(fine), strict=True))
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, chosen) in enumerate(parts.items(), 1):
        content = {
            "filenames": [filenames[index] for index in chosen],
            "batch_label": f"part {number} of {len(parts)} of the test split",
            "fine_labels": [int(label) for label in fine[chosen]],
            "coarse_labels": [int(label) for label in coarse[chosen]],
            # All of red, then green, then blue.
            "data": np.ascontiguousarray(images[chosen].transpose(0, 3, 1, 2)).reshape(len(chosen), -1),
        }
        write(folder / name, content)
    write(folder / "meta", {"fine_label_names": names["fine"], "coarse_label_names": names["coarse"]})
    origin = "the whole test split is test; there is no train" if test_only else "train and test are its two halves"
    (folder / "ORIGIN.txt").write_text(
        f"Built by benchmarks/cifar100_pickles.py from {len(images)} images of the published test split of CIFAR-100: "
        f"{origin}.\nNo image of the published train split is here. These are not the published files.\n",
        encoding="utf-8",
    )
    return folder


def write(file: Path, content: dict[str, Any]) -> None:
    """Write one file."""
    with file.open("wb") as opened:
        Python2Pickler(opened).dump(content)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheets", type=Path, help="folder of test-*.webp and labels.npz")
    parser.add_argument("--root", type=Path, required=True, help="data folder to write cifar-100-python into")
    parser.add_argument("--test-only", action="store_true", help="write the whole test split as test, and no train")
    flags = parser.parse_args(arguments)
    folder = build(flags.sheets, flags.root, test_only=flags.test_only)
    for file in sorted(folder.iterdir()):
        print(f"{file}: {file.stat().st_size} bytes")
    print((folder / "ORIGIN.txt").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
