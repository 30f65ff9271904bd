"""The contract kit over every registered plugin, and over the options that change what a plugin is."""

from __future__ import annotations

import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpcc.core.config.options import convert, fields, make
from mpcc.core.registry import load_registry
from mpcc.core.testing import check_architecture, check_dataset, check_metric, check_objective, check_prior

REGISTRY = load_registry()

# Beside the defaults: what else a prior can be, by options. A prior without the option is not asked.
VARIANTS: list[dict[str, Any]] = [
    {"weights": "trainable", "input_map": "asinh", "locations": "normal", "scale_floor": 0.01, "initial_raw_scale": -3},
    {"learn_df": True},
    {"df": 1.0},
    {"encoder": "logistic"},
    {"rank": 1, "initial_factor": 1.0},
]


def options_of(kind: str, name: str, **values: Any) -> Any:
    """The options of a registered plugin, its defaults first; None if it lacks one of these options."""
    entry = REGISTRY.entry(kind, name)
    cls = entry.options_class()
    known = {} if cls is None else fields(cls)
    if cls is None or not values.keys() <= known.keys():
        return None
    given = {**entry.defaults, **values}
    return make(cls, {key: convert(value, known[key], key) for key, value in given.items()}, name)


CASES = [
    pytest.param(name, options_of("prior", name, **variant), id=f"{name}-{next(iter(variant))}")
    for name in REGISTRY.names("prior")
    for variant in VARIANTS
    if options_of("prior", name, **variant) is not None
]


@pytest.mark.parametrize("name", REGISTRY.names("prior"))
def test_every_prior_fulfils_its_contract(name: str) -> None:
    assert not check_prior(name).warnings


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_prior_fulfils_its_contract_with_other_options(name: str, options: Any) -> None:
    check_prior(name, options)


@pytest.mark.parametrize("name", REGISTRY.names("architecture"))
def test_every_architecture_fulfils_its_contract(name: str) -> None:
    assert not check_architecture(name).warnings


@pytest.mark.parametrize("name", REGISTRY.names("objective"))
def test_every_objective_fulfils_its_contract(name: str) -> None:
    check_objective(name)


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
@pytest.mark.parametrize("name", ["vade", "vae"])
def test_the_objectives_with_a_likelihood_fulfil_their_contract_with_each(name: str, likelihood: str) -> None:
    check_objective(name, options_of("objective", name, likelihood=likelihood))


@pytest.mark.parametrize("name", REGISTRY.names("metric"))
def test_every_metric_fulfils_its_contract(name: str) -> None:
    assert not check_metric(name).warnings


# Data sets need files: a few of each kind, in the layout of the real ones.


def write_nothing(root: Path) -> None:
    """For a set that brings its own."""


def write_mnist(root: Path) -> None:
    random = np.random.default_rng(0)
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 5)):
        pixels = random.integers(0, 256, count * 784, dtype=np.uint8).tobytes()
        labels = bytes(index % 10 for index in range(count))
        images = struct.pack(">4I", 0x803, count, 28, 28) + pixels
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels)


def write_omniglot(root: Path) -> None:
    random = np.random.default_rng(1)
    drawings = root / "drawings" / "images_background_small1"
    for number in (1, 2):
        folder = drawings / "Greek" / f"character{number:02d}"
        folder.mkdir(parents=True)
        for drawer in range(1, 21):
            image = Image.fromarray(random.random((105, 105)) > 0.1)
            image.save(folder / f"{393 + number:04d}_{drawer:02d}.png")
    archive = root / "omniglot-py" / "images_background_small1"
    shutil.make_archive(str(archive), "zip", root / "drawings", "images_background_small1")


def write_folder(root: Path) -> None:
    random = np.random.default_rng(2)
    for name in ("cats", "dogs"):
        (root / name).mkdir()
        for index in range(3):
            Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


def write_fashion(root: Path) -> None:
    write_mnist(root)
    (root / "MNIST").rename(root / "FashionMNIST")


def write_cifar(root: Path) -> None:
    """Both sets, as Python 3 writes them; tests of their own have the files of Python 2."""
    random = np.random.default_rng(3)

    def batch(labels: str, classes: int) -> dict[str, Any]:
        data = random.integers(0, 256, (classes, 3072), dtype=np.uint8)
        return {"data": data, labels: list(range(classes))}

    contents = {
        "cifar-10-batches-py/batches.meta": {"label_names": [f"class {label}" for label in range(10)]},
        "cifar-10-batches-py/test_batch": batch("labels", 10),
        "cifar-100-python/meta": {"coarse_label_names": [f"class {label}" for label in range(20)]},
        "cifar-100-python/train": batch("coarse_labels", 20),
        "cifar-100-python/test": batch("coarse_labels", 20),
    }
    for number in range(1, 6):
        contents[f"cifar-10-batches-py/data_batch_{number}"] = batch("labels", 10)
    for name, content in contents.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(pickle.dumps(content, protocol=2))


def write_arrays(root: Path) -> None:
    random = np.random.default_rng(4)
    np.save(root / "images.npy", random.integers(0, 256, (11, 9, 12, 3), dtype=np.uint8))
    np.save(root / "labels.npy", np.arange(11) % 3 + 5)
    np.save(root / "partly.npy", np.arange(11) % 3 - 1)


def write_messy_folder(root: Path) -> None:
    write_folder(root)
    (root / "cats" / "broken.png").write_bytes(b"")
    Image.new("L", (7, 7), 90).save(root / "dogs" / "grey.png")


# How the files of each data set are written, and the options to load them with; "{root}" is the folder.
FILES: dict[str, tuple[Callable[[Path], None], list[dict[str, Any]]]] = {
    "mnist": (write_mnist, [{}, {"split": "test"}]),
    "fashion-mnist": (write_fashion, [{}, {"split": "train"}]),
    "omniglot": (write_omniglot, [{"classes": 2, "copies": 3}]),
    "cifar10": (write_cifar, [{}, {"split": "train"}]),
    "cifar20": (write_cifar, [{}, {"split": "test"}]),
    "folder": (
        write_messy_folder,
        [
            {"unreadable": "skip", "channels": "3"},
            {"unreadable": "skip", "channels": "1", "classes": "none", "memory": "stream"},
        ],
    ),
    "arrays": (
        write_arrays,
        [
            {"path": "{root}/images.npy"},
            {"path": "{root}/images.npy", "labels": "{root}/labels.npy", "memory": "stream"},
            {"path": "{root}/images.npy", "labels": "{root}/partly.npy", "range": "percentiles", "fit": "pad"},
        ],
    ),
}


@pytest.mark.parametrize("name", REGISTRY.names("dataset"))
def test_every_data_set_fulfils_its_contract(name: str, tmp_path: Path) -> None:
    write, variants = FILES.get(name, (write_nothing, [{}]))
    write(tmp_path)
    for values in variants:
        filled = {key: str(value).format(root=tmp_path) for key, value in values.items()}
        check_dataset(name, options_of("dataset", name, **filled), root=tmp_path)
