"""Folders of pictures whose values are not 0..255: ranges, warnings, and the same range for new images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import FolderOptions

SIZE = 20


def load(folder: Path, **options: Any) -> ImageSet:
    return Folder(FolderOptions(**options)).load(SIZE, folder, download=False)


def write(folder: Path, **values: np.ndarray) -> Path:
    """Write pictures of the loaded size, by name, as TIFF; colour as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in values.items():
        Image.fromarray(picture).save(folder / f"{name}.{'png' if picture.ndim == 3 else 'tif'}")
    return folder


def random(kind: str, low: float, high: float, seed: int = 0, channels: int | None = None) -> np.ndarray:
    shape = (SIZE, SIZE) if channels is None else (SIZE, SIZE, channels)
    values = np.random.default_rng(seed).uniform(low, high, shape)
    values.ravel()[:2] = low, high
    return values.astype(kind)


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255))


def levels(loaded: ImageSet, index: int = 0) -> np.ndarray:
    return loaded.images[torch.tensor([index])][0].permute(1, 2, 0).squeeze(-1).numpy()


@pytest.mark.parametrize("memory", ["load", "stream"])
def test_12_bits_in_files_of_16_are_told_and_stretched_on_request(
    memory: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = {name: random("uint16", 90, 2400 - 10 * seed, seed) for seed, name in enumerate("abc")}
    write(tmp_path, **pictures)
    loaded = load(tmp_path, memory=memory)
    assert np.array_equal(levels(loaded), expected(pictures["a"], 0, 65535))
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "3 uint16 images: values 90..2400 use 3.5% of the range 0..65535, about 10 of 256 grey levels; --data.range "
        "set makes the smallest value black and the largest white"
    ]
    caplog.clear()
    everything = np.concatenate([picture.ravel() for picture in pictures.values()])
    ranges = {
        "set": (90, 2400),
        "percentiles:10,90": tuple(np.percentile(everything, (10, 90), method="nearest")),
        "90,2000": (90, 2000),
        "4095": (0, 4095),
        "uint16:set": (90, 2400),
    }
    for option, (low, high) in ranges.items():
        chosen = load(tmp_path, memory=memory, range=option)
        for index, picture in enumerate(pictures.values()):
            assert np.array_equal(levels(chosen, index), expected(picture, low, high)), option
    assert [record for record in caplog.records if record.levelno == logging.WARNING] == []


def test_a_large_set_that_is_read_on_demand_is_judged_by_a_sample(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, **{f"p{index:03}": random("uint16", 90, 2400, index) for index in range(70)})
    load(tmp_path, memory="stream")
    assert caplog.messages[0].startswith("64 of 70 uint16 images: values 90..2400 use 3.5%")


def test_8_bits_are_told_and_stretched_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = {name: random("uint8", 30, 50, seed, channels=3) for seed, name in enumerate("ab")}
    write(tmp_path, **pictures)
    assert np.array_equal(levels(load(tmp_path)), pictures["a"])
    assert caplog.messages[0].startswith("2 uint8 images: values 30..50 use 7.8% of the range 0..255")
    assert np.array_equal(levels(load(tmp_path, range="set"), 1), expected(pictures["b"], 30, 50))


def test_transparent_pixels_do_not_count_and_stay_background(tmp_path: Path) -> None:
    grey = random("uint8", 30, 50)
    alpha = np.full((SIZE, SIZE), 255, np.uint8)
    alpha[5], grey[5] = 0, 200
    Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha))).save(tmp_path / "a.png")
    got = levels(load(tmp_path, range="set"))
    assert (got[5] == 255).all()
    assert np.array_equal(np.delete(got, 5, 0), np.delete(expected(grey, 30, 50), 5, 0))


def test_the_value_that_means_transparent_in_16_bits_shows_the_background(tmp_path: Path) -> None:
    values = random("uint16", 1000, 60_000)
    values[3] = 7
    Image.fromarray(values).save(tmp_path / "a.png", transparency=7)
    for background, shown in (("white", 255), ("black", 0)):
        got = levels(load(tmp_path, background=background))
        assert (got[3] == shown).all()
        assert np.array_equal(np.delete(got, 3, 0), np.delete(expected(values, 0, 65535), 3, 0))


