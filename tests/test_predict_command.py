"""``mpcc predict``: the clusters of an evaluation again, those of new images, whole files or none, one-line errors."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image

from mpcc.core.commands import entry
from mpcc.core.evaluation import inference
from mpcc.core.storage.checkpoint import save_checkpoint
from mpcc.plugins.datasets.digits import Digits
from mpcc.plugins.datasets.options import DigitsOptions

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"standing-passes": 2, "seed": 3, "device": "cpu", "prior": "student_t", "threads": 1},
}
DIGITS = Digits(DigitsOptions()).load(8, None, False).images.numpy()[:, 0]


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def predict(*arguments: str | Path) -> int:
    return command(entry.main, "predict", *arguments)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err.startswith("mpcc: error: ")
    assert err.count("\n") == 1
    assert out == ""
    return err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert command(entry.run_main, *[f"--{name}={value}" for name, value in TINY.items()], f"--out={run}") == 0
    return run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with the first seven digits."""
    folder = tmp_path / "new-images"
    folder.mkdir()
    for index, digit in enumerate(DIGITS[:7]):
        Image.fromarray(digit).save(folder / f"{index}.png")
    return folder


def test_the_runs_own_images_are_assigned_as_in_its_evaluation(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(copy, "--posterior", tmp_path / "posterior.npy") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == [
        f"{copy / 'predictions.csv'}: the run's own images",
        str(tmp_path / "posterior.npy"),
    ]
    # The run has two iterations.
    assert err.startswith("caution: this run is too short to judge, 2 iterations")
    found, expected = rows(copy / "predictions.csv"), rows(copy / "assignments.csv")
    assert list(found[0]) == ["index", "path", "cluster", "confidence", "label"]
    assert found == [{key: row[key] for key in found[0]} for row in expected]
    posterior = np.load(tmp_path / "posterior.npy")
    assert posterior.dtype == np.float32
    assert np.array_equal(posterior, np.load(copy / "posterior.npy"))
    assert not list(tmp_path.rglob("*.part"))
    used = len({row["cluster"] for row in expected})
    assert re.fullmatch(rf"1,797 images, [\d,]+ images/s, {used} of 10 clusters used", out.splitlines()[2])
    assert len(out.splitlines()) == 3


def saved_array(folder: Path) -> Path:
    np.save(folder / "new.npy", DIGITS[:7])
    return folder / "new.npy"


def saved_archive(folder: Path) -> Path:
    np.savez(folder / "new.npz", images=DIGITS[:7])
    return folder / "new.npz"


def saved_tensor(folder: Path) -> Path:
    torch.save(torch.from_numpy(DIGITS[:7]), folder / "new.pt")
    return folder / "new.pt"


@pytest.mark.parametrize("save", [saved_array, saved_archive, saved_tensor, lambda folder: folder / "new-images"])
@pytest.mark.parametrize("batch", ["2", "256"])
def test_new_images_are_assigned_wherever_they_are(
    finished: Path, images: Path, tmp_path: Path, save: Callable[[Path], Path], batch: str
) -> None:
    path, table = save(tmp_path), tmp_path / "new.csv"
    assert predict(finished, path, "--out", table, "--batch", batch) == 0
    found, expected = rows(table), rows(finished / "assignments.csv")[:7]
    assert list(found[0]) == ["index", "path", "cluster", "confidence"]
    assert [row["index"] for row in found] == [str(index) for index in range(7)]
    assert [row["cluster"] for row in found] == [row["cluster"] for row in expected]
    assert [float(row["confidence"]) for row in found] == pytest.approx(
        [float(row["confidence"]) for row in expected], abs=2e-6
    )


def test_images_are_streamed_and_those_that_cannot_be_read_left_out_on_request(
    finished: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[str | Path] = [images, "--data.memory", "stream", "--workers", "1", "--batch", "2"]
    assert predict(finished, *arguments, "--out", tmp_path / "streamed.csv") == 0
    assert predict(finished, images, "--out", tmp_path / "loaded.csv", "--batch", "2") == 0
    assert (tmp_path / "streamed.csv").read_bytes() == (tmp_path / "loaded.csv").read_bytes()
    (images / "3.png").write_bytes(b"broken")
    capsys.readouterr()
    assert predict(finished, *arguments, "--out", tmp_path / "broken.csv") == 2
    assert "3.png" in one_line(capsys)
    assert predict(finished, *arguments, "--out", tmp_path / "broken.csv", "--data.unreadable", "skip") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"1 left out, such as {images}/3.png: ")
    assert [row["path"] for row in rows(tmp_path / "broken.csv")] == [
        f"{images}/{index}.png" for index in (0, 1, 2, 4, 5, 6)
    ]


def test_options_of_the_runs_data_set_hold_for_new_images_but_not_its_other_files(images: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "trained.npz", images=DIGITS[:50] / 255, more=DIGITS[:50])
    np.save(tmp_path / "labels.npy", np.arange(50) % 3)
    flags = [f"--{name}={value}" for name, value in {**TINY, "clusters": 3, "data": "arrays"}.items()]
    data = ["--data.images-key=more", f"--data.path={tmp_path / 'trained.npz'}"]
    run = tmp_path / "run"
    assert command(entry.run_main, *flags, *data, f"--data.labels={tmp_path / 'labels.npy'}", f"--out={run}") == 0
    np.savez(tmp_path / "new.npz", images=DIGITS[:7] / 255, more=DIGITS[:7])
    assert predict(run, tmp_path / "new.npz", "--out", tmp_path / "a.csv") == 0
    assert "label" not in rows(tmp_path / "a.csv")[0]
    assert predict(run, "--data.path", tmp_path / "new.npz", "--out", tmp_path / "b.csv") == 0
    assert [{**row, "path": f"{tmp_path}/{row['path']}"} for row in rows(tmp_path / "b.csv")] == rows(
        tmp_path / "a.csv"
    )
    # Whoever names the data set starts from its defaults; another one has options of its own.
    named = ["--data", "arrays", "--data.path", tmp_path / "new.npz"]
    assert predict(run, *named, "--out", tmp_path / "c.csv") == 2
    assert predict(run, "--data=folder", "--data.path", images, "--out", tmp_path / "d.csv") == 0
    assert predict(run, "--data", "digits", "--out", tmp_path / "e.csv") == 0
    assert len(rows(tmp_path / "e.csv")) == 1797
    # Fewer images than clusters will do.
    np.save(tmp_path / "one.npy", DIGITS[:1])
    assert predict(run, "--data", "arrays", "--data.path", tmp_path / "one.npy", "--out", tmp_path / "f.csv") == 0


def test_new_arrays_are_converted_with_the_range_that_the_training_set_had(tmp_path: Path) -> None:
    bright = DIGITS[:50].astype(np.float32) * 3 - 100  # no usual range: its extremes count
    np.savez(
        tmp_path / "trained.npz", train_images=bright[:40], train_labels=np.arange(40) % 3, test_images=bright[40:]
    )
    flags = [f"--{name}={value}" for name, value in {**TINY, "clusters": 3, "data": "arrays"}.items()]
    data = [f"--data.path={tmp_path / 'trained.npz'}", "--data.split=train", "--data.labels-key=labels"]
    run = tmp_path / "run"
    assert command(entry.run_main, *flags, *data, f"--out={run}") == 0
    low, high = (f"{value:g}" for value in (bright[:40].min(), bright[:40].max()))
    assert (
        f'range = "float16:{low},{high} float32:{low},{high} float64:{low},{high}"' in (run / "config.toml").read_text()
    )
    assert predict(run, "--out", tmp_path / "a.csv", "--posterior", tmp_path / "a.npy") == 0
    # A dark part of the same images, in another type and another kind of file, without splits and labels.
    dark = np.sort(bright[:40].max(axis=(1, 2)).argsort()[:20])
    np.save(tmp_path / "dark.npy", bright[dark].astype(np.float64).clip(-100, 200))
    arguments = [tmp_path / "dark.npy", "--out", tmp_path / "b.csv", "--posterior", tmp_path / "b.npy"]
    assert predict(run, *arguments) == 0
    np.save(tmp_path / "same.npy", np.stack([bright[:40].clip(-100, 200)[index] for index in dark]))
    explicit = ["--data", "arrays", f"--data.range={low},{high}", "--data.path", tmp_path / "same.npy"]
    assert predict(run, *explicit, "--out", tmp_path / "c.csv", "--posterior", tmp_path / "c.npy") == 0
    assert np.array_equal(np.load(tmp_path / "b.npy"), np.load(tmp_path / "c.npy"))
    # By its own range, the same file would give other posteriors.
    own = ["--data", "arrays", "--data.range=set", "--data.path", tmp_path / "dark.npy"]
    assert predict(run, *own, "--out", tmp_path / "d.csv", "--posterior", tmp_path / "d.npy") == 0
    assert not np.array_equal(np.load(tmp_path / "b.npy"), np.load(tmp_path / "d.npy"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--batch", "0"], "--batch: the value must be >= 1: 0"),
        (["--batch", "1.5"], "--batch: expected a whole number, got '1.5'"),
        (["--workers", "-1"], "--workers: "),
        (["--device", "gpu"], "unknown value for --device: 'gpu'"),
        (["--checkpoint", "gone.pt"], "checkpoint gone.pt: no such file"),
        (["gone"], "PATH 'gone': no such file or folder (expected an image file, a folder or a .zip archive"),
        ([""], "PATH: expected a path, got "),
        ([".", "--data.path", "."], "PATH . and --data.path . both name images: expected one of them"),
        (["--data", "digits", "."], "PATH . and --data digits both name images: expected one of them"),
        (["--data-path", "scans"], "--data-path scans: this flag is gone: expected the paths after the run"),
        (["--data-path=scans"], "scans)"),
        ([".", "--data.chanels", "1"], "did you mean '--data.channels'?"),
        (["--link", "soft"], "--link soft: expected --sort-into DIR"),
        (["--link", "symbolic"], "--link: expected one of hard, soft, got 'symbolic'"),
        (["--latents", "gone/z.npy"], "--latents gone/z.npy cannot be written"),
        (["--sort-into", "."], "--sort-into . already exists: expected a new folder (nearest valid choice: "),
        (["--sort-into", "gone/x"], "gone is not a folder"),
        (["--data", "foldr"], "unknown dataset 'foldr': did you mean 'folder'"),
        (["--data", "folder", "--data.chanels", "1"], "did you mean '--data.channels'?"),
        (["--data"], "--data: expected text, got nothing"),
        (["--posterior", "gone/q.npy"], "--posterior gone/q.npy cannot be written"),
        (["--posterior", "."], "--posterior . already exists: expected a new file"),
        (["--plugin", "gone.py"], "--plugin"),
        (["--clusters", "3"], "--clusters"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert predict(finished, *arguments, "--out", tmp_path / "out.csv") == 2
    assert part in one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_files_that_exist_are_not_overwritten(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, arguments in {copy / "predictions.csv": [], tmp_path / "x.csv": ["--out", tmp_path / "x.csv"]}.items():
        path.write_text("mine", encoding="utf-8")
        assert predict(copy, *arguments) == 2
        assert f"--out {path} already exists: expected a new file" in one_line(capsys)
        assert path.read_text(encoding="utf-8") == "mine"
    new = tmp_path / "y.csv"
    assert predict(copy, "--out", new, "--posterior", new) == 2
    assert f"--posterior {new} is also the file of --out" in one_line(capsys)
    assert predict(copy, "--out", tmp_path / "gone" / "y.csv") == 2
    assert f"{tmp_path / 'gone'} is not a folder" in one_line(capsys)


def test_images_of_another_kind_are_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "colour.npy", np.arange(960, dtype=np.uint8).reshape(5, 8, 8, 3))
    assert predict(finished, tmp_path / "colour.npy", "--out", tmp_path / "a.csv") == 2
    assert "expected images with 1 channel, as in training, got 3" in one_line(capsys)
    (tmp_path / "colour").mkdir()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "colour" / "a.png")
    assert predict(finished, tmp_path / "colour", "--out", tmp_path / "a.csv") == 2
    assert "nearest valid choice: --data.channels 1" in one_line(capsys)
    assert predict(finished, tmp_path / "colour", "--data.channels=1", "--out", tmp_path / "a.csv") == 0


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(tmp_path / "gone") == 2
    assert f"{tmp_path / 'gone'}: no such folder: expected a run folder" in one_line(capsys)


@pytest.mark.parametrize(
    ("how", "status", "part"),
    [
        ("parts", 2, "'parts' is missing: expected a checkpoint of a run"),
        ("weights", 2, "does not fit config.toml: Error"),
        ("diverged", 3, "not finite: training has diverged"),
    ],
)
def test_a_checkpoint_that_does_not_belong_is_one_line(
    copy: Path, capsys: pytest.CaptureFixture[str], how: str, status: int, part: str
) -> None:
    path = copy / "checkpoints" / "last.pt"
    saved = torch.load(path, weights_only=True)
    if how == "parts":
        del saved["parts"]
    elif how == "weights":
        saved["parts"]["encoder"].popitem()
    else:
        next(iter(saved["parts"]["encoder"].values())).fill_(float("nan"))
    save_checkpoint(path, saved)
    before = sorted(copy.rglob("*"))
    assert predict(copy, "--posterior", copy / "q.npy") == status
    assert part in one_line(capsys)
    assert sorted(copy.rglob("*")) == before


def test_a_plugin_that_has_changed_since_is_warned_of(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "checkpoints" / "last.pt"
    saved = torch.load(path, weights_only=True)
    saved["plugins"]["prior student_t"] = "mpcc 0.0.1"
    save_checkpoint(path, saved)
    assert predict(copy) == 0
    warning = "warning: prior student_t was mpcc 0.0.1 when the checkpoint was saved, is mpcc "
    assert capsys.readouterr().err.startswith(warning)


def test_an_interruption_leaves_nothing_half_written(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = inference.predictions

    def interrupted(*arguments: Any, **named: Any) -> Iterator[inference.Prediction]:
        yield next(iter(real(*arguments, **named)))
        assert len(list(copy.glob("predictions.csv.*.part"))) == 1
        raise KeyboardInterrupt

    before = sorted(copy.rglob("*"))
    monkeypatch.setattr(inference, "predictions", interrupted)
    assert predict(copy, "--posterior", copy / "q.npy") == 130
    assert sorted(copy.rglob("*")) == before


def test_what_is_not_known_has_no_column_and_names_need_not_be_text(tmp_path: Path) -> None:
    from mpcc.core.contracts import ImageSet
    from mpcc.core.storage.prediction_files import AssignmentTable
    from mpcc.core.system.whole_files import new_file

    found = inference.Prediction(torch.zeros(2, 1), torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    data = ImageSet(torch.zeros(2, 1, 1, 1, dtype=torch.uint8))
    with new_file(tmp_path / "bare.csv") as file:
        AssignmentTable(file, data).write(found)
    assert (tmp_path / "bare.csv").read_text() == "index,cluster,confidence\n0,1,0.750000\n1,0,1.000000\n"
    known = attrs.evolve(data, labels=torch.tensor([1, 0]), class_names=["cat", "a, b"], paths=["\udcff.png", "b.png"])
    with new_file(tmp_path / "known.csv") as file:
        AssignmentTable(file, known).write(found)
    expected = b'index,path,cluster,confidence,label\n0,\xff.png,1,0.750000,"a, b"\n1,b.png,0,1.000000,cat\n'
    assert (tmp_path / "known.csv").read_bytes() == expected
