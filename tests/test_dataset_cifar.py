"""CIFAR-10 and CIFAR-100's coarse labels: files of Python 2 and 3, what is refused, downloads, the published files."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
import pickletools
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets.cifar import CIFAR, CIFAR10, CIFAR20
from mpcc.plugins.datasets.options import CIFAR10Options, CIFAR20Options

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "cifar100_pickles.py"
COUNT = 10


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cifar100_pickles", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Python2Pickler = script().Python2Pickler


def as_python_2(content: Any) -> bytes:
    """Pickle as the published files are: protocol 2, text as bytes, numpy 1."""
    buffer = io.BytesIO()
    Python2Pickler(buffer).dump(content)
    return buffer.getvalue()


def as_python_3(content: Any) -> bytes:
    return pickle.dumps(content)


def batch(cls: type[CIFAR], seed: int, count: int = COUNT) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, cls.classes, count).tolist()
    content: dict[str, Any] = {
        "filenames": [f"image_{index}.png" for index in range(count)],
        "batch_label": f"batch {seed}",
        cls.labels_key: labels,
        "data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
    }
    return content | ({"fine_labels": [5 * label for label in labels]} if cls is CIFAR20 else {})


def meta(cls: type[CIFAR]) -> dict[str, Any]:
    names = [f"class {label}" for label in range(cls.classes)]
    fine = {"fine_label_names": [f"fine {label}" for label in range(100)]} if cls is CIFAR20 else {}
    return {cls.names_key: names, **fine}


def write(cls: type[CIFAR], root: Path, pickled: Callable[[Any], bytes] = as_python_2) -> dict[str, dict[str, Any]]:
    """Write a small set; return what is in the files of its images."""
    folder = root / cls.folder
    folder.mkdir(parents=True)
    contents = {name: batch(cls, seed) for seed, name in enumerate([*cls.train, *cls.test])}
    for name, content in {cls.meta: meta(cls), **contents}.items():
        (folder / name).write_bytes(pickled(content))
    return contents


def make(cls: type[CIFAR], split: str = "all") -> CIFAR:
    return CIFAR10(CIFAR10Options(split=split)) if cls is CIFAR10 else CIFAR20(CIFAR20Options(split=split))


both = pytest.mark.parametrize("cls", [CIFAR10, CIFAR20])


@both
@pytest.mark.parametrize("pickled", [as_python_2, as_python_3])
def test_what_is_in_the_files_comes_out_in_their_order(cls: type[CIFAR], pickled: Any, tmp_path: Path) -> None:
    contents = write(cls, tmp_path, pickled)
    for split, names in (("all", [*cls.train, *cls.test]), ("train", cls.train), ("test", cls.test)):
        loaded = make(cls, split).load(32, tmp_path, download=False)
        data = np.concatenate([contents[name]["data"] for name in names]).reshape(-1, 3, 32, 32)
        assert np.array_equal(loaded.images, data)
        assert loaded.images.is_contiguous()
        assert loaded.labels.tolist() == [label for name in names for label in contents[name][cls.labels_key]]
        assert loaded.labels.dtype == torch.int64
        assert list(loaded.class_names) == [f"class {label}" for label in range(cls.classes)]
        assert list(loaded.paths) == [f"{cls.folder}/{name}#{index}" for name in names for index in range(COUNT)]
        published = {"all": 60_000, "train": 50_000, "test": 10_000}[split]
        assert loaded.description == f"{cls.name}: {len(data)} images, split {split} (not the published {published})"


@both
def test_files_of_python_2_are_those_that_torchvision_reads(
    cls: type[CIFAR], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cls, tmp_path)
    known = cls.downloader
    monkeypatch.setattr(known, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    for split in ("train", "test"):
        expected = known(tmp_path, train=split == "train", download=False)
        loaded = make(cls, split).load(32, tmp_path, download=False)
        assert np.array_equal(loaded.images.permute(0, 2, 3, 1), expected.data)
        divisor = 5 if cls is CIFAR20 else 1  # torchvision gives the fine labels
        assert [label // divisor for label in expected.targets] == loaded.labels.tolist()


@both
def test_another_size_is_resized_as_pillow_does(cls: type[CIFAR], tmp_path: Path) -> None:
    contents = write(cls, tmp_path)
    loaded = make(cls, "test").load(20, tmp_path, download=False)
    first = contents[cls.test[0]]["data"][0].reshape(3, 32, 32).transpose(1, 2, 0)
    expected = Image.fromarray(first).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(loaded.images[0].permute(1, 2, 0), np.asarray(expected))
    assert loaded.description.endswith(", resized from 32 to 20 pixels")


def spoilt(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (content | changes).items() if value is not None}


@both
def test_a_broken_file_is_named_with_what_was_expected(cls: type[CIFAR], tmp_path: Path) -> None:
    content = write(cls, tmp_path)[cls.test[0]]
    key, file = cls.labels_key, tmp_path / cls.folder / cls.test[0]
    whole, data = as_python_2(content), content["data"]
    cases = [
        (whole[:-5000], "expected a pickle of plain data"),
        (whole[:-1], "expected a pickle of plain data"),
        (b"", "expected a pickle of plain data"),
        (b"<html>not found</html>", "expected a pickle of plain data"),
        (as_python_2([1, 2]), "expected a dict, got list"),
        (as_python_2({}), "expected an entry 'data', got none"),
        (as_python_2(spoilt(content, data=None)), "expected an entry 'data', got batch_label, "),
        (as_python_2(spoilt(content, **{key: None})), f"expected an entry {key!r}, got "),
        (as_python_2(spoilt(content, data=data.astype("f4"))), "expected data, an array of uint8, got float32"),
        (as_python_2(spoilt(content, data=[[1]])), "expected data, an array of uint8, got list"),
        (as_python_2(spoilt(content, data=data[:, 1:])), "expected data of shape (n, 3072), n > 0, got (10, 3071)"),
        (as_python_2(spoilt(content, data=data[:0])), "n > 0, got (0, 3072)"),
        (as_python_2(spoilt(content, data=data[0])), "n > 0, got (3072,)"),
        (as_python_2(spoilt(content, data=data[1:])), f"expected as many {key} as images, got 10 and 9"),
        (as_python_2(spoilt(content, **{key: [0.5] * COUNT})), f"expected {key}, a list of whole numbers"),
        (as_python_2(spoilt(content, **{key: [True] * COUNT})), f"expected {key}, a list of whole numbers"),
        (as_python_2(spoilt(content, **{key: "text"})), f"expected {key}, a list of whole numbers"),
        (
            as_python_2(spoilt(content, **{key: [0] * 9 + [cls.classes]})),
            f"0..{cls.classes - 1}, got {cls.classes} at 9",
        ),
        (as_python_2(spoilt(content, **{key: [-1] + [0] * 9})), f"0..{cls.classes - 1}, got -1 at 0"),
        (as_python_2(spoilt(content, **{key: [2**20000] + [0] * 9})), "got a huge number at 0"),
    ]
    for damaged, message in cases:
        file.write_bytes(damaged)
        for download in (False, True):
            with pytest.raises(InvalidInput) as caught:
                make(cls).load(32, tmp_path, download)
            assert str(caught.value).startswith(f"broken file {file}: ")
            assert message in str(caught.value)
            assert str(caught.value).endswith("; delete it and pass --download")
            assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    names = tmp_path / cls.folder / cls.meta
    for wrong in ({cls.names_key: ["one"]}, {cls.names_key: list(range(cls.classes))}, {cls.names_key: "text"}, {}):
        names.write_bytes(as_python_2(wrong))
        with pytest.raises(InvalidInput, match=rf"^broken file .*{cls.meta}: expected .*{cls.names_key}"):
            make(cls).load(32, tmp_path, download=False)


@both
def test_a_file_that_asks_to_run_something_is_refused(cls: type[CIFAR], tmp_path: Path) -> None:
    content = write(cls, tmp_path)[cls.test[0]]
    made = tmp_path / "made"

    class Command:
        def __reduce__(self) -> Any:
            return Path.touch, (made,)

    (tmp_path / cls.folder / cls.test[0]).write_bytes(pickle.dumps({**content, "data": Command()}))
    with pytest.raises(InvalidInput, match=rf"^refused file .*{cls.test[0]}: .* it calls pathlib\.Path\.touch"):
        make(cls).load(32, tmp_path, download=False)
    assert not made.exists()


@both
def test_a_missing_file_is_named_with_the_remedies(cls: type[CIFAR], tmp_path: Path) -> None:
    write(cls, tmp_path)
    for name in (cls.meta, *cls.train, *cls.test):
        file = tmp_path / cls.folder / name
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(InvalidInput) as caught:
            make(cls).load(32, tmp_path, download=False)
        for part in (str(file), cls.name, "--download", "--data-root", "MPCC_DATA"):
            assert part in str(caught.value)
        file.write_bytes(whole)
    with pytest.raises(InvalidInput, match=rf"^data set {cls.name} needs a data folder"):
        make(cls).load(32, None, download=False)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which its files can be fetched."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def publish(cls: type[CIFAR], served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an archive of a small set on the server, and let torchvision know no other; return the archive."""
    folder, address = served
    write(cls, folder)
    archive = folder / cls.downloader.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder / cls.folder, cls.folder)

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    known = cls.downloader
    monkeypatch.setattr(known, "url", address + known.filename)
    monkeypatch.setattr(known, "tgz_md5", md5(archive))
    monkeypatch.setattr(known, "train_list", [[name, md5(folder / cls.folder / name)] for name in cls.train])
    monkeypatch.setattr(known, "test_list", [[name, md5(folder / cls.folder / name)] for name in cls.test])
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": md5(folder / cls.folder / cls.meta)})
    return archive


