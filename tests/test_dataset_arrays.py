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

from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets import memory as memory_module
from mpcc.plugins.datasets.arrays import Arrays
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import ArraysOptions, FolderOptions

BYTES = np.random.default_rng(0).integers(0, 256, (7, 9, 12, 3), dtype=np.uint8)
LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)


def load(path: Path, image_size: int = 8, **options: Any) -> ImageSet:
    return Arrays(ArraysOptions(path=path, **options)).load(image_size, None, download=False)


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


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", ">f8"])
@pytest.mark.parametrize("value_range", ["unit", "symmetric", "bytes"])
@pytest.mark.parametrize("given", ["auto", "named"])
def test_floating_point_of_every_range_becomes_the_256_grey_levels(
    kind: str, value_range: str, given: str, tmp_path: Path
) -> None:
    values = {"unit": LEVELS / 255, "symmetric": LEVELS / 127.5 - 1, "bytes": LEVELS * 1.0}[value_range]
    path = save(tmp_path / "x.npy", only=values.astype(kind))
    loaded = load(path, 16, value_range=value_range if given == "named" else "auto")
    assert np.array_equal(loaded.images[0], LEVELS)


def test_booleans_are_black_and_white(tmp_path: Path) -> None:
    array = np.array([[[True, False], [False, True]]])
    for name in ("x.npy", "x.pt"):
        assert load(save(tmp_path / name, only=array), 2).images.tolist() == [[[[255, 0], [0, 255]]]]


@pytest.mark.parametrize(
    ("low", "high", "options", "message"),
    [
        (0.0, 2.0, {}, "got 0..2, which may be dark bytes or another range"),
        (0.0, 16.0, {}, "got 0..16, which may be dark bytes or another range"),
        (0.0, 256.0, {}, "got 0..256, which is outside of all three"),
        (-1.5, 1.5, {}, "got -1.5..1.5, which is outside of all three"),
        (-1.0, 255.0, {}, "got -1..255, which is outside of all three"),
        (0.0, 65535.0, {}, "which is outside of all three"),
        (-0.5, 0.5, {"value_range": "unit"}, "expected values in 0..1 (value range unit), got -0.5..0.5"),
        (0.0, 1.1, {"value_range": "unit"}, "expected values in 0..1 (value range unit), got 0..1.1"),
        (0.0, 1.1, {"value_range": "symmetric"}, "expected values in -1..1 (value range symmetric), got 0..1.1"),
        (0.0, 300.0, {"value_range": "bytes"}, "expected values in 0..255 (value range bytes), got 0..300"),
    ],
)
def test_values_out_of_range_or_of_an_uncertain_one_are_refused(
    low: float, high: float, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.npy", only=np.linspace(low, high, 64, dtype=np.float32).reshape(1, 8, 8))
    assert message in refusal(path, **options)
    assert str(path) in refusal(path, **options)


def test_what_auto_would_not_guess_can_be_named(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=np.full((2, 8, 8), 16.0))
    assert (load(path, value_range="bytes").images == 16).all()
    path = save(tmp_path / "x.npy", only=np.full((2, 8, 8), 0.5))
    assert (load(path).images == 128).all()
    assert (load(path, value_range="symmetric").images == 191).all()


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


@pytest.mark.parametrize("kind", ["i8", "u2", "i1", "c8", "S3", "M8[s]"])
def test_other_types_are_refused(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=np.zeros((2, 8, 8), dtype=kind))
    assert str(path) in refusal(path)
    assert "expected images of " in refusal(path)


def test_a_value_range_that_does_not_suit_the_type_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.npy", only=BYTES)
    assert refusal(path, value_range="unit").endswith(
        "--data.value-range unit does not fit uint8: expected auto or bytes"
    )
    path = save(tmp_path / "x.npy", only=BYTES > 3)
    assert refusal(path, value_range="bytes").endswith("does not fit bool: expected auto or unit")


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((10,), "auto", "expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3, got (10,)"),
        ((10, 784), "auto", "C = 1 or 3, got (10, 784)"),
        ((32, 32, 3), "auto", "which may be a single image; pass --data.layout NHW if it is many"),
        ((10, 3, 8, 3), "auto", "whose channels are unclear; pass --data.layout NHWC or --data.layout NCHW"),
        ((10, 8, 8, 4), "auto", "got (10, 8, 8, 4)"),
        ((10, 8, 8, 2), "NHWC", "got (10, 8, 8, 2)"),
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
        assert message.endswith(f"did you mean {nearest!r}? (expected one of fine, images, labels, more)")
    path = save(tmp_path / f"y.{extension}", pictures=BYTES, labels=LABELS)
    loaded = load(path)
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
        (LABELS[:6], "expected labels of shape (7,), one an image, got (6,)"),
        (LABELS[:, None], "expected labels of shape (7,), one an image, got (7, 1)"),
        (np.eye(7, dtype=np.int64), "expected labels of shape (7,), one an image, got (7, 7)"),
        (LABELS * 1.0, "expected labels that are whole numbers, got float64"),
        (LABELS > 1, "expected labels that are whole numbers, got bool"),
        (LABELS - 2, "expected labels of 0 or more, got -1 at index 1"),
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
    monkeypatch.setattr("mpcc.plugins.datasets.reading.array_files.available_memory", lambda: 400_000)
    assert refusal(path).endswith("more than are available: expected a .npy file, which can be read part by part")


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
    tensors = [torch.zeros(2, 8, 8, dtype=torch.bfloat16), torch.zeros(2, 8, 8).to_sparse()]
    for tensor in tensors:
        torch.save(tensor, tmp_path / "x.pt")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that checking a sparse tensor takes time
            assert "expected images as a dense tensor" in refusal(tmp_path / "x.pt")
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
