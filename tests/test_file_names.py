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
from mpcc.core.system.file_names import original, printable
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
