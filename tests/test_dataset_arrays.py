"""A user's own arrays: layouts, value ranges, labels, files that are broken or hostile, and sets larger than memory."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mpcc.core.config import read_config, resolve
from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry
from mpcc.plugins.datasets import memory as memory_module
from mpcc.plugins.datasets.arrays import Arrays
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import ArraysOptions, FolderOptions

BYTES = np.random.default_rng(0).integers(0, 256, (7, 9, 12, 3), dtype=np.uint8)
LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


def load(path: Path, image_size: int = 8, **options: Any) -> ImageSet:
    return Arrays(ArraysOptions(path=path, **options)).load(image_size, None, download=False)


@pytest.fixture(autouse=True)
def every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mpcc")


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 800
    return message


def save(path: Path, **arrays: np.ndarray) -> Path:
    """Write arrays into a file of the kind that its name says; one called ``only`` without a name where that goes."""
    if path.suffix == ".npy":
        np.save(path, arrays["only"])
    elif path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        torch.save(tensors.get("only", tensors), path)
    return path


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pt", "x.pth"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
@pytest.mark.parametrize("given", ["auto", "named"])
def test_images_of_every_layout_in_every_file_are_read_as_they_are(
    name: str, layout: str, given: str, tmp_path: Path
) -> None:
    square = BYTES[:, :8, :8]
    array = {"NHW": square[..., 0], "NHWC": square, "NCHW": square.transpose(0, 3, 1, 2)}[layout]
    loaded = load(save(tmp_path / name, only=array), layout=layout if given == "named" else "auto")
    expected = square[..., :1] if layout == "NHW" else square
    assert np.array_equal(loaded.images, expected.transpose(0, 3, 1, 2))
    assert loaded.images.is_contiguous()
    assert loaded.labels is None
    assert list(loaded.paths) == [f"{name}#{index}" for index in range(7)]
    assert (
        f"7 {'grey' if layout == 'NHW' else 'colour'} images, {layout}, values 0..255, no labels" in loaded.description
    )


@pytest.mark.parametrize("image_size", [4, 9, 16])
def test_images_become_what_the_same_images_in_a_folder_become(image_size: int, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for index, image in enumerate(BYTES):
        Image.fromarray(image).save(tmp_path / "files" / f"{index}.png")
    expected = Folder(FolderOptions()).load(image_size, tmp_path / "files", download=False).images
    for array in (BYTES, BYTES.transpose(0, 3, 1, 2)):
        assert torch.equal(load(save(tmp_path / "x.npy", only=array), image_size).images, expected)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("background", ["white", "black"])
def test_images_that_are_not_square_are_fitted_as_in_a_folder(fit: Any, background: Any, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for index, image in enumerate(BYTES):
        Image.fromarray(image).save(tmp_path / "files" / f"{index}.png")
    options = FolderOptions(fit=fit, background=background)
    expected = Folder(options).load(8, tmp_path / "files", download=False).images
    for memory in ("load", "stream"):
        loaded = load(save(tmp_path / "x.npy", only=BYTES), fit=fit, background=background, memory=memory)
        assert torch.equal(loaded.images[torch.arange(7)], expected)


def test_long_images_are_told_that_most_of_them_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "x.npy", only=np.arange(800, dtype=np.uint8).reshape(2, 2, 200))
    assert load(path).images.shape == (2, 1, 8, 8)
    assert caplog.messages == [
        f"{path}: images of 2 x 200 pixels keep only their central squares; --data.fit pad or stretch keeps the whole"
    ]
    caplog.clear()
    assert load(path, fit="pad").description.endswith("2 x 200 pixels padded to squares, resized to 8 pixels")
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("value_range", ["0,1", "-1,1", "0,255"])
@pytest.mark.parametrize("given", ["type", "set", "named"])
def test_floating_point_of_every_range_becomes_the_256_grey_levels(
    kind: str, value_range: str, given: str, tmp_path: Path
) -> None:
    values = {"0,1": LEVELS / 255, "-1,1": LEVELS / 127.5 - 1, "0,255": LEVELS * 1.0}[value_range]
    path = save(tmp_path / "x.npy", only=values.astype(kind))
    loaded = load(path, 16, range=value_range if given == "named" else given)
    assert np.array_equal(loaded.images[0], LEVELS)


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", ">i4", "i8", "u8"])
def test_whole_numbers_of_0_to_255_are_bytes_whatever_their_type(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=LEVELS.astype(kind))
    assert np.array_equal(load(path, 16, range="0,255").images[0], LEVELS)
    if kind != "u2":  # its type has a range of its own
        assert np.array_equal(load(path, 16).images[0], LEVELS)


def test_16_bits_keep_the_range_of_their_type_and_a_dark_set_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(1, 16, 16)
    assert np.array_equal(load(save(tmp_path / "x.npy", only=full), 16).images[0], LEVELS)
    assert not caplog.messages
    path = save(tmp_path / "x.npy", only=LEVELS.astype(np.uint16) * np.uint16(16))  # a camera of 12 bits
    assert len(torch.unique(load(path, 16).images)) == 17
    assert caplog.messages == [
        f"{path}: values 0..4080 use 6.2% of the range 0..65535, about 17 of 256 grey levels; --data.range set, "
        "percentiles or LOW,HIGH uses more of them"
    ]
    caplog.clear()
    for named in ("set", "0,4080", "4080", "uint16:4080", "percentiles:0,100"):
        assert np.array_equal(load(path, 16, range=named).images[0], LEVELS)
    assert not caplog.messages


def test_what_is_beyond_named_values_is_black_or_white(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=np.array([[[-5.0, 2.0], [3.0, 9.0]]]))
    assert load(path, 2, range="2,4").images.flatten().tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize("text", ["typ", "4,2", "1,2,3", "set type", "percentiles:5"])
def test_a_range_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        load(save(tmp_path / "x.npy", only=BYTES), range=text)


def test_booleans_are_black_and_white(tmp_path: Path) -> None:
    array = np.array([[[True, False], [False, True]]])
    for name in ("x.npy", "x.pt"):
        assert load(save(tmp_path / name, only=array), 2).images.tolist() == [[[[255, 0], [0, 255]]]]


@pytest.mark.parametrize(
    ("low", "high", "what"),
    [
        (0.0, 2.0, ""),
        (0.0, 16.0, ""),
        (0.0, 65000.0, ""),
        (-0.424213, 2.821489, ", as if normalised by mean and deviation"),
        (-1024.0, 3071.0, ""),
    ],
)
def test_values_of_no_usual_range_go_from_black_to_white_and_the_options_are_named(
    low: float, high: float, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.linspace(low, high, 256, dtype=np.float32).reshape(1, 16, 16)
    path = save(tmp_path / "x.npy", only=values)
    assert np.array_equal(load(path, 16).images[0], LEVELS)
    assert caplog.messages == [
        f"{path}: values {low:g}..{high:g} do not fit and fill the usual range 0..1, -1..1 and 0..255{what}: the "
        "smallest becomes black and the largest white; --data.range set, percentiles or LOW,HIGH chooses others"
    ]
    assert f"values {low:g}..{high:g}, " in load(path, 16).description


def test_values_of_one_constant_are_read_by_the_usual_range(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=np.full((2, 8, 8), 0.5))
    assert (load(path).images == 128).all()
    assert (load(path, range="-1,1").images == 191).all()
    assert "all float64 values are 0.5: expected two different values for black and white" in refusal(path, range="set")


def test_an_overshoot_after_resampling_is_clipped_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "x.npy", only=np.array([[[0.0, 1.0005], [0.5, 1.0]]]))
    assert load(path, 2).images.flatten().tolist() == [0, 255, 128, 255]
    assert caplog.messages == [f"{path}: values 0..1.0005 go a little beyond 0..1 and are clipped"]


def test_rounding_beyond_the_range_is_cut_off(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=np.array([[[-1e-6, 1 + 1e-6], [0.0, 1.0]]]))
    assert load(path, 2).images.flatten().tolist() == [0, 255, 0, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("memory", ["load", "stream"])
def test_a_value_that_is_not_finite_is_refused_with_its_index(value: float, memory: str, tmp_path: Path) -> None:
    array = np.zeros((7, 8, 8), dtype=np.float32)
    array[4, 5, 6] = array[6, 0, 0] = value
    for name in ("x.npy", "x.pt"):
        path = save(tmp_path / name, only=array)
        assert refusal(path, memory=memory) == f"{path}: expected finite values, got {value} at index [4, 5, 6]"


def test_its_index_counts_from_the_beginning_of_the_file_in_a_large_one_too(tmp_path: Path) -> None:
    array = np.zeros((9, 1450, 1450), dtype=np.float16)  # more values than are looked at in one go
    array[8, 5, 6] = np.nan
    path = save(tmp_path / "x.npy", only=array)
    assert refusal(path, memory="stream") == f"{path}: expected finite values, got nan at index [8, 5, 6]"


@pytest.mark.parametrize("kind", ["c8", "S3", "M8[s]", "U1"])
def test_other_types_are_refused(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=np.zeros((2, 8, 8), dtype=kind))
    assert str(path) in refusal(path)
    assert "expected images of " in refusal(path)


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((10,), "auto", "expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1, 3, or 4 with "),
        ((10,), "auto", "transparency, or rows (N, H x W), got (10,)"),
        ((10, 9), "auto", "got (10, 9)"),
        ((10, 785), "auto", "images are rows of 785 values, which are no square: pass --data.height H"),
        (
            (10, 3072),
            "auto",
            "which may be 32 x 32 pixels of 3 channels: pass --data.layout NCHW if the channels follow ",
        ),
        ((10, 3071), "NCHW", "images are rows of 3071 values, which are no square of 3 channels: pass --data.height H"),
        ((32, 32, 4), "auto", "which may be a single image; pass --data.layout NHW if it is many"),
        ((32, 32, 3), "auto", "which may be a single image; pass --data.layout NHW if it is many"),
        ((10, 3, 8, 3), "auto", "whose channels are unclear; pass --data.layout NHWC or --data.layout NCHW"),
        ((10, 8, 8, 5), "auto", "got (10, 8, 8, 5)"),
        ((10, 4, 8, 4), "auto", "whose channels are unclear"),
        ((32, 32, 4), "auto", "save image[None] if one"),
        ((10, 8, 8, 2), "NHWC", "got (10, 8, 8, 2); save the channels that count, such as images[..., :1]"),
        ((10, 8, 8, 2), "auto", "save the channels that count, such as images[..., :1]"),
        ((10, 8, 8, 5), "auto", "save the channels that count, such as images[..., :3]"),
        ((10, 5, 8, 8), "auto", "save the channels that count, such as images[:, :3]"),
        ((10, 2, 8, 8), "auto", "save the channels that count, such as images[:, :1]"),
        ((10, 7, 8, 8), "NCHW", "got (10, 7, 8, 8); save the channels that count, such as images[:, :3]"),
        ((10, 8, 8, 3), "NCHW", "got (10, 8, 8, 3)"),
        ((10, 8, 8), "NHWC", "got (10, 8, 8); --data.layout NHWC does not fit"),
        ((10, 8, 8, 3), "NHW", "--data.layout NHW does not fit"),
        ((2, 2, 3, 8, 8), "auto", "got (2, 2, 3, 8, 8)"),
        ((0, 8, 8), "auto", "expected at least one image of at least one pixel, got shape (0, 8, 8)"),
        ((5, 0, 8), "auto", "expected at least one image of at least one pixel"),
    ],
)
def test_shapes_that_are_no_images_are_refused(
    shape: tuple[int, ...], layout: str, message: str, tmp_path: Path
) -> None:
    for name in ("x.npy", "x.pt"):
        path = save(tmp_path / name, only=np.zeros(shape, dtype=np.uint8))
        assert message in refusal(path, layout=layout)
        assert str(path) in refusal(path, layout=layout)


def test_an_uncertain_layout_can_be_named(tmp_path: Path) -> None:
    array = BYTES[:3, :3, :8, :3]  # 3 x 3 x 8 x 3
    path = save(tmp_path / "x.npy", only=array)
    assert np.array_equal(load(path, 3, layout="NHWC").images, array[:, :, 2:5].transpose(0, 3, 1, 2))
    assert load(path, 3, layout="NCHW").images.shape == (3, 3, 3, 3)
    assert load(save(tmp_path / "x.npy", only=BYTES[:, :, :3, 0]), 3, layout="NHW").images.shape == (7, 1, 3, 3)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pt"])
@pytest.mark.parametrize("memory", ["auto", "stream"])
def test_rows_of_values_are_the_squares_or_what_options_say(name: str, memory: str, tmp_path: Path) -> None:
    memory = "auto" if name == "x.npz" else memory
    grey = BYTES[:, :8, :8, 0]
    path = save(tmp_path / name, only=grey.reshape(7, 64))
    loaded = load(path, memory=memory)
    assert np.array_equal(loaded.images[torch.arange(7)], grey[:, None])
    assert "7 grey images, rows of 64 values as HW, " in loaded.description
    assert load(path, memory=memory, height=4).description.count("central squares of 4 x 16 pixels") == 1
    assert refusal(path, height=5).endswith("expected --data.height to divide 64 pixels, got 5")
    for layout, order in (("NHWC", BYTES), ("NCHW", BYTES.transpose(0, 3, 1, 2))):
        path = save(tmp_path / name, only=order.reshape(7, -1))
        loaded = load(path, 9, layout=layout, height=9, memory=memory)
        whole = load(save(tmp_path / "whole.npy", only=BYTES), 9)
        assert torch.equal(loaded.images[torch.arange(7)], whole.images)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("kind", ["u1", "f4"])
def test_transparent_images_become_what_they_become_in_a_folder(
    layout: str, background: Any, kind: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 9, 12, 4), dtype=np.uint8)
    (tmp_path / "files").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "files" / f"{index}.png")
    folder = Folder(FolderOptions(background=background)).load(6, tmp_path / "files", download=False)
    array = images if layout == "NHWC" else images.transpose(0, 3, 1, 2)
    path = save(tmp_path / "x.npy", only=array if kind == "u1" else (array / 255).astype(kind))
    for memory in ("load", "stream"):
        loaded = load(path, 6, background=background, memory=memory)
        assert torch.equal(loaded.images[torch.arange(5)], folder.images)
        assert f"5 colour images, {layout}, RGBA, " in loaded.description


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", ["1", "3"])
def test_channels_are_converted_as_in_a_folder(mode: str, channels: Any, tmp_path: Path) -> None:
    size = (5, 9, 12, len(mode)) if len(mode) > 1 else (5, 9, 12)
    images = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    (tmp_path / "files").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "files" / f"{index}.png")
    folder = Folder(FolderOptions(channels=channels)).load(6, tmp_path / "files", download=False)
    kind = "grey" if channels == "1" else "colour"
    for name, order in {"NHWC": images, "NCHW": np.moveaxis(images, -1, 1)}.items():
        path = save(tmp_path / f"{name}.npy", only=images if mode == "L" else order)
        for memory in ("load", "stream"):
            loaded = load(path, 6, channels=channels, memory=memory)
            assert loaded.images.shape == (5, int(channels), 6, 6)
            assert torch.equal(loaded.images[torch.arange(5)], folder.images)
            assert loaded.originals.original(2).shape == (int(channels), 9, 12)
            assert f"5 {kind} images" in loaded.description


LABELS = np.array([3, 1, 3, 7, 1, 1, 3])


@pytest.mark.parametrize("kind", ["u1", "i4", "i8", ">i2"])
def test_labels_are_the_numbers_that_occur_in_order(kind: str, tmp_path: Path) -> None:
    images, labels = save(tmp_path / "x.npy", only=BYTES), save(tmp_path / "y.npy", only=LABELS.astype(kind))
    loaded = load(images, labels=labels)
    assert loaded.labels is not None
    assert loaded.labels.dtype == torch.int64
    assert loaded.labels.tolist() == [1, 0, 1, 2, 0, 0, 1]
    assert list(loaded.class_names) == ["1", "3", "7"]
    assert ", 3 classes, " in loaded.description


@pytest.mark.parametrize("extension", ["npz", "pt"])
def test_images_and_labels_of_one_file_go_by_their_names(extension: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"x.{extension}", images=BYTES, labels=LABELS, fine=LABELS * 2, more=BYTES[:2])
    assert refusal(path).startswith(
        f"{path}: expected one array of 3 or 4 axes for the images, got fine (7,), images (7, "
    )
    assert refusal(path).endswith("; pass --data.images-key NAME")
    loaded = load(path, images_key="images", labels_key="fine")
    assert list(loaded.class_names) == ["2", "6", "14"]
    assert len(load(path, images_key="more")) == 2
    for options in ({"images_key": "imags"}, {"images_key": "images", "labels_key": "lables"}):
        message = refusal(path, **options)
        assert str(path) in message
        nearest = "images" if len(options) == 1 else "labels"
        assert "expected one of fine, images, labels, more" in message
        assert f"did you mean {nearest!r}?" in message
    path = save(tmp_path / f"y.{extension}", pictures=BYTES, counts=LABELS)
    loaded = load(path)
    assert loaded.labels is None
    assert loaded.description.endswith("; not used: counts (7,)")
    path = save(tmp_path / f"y.{extension}", pictures=BYTES, labels=LABELS)
    loaded = load(path)
    assert loaded.labels.tolist() == [1, 0, 1, 2, 0, 0, 1]
    assert ", 3 classes (labels: labels), " in loaded.description
    loaded = load(path, labels_key="none")
    assert loaded.labels is None
    assert loaded.description.endswith("; not used: labels (7,)")
    other = save(tmp_path / f"z.{extension}", labels=LABELS, images=BYTES)
    assert load(path, labels=other).labels.tolist() == load(path, labels_key="labels").labels.tolist()


def test_a_list_of_tensors_goes_by_its_indices(tmp_path: Path) -> None:
    torch.save((torch.from_numpy(BYTES), torch.from_numpy(LABELS)), tmp_path / "x.pt")
    assert load(tmp_path / "x.pt", labels_key="1").labels.tolist() == [1, 0, 1, 2, 0, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:6], "expected 7 labels, one an image, got an array of shape (6,)"),
        (LABELS[:6, None], "expected 7 labels, one an image, got an array of shape (6, 1)"),
        (np.zeros((7, 2, 2)), "expected 7 labels, one an image, got an array of shape (7, 2, 2)"),
        (np.eye(6), "expected 7 labels, one an image, got an array of shape (6, 6)"),
        (
            np.eye(7)[[0, 1, 2, 3, 4, 5, 5]] + np.eye(7)[6],
            "expected labels of shape (N,), (N, 1), or one-hot rows of 7, got [1, 0, 0, 0, 0, ..] in row 0; an image "
            "with several labels, or none, has no class: choose one column",
        ),
        (
            np.full((7, 2), 0.5),
            "expected labels of shape (N,), (N, 1), or one-hot rows of 2, got [0.5, 0.5] in row 0; for probabilities "
            "take labels.argmax(axis=1)",
        ),
        (
            LABELS / 2,
            "expected labels that are whole numbers, got 1.5 at index 0; values that are no classes have to be "
            "grouped first",
        ),
        (
            LABELS - 3,
            "expected labels of 0 or more, or -1 for an image without a label, got -2 at index 1",
        ),
        (
            LABELS * np.inf,
            "expected labels that are whole numbers, got inf at index 0; values that are no classes "
            "have to be grouped first",
        ),
        (LABELS * 1j, "expected labels that are whole numbers, booleans or text, got complex128"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, message: str, tmp_path: Path) -> None:
    images, file = save(tmp_path / "x.npy", only=BYTES), save(tmp_path / "y.npy", only=labels)
    assert refusal(images, labels=file) == f"{file}: {message}"


def test_a_key_for_an_array_without_a_name_is_refused(tmp_path: Path) -> None:
    for name in ("x.npy", "x.pt"):
        path = save(tmp_path / name, only=BYTES)
        assert refusal(path, images_key="images").startswith(
            f"--data.images-key images: {path} is one array without a "
        )


def test_without_a_path_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^data set arrays needs a file of images: pass --data\.path FILE$"):
        Arrays(ArraysOptions()).load(8, tmp_path, download=False)


def test_a_missing_file_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    save(tmp_path / "digits.npy", only=BYTES)
    (tmp_path / "digit.txt").write_text("")
    message = refusal(tmp_path / "digts.npy")
    assert message == (
        f"{tmp_path / 'digts.npy'} does not exist: expected a file of arrays "
        f"(did you mean {str(tmp_path / 'digits.npy')!r}?)"
    )
    assert refusal(tmp_path / "digit.txt").endswith("expected a file whose name ends in .npy, .npz, .pt, .pth")
    (tmp_path / "folder.npy").mkdir()
    assert "is not a file" in refusal(tmp_path / "folder.npy")


class Command:
    """Runs a function when Python reads it."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return Path.touch, (self.made,)


