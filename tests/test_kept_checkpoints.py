"""Which checkpoints are kept, and which one is taken when the newest is broken."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest
import torch

from mpcc.core.errors import InvalidInput
from mpcc.core.storage.checkpoint import BrokenCheckpoint, load_checkpoint
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints


def state(iteration: int) -> dict[str, object]:
    return {"iteration": iteration, "weights": torch.full((3,), float(iteration))}


def held(folder: Path) -> dict[str, int]:
    return {path.name: load_checkpoint(path)["iteration"] for path in folder.iterdir()}


@pytest.mark.parametrize(("keep", "older"), [(0, []), (1, [30]), (2, [20, 30]), (9, [10, 20, 30])])
def test_the_newest_is_last_and_so_many_before_it_are_kept(tmp_path: Path, keep: int, older: list[int]) -> None:
    checkpoints = KeptCheckpoints(tmp_path / "checkpoints", keep)
    for iteration in (10, 20, 30, 40):
        checkpoints.save(state(iteration))
    assert held(checkpoints.folder) == {"last.pt": 40, **{f"iteration-{each}.pt": each for each in older}}
    assert checkpoints.newest_iteration == 40


def test_the_best_stays_when_newer_ones_come(tmp_path: Path) -> None:
    checkpoints = KeptCheckpoints(tmp_path, keep=0)
    checkpoints.save(state(1), best=True)
    checkpoints.save(state(2))
    assert held(tmp_path) == {"last.pt": 2, "best.pt": 1}
    checkpoints.save_best(state(3))
    assert held(tmp_path) == {"last.pt": 2, "best.pt": 3}


def test_nothing_is_changed_by_a_save_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = KeptCheckpoints(tmp_path)
    for iteration in (1, 2, 3):
        checkpoints.save(state(iteration), best=True)
    before = held(tmp_path)

    def full(_: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    for save in (checkpoints.save, checkpoints.save_best):
        with pytest.raises(OSError, match="No space"):
            save(state(4))
    assert held(tmp_path) == before
    assert checkpoints.newest_iteration == 3


def test_copies_stand_in_for_links_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", unknown)
    checkpoints = KeptCheckpoints(tmp_path)
    checkpoints.save(state(1), best=True)
    checkpoints.save(state(2))
    assert held(tmp_path) == {"last.pt": 2, "iteration-1.pt": 1, "best.pt": 1}


def test_the_newest_whole_one_is_loaded_and_the_broken_ones_are_named(tmp_path: Path) -> None:
    checkpoints = KeptCheckpoints(tmp_path)
    assert checkpoints.load()[0] is None
    for iteration in (1, 2, 3):
        checkpoints.save(state(iteration))
    for broken, expected in ((0, 3), (1, 2), (2, 1)):
        found, source, lines = KeptCheckpoints(tmp_path).load()
        assert found is not None
        assert found["iteration"] == expected
        assert len(lines) == broken
        assert all("it is broken or not a checkpoint" in line for line in lines)
        source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(BrokenCheckpoint, match=r"no checkpoint can be read: .*last\.pt: .*-2\.pt: .*-1\.pt"):
        checkpoints.load()


def test_a_broken_newest_one_is_not_kept_as_an_older_one(tmp_path: Path) -> None:
    checkpoints = KeptCheckpoints(tmp_path)
    for iteration in (1, 2):
        checkpoints.save(state(iteration))
    checkpoints.newest.write_bytes(b"")
    again = KeptCheckpoints(tmp_path)
    again.load()
    again.save(state(3))
    assert held(tmp_path) == {"last.pt": 3, "iteration-1.pt": 1}


def test_another_format_is_said_rather_than_passed_over(tmp_path: Path) -> None:
    checkpoints = KeptCheckpoints(tmp_path)
    checkpoints.save({**state(1), "format_version": 99})
    with pytest.raises(InvalidInput, match="expected format version 2, found 99"):
        checkpoints.load()


def test_what_lies_after_an_iteration_is_forgotten(tmp_path: Path) -> None:
    checkpoints = KeptCheckpoints(tmp_path, keep=9)
    for iteration in (10, 20, 30, 40):
        checkpoints.save(state(iteration))
    checkpoints.forget_after(20)
    assert held(tmp_path) == {"last.pt": 40, "iteration-10.pt": 10, "iteration-20.pt": 20}
