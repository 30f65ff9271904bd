"""Input that nobody would write on purpose: an error of one line or success, and neither memory nor files touched."""

from __future__ import annotations

import importlib
import io
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import strategies as some
from PIL import Image

from mpcc.core.commands import entry, plugins
from mpcc.core.config import read_config
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry
from mpcc.plugins.datasets.arrays import Arrays
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.mnist import MNIST
from mpcc.plugins.datasets.omniglot import Omniglot
from mpcc.plugins.datasets.options import ArraysOptions, FolderOptions, MNISTOptions, OmniglotOptions

PRIORS = load_registry([]).names("prior")
TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 4, "latent-dim": 3, "clusters": 3, "d-steps": 1, "e-steps": 1},
    **{"iterations": 1, "eval-images": 20, "standing-passes": 1, "device": "cpu", "threads": 1, "metrics": "occupancy"},
    "preset": "none",
}


def load_arrays(images: Path, labels: Path | None = None) -> Any:
    return Arrays(ArraysOptions(path=images, labels=labels)).load(8, None, download=False)


def refusal(action: Callable[[], Any], mebibytes: int = 1024) -> str:
    """Do something that must be refused, and without so much memory; return what was said."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInput) as caught:
        action()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1024 * mebibytes
    return str(caught.value)


@pytest.mark.parametrize("extension", ["png", "bmp", "gif"])
def test_a_picture_that_claims_an_enormous_size_takes_no_memory(extension: str, tmp_path: Path) -> None:
    header = struct.pack(">2I5B", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    content = {
        "png": b"\x89PNG\r\n\x1a\n" + chunk + bytes(100),
        "bmp": b"BM" + struct.pack("<IHHI IiiHHIIiiII", 154, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6),
        "gif": b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\xf7\0\0"
        + bytes(768)
        + b",\0\0\0\0\xff\xff\xff\xff\0\x08",
    }[extension]
    (tmp_path / f"x.{extension}").write_bytes(content)
    said = refusal(lambda: Folder(FolderOptions(path=tmp_path)).load(8, None, download=False))
    assert f"x.{extension}" in said


def omniglot_zip(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def drawings(character: str = "character01") -> dict[str, bytes]:
    drawing = io.BytesIO()
    Image.new("1", (105, 105), 1).save(drawing, "PNG")
    stem = f"images_background_small1/Greek/{character}"
    return {f"{stem}/0101_{number:02d}.png": drawing.getvalue() for number in range(1, 21)}


def load_omniglot(root: Path) -> Any:
    chosen = OmniglotOptions(classes=1, copies=1)
    return Omniglot(chosen).load(8, root, download=False)


def test_a_drawing_that_unpacks_to_a_thousand_times_its_size_takes_no_memory(tmp_path: Path) -> None:
    members = drawings()
    place = tmp_path / "omniglot-py" / "images_background_small1.zip"
    place.parent.mkdir()
    bomb = next(iter(members))
    with zipfile.ZipFile(
        tmp_path / "omniglot-py" / "images_background_small1.zip", "w", zipfile.ZIP_DEFLATED
    ) as archive:
        for name, content in members.items():
            if name != bomb:
                archive.writestr(name, content)
                continue
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(2**8):
                    file.write(bytes(2**20))
    said = refusal(lambda: load_omniglot(tmp_path), mebibytes=128)
    assert f"cannot read {bomb} (it unpacks to more bytes than a drawing has)" in said


def test_members_whose_names_lead_elsewhere_are_no_files(tmp_path: Path) -> None:
    root, archive = tmp_path / "in" / "root", "images_background_small1.zip"
    link = zipfile.ZipInfo("images_background_small1/link")
    link.external_attr = 0o120777 << 16
    odd = dict.fromkeys(("../../evil", "/evil", "images_background_small1/../../../evil", "C:\\evil", "a/\x00/b"), b"x")
    omniglot_zip(root / "omniglot-py" / archive, {**drawings(), **odd})
    with zipfile.ZipFile(root / "omniglot-py" / archive, "a") as opened:
        opened.writestr(link, "/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    assert len(load_omniglot(root)) == 20
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shape", [(2**62, 8, 8), (2**40, 2**40, 2**40), (3, 2**62, 2**62), (2**64, 1, 1)])
def test_a_shape_whose_product_overflows_takes_no_memory(shape: tuple[int, ...], tmp_path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", content)
    for name in ("x.npy", "x.npz"):
        assert refusal(lambda name=name: load_arrays(tmp_path / name)).startswith(f"broken file {tmp_path / name}")


@pytest.mark.parametrize("count", [0xFFFFFFFF, 0x80000000, 13, 0])
def test_a_count_of_images_that_the_file_does_not_have_takes_no_memory(count: int, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + bytes(12 * 28 * 28))
    (raw / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + bytes(12))
    said = refusal(lambda: MNIST(MNISTOptions(split="train")).load(8, tmp_path, download=False))
    assert str(raw / "train-images-idx3-ubyte") in said


def test_numbers_that_are_none_are_refused_in_labels_and_in_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), dtype=np.uint8))
    for value in (np.nan, np.inf, -np.inf):
        np.save(tmp_path / "y.npy", np.full(3, value))
        if not np.isnan(value):  # an image without a label
            assert "whole numbers, got" in refusal(lambda: load_arrays(tmp_path / "x.npy", tmp_path / "y.npy"))
        np.save(tmp_path / "z.npy", np.full((3, 8, 8), value))
        assert "expected finite values" in refusal(lambda: load_arrays(tmp_path / "z.npy"))


Said = tuple[int, str, str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run mpcc-run with tiny settings and these flags instead; return status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPCC_DATA", raising=False)

    def run(*flags: str) -> Said:
        named = {word.partition("=")[0] for word in flags}
        rest = [f"--{name}={value}" for name, value in TINY.items() if f"--{name}" not in named]
        with pytest.raises(SystemExit) as caught:
            entry.run_main([*rest, *flags])
        code = caught.value.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "flags",
    [
        "--clusters=1",
        "--latent-dim=1",
        "--clusters=1 --latent-dim=1",
        "--batch=2",
        "--batch=3",
        "--batch=1797 --d-steps=2",
    ],
)
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_the_smallest_and_odd_sizes_train(command: Callable[..., Said], flags: str, engine: str) -> None:
    status, out, err = command(*flags.split(), f"--engine={engine}", "--out=run", "--prior.weights=trainable")
    assert status == 0, err
    assert out.startswith("run: 1 iterations")


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_trains_with_one_cluster_of_one_dimension(command: Callable[..., Said], prior: str) -> None:
    status, _, err = command("--clusters=1", "--latent-dim=1", f"--prior={prior}", "--out=run", "--metrics=all")
    assert status == 0, err


@pytest.mark.parametrize("size", [10**12, 2**63, 10**30, 10**400])
@pytest.mark.parametrize("name", ["latent-dim", "clusters", "arch.width", "batch"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_size_beyond_all_memory_is_refused_in_one_line(
    command: Callable[..., Said], name: str, size: int, dry: tuple[str, ...]
) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, _, err = command(f"--{name}={size}", *dry)
    assert status == 2
    assert err.startswith("mpcc-run: error: ")
    assert err.count("\n") == 1
    assert name.rpartition(".")[2].replace("-", "_") in err.replace("-", "_")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 2**20
    assert not list(Path().iterdir())


def test_a_factor_beyond_what_float32_can_factorise_is_refused(command: Callable[..., Said]) -> None:
    status, _, err = command("--prior=lowrank_gmm", "--prior.initial-factor=1e38", "--dry-run")
    assert status == 2
    assert "--prior.initial-factor: the value must be <= 100.0: 1e+38" in err


@pytest.mark.parametrize("content", ["x = " + "[" * 5000, "x = " + "{ a = " * 5000, f"x = {'9' * 5000}"])
def test_toml_that_python_cannot_follow_is_refused(command: Callable[..., Said], content: str) -> None:
    Path("x.toml").write_text(content, encoding="utf-8")
    for flag in ("--config", "--registry"):
        status, _, err = command(flag, "x.toml")
        assert status == 2
        assert "x.toml: not valid TOML: " in err


def test_a_file_that_is_far_too_large_for_toml_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.toml").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    assert "at most 16 MiB, got more" in refusal(lambda: read_config(tmp_path / "x.toml"))


def test_odd_names_of_files_are_refused(command: Callable[..., Said]) -> None:
    Path("x.toml").write_text('plugins = ["a\\u0000b.py"]', encoding="utf-8")
    for flags, part in (
        (["--config", "x.toml"], "plugins: expected a list of files"),
        (["--registry", "~nobody-of-this-name/x.toml"], "--registry ~nobody-of-this-name/x.toml: "),
        (["--plugin", "~nobody-of-this-name/x.py"], "--plugin ~nobody-of-this-name/x.py: "),
        (["--registry", "[]"], "--registry "),
        # config.toml holds paths with bytes that are no text, but no other values.
        (["--data-root", "a\0b"], "--data-root: expected a path, got 'a\\x00b'"),
        (["--data-root", "file:///a%00b"], "--data-root: expected a path, got 'file:///a%00b'"),
        # Bytes of a name that are no text are a name all the same; half of a letter is none.
        (["--data-root", "\ud800"], "--data-root: expected a path, got '\\ud800'"),
        (["--features", "\udcff"], "--features: expected text, got '\\udcff'"),
        (["--plugin", '{"a": 1}'], "--plugin "),
    ):
        status, _, err = command(*flags)
        assert status == 2
        assert part in err
        assert err.count("\n") == 1


def test_what_plugins_say_of_themselves_is_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))  # the folder of a registry file joins it
    entry, file = {"target": "a.b:c", "summary": "[/] and [bold]all[/bold]"}, tmp_path / "mine.toml"
    file.write_text(tomli_w.dumps({"metrics": {"mine": entry}}), encoding="utf-8")
    plugins.print_plugins(load_registry([], registries=[file]))
    assert entry["summary"] in capsys.readouterr().out
    for summary in ("two\nlines", "\x1b[31mred", "two\u2028lines"):
        file.write_text(tomli_w.dumps({"metrics": {"mine": {**entry, "summary": summary}}}), encoding="utf-8")
        assert "one line of text" in refusal(lambda: load_registry([], registries=[file]))


def test_a_plugin_that_registers_nothing_under_a_name_is_refused(command: Callable[..., Said]) -> None:
    hook = "from mpcc.core.hookspecs import hookimpl\n\n\n@hookimpl\ndef register_priors(register):\n"
    Path("nothing_there.py").write_text(f"{hook}    register('mine', None, summary='Nothing.')\n", encoding="utf-8")
    status, _, err = command("--plugin", "nothing_there.py", "--prior", "mine")
    assert status == 2
    assert "None is not an import path" in err


@pytest.mark.check
def test_a_hundred_malformed_inputs_do_no_harm(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "malformed_inputs.py"), "--cases", "112", "--seed", "11"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | 112 |" in done.stdout
    assert not list(tmp_path.iterdir())


# A plugin that does harm while it is loaded, and what is counted then.
HARM = {
    "import os\nos._exit(9)": ["crashes"],
    "import signal\nsignal.alarm(1)\nwhile True:\n    pass": ["hangs"],
    "import sys\nprint('Traceback (most recent call last)', file=sys.stderr)\nopen('../beside', 'w').close()\n"
    "b'x' * (3 * 2**29)\nraise KeyboardInterrupt": ["allocations", "damaged", "tracebacks", "unclear"],
}


@pytest.mark.check
def test_every_kind_of_harm_is_found_and_a_case_can_be_repeated(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    fuzzer = importlib.import_module("malformed_inputs")
    for code in HARM:
        case = fuzzer.Case("mpcc", ["plugins", "--plugin=harm.py"], {"harm.py": code.encode()})
        monkeypatch.setitem(fuzzer.KINDS, code, lambda _, case=case: some.just(case))
    chosen = [("checkpoint", 4), *((code, 0) for code in HARM), ("checkpoint", 4)]
    first, *harmful, again = fuzzer.supervise(chosen, 0, tmp_path)
    assert {each.kind: each.bad for each in harmful} == HARM
    assert again == first