@both
def test_a_set_is_fetched_and_unpacked_once(
    cls: type[CIFAR], served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, root = publish(cls, served, monkeypatch), tmp_path / "root"
    expected = make(cls).load(32, served[0], download=False)
    for _ in range(2):
        loaded = make(cls).load(32, root, download=True)
        assert torch.equal(loaded.images, expected.images)
        archive.unlink(missing_ok=True)  # the second time, nothing is asked for
    assert sorted(path.name for path in root.iterdir()) == sorted([archive.name, cls.folder])


@both
def test_an_archive_that_is_damaged_on_the_way_is_refused(
    cls: type[CIFAR], served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(cls, served, monkeypatch).write_bytes(b"damaged")
    root = tmp_path / "root"
    with pytest.raises(InvalidInput, match=rf"^cannot download {cls.folder} into .*corrupted") as caught:
        make(cls).load(32, root, download=True)
    assert "\n" not in str(caught.value)
    assert not (root / cls.folder).exists()


def write_sheets(folder: Path, per_class: int = 4) -> np.ndarray:
    """Write 400 random tiles as two sheets, and their labels, a fine class being one of five of a coarse class."""
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (100 * per_class, 32, 32, 3), dtype=np.uint8)
    fine = random.permutation(np.arange(100).repeat(per_class))
    folder.mkdir()
    for number, part in enumerate(np.split(images, 2)):
        sheet = part.reshape(-1, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 40 * 32, 3)
        Image.fromarray(sheet).save(folder / f"test-{number:02d}.webp", lossless=True)
    np.savez(
        folder / "labels.npz",
        test_fine=fine,
        test_coarse=fine // 5,
        fine_classes=[f"fine {label}" for label in range(100)],
        coarse_classes=[f"coarse {label}" for label in range(20)],
        test_filenames=[f"image_{index}.png" for index in range(len(images))],
    )
    return images


def test_sheets_of_cifar_100_become_files_of_two_disjoint_halves(tmp_path: Path) -> None:
    images = write_sheets(tmp_path / "sheets")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "sheets"), "--root", str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "No image of the published train split is here." in done.stdout
    sets = {
        split: make(CIFAR20, split).load(32, tmp_path / "root", download=False) for split in ("train", "test", "all")
    }
    for split, count in (("train", 200), ("test", 200), ("all", 400)):
        assert sets[split].labels.bincount().tolist() == [count // 20] * 20
        assert sets[split].class_names[0] == "coarse 0"
    known = {image.tobytes(): index for index, image in enumerate(images.transpose(0, 3, 1, 2))}
    found = [known[image.numpy().tobytes()] for image in sets["all"].images]
    assert sorted(found) == list(range(400))
    with np.load(tmp_path / "sheets" / "labels.npz") as labels:
        assert labels["test_coarse"][found].tolist() == sets["all"].labels.tolist()


def test_sheets_of_cifar_100_may_become_a_test_split_alone(tmp_path: Path) -> None:
    images = write_sheets(tmp_path / "sheets")
    module = script()
    module.main([str(tmp_path / "sheets"), "--root", str(tmp_path / "root"), "--test-only"])
    loaded = make(CIFAR20, "test").load(32, tmp_path / "root", download=False)
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1), images)
    with pytest.raises(InvalidInput, match=r"^missing file .*/train: "):
        make(CIFAR20).load(32, tmp_path / "root", download=False)


