"""Checkpoints: whole or not at all, safe to load, and refused where they don't fit."""

from __future__ import annotations

import pickle
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpcc.core.errors import InvalidInput
from mpcc.core.storage.checkpoint import FORMAT_VERSION, BrokenCheckpoint, add_digest, load_checkpoint, save_checkpoint
from mpcc.core.system.randomness import random_states, restore_random_states


def test_what_is_saved_is_loaded_and_a_plain_safe_load_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.pt"
    state = {"iteration": 3, "nested": {"weights": torch.arange(4.0), "list": [1, None, "x"]}}
    save_checkpoint(path, state)
    for loaded in (load_checkpoint(path), torch.load(path, weights_only=True)):
        assert loaded["iteration"] == 3
        assert loaded["format_version"] == FORMAT_VERSION
        assert torch.equal(loaded["nested"]["weights"], torch.arange(4.0))
        assert loaded["nested"]["list"] == [1, None, "x"]
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_failure_while_saving_keeps_the_old_file_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"iteration": 1})

    def half(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"iteration": 2})
    assert load_checkpoint(path)["iteration"] == 1
    assert list(tmp_path.iterdir()) == [path]


def sealed(path: Path, content: Any) -> None:
    """Save anything as torch does, with a digest."""
    torch.save(content, path)
    with path.open("r+b") as file:
        add_digest(file)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    # Its digest is right: that proves that nothing has changed, not that it is honest.
    sealed(tmp_path / "torch.pt", {"format_version": FORMAT_VERSION, "x": Malicious(victim)})
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Malicious(victim)))
    for name in ("torch.pt", "pickle.pt"):
        with pytest.raises(InvalidInput, match=f"{name}: cannot be read"):
            load_checkpoint(tmp_path / name)
        assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "half"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InvalidInput, match=r"last\.pt: cannot be read, it is broken or not a checkpoint"):
        load_checkpoint(path)


def test_a_missing_file_or_another_format_is_said(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(InvalidInput, match=r"last\.pt: no such file"):
        load_checkpoint(path)
    for state, found in (
        ({"format_version": 99}, "99"),
        ({"x": 1}, "None"),
        ([1], "list"),
        ({"format_version": torch.ones(3)}, "Tensor"),
    ):
        sealed(path, state)
        with pytest.raises(InvalidInput, match=f"expected format version {FORMAT_VERSION}, found {found}"):
            load_checkpoint(path)


def test_every_single_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"weights": torch.arange(50.0), "text": "x" * 20})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BrokenCheckpoint):
            load_checkpoint(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BrokenCheckpoint):
            load_checkpoint(path)


def test_a_flipped_bit_that_every_check_sum_of_the_archive_lets_through_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"weights": torch.arange(50.0)})
    whole = bytearray(path.read_bytes())
    # In the directory of a zip archive, byte 38 of an entry has the bit of MS-DOS for "this is a folder".
    (entry,) = (found.start() for found in re.finditer(rb"PK\x01\x02.{42}[^/]+/data/0", whole, re.S))
    whole[entry + 38] ^= 0x10
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with pytest.raises(BrokenCheckpoint, match="its content does not match its digest"):
        load_checkpoint(path)


def test_random_states_go_back_to_where_they_were() -> None:
    def draws() -> tuple[list[float], list[float], float, float]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(), random.gauss(0, 1)

    with torch.random.fork_rng(devices=[]):
        before = random_states()
        # Both keep the second of two normal numbers for the next call.
        draws()
        states = random_states()
        first = draws()
        restore_random_states(states)
        assert draws() == first
        restore_random_states(before)
