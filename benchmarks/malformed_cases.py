"""The kinds of malformed input: which files are spoilt, and which command reads them."""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import attrs
import numpy as np
import torch
from malformation import ODD_VALUES, spoil_archive, spoil_bytes, spoil_png, spoil_toml
from malformed_commands import BUDGET, Case, extremes, mpcc_flags, run_flags, run_of, tiny

from mpcc.core.storage.checkpoint import add_digest, save_checkpoint

__all__ = ["KINDS"]


def config(random: Random, folder: Path, stock: Path) -> Case:
    """A configuration file that was spoilt."""
    text = spoil_toml((stock / "run" / "config.toml").read_text(encoding="utf-8"), random)
    (folder / "config.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    if random.random() < 0.4:
        return Case("mpcc-run", ["--config", "config.toml", "--dry-run"])
    return Case("mpcc-run", ["--config", "config.toml", *tiny(*BUDGET), "--out", "out"])


def registry(random: Random, folder: Path, stock: Path) -> Case:
    """A registry file that was spoilt, and what is in it used or listed."""
    text = spoil_toml((stock / "registry.toml").read_text(encoding="utf-8"), random)
    (folder / "registry.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    named = ["--registry", "registry.toml"]
    environment = {"MPCC_REGISTRY": "registry.toml"} if random.random() < 0.3 else {}
    named = [] if environment else named
    chosen = random.choice(("list", "json", "dry", "run"))
    if chosen in ("list", "json"):
        return Case("mpcc", ["plugins", *(["--json"] if chosen == "json" else []), *named], environment=environment)
    flags = [*named, "--prior", "mine", "--preset", "small"]
    if chosen == "dry":
        return Case("mpcc-run", [*flags, "--dry-run"], environment=environment)
    rest = tiny(without=("latent-dim", "clusters", "preset"), metrics="used")
    return Case("mpcc-run", [*rest, *flags, "--out", "out"], environment=environment)


def plugin(random: Random, folder: Path, stock: Path) -> Case:
    """A one-file plugin that was spoilt: its text, or what it registers."""
    text = (stock / "malformed_plugin.py").read_bytes()
    if random.random() < 0.5:
        text = spoil_bytes(text, random)
    else:
        words = (b'"local"', b'"mpcc.plugins.priors.gmm:GaussianMixture"', b'"The mixture of Gaussians once more."')
        values = (b"None", b"5", b"''", b"[]", b"b'x'", b"object()", b"'os:path'", b"'x\\ny'", b"'[/]'", b"lambda: 1")
        text = text.replace(random.choice(words), random.choice(values))
    (folder / "malformed_plugin.py").write_bytes(text)
    named = ["--plugin", "malformed_plugin.py"]
    if random.random() < 0.5:
        return Case("mpcc", ["plugins", *named])
    return run_of(*named, "--prior", "local", *(["--dry-run"] if random.random() < 0.5 else []))


def arrays(random: Random, folder: Path, stock: Path) -> Case:
    """A file of arrays that was spoilt, its images or its labels, trained on or predicted."""
    name = random.choice(sorted(path.name for path in (stock / "arrays").iterdir()))
    data = (stock / "arrays" / name).read_bytes()
    others = other_files(stock)
    if zipfile.is_zipfile(io.BytesIO(data)) and random.random() < 0.6:
        data = spoil_archive(data, random, others)
    else:
        data = spoil_bytes(data, random, others)
    (folder / name).write_bytes(data)
    flags = [f"--data.memory={random.choice(('auto', 'load', 'stream'))}"]
    if name == "labels.npy":
        shutil.copyfile(stock / "arrays" / "bytes.npy", folder / "bytes.npy")
        flags, name = ["--data.labels", "labels.npy"], "bytes.npy"
    elif name.startswith(("both", "packed")):
        flags = ["--data.labels-key", "labels"]
    return training_or_prediction(random, folder, stock, "arrays", name, flags)


def array_values(random: Random, folder: Path, stock: Path) -> Case:
    """Well-formed files of arrays with odd shapes, types and values: of images, or of labels."""
    kind = random.choice(
        ["f2", "f4", "f8", "u1", "i1", "i8", "b1", "c8", "U3", "M8[s]", ">f4", ">u2", "f4", "f8", "u8"]
    )
    shape = random.choice(
        ((0, 8, 8), (12, 0, 8), (12, 8), (12, 8, 8, 2), (12, 3, 8, 3), (1, 8, 8), (3, 1, 1), (5, 8, 9), (12, 8, 8), ())
    )
    made = np.zeros(shape, dtype=kind)
    if kind[-2] == "f" and made.size:
        made = np.linspace(0, 1, made.size).reshape(shape).astype(kind)
        odd = random.choice((np.nan, np.inf, -np.inf, -2.0, 256.0, 6e4, 1.0))
        made[tuple(random.randrange(side) for side in shape)] = odd
    np.save(folder / "images.npy", made, allow_pickle=False)
    flags = [f"--data.memory={random.choice(('auto', 'load', 'stream'))}"]
    if random.random() < 0.5:
        np.save(folder / "images.npy", np.zeros((12, 8, 8), dtype=np.uint8))
        labels = np.asarray(
            random.choice(
                ([0] * 11, [0] * 13, [-1] * 12, [0.5] * 12, [float("nan")] * 12, [2**62] * 12, [], 5, ["a"] * 12)
            )
        )
        np.save(folder / "labels.npy", labels, allow_pickle=False)
        flags += ["--data.labels", "labels.npy"]
    flags += [f"--data.layout={random.choice(('auto', 'NHW', 'NHWC', 'NCHW'))}"] * (random.random() < 0.3)
    flags += [f"--data.value-range={random.choice(('unit', 'symmetric', 'bytes'))}"] * (random.random() < 0.3)
    return training_or_prediction(random, folder, stock, "arrays", "images.npy", flags)


def images(random: Random, folder: Path, stock: Path) -> Case:
    """A folder of images one of which was spoilt."""
    shutil.copytree(stock / "images", folder / "images")
    file = random.choice(sorted(path for path in (folder / "images").rglob("*") if path.is_file()))
    data = file.read_bytes()
    if file.suffix == ".png" and random.random() < 0.6:
        file.write_bytes(spoil_png(data, random))
    else:
        file.write_bytes(spoil_bytes(data, random, other_files(stock)))
    flags = [f"--data.memory={random.choice(('load', 'stream'))}"]
    flags += ["--data.channels=3"] * (random.random() < 0.8)
    flags += [
        f"--data.unreadable={random.choice(('refuse', 'skip'))}",
        f"--data.labels={random.choice(('auto', 'none'))}",
    ]
    return training_or_prediction(random, folder, stock, "folder", "images", flags)


def mnist(random: Random, folder: Path, stock: Path) -> Case:
    """Files of MNIST one of which was spoilt; a quarter of the time a packed one, to be unpacked."""
    raw = folder / "root" / "MNIST" / "raw"
    shutil.copytree(stock / "root" / "MNIST" / "raw", raw)
    packed = random.random() < 0.25
    file = random.choice(sorted(path for path in raw.iterdir() if (path.suffix == ".gz") == packed))
    data = file.read_bytes()
    if packed and random.random() < 0.5:
        data = gzip.compress(spoil_bytes(gzip.decompress(data), random))
    else:
        data = spoil_bytes(data, random)
    file.write_bytes(data)
    if packed:
        file.with_suffix("").unlink()
    flags = ["--data", "mnist", "--data-root", "root", f"--data.split={random.choice(('all', 'train', 'test'))}"]
    case = run_of(*flags, *(["--download"] if packed else []))
    # Unpacking is what was asked for.
    return attrs.evolve(case, writes=["out", "root"]) if packed else case


def cifar(random: Random, folder: Path, stock: Path) -> Case:
    """Pickles of CIFAR one of which was spoilt."""
    name, place = random.choice((("cifar10", "cifar-10-batches-py"), ("cifar20", "cifar-100-python")))
    shutil.copytree(stock / "root" / place, folder / "root" / place)
    file = random.choice(sorted((folder / "root" / place).iterdir()))
    file.write_bytes(spoil_bytes(file.read_bytes(), random, other_files(stock)))
    split = random.choice(("all", "train", "test"))
    return run_of("--data", name, "--data-root", "root", f"--data.split={split}")


def omniglot(random: Random, folder: Path, stock: Path) -> Case:
    """A zip of Omniglot that was spoilt, or one of its members."""
    place = Path("root/omniglot-py/images_background_small1.zip")
    (folder / place).parent.mkdir(parents=True)
    data = (stock / place).read_bytes()
    spoilt = spoil_archive(data, random) if random.random() < 0.6 else spoil_bytes(data, random, other_files(stock))
    (folder / place).write_bytes(spoilt)
    return run_of(
        "--data", "omniglot", "--data-root", "root", "--data.classes=2", f"--data.copies={random.choice((1, 2))}"
    )


def checkpoint(random: Random, folder: Path, stock: Path) -> Case:
    """A checkpoint that was spoilt: its bytes, the members of its archive, or one of its values."""
    shutil.copytree(stock / "run", folder / "run")
    file = folder / "run" / "checkpoints" / "last.pt"
    data = file.read_bytes()
    chosen = random.randrange(4)
    if chosen == 0:
        file.write_bytes(spoil_bytes(data, random, other_files(stock)))
    elif chosen == 1:
        file.write_bytes(spoil_archive(data, random, other_files(stock)))
        with file.open("r+b") as opened:
            # What is read then is what is wrong, not that its digest is.
            add_digest(opened)
    else:
        save_checkpoint(file, with_odd_value(torch.load(file, weights_only=True), random))
    return of_run(random, stock)


def run_folder(random: Random, folder: Path, stock: Path) -> Case:
    """A run folder whose configuration or metrics were spoilt."""
    shutil.copytree(stock / "run", folder / "run")
    if random.random() < 0.3:
        file = folder / "run" / "metrics.jsonl"
        file.write_bytes(spoil_bytes(file.read_bytes(), random))
        return Case("mpcc-run", ["--resume", "run", "--iterations=2"], writes=["run"])
    file = folder / "run" / "config.toml"
    text = spoil_toml(file.read_text(encoding="utf-8"), random)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return of_run(random, stock)


def training_or_prediction(
    random: Random, folder: Path, stock: Path, data: str, path: str, flags: Sequence[str]
) -> Case:
    """Return a training on files of the working folder, or a prediction of them."""
    if random.random() < 0.7:
        return run_of("--data", data, "--data.path", path, *flags)
    shutil.copytree(stock / "run", folder / "run")
    return Case("mpcc", ["predict", "run", "--data", data, "--data.path", path, *flags, "--out", "out"])


def of_run(random: Random, stock: Path) -> Case:
    """Return a command that reads the run folder ``run``."""
    match random.randrange(4):
        case 0:
            return Case("mpcc", ["export", "run", "--out", "out"])
        case 1:
            return Case("mpcc-run", ["--resume", "run", "--iterations=2"], writes=["run"])
        case 2:
            return Case("mpcc", ["evaluate", "run", "--out", "out"])
        case _:
            path = str(stock / "arrays" / "bytes.npy")
            return Case(
                "mpcc",
                ["predict", "run", "--data-path", path, "--out", "out", "--posterior", "out.npy"],
                ("out", "out.npy"),
            )


def with_odd_value(state: dict[str, Any], random: Random) -> dict[str, Any]:
    """Exchange one value of a checkpoint, at any depth, or leave it out."""
    place: Any = state
    while True:
        key = random.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not (isinstance(inner, (dict, list)) and inner) or random.random() < 0.15:
            break
        place = inner
    odd: list[Any] = [None, -1, 2**62, 2**70, float("nan"), "", "x", [], {}, [1], {"a": 1}, True, torch.zeros(0)]
    odd += [torch.full((2, 3), torch.nan), torch.zeros(1, dtype=torch.int64)]
    if isinstance(inner, torch.Tensor):
        odd += [
            inner.flatten()[:0],
            torch.full_like(inner, 255),
            inner.double(),
            inner.unsqueeze(0),
            inner.to(torch.complex64),
        ]
        odd += [torch.full_like(inner, torch.nan)] if inner.is_floating_point() else [-inner.to(torch.int64)]
        odd += [inner.to_sparse()] if inner.ndim and inner.dtype != torch.uint8 else []
    elif isinstance(inner, str):
        odd += [inner[: len(inner) // 2], inner.replace("1", random.choice(ODD_VALUES)), "a\0b"]
    elif isinstance(inner, (int, float)):
        odd += [inner + 1, -inner, inner * 10**12]
    if random.random() < 0.2 and isinstance(place, dict):
        del place[key]
    else:
        place[key] = random.choice(odd)
    return state


def other_files(stock: Path) -> list[bytes]:
    """Return the contents of files of all kinds, by the order of their names."""
    names = (
        "arrays/bytes.npy",
        "arrays/both.npz",
        "arrays/old.pth",
        "registry.toml",
        "images/a/0.png",
        "images/b/1.jpg",
    )
    names += ("images/a/2.tif", "root/MNIST/raw/train-images-idx3-ubyte.gz", "root/cifar-10-batches-py/data_batch_1")
    return [(stock / name).read_bytes() for name in names]


KINDS: dict[str, Callable[[Random, Path, Path], Case]] = {
    "config": config,
    "registry": registry,
    "plugin": plugin,
    "run-flags": run_flags,
    "extremes": extremes,
    "mpcc-flags": mpcc_flags,
    "arrays": arrays,
    "array-values": array_values,
    "images": images,
    "mnist": mnist,
    "cifar": cifar,
    "omniglot": omniglot,
    "checkpoint": checkpoint,
    "run-folder": run_folder,
}
