"""Data sets: laws over all of them first, then digits and MNIST. most others have files of their own."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from mpcc.core.config import options
from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.arrays import Arrays
from mpcc.plugins.datasets.cifar import CIFAR10, CIFAR20
from mpcc.plugins.datasets.digits import Digits
from mpcc.plugins.datasets.fashion_mnist import FashionMNIST
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.mnist import MNIST
from mpcc.plugins.datasets.omniglot import Omniglot
from mpcc.plugins.datasets.options import (
    ArraysOptions,
    CIFAR10Options,
    CIFAR20Options,
    DigitsOptions,
    FashionMNISTOptions,
    FolderOptions,
    MNISTOptions,
    OmniglotOptions,
)
from mpcc.plugins.datasets.resizing import resize_images
from mpcc.plugins.datasets.splits import parts_of

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def write_mnist(root: Path, train: int = 12, test: int = 5) -> Path:
    """Write a small set of random images in MNIST's format; return the folder of its files."""
    random = np.random.default_rng(0)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        pixels = random.integers(0, 256, count * 784, dtype=np.uint8).tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
        labels = bytes(index % 10 for index in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels)
    return raw


def write_omniglot(root: Path) -> None:
    """Zip 2 characters x 20 random drawings as the first small set."""
    drawings = root / "drawings" / "images_background_small1"
    random = np.random.default_rng(1)
    for number in (1, 2):
        folder = drawings / "Greek" / f"character{number:02d}"
        folder.mkdir(parents=True)
        for drawer in range(1, 21):
            image = Image.fromarray(random.random((105, 105)) > 0.1)
            image.save(folder / f"{393 + number:04d}_{drawer:02d}.png")
    archive = root / "omniglot-py" / "images_background_small1"
    shutil.make_archive(str(archive), "zip", root / "drawings", "images_background_small1")


def write_folder(root: Path, classes: tuple[str, ...] = ("",)) -> None:
    """Write three random colour images a class."""
    random = np.random.default_rng(2)
    for name in classes:
        (root / name).mkdir(exist_ok=True)
        for index in range(3):
            Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


def _digits(root: Path) -> Dataset:
    return Digits(DigitsOptions())


def _mnist(root: Path) -> Dataset:
    write_mnist(root)
    return MNIST(MNISTOptions())


def _omniglot(root: Path) -> Dataset:
    write_omniglot(root)
    return Omniglot(OmniglotOptions(classes=2, copies=3))


def _flat_folder(root: Path) -> Dataset:
    write_folder(root)
    return Folder(FolderOptions())


def _class_folders(root: Path) -> Dataset:
    write_folder(root, ("cats", "dogs"))
    return Folder(FolderOptions())


def _fashion_mnist(root: Path) -> Dataset:
    write_mnist(root)
    (root / "MNIST").rename(root / "FashionMNIST")
    return FashionMNIST(FashionMNISTOptions())


def write_cifar(root: Path, meta: str, names: str, labels: str, classes: int, files: tuple[str, ...]) -> None:
    """Write a random image of each class a file, in the format of the CIFAR sets."""
    random = np.random.default_rng(3)
    root.mkdir()
    (root / meta).write_bytes(pickle.dumps({names: [f"class {label}" for label in range(classes)]}))
    for file in files:
        data = random.integers(0, 256, (classes, 3072), dtype=np.uint8)
        (root / file).write_bytes(pickle.dumps({"data": data, labels: list(range(classes))}))


def _cifar10(root: Path) -> Dataset:
    files = (*CIFAR10.train, *CIFAR10.test)
    write_cifar(root / "cifar-10-batches-py", "batches.meta", "label_names", "labels", 10, files)
    return CIFAR10(CIFAR10Options())


def _cifar20(root: Path) -> Dataset:
    write_cifar(root / "cifar-100-python", "meta", "coarse_label_names", "coarse_labels", 20, ("train", "test"))
    return CIFAR20(CIFAR20Options())


def _arrays(root: Path) -> Dataset:
    np.save(root / "x.npy", np.random.default_rng(4).integers(0, 256, (6, 9, 12, 3), dtype=np.uint8))
    np.save(root / "y.npy", np.array([5, 2, 5, 5, 9, 2]))
    return Arrays(ArraysOptions(path=root / "x.npy", labels=root / "y.npy"))


Make = Callable[[Path], Dataset]
MAKERS = [
    *(_digits, _mnist, _fashion_mnist, _omniglot, _cifar10, _cifar20),
    *(_flat_folder, _class_folders, _arrays),
]
every_set = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.strip("_"))


@every_set
@pytest.mark.parametrize("image_size", [5, 8, 28, 32, 128])
def test_images_are_contiguous_bytes_of_the_size_asked_for(make: Make, image_size: int, tmp_path: Path) -> None:
    images = make(tmp_path).load(image_size, tmp_path, download=False).images
    assert images.dtype == torch.uint8
    assert images.device.type == "cpu"
    assert images.is_contiguous()
    assert images.ndim == 4
    assert len(images) > 0
    assert images.shape[1] in (1, 3)
    assert images.shape[2:] == (image_size, image_size)