@pytest.mark.parametrize(
    ("kind", "low", "high", "black", "white"),
    [
        ("int32", 0, 254, 0, 255),
        ("int32", 0, 4000, 0, 4000),
        ("int32", -1000, 3000, -1000, 3000),
        ("float32", 0, 0.9, 0, 1),
        ("float32", -0.9, 0.9, -1, 1),
        ("float32", 3, 240, 0, 255),
        ("float32", -2, 3000, -2, 3000),
    ],
)
def test_32_bits_and_floating_point_have_a_usual_range_or_that_of_the_set(
    kind: str, low: float, high: float, black: float, white: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pictures = {name: random(kind, low, high, seed) for seed, name in enumerate("ab")}
    write(tmp_path, **pictures)
    for memory in ("load", "stream"):
        caplog.clear()
        loaded = load(tmp_path, memory=memory)
        for index, picture in enumerate(pictures.values()):
            assert np.array_equal(levels(loaded, index), expected(picture, black, white))
        assert caplog.messages == [f"{kind} values: black is {black}, white is {white} (--data.range)"]
        assert loaded.settled == {"range": f"{kind}:{black},{white}"}


@pytest.mark.parametrize("memory", ["load", "stream"])
def test_each_storage_type_of_a_mixed_folder_has_its_own_range(memory: str, tmp_path: Path) -> None:
    pictures = {
        "a": random("uint8", 0, 255),
        "b": random("uint8", 0, 255, 1, channels=3),
        "c": random("uint16", 100, 65535, 2),
        "d": random("int32", 0, 255, 3),
        "e": random("float32", 0, 1, 4),
    }
    write(tmp_path, **pictures)
    with pytest.raises(InvalidInput, match=r"is grey but .*b\.png is colour \(4 grey and 1 colour images\)"):
        load(tmp_path, memory=memory)
    loaded = load(tmp_path, channels="1", memory=memory)
    for index, (name, white) in enumerate({"a": 255, "b": None, "c": 65535, "d": 255, "e": 1}.items()):
        if white is not None:
            assert np.array_equal(levels(loaded, index), expected(pictures[name], 0, white))
    colour = load(tmp_path, channels="3", memory=memory)
    assert np.array_equal(levels(colour, 1), pictures["b"])
    assert np.array_equal(levels(colour, 2), np.repeat(expected(pictures["c"], 0, 65535)[..., None], 3, 2))
    ranges = load(tmp_path, channels="1", range="set", memory=memory).settled
    assert ranges == {"range": "float32:0,1 int32:0,255 uint16:100,65535 uint8:0,255"}


def test_floating_point_images_of_two_ranges_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, a=random("float32", 0, 1), b=random("float32", 0, 255))
    load(tmp_path)
    assert caplog.messages == [
        "1 of 2 float32 images have no values above 1, such as a.tif, while others reach 255: the former are nearly "
        "black; scale all alike"
    ]


def test_values_beyond_numbers_are_clipped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    values = random("uint16", 0, 9000)
    write(tmp_path, a=values)
    assert np.array_equal(levels(load(tmp_path, range="1000,4095")), expected(values, 1000, 4095))
    assert caplog.messages == ["uint16 values 0..9000 go beyond the range 1000..4095 and are clipped (--data.range)"]


def test_the_range_that_was_found_converts_other_images_in_the_same_way(tmp_path: Path) -> None:
    first, second = random("uint16", 90, 2400), random("uint16", 500, 5000, 1)
    settled = load(write(tmp_path / "first", a=first), range="set").settled
    other = load(write(tmp_path / "second", a=second), **settled)
    assert np.array_equal(levels(other), expected(second, 90, 2400))
    assert other.settled == settled


def test_a_wrong_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^expected type, set, percentiles.*got 'sett' \(nearest valid choice: set\)$"
    ):
        FolderOptions(range="sett")
    write(tmp_path, a=np.full((4, 4), 7, np.uint16))
    with pytest.raises(InvalidInput, match=rf"^{tmp_path}: all uint16 values are 7: expected two different values"):
        load(tmp_path, range="set")
