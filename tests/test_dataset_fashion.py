"""Fashion-MNIST: its own folder and names; the format is MNIST's, and test_datasets.py and the like try that."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.fashion_mnist import FashionMNIST
from mpcc.plugins.datasets.mnist import MNIST
from mpcc.plugins.datasets.options import FashionMNISTOptions, MNISTOptions


def write(raw: Path, counts: dict[str, int]) -> None:
    """Write small sets of random images."""
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in counts.items():
        pixels = random.integers(0, 256, count * 784, dtype=np.uint8).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
        labels = bytes(index % 10 for index in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels)


def test_it_is_read_from_its_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "FashionMNIST" / "raw", {"train": 12, "t10k": 5})
    for split, count in (("all", 17), ("train", 12), ("test", 5)):
        loaded = FashionMNIST(FashionMNISTOptions(split=split)).load(32, tmp_path, download=False)
        assert loaded.images.shape == (count, 1, 32, 32)
        assert loaded.description == f"FashionMNIST: {count} images, split {split}, resized from 28 to 32 pixels"
        assert loaded.paths[-1].startswith("FashionMNIST/raw/")
    with pytest.raises(InvalidInput, match=r"^missing file .*/MNIST/raw/train-images-idx3-ubyte"):
        MNIST(MNISTOptions()).load(32, tmp_path, download=False)


def test_without_its_files_the_error_names_them(tmp_path: Path) -> None:
    data = FashionMNIST(FashionMNISTOptions())
    with pytest.raises(InvalidInput, match=r"^data set fashion-mnist needs a data folder: pass --data-root DIR"):
        data.load(32, None, download=False)
    with pytest.raises(InvalidInput, match=r"^missing file .*/FashionMNIST/raw/train-images.*pass --download"):
        data.load(32, tmp_path, download=False)


def test_it_has_the_published_counts_and_is_what_torchvision_reads(data_root: Path) -> None:
    loaded = FashionMNIST(FashionMNISTOptions()).load(28, data_root, download=False)
    assert loaded.images.shape == (70_000, 1, 28, 28)
    assert loaded.labels is not None
    for train, part, count in ((True, slice(0, 60_000), 6000), (False, slice(60_000, None), 1000)):
        assert loaded.labels[part].bincount().tolist() == [count] * 10
        expected = torchvision.datasets.FashionMNIST(data_root, train=train)
        assert torch.equal(loaded.images[part, 0], expected.data)
        assert torch.equal(loaded.labels[part], expected.targets)
        assert list(loaded.class_names) == expected.classes