@every_set
def test_what_goes_with_the_images_fits_them(make: Make, tmp_path: Path) -> None:
    loaded = make(tmp_path).load(8, tmp_path, download=False)
    assert isinstance(loaded, ImageSet)
    assert len(loaded.paths) == len(set(loaded.paths)) == len(loaded)
    assert loaded.description
    assert "\n" not in loaded.description
    if loaded.labels is None:
        assert len(loaded.class_names) == 0
    else:
        assert loaded.labels.dtype == torch.int64
        assert loaded.labels.shape == (len(loaded),)
        assert loaded.labels.unique().tolist() == list(range(len(loaded.class_names)))


@every_set
def test_loading_twice_gives_the_same_and_leaves_the_random_state_alone(make: Make, tmp_path: Path) -> None:
    data = make(tmp_path)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (data.load(16, tmp_path, download=False) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert list(first.paths) == list(second.paths)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


@every_set
def test_the_channels_that_are_known_beforehand_are_those_of_the_images(make: Make, tmp_path: Path) -> None:
    data = make(tmp_path)
    images = data.load(8, tmp_path, download=False).images
    assert data.channels == (None if isinstance(data, (Folder, Arrays)) else images.shape[1])


@pytest.mark.parametrize(
    "data",
    [
        *(MNIST(MNISTOptions()), FashionMNIST(FashionMNISTOptions()), Omniglot(OmniglotOptions())),
        *(CIFAR10(CIFAR10Options()), CIFAR20(CIFAR20Options()), Folder(FolderOptions())),
    ],
)
def test_without_a_data_folder_the_error_says_how_to_give_one(data: Dataset) -> None:
    with pytest.raises(InvalidInput, match=r"pass --data(-root DIR or set MPCC_DATA|\.path DIR)"):
        data.load(32, None, download=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OmniglotOptions(classes=0), "classes must be at least 1, got 0"),
        (lambda: OmniglotOptions(copies=0), "copies must be at least 1, got 0"),
        (lambda: OmniglotOptions(augment_seed=-1), "augment_seed must be at least 0, got -1"),
        (lambda: OmniglotOptions(augment_seed=2**63), f"augment_seed must be at most {2**63 - 1}, got {2**63}"),
    ],
)
def test_an_option_out_of_range_names_itself_and_the_range(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("cls", "name", "given", "choices"),
    [
        (MNISTOptions, "split", "valid", "all, test, train"),
        (OmniglotOptions, "source", "tiny", "auto, large, small, small1, small2"),
        (FolderOptions, "channels", "4", "1, 3, auto"),
        (FolderOptions, "background", "red", "black, white"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(
    cls: type, name: str, given: str, choices: str
) -> None:
    with pytest.raises(InvalidInput, match=f"unknown value for {name}: '{given}': .*expected one of {choices}"):
        options.make(cls, {name: given}, "a data set")


def test_resizing_keeps_flat_images_flat_and_channels_apart() -> None:
    images = torch.tensor([[3, 200, 77], [0, 255, 128]], dtype=torch.uint8)[:, :, None, None].expand(2, 3, 28, 28)
    for image_size in (7, 28, 32):
        assert torch.equal(resize_images(images, image_size), images[:, :, :1, :1].expand(2, 3, image_size, image_size))


def test_digits_of_native_size_are_scikit_learns_grey_levels_times_255_over_16() -> None:
    loaded = Digits(DigitsOptions()).load(8, None, download=True)
    expected = load_digits()
    assert loaded.images.shape == (1797, 1, 8, 8)
    assert np.abs(loaded.images[:, 0].numpy() - expected.images * 255 / 16).max() <= 0.5
    assert loaded.images.max() == 255
    assert loaded.labels is not None
    assert np.array_equal(loaded.labels, expected.target)


def test_mnist_reads_what_was_written(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path)
    pixels = [
        np.frombuffer((raw / f"{part}-images-idx3-ubyte").read_bytes()[16:], np.uint8) for part in ("train", "t10k")
    ]
    loaded = MNIST(MNISTOptions()).load(28, tmp_path, download=False)
    assert np.array_equal(loaded.images.flatten(), np.concatenate(pixels))
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [*range(10), 0, 1, 0, 1, 2, 3, 4]
    assert loaded.paths[0] == "MNIST/raw/train-images-idx3-ubyte#0"
    assert loaded.paths[12] == "MNIST/raw/t10k-images-idx3-ubyte#0"


def test_mnist_splits_make_up_the_whole_and_need_only_their_own_files(tmp_path: Path) -> None:
    raw = write_mnist(tmp_path)
    whole = MNIST(MNISTOptions()).load(28, tmp_path, download=False)
    train = MNIST(MNISTOptions(split="train")).load(28, tmp_path, download=False)
    for file in raw.glob("train-*"):
        file.unlink()
    test = MNIST(MNISTOptions(split="test")).load(28, tmp_path, download=False)
    assert torch.equal(torch.cat([train.images, test.images]), whole.images)
    assert [*train.paths, *test.paths] == list(whole.paths)


@pytest.mark.parametrize("image_size", [14, 32])
def test_mnist_is_resized_as_pillow_resizes_each_image(image_size: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    original = MNIST(MNISTOptions()).load(28, tmp_path, download=False).images
    resized = MNIST(MNISTOptions()).load(image_size, tmp_path, download=False).images
    for before, after in zip(original[:, 0].numpy(), resized[:, 0].numpy(), strict=True):
        expected = Image.fromarray(before).resize((image_size, image_size), Image.Resampling.BILINEAR)
        assert np.array_equal(after, np.asarray(expected))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (IMAGES, lambda data: b"", "expected a header of 16 bytes, got 0"),
        (IMAGES, lambda data: data[:15], "expected a header of 16 bytes, got 15"),
        (IMAGES, lambda data: data[:16], "expected 9424 bytes for 12 items, got 16"),
        (IMAGES, lambda data: data[:-1], "expected 9424 bytes for 12 items, got 9423"),
        (IMAGES, lambda data: data + b"\0", "expected 9424 bytes for 12 items, got 9425"),
        (IMAGES, gzip.compress, "expected the magic number 0x00000803 of an unpacked idx3 file, got 0x1f8b"),
        (IMAGES, lambda data: b"\0\0\x0d" + data[3:], "magic number"),
        (IMAGES, lambda data: struct.pack(">4I", 0x803, 12, 14, 56) + data[16:], "28 x 28 pixels, got 14 x 56"),
        (IMAGES, lambda data: struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), "for 4294967295 items, got 16"),
        (IMAGES, lambda data: struct.pack(">4I", 0x803, 0, 28, 28), "expected at least one item, got 0"),
        (IMAGES, lambda data: struct.pack(">4I", 0x803, 11, 28, 28) + data[16:-784], "holds 12 labels"),
        (LABELS, lambda data: data[:7], "expected a header of 8 bytes, got 7"),
        (LABELS, lambda data: data[:-1], "expected 20 bytes for 12 items, got 19"),
        (LABELS, lambda data: data[:-1] + b"\x0a", "holds the label 10: expected 0 to 9"),
    ],
)
def test_a_broken_mnist_file_is_named_with_what_was_expected(
    name: str, damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    file = write_mnist(tmp_path) / name
    file.write_bytes(damage(file.read_bytes()))
    for download in (False, True):
        with pytest.raises(InvalidInput) as caught:
            MNIST(MNISTOptions()).load(32, tmp_path, download)
        assert message in str(caught.value)
        assert str(file) in str(caught.value)
        assert "pass --download" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [IMAGES, LABELS, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_mnist_file_is_named_with_the_remedies(name: str, tmp_path: Path) -> None:
    file = write_mnist(tmp_path) / name
    file.unlink()
    with pytest.raises(InvalidInput) as caught:
        MNIST(MNISTOptions()).load(32, tmp_path, download=False)
    for part in (str(file), "--download", "--data-root", "MPCC_DATA"):
        assert part in str(caught.value)
    file.mkdir()
    with pytest.raises(InvalidInput, match=r"cannot read|broken file"):
        MNIST(MNISTOptions()).load(32, tmp_path, download=False)


def test_mnist_has_the_published_counts(data_root: Path) -> None:
    loaded = MNIST(MNISTOptions()).load(32, data_root, download=False)
    assert loaded.images.shape == (70_000, 1, 32, 32)
    assert loaded.labels is not None
    assert loaded.labels[:60_000].bincount().tolist() == TRAIN_COUNTS
    assert loaded.labels[60_000:].bincount().tolist() == TEST_COUNTS


def test_mnist_at_28_pixels_is_what_torchvision_reads(data_root: Path) -> None:
    loaded = MNIST(MNISTOptions(split="test")).load(28, data_root, download=False)
    expected = torchvision.datasets.MNIST(data_root, train=False)
    assert torch.equal(loaded.images[:, 0], expected.data)
    assert loaded.labels is not None
    assert torch.equal(loaded.labels, expected.targets)


@pytest.mark.parametrize("shape", [(3, 9, 12), (1, 12, 9), (3, 5, 40)])
def test_of_images_that_are_not_square_the_centre_is_kept(shape: tuple[int, int, int]) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8))
    side = min(shape[1:])
    top, left = (shape[1] - side) // 2, (shape[2] - side) // 2
    centre = images[..., top : top + side, left : left + side]
    assert torch.equal(resize_images(images, side), centre)
    # Pillow looks a little beyond the cut, as it would if it cut afterwards: inside, that makes no difference.
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert torch.equal(resize_images(images, 2 * side)[inside], resize_images(centre.contiguous(), 2 * side)[inside])


def test_a_split_is_one_part_or_both_in_order() -> None:
    found = {split: parts_of(split, train=["a", "b"], test=["c"]) for split in ("all", "train", "test")}
    assert found == {"all": ["a", "b", "c"], "train": ["a", "b"], "test": ["c"]}
