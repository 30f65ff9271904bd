"""Images that have moved: options that only say where they are may change, and the fingerprint guards the rest."""

from __future__ import annotations

import csv
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from PIL import Image

from mpcc.core.commands import entry
from mpcc.core.config.locations import locations
from mpcc.core.config.options import option
from mpcc.plugins.datasets.options import ArraysOptions, FolderOptions

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 6, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"clusters": 3, "eval-every": 1, "standing-passes": 1, "device": "cpu", "data": "folder"},
}
PLUGIN = """
import attrs
from mpcc.core.config.options import option
from mpcc.core.contracts import Dataset
from mpcc.core.hookspecs import hookimpl
from mpcc.plugins.datasets.digits import Digits


@attrs.frozen
class Options:
    server: str = option("a.example", "where the images are", location=True)
    rows: str = option("all", "which images")


class Served(Dataset):
    def __init__(self, options):
        self.options = options

    def load(self, image_size, root, download):
        return attrs.evolve(Digits(None).load(image_size, root, download), description=self.options.server)


@hookimpl
def register_datasets(register):
    register("served", "moved_served:Served", summary="images from a server", options="moved_served:Options")
"""


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def status_of(function: Callable[[list[str]], None], *words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        function([str(word) for word in words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def run(*words: str | Path) -> int:
    return status_of(entry.run_main, *words)


def mpcc(*words: str | Path) -> int:
    return status_of(entry.main, *words)


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on standard error."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last: str = err.splitlines()[-1]
    return last


def make_images(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    for index, image in enumerate(np.random.default_rng(seed).integers(256, size=(12, 8, 8), dtype=np.uint8)):
        Image.fromarray(image).save(folder / f"{index:02}.png")
    return folder


def data_of(folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))["data"]
    return saved


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its images, which are then moved."""
    place = tmp_path_factory.mktemp("moved")
    make_images(place / "images")
    assert run(*tiny(), f"--data.path={place / 'images'}", "--out", place / "run") == 0
    (place / "images").rename(place / "elsewhere")
    return place


@pytest.fixture
def moved(original: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the run and its images in their new place."""
    return Path(shutil.copytree(original / "run", tmp_path / "run")), original / "elsewhere"


def test_a_run_whose_images_have_moved_is_resumed_and_remembers_their_new_place(moved: tuple[Path, Path]) -> None:
    folder, images = moved
    assert run("--resume", folder, "--iterations=3", "--data.path", images) == 0
    assert data_of(folder)["path"] == str(images)
    assert run("--resume", folder, "--iterations=4") == 0
    # A user who types the whole choice of the data set means the same.
    assert run("--resume", folder, "--iterations=5", "--data=folder", "--data.path", images) == 0


def test_a_run_whose_images_have_moved_is_evaluated_and_used(moved: tuple[Path, Path]) -> None:
    folder, images = moved
    assert mpcc("evaluate", folder, "--data.path", images) == 0
    assert (folder / "evaluation-2" / "assignments.csv").read_bytes() == (folder / "assignments.csv").read_bytes()
    assert mpcc("predict", folder, "--data.path", images) == 0
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"{index:02}.png" for index in range(12)]
    assert mpcc("export", folder) == 0


def test_the_new_place_may_be_written_into_config_toml(moved: tuple[Path, Path]) -> None:
    folder, images = moved
    config = folder / "config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace(str(data_of(folder)["path"]), str(images)), "utf-8")
    assert data_of(folder)["path"] == str(images)
    for command in ("evaluate", "predict", "export"):
        assert mpcc(command, folder) == 0
    assert run("--resume", folder, "--iterations=3") == 0


@pytest.mark.parametrize("words", [["mpcc-run", "--resume"], ["mpcc", "evaluate"], ["mpcc", "predict"]])
def test_images_that_are_gone_are_one_line_with_the_flag_that_names_their_new_place(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    folder, _ = moved
    before = sorted(path.name for path in folder.iterdir())
    more = ["--iterations=3"] if words[0] == "mpcc-run" else []
    assert status_of(entry.run_main if more else entry.main, *words[1:], folder, *more) == 2
    said = line(capsys)
    assert "does not exist" in said
    assert said.endswith("if it has been moved, name its new place with --data.path PATH")
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        name for name in before if name != ".lock"
    ]


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_other_images_in_the_new_place_are_refused(
    moved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder, images = moved
    others = make_images(tmp_path / "others", seed=1)
    fewer = Path(shutil.copytree(images, tmp_path / "fewer"))
    (fewer / "03.png").unlink()
    words = ["--resume", folder, "--iterations=3"] if command == "resume" else ["evaluate", folder]
    function = entry.run_main if command == "resume" else entry.main
    for place, part in ((others, "as many images as before, but different ones"), (fewer, "expected images of shape")):
        assert status_of(function, *words, "--data.path", place) == 2
        said = line(capsys)
        assert "the data set has changed" in said
        assert part in said
    assert data_of(folder)["path"] != str(others)


@pytest.mark.parametrize("words", [["--resume"], ["evaluate"]])
def test_options_that_say_more_than_a_place_stay_refused(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    folder, images = moved
    function = entry.run_main if words == ["--resume"] else entry.main
    when = "resumed" if words == ["--resume"] else "evaluated"
    # An evaluation may ask for other images, and these options do.
    of_data = [["--data.channels=3"], ["--data.labels=none"]] if words == ["--resume"] else []
    for flags in (["--data.path", images, "--prior.scale-floor=1"], *of_data):
        assert status_of(function, *words, folder, *flags) == 2
        said = line(capsys)
        assert f"cannot change when a run is {when}: leave it out (may change: " in said
        assert "--data.path" in said


def test_labels_of_arrays_may_move_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    np.save(tmp_path / "a" / "images.npy", generator.integers(256, size=(12, 8, 8), dtype=np.uint8))
    np.save(tmp_path / "a" / "labels.npy", np.arange(12) % 3)
    flags = [f"--data.path={tmp_path / 'a' / 'images.npy'}", f"--data.labels={tmp_path / 'a' / 'labels.npy'}"]
    folder = tmp_path / "run"
    assert run(*tiny(data="arrays"), *flags, "--out", folder) == 0
    for name in ("images.npy", "labels.npy"):
        (tmp_path / "a" / name).rename(tmp_path / "b" / name)
    assert mpcc("evaluate", folder) == 2
    assert line(capsys).endswith("name its new place with --data.labels PATH --data.path PATH")
    moved = [word.replace(str(tmp_path / "a"), str(tmp_path / "b")) for word in flags]
    assert mpcc("evaluate", folder, *moved) == 0
    assert run("--resume", folder, "--iterations=3", *moved) == 0


def test_a_third_partys_option_declares_that_it_is_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin, folder = tmp_path / "moved_served.py", tmp_path / "run"
    plugin.write_text(PLUGIN, encoding="utf-8")
    assert run(*tiny(data="served", eval_images=30), "--plugin", plugin, "--out", folder) == 0
    assert run("--resume", folder, "--iterations=3", "--data.rows=some") == 2
    assert "--data.rows cannot change when a run is resumed" in line(capsys)
    assert mpcc("evaluate", folder, "--data.server=b.example") == 0
    assert run("--resume", folder, "--iterations=3", "--data.server=b.example") == 0
    assert data_of(folder)["server"] == "b.example"


def test_paths_of_data_sets_are_places_unless_they_are_declared_otherwise() -> None:
    @attrs.frozen
    class Options:
        path: Path | None = option(None, "a place")
        recipe: Path | None = option(None, "what to do", location=False)
        address: str = option("", "a place", location=True)
        count: int = option(1, "a number")

    assert locations("data", Options) == ["path", "address"]
    # Elsewhere, a path may decide what is trained, such as the first weights.
    assert locations("arch", Options) == ["address"]
    assert locations("data", FolderOptions) == ["path"]
    assert set(locations("data", ArraysOptions)) == {"path", "labels"}
    assert locations("data", None) == []


def test_a_flag_with_the_value_of_the_run_changes_nothing(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = moved
    clusters = str(tomllib.loads((folder / "config.toml").read_text())["run"]["clusters"])
    assert (
        status_of(entry.run_main, "--resume", folder, "--iterations=3", "--data.path", images, "--clusters", clusters)
        == 0
    )
    assert status_of(entry.run_main, "--resume", folder, "--clusters", clusters + "1") == 2
    assert "--clusters cannot change when a run is resumed: leave it out" in capsys.readouterr().err


def test_mistakes_beside_moved_images_lead_to_the_right_flag(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = moved
    assert status_of(entry.run_main, "--resume", folder, "--data", images) == 2
    assert f"nearest valid choice: --data.path {images}" in line(capsys)
    assert status_of(entry.main, "evaluate", folder, "--data-path", images) == 2
    assert "did you mean '--data.path'?" in line(capsys)
    # An error with another cause has no hint of moved images.
    assert status_of(entry.main, "evaluate", folder, "--metrics", "silhouete") == 2
    said = line(capsys)
    assert "silhouette" in said
    assert "has been moved" not in said
