"""File names in tables: one line of valid text each, all different, and each can be found again."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import original, printable
from mpcc.core.system.whole_files import check_new, new_file
from mpcc.plugins.datasets.folder import Folder
from mpcc.plugins.datasets.options import FolderOptions

# Names that an escape without care would write alike: a line break and a backslash with an n; a byte and its escape.
ALIKE = [
    b"a\nb.png",
    b"a\\nb.png",
    b"a\\\\nb.png",
    b"\xe9.png",
    b"\\xe9.png",
    b"\\udce9.png",
    b"\xc2\x85.png",
    b"\x85.png",
]


@given(st.binary(min_size=1), st.binary(min_size=1))
@example(ALIKE[0], ALIKE[1])
@example(ALIKE[3], ALIKE[5])
@example(ALIKE[6], ALIKE[7])
@example("\u2028".encode(), b"\\u2028")
def test_a_name_is_one_line_of_text_from_which_it_can_be_found_again(first: bytes, second: bytes) -> None:
    for content in (first, second):
        name = os.fsdecode(content)
        line = printable(name)
        assert len(line.splitlines()) <= 1
        line.encode("utf-8")
        assert os.fsencode(original(line)) == content
    assert (printable(os.fsdecode(first)) == printable(os.fsdecode(second))) == (first == second)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of images with such names."""
    path = tmp_path / "images"
    path.mkdir()
    for index, name in enumerate(ALIKE):
        try:
            Image.fromarray(np.full((8, 8), 20 * index, np.uint8)).save(path / os.fsdecode(name), format="PNG")
        except OSError:
            pytest.skip("this file system only has names of valid text")
    return path


def test_the_paths_of_a_data_set_lead_to_its_files(folder: Path) -> None:
    data = Folder(FolderOptions(path=folder)).load(8, None, False)
    assert len(set(data.paths)) == len(ALIKE)
    for path, image in zip(data.paths, data.images, strict=True):
        with Image.open(folder / original(path)) as stored:
            assert np.array_equal(np.asarray(stored), image[0].numpy())


def test_the_paths_in_a_table_lead_to_the_files(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [f"--data.path={folder}", f"--out={out}", "--clusters=2", "--batch=4", "--iterations=1"]
    with pytest.raises(SystemExit) as end:
        entry.run_main([*words, "--data=folder", "--standing-passes=1", "--ema-start=0", "--threads=1"])
    assert end.value.code == 0
    with (out / "assignments.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {os.fsencode(original(row["path"])) for row in rows} == set(ALIKE)


LONG = "x" * 300
DEEP = "/".join(["y" * 200] * 25)


@pytest.mark.parametrize("name", [LONG, f"new/{LONG}/run", DEEP])
@pytest.mark.parametrize(
    "words",
    [
        ["run", "--out"],
        ["run", "--dry-run", "--out"],
        ["bench", "--out"],
        ["evaluate", "RUN", "--out"],
        ["export", "RUN", "--out"],
        ["predict", "RUN", "--out"],
        ["predict", "RUN", "--posterior"],
        ["plugins", "new", "prior", "z", "--out"],
        ["run", "--resume"],
        ["run", "--config"],
        ["run", "--registry"],
        ["run", "--plugin"],
        ["run", "--data.path"],
        ["evaluate", "RUN", "--checkpoint"],
        ["predict", "RUN"],
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_told_before_anything_is_done(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "config.toml").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        entry.main([*words, name])
    err = "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if "taken as" not in line)
    assert (end.value.code, err.count("\n")) == (2, 1)
    # A file to be read is missing already where a folder on the way to it is.
    assert "too long" in err or "bytes" in err or (name.startswith("new/") and not {"--out", "--posterior"} & {*words})
    assert {path.name for path in tmp_path.iterdir()} == {"RUN"}
    assert len(list((tmp_path / "RUN").iterdir())) == 1


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    limit = os.pathconf(tmp_path, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in ("x" * limit, "\u00e9" * (limit // 2)):
        check_new(tmp_path / name, "--out", "file")
        with new_file(tmp_path / name) as file:
            file.write(b"content")
        assert (tmp_path / name).read_bytes() == b"content"
        with pytest.raises(InvalidInput, match=r"^--out .*: a name of \d+ bytes: expected at most"):
            check_new(tmp_path / f"{name}xx", "--out", "file")
    assert len(list(tmp_path.iterdir())) == 2
