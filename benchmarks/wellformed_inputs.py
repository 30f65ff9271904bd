"""Small real files of every kind that mpcc reads, and the flags and options of its commands."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from cifar100_pickles import Python2Pickler
from malformed_cases import TINY
from PIL import Image

from mpcc.core.commands import entry
from mpcc.core.config import RunSettings, flag, options
from mpcc.core.registry import load_registry

__all__ = ["build"]

REGISTRY = """\
[priors.mine]
target = "mpcc.plugins.priors.gmm:GaussianMixture"
options = "mpcc.plugins.priors.options:GaussianMixtureOptions"
summary = "The mixture of Gaussians under another name."
defaults = { scale_floor = 0.3 }

[metrics.used]
target = "mpcc.plugins.metrics.occupancy:Occupancy"
summary = "Occupancy under another name."
api_version = 1

[presets.small]
source = "nowhere in particular"
prior = { name = "mine" }
run = { clusters = 3, latent_dim = 3 }
"""

PLUGIN = '''\
"""A plugin of one file."""

from mpcc.core.hookspecs import hookimpl


@hookimpl
def register_priors(register):
    register(
        "local",
        "mpcc.plugins.priors.gmm:GaussianMixture",
        options="mpcc.plugins.priors.options:GaussianMixtureOptions",
        summary="The mixture of Gaussians once more.",
    )
'''


def build(stock: Path) -> None:
    """Write all files into a new folder."""
    random = np.random.default_rng(0)
    stock.mkdir(parents=True)
    (stock / "registry.toml").write_text(REGISTRY, encoding="utf-8")
    (stock / "malformed_plugin.py").write_text(PLUGIN, encoding="utf-8")
    write_arrays(stock / "arrays", random)
    write_images(stock / "images", random)
    write_mnist(stock / "root" / "MNIST" / "raw", random)
    write_cifar(stock / "root", random)
    write_omniglot(stock / "root" / "omniglot-py" / "images_background_small1.zip", random)
    write_run(stock / "run")
    (stock / "flags.json").write_text(json.dumps(flags()), encoding="utf-8")
    (stock / "options.json").write_text(json.dumps(options_by_prior()), encoding="utf-8")


def output_of(entry: Callable[[Sequence[str]], None], *words: str) -> str:
    """Return the output of a command."""
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        entry(words)
    return output.getvalue()


def write_run(folder: Path) -> None:
    """Train for one iteration.

    Raises:
        RuntimeError: If training fails.
    """
    output = output_of(entry.run_main, *(f"--{name}={value}" for name, value in TINY.items()), f"--out={folder}")
    if not (folder / "checkpoints" / "last.pt").is_file():
        raise RuntimeError(output)


def flags() -> dict[str, list[str]]:
    """Return the flags of ``mpcc-run`` and of every command of ``mpcc``, as their help names them."""
    commands = ("", "evaluate", "export", "predict", "plugins", "plugins list", "plugins new", "plugins check", "bench")
    helps = {command: output_of(entry.main, *command.split(), "--help") for command in commands}
    helps["mpcc-run"] = output_of(entry.run_main, "--data=folder", "--help")
    helps["predict"] += " --data.path --data.memory --data.labels --data.images-key --data.x"
    return {command: sorted(set(re.findall(r"--[a-z][\w.-]*", shown))) for command, shown in helps.items()}


def options_by_prior() -> dict[str, dict[str, list[str]]]:
    """Return the choices, or the names of types, of the options of a run, of each prior and of an architecture."""
    registry, options_of = load_registry([]), {}
    for prior in registry.names("prior"):
        classes = {"run": RunSettings, "prior": registry.entry("prior", prior).options_class()}
        classes["arch"] = registry.entry("architecture", "biggan8").options_class()
        options_of[prior] = {
            flag(section, name): alternatives(field.type)
            for section, cls in classes.items()
            for name, field in (options.fields(cls) if cls else {}).items()
        }
    return options_of


def alternatives(kind: Any) -> list[str]:
    """Return the choices of a type, or the names of its types of numbers."""
    if get_origin(kind) in (Union, UnionType):
        return [word for member in get_args(kind) for word in alternatives(member)]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [kind.__name__] if kind in (bool, int, float) else []


def write_arrays(folder: Path, random: np.random.Generator) -> None:
    """Write arrays of 12 images and their labels in every kind of file."""
    folder.mkdir()
    images = random.integers(0, 256, (12, 10, 9), dtype=np.uint8)
    labels = np.arange(12) % 3
    np.save(folder / "bytes.npy", images)
    np.save(folder / "floats.npy", np.asfortranarray(images.astype(np.float32) / 255))
    np.save(folder / "labels.npy", labels)
    np.savez(folder / "both.npz", images=images, labels=labels)
    np.savez_compressed(folder / "packed.npz", images=images, labels=labels)
    torch.save(torch.from_numpy(images), folder / "tensor.pt")
    torch.save({"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}, folder / "both.pt")
    torch.save(torch.from_numpy(images), folder / "old.pth", _use_new_zipfile_serialization=False)


def write_images(folder: Path, random: np.random.Generator) -> None:
    """Write a folder with two classes of images of every format."""
    for at, extension in enumerate(("png", "jpg", "tif", "gif", "bmp", "webp", "png", "tiff")):
        file = folder / "ab"[at % 2] / f"{at}.{extension}"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(random.integers(0, 256, (12, 14, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        if extension in ("jpg", "webp"):
            picture.save(file, exif=exif)
        elif extension == "tiff":
            picture.save(file, compression="tiff_lzw")
        else:
            picture.save(file)


def write_mnist(folder: Path, random: np.random.Generator) -> None:
    """Write the four files of MNIST, 12 images each, and two of them packed."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = struct.pack(">4I", 0x803, 12, 28, 28) + random.bytes(12 * 28 * 28)
        labels = struct.pack(">2I", 0x801, 12) + bytes(range(10)) + bytes(2)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, mtime=0))


def write_cifar(root: Path, random: np.random.Generator) -> None:
    """Write CIFAR-10 and CIFAR-100 as they are published, 12 images a file."""
    for folder, parts, labels, meta, names in (
        ("cifar-10-batches-py", [f"data_batch_{n}" for n in range(1, 6)], "labels", "batches.meta", "label_names"),
        ("cifar-100-python", ["train"], "coarse_labels", "meta", "coarse_label_names"),
    ):
        (root / folder).mkdir(parents=True)
        for part in [*parts, "test_batch" if folder.startswith("cifar-10-") else "test"]:
            content = {
                "data": random.integers(0, 256, (12, 3072), dtype=np.uint8),
                labels: [int(label) for label in random.integers(0, 10, 12)],
                "filenames": [f"{part}-{number}.png" for number in range(12)],
            }
            with (root / folder / part).open("wb") as file:
                Python2Pickler(file).dump(content)
        with (root / folder / meta).open("wb") as file:
            Python2Pickler(file).dump(
                {names: [f"class {label}" for label in range(10 if names == "label_names" else 20)]}
            )


def write_omniglot(file: Path, random: np.random.Generator) -> None:
    """Write a zip of two characters of 20 drawings, as the official ones are."""
    file.parent.mkdir(parents=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for character in ("character01", "character02"):
            for drawer in range(1, 21):
                drawing = io.BytesIO()
                Image.fromarray(random.random((105, 105)) < 0.9).save(drawing, "PNG")
                name = f"images_background_small1/Greek/{character}/{character[-2:]}01_{drawer:02d}.png"
                archive.writestr(zipfile.ZipInfo(name), drawing.getvalue(), zipfile.ZIP_DEFLATED)
