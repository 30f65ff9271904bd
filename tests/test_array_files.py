"""Files of arrays as numpy, torch and other tools write them: lists, pairs, data sets, objects; nothing is run."""

from __future__ import annotations

import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.arrays import Arrays
from mpcc.plugins.datasets.options import ArraysOptions

COUNT = 6
GREY = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (COUNT, 3, 8, 8), dtype=np.uint8)
CLASSES = np.array([2, 0, 1, 1, 0, 2])
X, C, Y = torch.from_numpy(GREY), torch.from_numpy(COLOUR), torch.from_numpy(CLASSES)


def load(path: Path, **options: Any) -> ImageSet:
    return Arrays(ArraysOptions(path=path, **options)).load(8, None, download=False)


def saved(value: Any, folder: Path, **options: Any) -> ImageSet:
    torch.save(value, folder / "x.pt")
    return load(folder / "x.pt", **options)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 800
    assert "weights_only" not in message  # torch proposes to run what a file holds
    return message


GREY_ALONE = {
    "a list of tensors": [*X],
    "a tuple of tensors": tuple(X),
    "tensors of one channel": [image[None] for image in X],
    "arrays of numpy": [*GREY],
    "one array of numpy": GREY,
    "one array by its name": {"images": GREY},
    "a TensorDataset": TensorDataset(X),
    "bfloat16": X.bfloat16(),
    "bfloat16 by its name": {"images": X.bfloat16(), "epoch": 3, "by": "me"},
    "a list of bfloat16": [*X.bfloat16()],
    "float16 of 0 to 1": (X / 255).half(),
    "int64": X.long(),
    "a Parameter": torch.nn.Parameter(X / 255),
}


