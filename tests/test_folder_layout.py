"""What the subfolders of a folder of images stand for: classes, splits, or nothing; and what the log says of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from mpcc.core.contracts import Evaluation, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.evaluation import left_out, score
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import FolderOptions
from mpcc.plugins.metrics.accuracy import Accuracy
from mpcc.plugins.metrics.occupancy import Occupancy


def load(folder: Path, **options: str) -> ImageSet:
    return Folder(FolderOptions(**options)).load(4, folder, download=False)


def write(folder: Path, *names: str) -> Path:
    for level, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * level).save(folder / name)
    return folder


def test_one_subfolder_is_no_labelling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "all/a.png", "all/b.png", "all/deep/c.png")
    caplog.set_level(logging.INFO)
    loaded = load(tmp_path)
    assert loaded.labels is None
    assert list(loaded.class_names) == []
    assert "no labels" in loaded.description
    (line,) = [line for line in caplog.messages if "subfolder" in line]
    assert line == "all images are in the subfolder all: one class is no labelling, so there are no labels"
    # The user may insist.
    assert load(tmp_path, classes="folders").labels.tolist() == [0, 0, 0]


def test_one_class_is_left_when_the_others_are_unreadable(tmp_path: Path) -> None:
    write(tmp_path, "cats/a.png", "cats/b.png", "dogs/c.png")
    (tmp_path / "dogs" / "c.png").write_bytes(b"")
    assert load(tmp_path, unreadable="skip").labels is None


def test_scores_against_labels_are_left_out_where_all_are_the_same() -> None:
    metrics, same = {"acc": Accuracy(), "occupancy": Occupancy()}, torch.tensor([4, 4, 4])
    (reason,) = left_out(metrics, same).values()
    assert "one class" in reason
    assert set(score(metrics, Evaluation(torch.eye(3), torch.eye(3), same))) == {"occupancy_used", "occupancy_entropy"}
    assert left_out(metrics, torch.tensor([4, 4, 0])) == {}


def test_folders_that_are_taken_as_classes_are_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, *(f"2024-05-{day:02d}/a.png" for day in range(1, 8)))
    caplog.set_level(logging.INFO)
    assert load(tmp_path).labels is not None
    assert caplog.messages[0] == (
        "7 folders were taken as classes: 2024-05-01, 2024-05-02, 2024-05-03, 2024-05-04, 2024-05-05 and 2 more; "
        "--data.classes none if they are not"
    )
    caplog.clear()
    loaded = load(tmp_path, classes="none")
    assert loaded.labels is None
    assert len(loaded) == 7
    assert [line for line in caplog.messages if "classes" in line] == []


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "VALID"), ("train", "validation", "testing")])
def test_splits_are_no_classes(names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, *(f"{name}/{kind}/{name}.png" for name in names for kind in ("cat", "dog")))
    caplog.set_level(logging.INFO)
    loaded = load(tmp_path)
    assert list(loaded.class_names) == ["cat", "dog"]
    assert loaded.labels.tolist() == [0, 1] * len(names)
    assert len(loaded) == 2 * len(names)
    assert "are taken for splits, not for classes, and read together; --data.split " in caplog.messages[0]
    for name in names:
        assert name in caplog.messages[0]
    for name in names:
        split = {"v": "val", "t": "train" if "r" in name[:3] else "test"}[name[0].lower()]
        part = load(tmp_path, split=split)
        assert list(part.paths) == [f"{name}/cat/{name}.png", f"{name}/dog/{name}.png"]
        assert part.labels.tolist() == [0, 1]
    assert load(tmp_path, classes="folders").labels.max() == len(names) - 1
    assert load(tmp_path, classes="none").labels is None


def test_splits_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    assert load(tmp_path).labels is None
    assert len(load(tmp_path)) == 3
    assert list(load(tmp_path, split="test").paths) == ["test/c.png"]
    assert list(load(tmp_path, split="train", classes="none").paths) == ["train/a.png", "train/b.png"]


def test_a_single_split_is_no_class_either(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/a.png", "train/dog/b.png")
    assert load(tmp_path).labels.tolist() == [0, 1]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png", "b/c.png")
    with pytest.raises(
        InvalidInput, match=r"^--data\.split test: expected a subfolder test or testing in .*, got the sub"
    ):
        load(tmp_path, split="test")
    with pytest.raises(
        InvalidInput, match=r"got the subfolders b and train; nearest valid choice: --data\.split train$"
    ):
        load(tmp_path, split="val")
    (tmp_path / "test").mkdir()
    with pytest.raises(InvalidInput, match=r"^--data\.split test: no images in the subfolder test of "):
        load(tmp_path, split="test")
    with pytest.raises(InvalidInput, match=r"got no subfolders; leave --data\.split out$"):
        load(write(tmp_path / "flat", "a.png"), split="test")


def test_splits_beside_other_folders_are_refused_until_the_user_says_which(tmp_path: Path) -> None:
    write(tmp_path, "train/good/a.png", "test/good/b.png", "test/bad/c.png", "ground_truth/bad/d.png")
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path)
    for said in ("test and train in ", "but ground_truth is not", "--data.split test", "--data.classes folders"):
        assert said in str(caught.value)
    assert list(load(tmp_path, split="test").class_names) == ["bad", "good"]
    assert list(load(tmp_path, classes="folders").class_names) == ["ground_truth", "test", "train"]
    # One class that is called like a split is a class.
    assert list(load(write(tmp_path / "vehicles", "train/a.png", "bus/b.png")).class_names) == ["bus", "train"]


def test_a_split_that_is_partly_in_class_folders_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/c.png")
    with pytest.raises(InvalidInput, match=r"^images both directly in a split \(such as test/c\.png\) and in its subf"):
        load(tmp_path)
    assert load(tmp_path, split="train").labels.tolist() == [0, 1]


def test_the_same_folder_may_be_in_two_splits_but_no_loop_is_entered(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a.png")
    for split in ("train", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "data", target_is_directory=True)
    paths = list(load(tmp_path / "data").paths)
    assert {"train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/dog/a.png"} <= set(paths)
    assert len(paths) < 50
