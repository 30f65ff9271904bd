"""What images say where nobody else has: clusters from classes or from the data set, networks from the size."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mpcc.core.commands import entry
from mpcc.core.testing import ContractViolation, check_dataset
from mpcc.plugins.datasets.digits import Digits
from mpcc.plugins.datasets.options import DigitsOptions

TINY = [
    *("--iterations", "1", "--eval-images", "20", "--threads", "1", "--standing-passes", "1", "--batch", "10"),
    *("--metrics", "occupancy", "--device", "cpu"),
]
PLUGIN = """
import torch
from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.hookspecs import hookimpl


class Birds(Dataset):
    {hints}

    def __init__(self, options):
        pass

    def load(self, image_size, root, download):
        images = torch.randint(0, 255, (30, 1, image_size, image_size), generator=torch.Generator().manual_seed(0))
        return ImageSet(images.to(torch.uint8))


@hookimpl
def register_datasets(register):
    register("birds", "fake_birds:Birds", summary="Noise.")
"""
PRESET = """

@hookimpl
def register_presets(register):
    tables = {"for": {"data": "birds"}, "arch": {"name": "biggan8"}, "run": {"clusters": 3}}
    register("of-birds", {"source": "a test", **tables})
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder; leave no module behind."""
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("fake_birds", None)


def train(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    """Run one iteration; return the status, the tables of config.toml and what was said."""
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*words, *TINY, "--out", "run"])
    text = Path("run/config.toml").read_text(encoding="utf-8") if caught.value.code == 0 else ""
    return int(caught.value.code or 0), tomllib.loads(text), capsys.readouterr().err


def write_birds(hints: str, more: str = "") -> list[str]:
    """Write the plugin and return the flags that choose it."""
    Path("fake_birds.py").write_text(PLUGIN.format(hints=hints) + more, encoding="utf-8")
    return ["--plugin", "fake_birds.py", "--data", "birds"]


def write_folder(*classes: str, side: int = 40) -> list[str]:
    """Write images into folders of classes and return the flags that choose them."""
    for index, digit in enumerate(load_digits().images[:30]):
        folder = Path("mine", classes[index % len(classes)] if classes else "")
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((digit * 15).astype(np.uint8)).resize((side, side + 9))
        picture.save(folder / f"{index}.png")
    return ["--data", "mine"]


def test_class_folders_are_the_number_of_clusters_and_a_flag_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    data = write_folder("cat", "dog", "owl")
    status, tables, said = train(capsys, *data)
    assert (status, tables["run"]["clusters"]) == (0, 3)
    assert "--clusters 3: the number of classes of the data set, as nothing else was chosen" in said
    with pytest.raises(SystemExit):
        entry.run_main([*data, *TINY, "--dry-run"])
    assert "# with these images: clusters = 3\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        entry.run_main([*data, *TINY, "--clusters", "10", "--out", "typed"])
    assert "clusters = 10\n" in Path("typed/config.toml").read_text()
    assert "number of classes" not in capsys.readouterr().err


def test_images_that_become_smaller_are_told_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    _, tables, said = train(capsys, *write_folder())
    assert (tables["run"]["clusters"], tables["arch"]["name"]) == (10, "biggan16")
    line = "images of 40 pixels a side are made 16x16, the size of --arch biggan16 (preset folder); --arch biggan32 "
    assert said.count(line) == 1


def test_nothing_is_told_of_images_that_fit_or_of_networks_that_the_user_chose(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "pixels a side" not in train(capsys, *write_folder(side=16))[2]
    with pytest.raises(SystemExit):
        entry.run_main([*write_folder(side=40), *TINY, "--arch", "biggan8", "--arch.width", "2", "--out", "typed"])
    assert "pixels a side" not in capsys.readouterr().err


def test_the_hints_of_a_data_set_replace_defaults_and_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    _, tables, said = train(capsys, *write_birds("clusters, image_side = 4, 28"))
    assert (tables["run"]["clusters"], tables["arch"]["name"]) == (4, "biggan16")
    line = (
        "data set birds suggests, and nothing else was chosen: --clusters 4; --arch biggan16, for images of 28 pixels"
    )
    assert said.count(line) == 1
    assert "are made 16x16, the size of --arch biggan16 (data set birds); --arch biggan32 makes them 32x32" in said


def test_presets_and_flags_come_before_the_hints_of_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    _, tables, said = train(capsys, *write_birds("clusters, image_side = 4, 28", PRESET))
    assert (tables["run"]["clusters"], tables["arch"]["name"]) == (3, "biggan8")
    assert "suggests" not in said
    with pytest.raises(SystemExit):
        entry.run_main([*write_birds("clusters = 4", PRESET), *TINY, "--clusters", "5", "--out", "typed"])
    assert json.loads(Path("typed/results.json").read_text())["clusters"]["total"] == 5


def test_a_size_that_nobody_knows_is_told_where_the_default_networks_are_small(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = train(capsys, *write_birds("pass"))[2]
    assert "images are read at 8x8 pixels, the size of --arch biggan8 (default); to see more" in said
    assert "--arch biggan32 for 32" in said


@pytest.mark.parametrize("hint", ["clusters = 0", "image_side = 'large'", "clusters = True"])
def test_a_hint_that_is_no_number_is_one_error(hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, said = train(capsys, *write_birds(hint))
    assert status == 2
    assert "dataset 'birds'" in said
    assert "expected a whole number of at least 1 or None, got" in said


@pytest.mark.parametrize("hint", ["clusters", "image_side"])
def test_the_kit_refuses_a_hint_that_is_no_number(hint: str) -> None:
    wrong = type("Wrong", (Digits,), {hint: 2.5})
    with pytest.raises(ContractViolation, match=f"{hint}: expected a whole number of at least 1 or None, got 2.5"):
        check_dataset(wrong, DigitsOptions())


def test_a_dry_run_shows_what_is_suggested_and_by_whom(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        entry.run_main([*write_birds("clusters, image_side = 4, 28"), *TINY, "--dry-run"])
    lines = {
        line.partition("=")[0].strip(): line for line in capsys.readouterr().out.splitlines() if "# data set" in line
    }
    assert "# data set birds" in lines["clusters"]
    assert '"biggan16"' in lines["name"]
