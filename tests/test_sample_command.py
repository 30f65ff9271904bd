"""``mpcc sample``: files, sheets and arrays of new images, seeds, whole output or none, one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mpcc
from mpcc.core.commands import entry

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"standing-passes": 2, "eval-images": 40, "seed": 3, "device": "cpu", "prior": "student_t", "threads": 1},
}


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def sample(*arguments: str | Path) -> int:
    return command(entry.main, "sample", *arguments, "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert command(entry.run_main, *[f"--{name}={value}" for name, value in TINY.items()], f"--out={folder}") == 0
    return folder


def test_it_writes_a_file_for_each_image(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new"
    assert sample(run, "--cluster", "3,5", "--count", "6", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 12 images of cluster 3,5, iteration 2, seed 0\n"
    files = sorted(path.name for path in out.iterdir())
    assert files == [f"cluster-3-{n:02}.png" for n in range(6)] + [f"cluster-5-{n:02}.png" for n in range(6, 12)]
    expected, _ = mpcc.load(run, device="cpu").sample(12, np.repeat([3, 5], 6))
    for image, name in zip(expected, files, strict=True):
        with Image.open(out / name) as picture:
            assert np.array_equal(np.asarray(picture), image)


def test_an_array_holds_the_same_images(run: Path, tmp_path: Path) -> None:
    assert sample(run, "--count", "7", "--seed", "4", "--truncation", "0.5", "--out", tmp_path / "x.npy") == 0
    expected, _ = mpcc.load(run, device="cpu").sample(7, seed=4, truncation=0.5)
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize(("more", "rows", "columns"), [((), 2, 10), (("--interpolate", "5"), 20, 5)])
def test_a_sheet_has_rows(run: Path, tmp_path: Path, more: tuple[str, ...], rows: int, columns: int) -> None:
    assert sample(run, "--cluster", "1", "--count", "20", *more, "--out", tmp_path / "x.png") == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert columns * 48 < picture.width < columns * 48 + 250
        assert rows * 48 < picture.height < rows * 60 + 80


def test_the_default_is_a_new_folder_in_that_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("samples", "samples-2"):
        assert sample(run, "--count", "3") == 0
        assert capsys.readouterr().out.startswith(f"{run / name}: 3 images, ")
        assert len(list((run / name).iterdir())) == 3


def test_what_fails_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    for name in ("folder", "x.png"):
        assert sample(run, "--count", "3", "--out", tmp_path / name) in (2, 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cluster", "10"), "--cluster 10: expected numbers from 0 to 9, or all, got '10'"),
        (("--cluster", "x"), "--cluster x: expected numbers from 0 to 9, or all, got 'x'"),
        (("--interpolate", "4"), "--interpolate needs clusters: expected --cluster as well, such as --cluster all"),
        (("--count", "0"), "--count: "),
        (("--truncation", "2"), "--truncation: "),
        (("--out", "no/such/x.png"), "--out no/such/x.png cannot be written"),
        (("--checkpoint", "no.pt"), "checkpoint no.pt: no such file"),
    ],
)
def test_a_mistake_is_one_line(
    run: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(run, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"mpcc: error: {message}")


def test_it_does_not_replace_anything(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_bytes(b"mine")
    assert sample(run, "--out", tmp_path / "x.png") == 2
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "x.png").read_bytes() == b"mine"