@pytest.mark.parametrize("kind", GREY_ALONE)
@pytest.mark.parametrize("zipped", [True, False])
def test_images_alone_are_read(kind: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(GREY_ALONE[kind], tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = load(tmp_path / "x.pt")
    assert np.array_equal(found.images, GREY[:, None])
    assert found.labels is None


WITH_LABELS = {
    "a pair": (X, Y),
    "a list of two": [X, Y],
    "labels as a list": {"images": X, "labels": CLASSES.tolist()},
    "labels as texts": (X, [str(label) for label in CLASSES]),
    "labels of numpy": {"x": X, "y": CLASSES},
    "arrays of numpy": (GREY, CLASSES),
    "a TensorDataset": TensorDataset(X, Y),
    "a TensorDataset of a column": TensorDataset(X, Y[:, None]),
    "a list of pairs": [*zip(X, CLASSES.tolist(), strict=True)],
    "a list of lists": [[image, label] for image, label in zip(X, Y, strict=True)],
    "labels of one number": [(image[None], label[None]) for image, label in zip(X, Y, strict=True)],
    "pairs of numpy": [(image, label) for image, label in zip(GREY, CLASSES, strict=True)],
    "train and test": ((X[:4], Y[:4]), (X[4:], Y[4:])),
    "train, val and test": ((X[:2], Y[:2]), (X[2:4], Y[2:4]), (X[4:], Y[4:])),
    "train and test of numpy": ((GREY[:4], CLASSES[:4]), (GREY[4:], CLASSES[4:])),
    "rows and one-hot": (X.reshape(COUNT, -1), torch.eye(3)[Y]),
}


@pytest.mark.parametrize("kind", WITH_LABELS)
def test_images_with_their_labels_are_read(kind: str, tmp_path: Path) -> None:
    found = saved(WITH_LABELS[kind], tmp_path)
    assert np.array_equal(found.images, GREY[:, None])
    assert found.labels is not None
    assert found.labels.tolist() == CLASSES.tolist()
    assert list(found.class_names) == ["0", "1", "2"]


@pytest.mark.parametrize("value", [[*C], TensorDataset(C), [(image, 0) for image in C], {"a": [*COLOUR]}])
def test_lists_of_colour_images_are_read(value: Any, tmp_path: Path) -> None:
    assert np.array_equal(saved(value, tmp_path).images, COLOUR)


def test_splits_in_pairs_are_chosen_by_their_names(tmp_path: Path) -> None:
    found = saved(((X[:4], Y[:4]), (X[4:], Y[4:])), tmp_path, split="test")
    assert np.array_equal(found.images, GREY[4:, None])
    assert list(found.class_names) == ["0", "2"]


def test_two_sets_in_a_list_need_a_name(tmp_path: Path) -> None:
    torch.save([X, X.flip(0)], tmp_path / "x.pt")
    assert refusal(tmp_path / "x.pt").endswith("got 0 (6, 8, 8), 1 (6, 8, 8); pass --data.images-key NAME")
    assert np.array_equal(load(tmp_path / "x.pt", images_key="1").images, GREY[::-1, None])


@pytest.mark.parametrize("value", [[X[0], X[1][:5], X[2]], [(X[0], 1), (X[1][:5], 2)]])
def test_pictures_of_several_sizes_are_sent_to_the_folder(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pt")
    said = refusal(tmp_path / "x.pt")
    assert "pictures of 2 sizes, such as (8, 8) and (5, 8): expected equal sizes; resize them" in said
    assert "--data folder" in said


def test_an_object_of_another_class_is_named_with_what_to_save(tmp_path: Path) -> None:
    torch.save(Subset(TensorDataset(X, Y), [1, 2]), tmp_path / "x.pt")
    said = refusal(tmp_path / "x.pt")
    assert "it holds an object of torch.utils.data.dataset.Subset, whose reading would run code of the file" in said
    assert said.endswith("save its tensors with torch.save({'images': images, 'labels': labels}, 'new.pt')")
    assert "broken" not in said


def test_the_list_of_safe_classes_is_as_before(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    saved(TensorDataset(X, Y), tmp_path)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("name", ["x.npy", "x.NPY", "x.npz", "x.NPZ", "x.pt", "x.PT", "x.PTH", "x.Npy"])
def test_endings_in_capitals_are_read(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        if name.lower().endswith("npy"):
            np.save(file, GREY)
        elif name.lower().endswith("npz"):
            np.savez(file, images=GREY)
        else:
            torch.save(X, file)
    assert np.array_equal(load(tmp_path / name).images, GREY[:, None])
    if not name.lower().endswith("npz"):
        assert np.array_equal(load(tmp_path / name, memory="stream").images[torch.arange(COUNT)], GREY[:, None])


def objects(items: Any) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


@pytest.mark.parametrize("extension", ["npy", "npz"])
def test_an_array_of_equal_pictures_as_objects_is_read_without_running_anything(extension: str, tmp_path: Path) -> None:
    for pictures in (GREY, COLOUR):
        array = objects(list(pictures))
        if extension == "npy":
            np.save(tmp_path / "x.npy", array, allow_pickle=True)
        else:
            np.savez(tmp_path / "x.npz", images=array, labels=objects(["cat", "dog", "owl"] * 2), allow_pickle=True)
        found = load(tmp_path / f"x.{extension}")
        assert np.array_equal(found.images, pictures.reshape(COUNT, -1, 8, 8))
        if extension == "npz":
            assert list(found.class_names) == ["cat", "dog", "owl"]
    np.save(tmp_path / "x.npy", GREY.astype(object), allow_pickle=True)  # every pixel is an object
    assert np.array_equal(load(tmp_path / "x.npy").images, GREY[:, None])


class Command:
    """Runs a function when Python reads it."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return Path.touch, (self.made,)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_other_objects_are_named_with_the_line_that_makes_an_array(name: str, tmp_path: Path) -> None:
    for items, what in (
        ([X[0], X[1]], "(torch."),
        ([Command(tmp_path / "made")] * 2, "(pathlib."),
        ([{"a": 1}, {"b": 2}], "2 of dict: expected pictures of equal size, texts or numbers"),
        ([[1, 2], [3]], "2 of list: expected"),
    ):
        if name == "x.npy":
            np.save(tmp_path / name, objects(items), allow_pickle=True)
        else:
            np.savez(tmp_path / name, images=objects(items), allow_pickle=True)
        said = refusal(tmp_path / name, images_key=None if name == "x.npy" else "images")
        assert "it is an array of Python objects" in said
        assert what in said
        assert "broken" not in said
        chosen = "" if name == "x.npy" else "['images']"
        assert said.endswith(
            "if you trust the file: numpy.save('new.npy', numpy.stack([numpy.asarray(item) for item in "
            f"numpy.load(FILE, allow_pickle=True){chosen}]))"
        )
        assert not (tmp_path / "made").exists()


def test_the_line_that_it_names_makes_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", objects(list(X)), allow_pickle=True)
    line = refusal(tmp_path / "x.npy").rsplit("trust the file: ", 1)[1]
    monkeypatch.chdir(tmp_path)
    exec(line, {"numpy": np, "FILE": "x.npy"})
    assert np.array_equal(load(tmp_path / "new.npy").images, GREY[:, None])


def test_pictures_of_several_sizes_as_objects_are_sent_to_the_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", objects([GREY[0], GREY[1, :5]]), allow_pickle=True)
    assert refusal(tmp_path / "x.npy").endswith(
        "2 pictures of 2 sizes, such as (8, 8) and (5, 8): expected equal sizes; resize them, or save them as image "
        "files and use --data folder"
    )


def test_objects_cut_short_anywhere_are_a_broken_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", objects(list(GREY)), allow_pickle=True)
    whole = (tmp_path / "x.npy").read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "x.npy").write_bytes(whole[:length])
        assert refusal(tmp_path / "x.npy").startswith(f"broken file {tmp_path / 'x.npy'}: expected ")


def written(value: object) -> bytes:
    """A value inside of a pickle."""
    return pickletools.optimize(pickle.dumps(value, protocol=2))[2:-1]


def test_a_file_of_torch_with_any_byte_changed_is_read_or_refused_without_the_advice_to_run_it(tmp_path: Path) -> None:
    torch.save({"images": GREY, "labels": CLASSES.tolist(), "more": TensorDataset(Y)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in members if name.endswith("data.pkl")]
    for at in range(0, len(members[name]), 7):
        content = bytearray(members[name])
        content[at] ^= 1 << at % 8
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            for member, value in members.items():
                archive.writestr(member, bytes(content) if member == name else value)
        try:
            load(tmp_path / "x.pt")
        except InvalidInput:
            refusal(tmp_path / "x.pt")


def header_of_objects(shape: str) -> bytes:
    header = f"{{'descr': '|O', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize("shape", [(10**12,), (2**62, 4), (-1, -2), (3,), ()])
def test_a_shape_that_the_objects_do_not_have_takes_no_memory(shape: tuple[int, ...], tmp_path: Path) -> None:
    honest = pickletools.optimize(pickle.dumps(objects(["cat", "dog"]), protocol=2))
    assert honest.count(written((2,))) == 1
    lied = honest.replace(written((2,)), written(shape))
    (tmp_path / "x.npy").write_bytes(header_of_objects("(2,)") + lied)
    assert refusal(tmp_path / "x.npy").startswith(f"broken file {tmp_path / 'x.npy'}: expected ")


def test_an_array_that_holds_itself_is_refused(tmp_path: Path) -> None:
    array = objects([None, "cat"])
    array[0] = array
    (tmp_path / "x.npy").write_bytes(header_of_objects("(2,)") + pickle.dumps(array))
    assert "expected pictures of equal size, texts or numbers" in refusal(tmp_path / "x.npy")


def test_arrays_of_numpy_in_a_file_of_torch_take_no_more_than_the_file_holds(tmp_path: Path) -> None:
    torch.save({"images": GREY}, tmp_path / "honest.pt")
    with zipfile.ZipFile(tmp_path / "honest.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in members if name.endswith("data.pkl")]
    for lie in ((10**9, 1000, 1000), (-1, -1, 8), (COUNT, 8)):
        assert members[name].count(written(GREY.shape)) == 1
        content = members[name].replace(written(GREY.shape), written(lie))
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            for member, value in members.items():
                archive.writestr(member, content if member == name else value)
        assert refusal(tmp_path / "x.pt").startswith(f"broken file {tmp_path / 'x.pt'}: expected ")
