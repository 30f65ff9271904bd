"""Downloads of data sets, from a web server of the test's own."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from mpcc.core.errors import InvalidInput
from mpcc.plugins.datasets import omniglot
from mpcc.plugins.datasets.fashion_mnist import FashionMNIST
from mpcc.plugins.datasets.mnist import MNIST
from mpcc.plugins.datasets.omniglot import Omniglot
from mpcc.plugins.datasets.options import FashionMNISTOptions, MNISTOptions, OmniglotOptions
from mpcc.plugins.datasets.reading.idx import IdxSet

MISSING = "http://127.0.0.1:9/"  # the discard port: nothing answers there


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


@pytest.fixture
def mnist_mirror(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror of a set of five blank images, and the only one that torchvision knows, of digits and of clothes."""
    folder, address = served
    resources = []
    for part in ("train", "t10k"):
        contents = {
            f"{part}-images-idx3-ubyte.gz": struct.pack(">4I", 0x803, 5, 28, 28) + bytes(5 * 784),
            f"{part}-labels-idx1-ubyte.gz": struct.pack(">2I", 0x801, 5) + bytes(range(5)),
        }
        for name, content in contents.items():
            packed = gzip.compress(content)
            (folder / name).write_bytes(packed)
            resources.append((name, hashlib.md5(packed).hexdigest()))
    for known in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST):
        monkeypatch.setattr(known, "mirrors", [address])
        monkeypatch.setattr(known, "resources", resources)
    return folder


@pytest.fixture
def omniglot_mirror(served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror where each official zip holds one blank character."""
    folder, address = served
    for key, (name, _) in list(omniglot.ZIPS.items()):
        stem = name.removesuffix(".zip")
        drawings = tmp_path / "drawings" / stem / "Greek" / "character01"
        drawings.mkdir(parents=True)
        for drawer in range(1, 21):
            Image.new("1", (105, 105), 1).save(drawings / f"0394_{drawer:02d}.png")
        shutil.make_archive(str(folder / stem), "zip", tmp_path / "drawings", stem)
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setitem(omniglot.ZIPS, key, (name, md5))
    monkeypatch.setattr(torchvision.datasets.Omniglot, "download_url_prefix", address.rstrip("/"))
    return folder


@pytest.mark.parametrize("data", [MNIST(MNISTOptions()), FashionMNIST(FashionMNISTOptions())])
def test_mnist_and_its_like_are_fetched_and_unpacked_once(data: IdxSet, mnist_mirror: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for _ in range(2):
        loaded = data.load(28, root, download=True)
        assert [path.name for path in root.iterdir()] == [data.folder]
        assert loaded.images.shape == (10, 1, 28, 28)
        assert loaded.labels is not None
        assert loaded.labels.tolist() == [0, 1, 2, 3, 4] * 2
        shutil.rmtree(mnist_mirror, ignore_errors=True)  # the second time, nothing is asked for


def test_mnist_files_that_are_damaged_on_the_way_are_refused(mnist_mirror: Path, tmp_path: Path) -> None:
    (mnist_mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(InvalidInput, match=r"^cannot download MNIST into .*corrupted") as caught:
        MNIST(MNISTOptions()).load(28, tmp_path / "root", download=True)
    assert "\n" not in str(caught.value)


def test_a_download_that_fails_is_one_line_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [MISSING])
    monkeypatch.setattr(torchvision.datasets.Omniglot, "download_url_prefix", MISSING.rstrip("/"))
    for data, name in ((MNIST(MNISTOptions()), "MNIST"), (Omniglot(OmniglotOptions()), "images_background.zip")):
        with pytest.raises(
            InvalidInput, match=rf"^cannot download {name} into .*check the network, or use --data-root"
        ):
            data.load(32, tmp_path, download=True)


@pytest.mark.parametrize(
    ("source", "fetched"),
    [
        ("auto", ["images_background.zip"]),
        ("large", ["images_background.zip"]),
        ("small", ["images_background_small1.zip", "images_background_small2.zip"]),
        ("small1", ["images_background_small1.zip"]),
        ("small2", ["images_background_small2.zip"]),
    ],
)
def test_omniglot_fetches_what_the_source_names_and_unpacks_nothing(
    source: str, fetched: list[str], omniglot_mirror: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    options = OmniglotOptions(source=source, classes=1, copies=2)
    loaded = Omniglot(options).load(8, root, download=True)
    assert sorted(path.name for path in (root / "omniglot-py").iterdir()) == fetched
    assert loaded.images.shape == (40, 1, 8, 8)
    assert not loaded.images.any()
    assert " + ".join(fetched) in loaded.description
    shutil.rmtree(omniglot_mirror)
    assert torch.equal(Omniglot(options).load(8, root, download=True).images, loaded.images)


def test_automatic_omniglot_fetches_nothing_while_a_small_zip_is_there(omniglot_mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "omniglot-py"
    folder.mkdir(parents=True)
    shutil.copy(omniglot_mirror / "images_background_small2.zip", folder)
    loaded = Omniglot(OmniglotOptions(classes=1, copies=1)).load(8, tmp_path / "root", download=True)
    assert loaded.paths[0] == "images_background_small2.zip/Greek/character01/0394_01.png"
    assert len(list(folder.iterdir())) == 1


def test_packed_mnist_files_are_unpacked_without_a_network(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = sorted((data_root / "MNIST" / "raw").glob("*.gz"))
    if len(packed) < 4:
        pytest.xfail("the data folder has only the unpacked files")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in packed:
        (raw / file.name).symlink_to(file)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{(tmp_path / 'nowhere').as_uri()}/"])
    loaded = MNIST(MNISTOptions(split="test")).load(28, tmp_path, download=True)
    assert len(loaded) == 10_000
