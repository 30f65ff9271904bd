"""Runs on a user's folder: what is recorded of it, and how other images are read with a trained run."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mpcc.core.commands import entry
from mpcc.core.storage.checkpoint import load_checkpoint, save_checkpoint

TINY = [
    *("--arch=biggan8", "--arch.width=1", "--batch=6", "--latent-dim=3", "--d-steps=1", "--e-steps=1"),
    *("--iterations=2", "--standing-passes=2", "--device=cpu", "--threads=1", "--clusters=3", "--data=folder"),
]


def command(main: object, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])  # type: ignore[operator]
    return int(caught.value.code or 0)


def write(folder: Path, scale: float, kind: str = "uint16") -> Path:
    """Write 12 pictures, the same in each folder but for a factor, with the extremes 100 and 2400 in the first."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(12):
        values = random.integers(100, 2401, (8, 8))
        values[0, :2] = 100, 2400
        Image.fromarray((values * scale).astype(kind)).save(folder / f"{index:02}.tif")
    return folder


def confidences(table: Path) -> np.ndarray:
    with table.open(encoding="utf-8", newline="") as file:
        return np.array([float(row["confidence"]) for row in csv.DictReader(file)])


def config(run: Path) -> dict[str, object]:
    return dict(tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"])


def test_the_range_of_the_training_images_is_recorded_and_holds_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, brighter, run = write(tmp_path / "first", 1), write(tmp_path / "brighter", 20), tmp_path / "run"
    assert command(entry.run_main, *TINY, f"--data.path={first}", "--data.range=set", f"--out={run}") == 0
    assert config(run)["range"] == "uint16:100,2400"
    assert command(entry.main, "predict", run, "--out", tmp_path / "own.csv") == 0
    own = confidences(tmp_path / "own.csv")
    close = pytest.approx(own, abs=5e-6)  # another size of the batch changes the last digits
    # The same pictures beside one with more values: the range of the new set would be another.
    extremes = np.array([[0, 65535]] * 2, np.uint16)
    Image.fromarray(extremes).save(first / "zz.tif")
    assert command(entry.main, "predict", run, first, "--out", tmp_path / "more.csv") == 0
    assert confidences(tmp_path / "more.csv")[:12] == close
    wrong = ["--data.range=set", first, "--out", tmp_path / "wrong.csv"]
    assert command(entry.main, "predict", run, *wrong) == 0
    assert np.abs(confidences(tmp_path / "wrong.csv")[:12] - own).max() > 1e-4
    (first / "zz.tif").unlink()
    capsys.readouterr()
    assert command(entry.main, "predict", run, brighter, "--out", tmp_path / "brighter.csv") == 0
    assert "uint16 values 2000..48000 go beyond the range 100..2400 and are clipped" in capsys.readouterr().err
    chosen = ["--data.range=set", brighter, "--out", tmp_path / "own-range.csv"]
    assert command(entry.main, "predict", run, *chosen) == 0
    assert confidences(tmp_path / "own-range.csv") == close
    # The recorded range is no change on resume, and an evaluation reads the same pictures.
    assert command(entry.run_main, "--resume", run, "--iterations", "3") == 0
    assert command(entry.main, "evaluate", run) == 0
    assert config(run)["range"] == "uint16:100,2400"


def test_splits_and_classes_of_the_training_folder_do_not_hold_for_other_images(tmp_path: Path) -> None:
    root, run = tmp_path / "root", tmp_path / "run"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write(root / split / name, 20)
    flags = [f"--data.path={root}", "--data.split=train", "--data.classes=folders", f"--out={run}"]
    assert command(entry.run_main, *TINY, *flags) == 0
    assert json.loads((run / "results.json").read_text())["evaluated"]["images"] == 24
    flat = write(tmp_path / "flat", 20)
    assert command(entry.main, "predict", run, flat, "--out", tmp_path / "flat.csv") == 0
    assert len(confidences(tmp_path / "flat.csv")) == 12
    assert command(entry.main, "predict", run, "--out", tmp_path / "own.csv") == 0
    assert len(confidences(tmp_path / "own.csv")) == 24


def test_a_run_on_one_class_has_no_scores_against_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "root" / "all", 20)
    for number, options in enumerate((["--data.classes=auto"], ["--data.classes=folders"])):
        run = tmp_path / f"run{number}"
        assert command(entry.run_main, *TINY, f"--data.path={tmp_path / 'root'}", *options, f"--out={run}") == 0
        scores = json.loads((run / "results.json").read_text())["metrics"]
        assert {"acc", "purity", "nmi", "ari"} & {*scores} == set()
        assert "occupancy_used" in scores
    assert "one class is no labelling" in capsys.readouterr().err


def test_a_run_of_a_version_with_other_options_of_folders_goes_on(tmp_path: Path) -> None:
    folder, run = write(tmp_path / "images", 20), tmp_path / "run"
    assert command(entry.run_main, *TINY, f"--data.path={folder}", f"--out={run}") == 0
    (newest,) = (run / "checkpoints").glob("last.pt")
    state = load_checkpoint(newest)

    def earlier(text: str) -> str:
        new = r"(?m)^(range|fit|frames|split|largest_pixels) = .*\n"
        return re.sub(new, "", text).replace('classes = "auto"', 'labels = "auto"')

    assert earlier(state["config"]) != state["config"]
    save_checkpoint(newest, {**state, "config": earlier(state["config"])})
    (run / "config.toml").write_text(earlier((run / "config.toml").read_text()))
    assert command(entry.main, "evaluate", run) == 0
    assert command(entry.run_main, "--resume", run, "--iterations", "3") == 0
    assert config(run)["classes"] == "auto"
    assert torch.equal(torch.tensor(load_checkpoint(newest)["iteration"]), torch.tensor(3))
