"""Pictures in a run folder: one of each cluster that is shown, none that is stale, each whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mpcc.core.commands import entry
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.core.storage.picture_files import replace_pictures, write_picture

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 12, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"eval-every": 1, "eval-images": 60, "standing-passes": 1, "checkpoint-every": 1, "seed": 0, "device": "cpu"},
    **{"threads": 1, "clusters": 12, "prior.scale-floor": 2, "metrics": "acc"},
}


def picture(level: int) -> Tensor:
    return torch.full((3, 4, 6), level, dtype=torch.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def weights(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_checkpoint(folder / "checkpoints" / "last.pt")["parts"]
    return found


def test_a_picture_on_the_disk_is_the_picture(tmp_path: Path) -> None:
    drawn = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    write_picture(tmp_path / "a.png", drawn)
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == "RGB"
        assert read.size == (7, 5)
        assert read.getpixel((6, 4)) == tuple(drawn[:, 4, 6].tolist())
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("clusters", "shown", "expected"),
    [
        (1, [0], ["0.png"]),
        (10, [3, 9], ["3.png", "9.png"]),
        (11, [3, 10], ["03.png", "10.png"]),
        (1000, [7, 999], ["007.png", "999.png"]),
    ],
)
def test_names_sort_like_the_numbers_of_the_clusters(
    tmp_path: Path, clusters: int, shown: list[int], expected: list[str]
) -> None:
    replace_pictures(tmp_path / "clusters", clusters, shown, map(picture, range(len(shown))))
    assert names(tmp_path / "clusters") == expected


def test_pictures_of_an_earlier_evaluation_are_replaced_and_others_stay(tmp_path: Path) -> None:
    replace_pictures(tmp_path, 10, [1, 2, 3], map(picture, (10, 20, 30)))
    (tmp_path / "4.png.part").write_bytes(b"of a run that was killed")
    (tmp_path / "notes.txt").write_text("2 are sixes", encoding="utf-8")
    (tmp_path / "mine.png").write_bytes(b"")
    replace_pictures(tmp_path, 10, [2, 5], map(picture, (21, 51)))
    assert names(tmp_path) == ["2.png", "5.png", "mine.png", "notes.txt"]
    with Image.open(tmp_path / "2.png") as read:
        assert read.getpixel((0, 0)) == (21, 21, 21)


def test_a_picture_that_cannot_be_drawn_leaves_whole_files(tmp_path: Path) -> None:
    replace_pictures(tmp_path, 10, [1, 2, 3], map(picture, (10, 20, 30)))

    def failing() -> Any:
        yield picture(11)
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        replace_pictures(tmp_path, 10, [1, 2], failing())
    assert names(tmp_path) == ["1.png", "2.png"]
    for name, level in (("1.png", 11), ("2.png", 20)):
        with Image.open(tmp_path / name) as read:
            assert read.getpixel((0, 0)) == (level,) * 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two evaluations that shows 4 of 12 clusters."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert command(entry.run_main, *tiny(picture_clusters=4), "--out", folder) == 0
    return folder


def test_a_run_shows_as_many_clusters_as_it_is_told(finished: Path, tmp_path: Path) -> None:
    assert len(names(finished / "clusters")) == 4
    assert all(len(name) == len("03.png") for name in names(finished / "clusters"))
    assert command(entry.run_main, *tiny(), "--out", tmp_path / "all") == 0
    assert names(tmp_path / "all" / "clusters") == [f"{k:02}.png" for k in range(12)]
    # The same clusters look the same, and so does the training.
    sheets = (tmp_path / "all" / "clusters", finished / "clusters")
    for name in names(finished / "clusters"):
        assert (sheets[0] / name).read_bytes() == (sheets[1] / name).read_bytes()
    torch.testing.assert_close(weights(tmp_path / "all"), weights(finished), atol=0, rtol=0)
    with Image.open(finished / "clusters.png") as some, Image.open(tmp_path / "all" / "clusters.png") as every:
        assert some.mode == "RGB"
        assert some.height < every.height
        assert 300 < some.width <= 2500


def test_an_evaluation_or_a_resumed_run_may_show_others(finished: Path, tmp_path: Path) -> None:
    assert command(entry.main, "evaluate", finished, "--picture-clusters", "all", "--out", tmp_path / "all") == 0
    assert len(names(tmp_path / "all" / "clusters")) == 12
    folder = tmp_path / "run"
    assert command(entry.run_main, *tiny(picture_clusters=4, iterations=1), "--out", folder) == 0
    assert len(names(folder / "clusters")) == 4
    resumed = ["--resume", folder, "--iterations", "2", "--picture-clusters", "2"]
    assert command(entry.run_main, *resumed) == 0
    assert len(names(folder / "clusters")) == 2
    torch.testing.assert_close(weights(folder), weights(finished), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("value", "part"), [("0", "at least 1 or all, got 0"), ("most", "a whole number or all, got 'most'")]
)
def test_a_number_of_clusters_that_cannot_be_is_refused(
    value: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(entry.run_main, *tiny(picture_clusters=value), "--out", tmp_path / "run") == 2
    err = capsys.readouterr().err
    assert err.startswith("mpcc-run: error: ")
    assert part in err
    assert not (tmp_path / "run").exists()