def test_nothing_that_a_file_asks_for_is_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    objects = np.array([Command(made)], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", images=objects, allow_pickle=True)
    torch.save({"images": torch.zeros(2, 8, 8), "more": Command(made)}, tmp_path / "x.pt")
    torch.save(Command(made), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    for name in ("x.npy", "x.npz", "x.pt", "x.pth"):
        message = refusal(tmp_path / name, images_key=None if name == "x.npy" else "images")
        assert str(tmp_path / name) in message
        assert "weights_only" not in message  # torch proposes to run it
        assert not made.exists()


def test_an_archive_under_the_name_of_one_array_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.npz", images=np.zeros((20, 8, 8), dtype=np.uint8)).rename(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "y.npy", "w") as archive:
        archive.writestr("images", b"abc")
    for name in ("x.npy", "y.npy"):
        assert refusal(tmp_path / name).startswith(f"broken file {tmp_path / name}: expected a .npy file")


def lying_header(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize("shape", ["(1000000, 1000, 1000)", "(2, 8, 8)", "(-1, 8, 8)", "'text'", "(10**9, 8, 8)"])
def test_a_size_that_the_file_does_not_have_takes_no_memory(shape: str, tmp_path: Path) -> None:
    content = lying_header(shape) + bytes(100)
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", content)
    for name in ("x.npy", "x.npz"):
        assert refusal(tmp_path / name).startswith(f"broken file {tmp_path / name}: expected ")


def test_an_archive_that_unpacks_to_more_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "x.npz", images=np.zeros((100, 64, 64), dtype=np.uint8))
    monkeypatch.setattr("mpcc.plugins.datasets.array_reading.files.available_memory", lambda: 400_000)
    assert refusal(path).endswith(
        "more than are available: expected a .npy file of numbers, which can be read part by part"
    )


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.pt"])
def test_a_file_cut_short_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / name, only=BYTES)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        assert refusal(path).startswith(f"broken file {path}: expected ")
    path.write_bytes(b"text and nothing else")
    assert refusal(path).startswith(f"broken file {path}: expected ")


def test_tensors_that_are_no_plain_arrays_are_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(2, 8, 8).to_sparse(), tmp_path / "x.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that checking a sparse tensor takes time
        assert "expected a dense tensor" in refusal(tmp_path / "x.pt")
    for thing in (3, "text", {"n": 3}):
        torch.save(thing, tmp_path / "x.pt")
        assert str(tmp_path / "x.pt") in refusal(tmp_path / "x.pt")
    torch.save(torch.nn.Parameter(torch.zeros(2, 8, 8)), tmp_path / "x.pt")
    assert len(load(tmp_path / "x.pt")) == 2


@pytest.mark.parametrize("name", ["x.npy", "x.pt"])
@pytest.mark.parametrize("kind", ["u1", "f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_read_when_needed_are_those_in_memory(name: str, kind: str, order: Any, tmp_path: Path) -> None:
    array = np.asarray(BYTES / 255 if kind == "f4" else BYTES > 99 if kind == "?" else BYTES, dtype=kind, order=order)
    path, labels = save(tmp_path / name, only=array), save(tmp_path / "y.npy", only=LABELS)
    loaded, streamed = (load(path, 5, labels=labels, memory=memory) for memory in ("load", "stream"))
    assert isinstance(loaded.images, torch.Tensor)
    assert not isinstance(streamed.images, torch.Tensor)
    assert tuple(streamed.images.shape) == (7, 3, 5, 5)
    assert len(streamed) == 7
    assert torch.equal(loaded.labels, streamed.labels)
    assert list(loaded.paths) == list(streamed.paths)
    assert torch.equal(streamed.images[torch.arange(7)], loaded.images)
    order_of_reading = torch.tensor([5, 0, 0, 6])
    content = pickle.dumps(streamed.images)
    assert len(content) < 2000  # the array does not travel
    for images in (streamed.images, pickle.loads(content)):
        assert torch.equal(images[order_of_reading], loaded.images[order_of_reading])
    assert streamed.description == f"{loaded.description}; read when needed"


def test_streaming_reads_no_more_than_it_is_asked_for(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(lying_header("(100000, 1000, 1000)"))  # 100 GB, all of it a hole in the file
        start = file.tell()
        file.truncate(start + 10**11)
        file.seek(start + 99_999 * 10**6)
        file.write(b"\xff" * 10**6)
    streamed = load(tmp_path / "x.npy", 256, memory="stream")
    assert tuple(streamed.images.shape) == (100_000, 1, 256, 256)
    assert [int(image.max()) for image in streamed.images[torch.tensor([99_999, 5])]] == [255, 0]


def test_what_does_not_fit_into_half_of_the_memory_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, packed = save(tmp_path / "x.npy", only=BYTES), save(tmp_path / "x.npz", only=BYTES)
    needed = 7 * 3 * 8 * 8
    for available, streaming in ((2 * needed, False), (2 * needed - 1, True)):
        monkeypatch.setattr(memory_module, "available_memory", lambda available=available: available)
        assert isinstance(load(path).images, torch.Tensor) is not streaming
        assert isinstance(load(packed).images, torch.Tensor)
    monkeypatch.setattr(memory_module, "available_memory", lambda: needed - 1)
    assert refusal(path, memory="load").endswith("pass --data.memory stream")
    assert refusal(packed).endswith("expected a .npy file, or a .pt file of torch 1.6 or newer")


def test_files_that_are_read_whole_are_not_streamed(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(BYTES), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert len(load(tmp_path / "old.pt")) == 7
    for path in (tmp_path / "old.pt", save(tmp_path / "x.npz", only=BYTES)):
        message = refusal(path, memory="stream")
        assert message.startswith(f"--data.memory stream: {path} cannot be read part by part: expected a .npy file")


def test_a_relative_path_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x.npy", only=BYTES)
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(load(Path("x.npy"), memory="stream").images)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(content)[torch.tensor([1])].shape == (1, 3, 8, 8)


def test_reading_warns_of_nothing_and_writes_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=BYTES[:, :8, :8])
    before = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(path).images.zero_()
        load(path, memory="stream").images[torch.arange(7)].zero_()
    assert path.read_bytes() == before
    buffer = io.BytesIO()
    np.save(buffer, BYTES[:, :8, :8])
    assert buffer.getvalue() == before


@pytest.mark.parametrize(
    ("kind", "given", "settled"),
    [
        ("u1", "type", "type"),
        ("u2", "type", "type"),
        ("u2", "set", "int16:0,200 int32:0,200 int64:0,200 uint16:0,200 uint32:0,200 uint64:0,200"),
        ("u1", "set", "uint8:0,200"),
        ("f4", "type", "float16:0,255 float32:0,255 float64:0,255"),
        ("f8", "set", "float16:0,200 float32:0,200 float64:0,200"),
        ("f4", "-5,300", "-5,300"),
    ],
)
def test_the_range_that_was_found_is_handed_on_for_other_images(
    kind: str, given: str, settled: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.npy", only=np.linspace(0, 200, 64).reshape(1, 8, 8).astype(kind))
    loaded = load(path, range=given)
    assert loaded.settled == {"range": settled}
    assert torch.equal(load(path, range=settled).images, loaded.images)


@pytest.mark.parametrize("given", ["type", "set", "percentiles", "-1e308,1e308", "0,5e-324", "0,1"])
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        *[("f8", -1.7e308, 1.7e308), ("f8", 0, 5e-324), ("f8", 1, 1 + 2**-52), ("f4", -3.4e38, 3.4e38)],
        *[("f2", -6e4, 6e4), ("g", -3, 9), ("g", 0, 1), ("u8", 0, 2**64 - 1), ("i8", -(2**63), 2**63 - 1)],
        *[("i8", 2**62, 2**62 + 1), ("i1", -128, 127), ("?", False, True), (">u2", 0, 65535)],
    ],
)
def test_the_ends_of_every_type_are_read_or_refused_and_settled_for_the_next_reading(
    given: str, kind: str, low: float, high: float, tmp_path: Path
) -> None:
    array = np.full((3, 8, 8), low, dtype=kind)
    array[:, 1] = high
    path = save(tmp_path / "x.npy", only=array)
    try:
        loaded = load(path, range=given)
    except InvalidInput:
        assert len(refusal(path, range=given)) < 300
        return
    assert set(torch.unique(loaded.images).tolist()) <= {0, 255}
    if given in ("type", "set"):
        assert set(torch.unique(loaded.images).tolist()) == {0, 255}
    settled = loaded.settled["range"]
    assert isinstance(settled, str)
    again = load(path, range=settled)
    assert torch.equal(again.images, loaded.images)
    assert again.settled == loaded.settled


@pytest.mark.parametrize(
    ("former", "now"), [("auto", "type"), ("unit", "0,1"), ("symmetric", "-1,1"), ("bytes", "0,255")]
)
def test_a_configuration_of_an_earlier_version_is_read(former: str, now: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'[data]\nname = "arrays"\npath = "x.npy"\nvalue_range = "{former}"\n')
    config = resolve(load_registry(), [read_config(file)], "none")
    assert config.data.options.range == now