def test_cifar_10_has_the_published_counts_and_is_what_torchvision_reads(data_root: Path) -> None:
    loaded = make(CIFAR10).load(32, data_root, download=False)
    assert loaded.images.shape == (60_000, 3, 32, 32)
    assert loaded.labels.bincount().tolist() == [6000] * 10
    assert loaded.labels[50_000:].bincount().tolist() == [1000] * 10
    assert loaded.description == "cifar10: 60000 images, split all"
    for train, part in ((True, slice(0, 50_000)), (False, slice(50_000, None))):
        expected = torchvision.datasets.CIFAR10(data_root, train=train, download=False)
        assert np.array_equal(loaded.images[part].permute(0, 2, 3, 1), expected.data)
        assert loaded.labels[part].tolist() == expected.targets
        assert list(loaded.class_names) == expected.classes


@pytest.mark.parametrize("name", ["batches.meta", "test_batch"])
def test_what_stands_in_for_python_2_writes_the_operations_of_the_published_files(name: str, data_root: Path) -> None:
    def operations(content: bytes) -> list[tuple[str, Any]]:
        # Python 2 leaves out of its memo what occurs once, and counts from 1. Old numpy writes 0 and 1 for truth.
        found = [(code.name, argument) for code, argument, _ in pickletools.genops(content)]
        truth = {"NEWFALSE": ("BININT1", 0), "NEWTRUE": ("BININT1", 1)}
        return [truth.get(each[0], each) for each in found if "PUT" not in each[0]]

    published = (data_root / "cifar-10-batches-py" / name).read_bytes()
    same = operations(as_python_2(pickle.loads(published, encoding="bytes"))) == operations(published)
    assert same  # a difference of 30 megabytes is not to be printed
