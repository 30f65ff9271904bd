"""What ``mpcc predict`` takes: files, folders, patterns, arrays, archives, lists, in any order and mixture."""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpcc.core.commands import entry
from mpcc.plugins.datasets.digits import Digits
from mpcc.plugins.datasets.options import DigitsOptions

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"standing-passes": 2, "seed": 3, "device": "cpu", "clusters": 4, "threads": 1},
}
DIGITS = Digits(DigitsOptions()).load(8, None, False).images.numpy()[:, 0]
NAMES = [f"{index}.png" for index in range(7)]


def command(function: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        function([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def predict(*arguments: str | Path) -> int:
    return command(entry.main, "predict", *arguments)


def rows(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def error(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err.startswith("mpcc: error: ")
    assert (err.count("\n"), out) == (1, "")
    return err


@pytest.fixture(scope="module")
def run(clustered_run: Path) -> Path:
    """A run on the digits, all of whose clusters have images."""
    return clustered_run


@pytest.fixture(scope="module")
def expected(run: Path) -> list[tuple[str, str]]:
    """Cluster and confidence of the first seven digits in the run's own evaluation."""
    return [(row["cluster"], row["confidence"]) for row in rows(run / "assignments.csv")[:7]]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first seven digits in a folder, a nested one, an archive and a file of arrays."""
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    Path("nested/a/b").mkdir(parents=True)
    with zipfile.ZipFile("scans.zip", "w") as archive:
        for index, digit in enumerate(DIGITS[:7]):
            Image.fromarray(digit).save(Path("scans", NAMES[index]))
            place = Path("nested", "a/b" if index % 2 else "", NAMES[index])
            Image.fromarray(digit).save(place)
            archive.write(Path("scans", NAMES[index]), f"all/{NAMES[index]}")
        archive.writestr("__MACOSX/all/._0.png", b"of the file system")
        archive.writestr("all/notes.txt", b"no image")
    np.save("scans.npy", DIGITS[:7])
    return tmp_path


def results(path: str | Path) -> list[tuple[str, str]]:
    return [(row["cluster"], row["confidence"]) for row in rows(path)]


def in_a_list(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    def arrange(monkeypatch: pytest.MonkeyPatch) -> None:
        content = b"\r\n".join(os.fsencode(name) for name in ["", *names, ""])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return arrange


@pytest.mark.parametrize(
    ("words", "paths"),
    [
        (["scans"], [f"scans/{name}" for name in NAMES]),
        (["./scans/"], [f"scans/{name}" for name in NAMES]),
        ([f"scans/{name}" for name in NAMES], [f"scans/{name}" for name in NAMES]),
        (["scans/*.png"], [f"scans/{name}" for name in NAMES]),
        (["scans/[0-3].png", "**/[4-6].*"], [*(f"scans/{name}" for name in NAMES[:4]), ...]),
        (["scans.zip"], [f"scans.zip/all/{name}" for name in NAMES]),
        (["scans.npy"], [f"scans.npy#{index}" for index in range(7)]),
        (["-"], [f"scans/{name}" for name in NAMES]),
    ],
)
def test_every_kind_of_input_gives_the_clusters_of_the_runs_own_evaluation(
    run: Path,
    expected: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    paths: list[Any],
) -> None:
    in_a_list(*(f"scans/{name}" for name in NAMES))(monkeypatch)
    assert predict(run, *words, "--out", "table.csv") == 0
    found = [row["path"] for row in rows("table.csv")]
    if ... in paths:
        assert found[: paths.index(...)] == paths[: paths.index(...)]
        assert len(found) == 4 + 2 * 3
        return
    assert found == paths
    assert [cluster for cluster, _ in results("table.csv")] == [cluster for cluster, _ in expected]
    assert [float(value) for _, value in results("table.csv")] == pytest.approx(
        [float(value) for _, value in expected], abs=2e-6
    )


def test_several_inputs_are_one_table_in_their_order(run: Path, expected: list[tuple[str, str]]) -> None:
    words = ["scans/6.png", "scans.npy", "--batch", "4", "scans.zip", "nested", "scans/6.png", "scans/6.png"]
    assert predict(run, *words, "--out", "table.csv", "--latents", "z.npy") == 0
    nested = [0, 2, 4, 6, 1, 3, 5]
    order = [6, *range(7), *range(7), *nested, 6, 6]
    found = rows("table.csv")
    assert [row["index"] for row in found] == [str(index) for index in range(len(order))]
    assert [row["cluster"] for row in found] == [expected[index][0] for index in order]
    assert [row["path"] for row in found][15:22] == [
        *("nested/0.png", "nested/2.png", "nested/4.png", "nested/6.png"),
        *("nested/a/b/1.png", "nested/a/b/3.png", "nested/a/b/5.png"),
    ]
    latents = np.load("z.npy")
    assert (latents.shape, latents.dtype) == ((len(order), 3), np.float32)
    np.testing.assert_allclose(latents[1:8], latents[8:15], atol=1e-5)


def test_workers_read_archives_and_lists_ahead(run: Path) -> None:
    for number, workers in enumerate("02"):
        words = ["scans.zip", "scans", "scans.npy", "--workers", workers, "--batch", "2", "--out", f"{number}.csv"]
        assert predict(run, *words) == 0
    assert Path("0.csv").read_bytes() == Path("1.csv").read_bytes()


def test_labels_of_folders_and_arrays_keep_their_names_beside_images_without_any(run: Path) -> None:
    for name in ("cat", "dog"):
        Path("kinds", name).mkdir(parents=True)
        Image.fromarray(DIGITS[0]).save(Path("kinds", name, "0.png"))
    np.savez("kinds.npz", images=DIGITS[:2], labels=np.array(["dog", "emu"]))
    assert predict(run, "scans/0.png", "kinds", "kinds.npz", "--out", "table.csv") == 0
    assert [row["label"] for row in rows("table.csv")] == ["", "cat", "dog", "dog", "emu"]


def test_the_default_table_is_in_the_working_folder_and_never_in_the_run(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for words in (["scans"], ["scans"], ["scans/*.png", "scans.npy"], ["scans/3.png"], ["--data", "scans.npy"]):
        assert predict(run, *words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith(".csv: not the run's own images")
        assert Path(lines[0].removesuffix(": not the run's own images")).is_file()
    assert sorted(path.name for path in Path().glob("*.csv")) == [
        *("predictions-3.csv", "predictions-scans-2.csv", "predictions-scans-3.csv"),
        *("predictions-scans-and-1-more.csv", "predictions-scans.csv"),
    ]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_first_line_says_whose_images_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--{name}={value}" for name, value in {**TINY, "batch": 7}.items()]
    for number, data in enumerate(("scans", "scans.npy", "nested")):
        run = tmp_path / f"run-{number}"
        mixed = ["--data.classes", "none"] if data == "nested" else []
        assert command(entry.run_main, *flags, "--data", data, *mixed, "--out", run) == 0
        copy = Path("copy", data)
        copy.parent.mkdir(exist_ok=True)
        (shutil.copytree if Path(data).is_dir() else shutil.copy)(data, copy)
        part = f"images of {Path(data).absolute()}, as the run's own are, but not the same set"
        told = dict.fromkeys([(data,), (f"./{data}",), (str(copy),)], "the run's own images")
        told |= {("scans/3.png",): part if data == "scans" else "not the run's own images"}
        told |= {("scans.zip", "scans"): "not the run's own images"}
        told |= {("--data.range", "3,9"): part, ("--data", "digits"): "not the run's own images"}
        if data == "scans":
            told |= {("scans/*.png",): "the run's own images", ("scans.zip",): "the run's own images"}
        for count, (words, expected) in enumerate(told.items()):
            capsys.readouterr()
            assert predict(run, *words, "--out", f"{number}-{count}.csv") == 0
            assert capsys.readouterr().out.splitlines()[0] == f"{number}-{count}.csv: {expected}", words
    Image.fromarray(DIGITS[9]).save("scans/9.png")
    assert predict(tmp_path / "run-0", "--out", "changed.csv") == 0
    assert "which are not those of the training any more" in capsys.readouterr().out.splitlines()[0]


def test_other_options_of_a_published_set_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(run, "--data", "digits", "--out", "same.csv") == 0
    assert capsys.readouterr().out.splitlines()[0] == "same.csv: the run's own images"


def test_options_hold_for_each_reader_that_has_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.stack([DIGITS[0]] * 3, axis=-1)).save("colour.png")
    np.save("wide.npy", np.pad(DIGITS[:1], ((0, 0), (0, 0), (3, 3))))
    Image.fromarray(np.pad(DIGITS[0], ((0, 0), (3, 3)))).save("wide.png")
    assert predict(run, "scans.npy", "colour.png", "--out", "a.csv") == 2
    assert "colour.png: expected images with 1 channel, as in training, got 3; nearest valid choice: --data.chan" in (
        error(capsys)
    )
    assert predict(run, "scans.npy", "colour.png", "scans/0.png", "--out", "a.csv") == 2
    assert "pass --data.channels 1" in error(capsys)
    words = ["scans.npy", "colour.png", "--data.channels", "1", "--data.fit", "pad", "wide.npy", "wide.png"]
    assert predict(run, *words, "--data.background=black", "--out", "b.csv") == 0
    capsys.readouterr()
    found = results("b.csv")
    assert found[7] == found[0]
    assert found[8] == found[9]
    np.save("colour.npy", np.stack([DIGITS[:2]] * 3, axis=-1))
    assert predict(run, "scans", "colour.npy", "--out", "c.csv") == 2
    assert "colour.npy: expected images with 1 channel, as in training, got 3; nearest valid choice: --data.chan" in (
        error(capsys)
    )
    np.save("opaque.npy", np.stack([*[DIGITS[:2]] * 3, np.full_like(DIGITS[:2], 255)], axis=1))
    assert predict(run, "scans", "colour.npy", "opaque.npy", "--data.channels", "1", "--out", "c.csv") == 0
    assert results("c.csv")[7:] == [*results("c.csv")[:2]] * 2


def test_arrays_are_converted_as_the_folder_of_the_training_was(tmp_path: Path) -> None:
    Path("bright").mkdir()
    for index, digit in enumerate(DIGITS[:12]):
        Image.fromarray(digit.astype(np.uint16) * 10 + 100).save(f"bright/{index:02}.png")
    np.save("bright.npy", DIGITS[:12].astype(np.uint16) * 10 + 100)
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    assert command(entry.run_main, *flags, "--data", "bright", "--data.range=set", "--out=trained") == 0
    assert predict("trained", "bright.npy", "bright", "--out", "table.csv") == 0
    found, own = results("table.csv"), rows("trained/assignments.csv")
    assert [cluster for cluster, _ in found] == [row["cluster"] for row in own] * 2
    assert found[:12] == found[12:]


def test_unreadable_members_and_files_are_refused_or_left_out(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile("scans.zip", "a") as archive:
        archive.writestr("all/broken.png", b"broken")
        archive.writestr("../../outside.png", Path("scans/0.png").read_bytes())
        archive.writestr("C:\\windows\\1.png", b"broken, too")
    Path("empty.png").touch()
    assert predict(run, "scans.zip", "empty.png", "--out", "a.csv") == 2
    said = error(capsys)
    assert "3 images in scans.zip and 1 more cannot be read: scans.zip/C:" in said
    assert "empty.png" in said
    before = {path.name for path in Path("..").iterdir()}
    assert predict(run, "scans.zip", "empty.png", "--data.unreadable=skip", "--out", "b.csv") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("3 left out, such as ")
    assert [row["path"] for row in rows("b.csv")] == [
        *(f"scans.zip/all/{name}" for name in NAMES),
        "scans.zip/outside.png",
    ]
    assert {path.name for path in Path("..").iterdir()} == before


def damaged_archive(path: Path) -> None:
    """Write an archive, a compressed member of which is damaged."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("scans/0.png", "0.png")
        archive.writestr("1.png", bytes(range(256)) * 50)
    content = bytearray(path.read_bytes())
    place = content.index(b"1.png") + 8
    content[place : place + 12] = bytes(12)
    path.write_bytes(content)


def test_a_damaged_member_is_one_unreadable_image(run: Path) -> None:
    damaged_archive(Path("damaged.zip"))
    assert predict(run, "damaged.zip", "--data.unreadable", "skip", "--out", "a.csv") == 0
    assert [row["path"] for row in rows("a.csv")] == ["damaged.zip/0.png"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["scan"], "PATH 'scan': no such file or folder: did you mean 'scans'?"),
        (["scans/*.tif"], "PATH 'scans/*.tif': no file matches"),
        (["notes.txt"], "notes.txt: expected an image file, a folder or a .zip archive of images, or a file of arrays"),
        (["scans", "empty"], "no images in empty: expected files whose names end in"),
        (["none.zip"], "no images in none.zip: expected members whose names end in"),
        (["no.zip"], "no.zip: expected a zip archive of images"),
        (["scans", "no.npy"], "no.npy"),
        (["-"], "line 2 of the list on standard input: 'gone.png': no such file or folder"),
        (["-", "scans", "-"], "PATH - was given twice"),
        (["scans", "--no-such", "x", "scans"], "unknown option '--no-such'"),
    ],
)
def test_an_input_that_cannot_be_is_one_line_that_names_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], part: str
) -> None:
    Path("notes.txt").write_text("no image", encoding="utf-8")
    Path("empty").mkdir()
    for name in ("no.zip", "no.npy"):
        Path(name).write_bytes(b"something else")
    with zipfile.ZipFile("none.zip", "w") as archive:
        archive.writestr("notes.txt", "no image")
    in_a_list("gone.png")(monkeypatch)
    before = sorted(Path().rglob("*"))
    assert predict(run, *words) == 2
    assert part in error(capsys)
    assert sorted(Path().rglob("*")) == before


def test_an_empty_list_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_list()(monkeypatch)
    assert predict(run, "-") == 2
    assert "the list on standard input is empty: expected a path on each line" in error(capsys)


def test_images_are_read_when_they_are_needed_and_never_all_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mpcc.core.run import prediction

    seen: list[Any] = []
    real = prediction.joined
    monkeypatch.setattr(prediction, "joined", lambda sets: seen.extend(each.images for each in sets) or real(sets))
    assert predict(run, "scans", "scans.npy", "scans.zip", "--out", "a.csv") == 0
    assert predict(run, "scans", "--data.memory", "load", "--out", "b.csv") == 0
    assert [type(images).__name__ for images in seen] == ["FileImages", "ArrayImages", "FileImages", "Tensor"]
