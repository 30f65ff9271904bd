"""PYTHONOPTIMIZE=2: without docstrings and assertions the commands do the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = [
    *("--iterations", "1", "--batch", "10", "--eval-images", "40"),
    *("--standing-passes", "1", "--arch.width", "1", "--threads", "1"),
]


def mpcc(folder: Path, *words: str, level: str = "2") -> subprocess.CompletedProcess[str]:
    """Run a command at a level of optimisation."""
    variables = {**os.environ, "PYTHONOPTIMIZE": level, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "mpcc", *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def test_lists_and_help_are_the_same_without_docstrings(tmp_path: Path) -> None:
    for words in (["plugins"], ["run", "--help"]):
        stripped, usual = (mpcc(tmp_path, *words, level=level) for level in ("2", "0"))
        assert (stripped.returncode, stripped.stderr) == (0, "")
        assert stripped.stdout == usual.stdout
        assert "Mixture of diagonal Gaussians." in stripped.stdout


@pytest.mark.check
def test_a_run_is_trained_resumed_and_used_without_docstrings(tmp_path: Path) -> None:
    for words in (
        ["run", "--out", "r", *TINY],
        ["run", "--resume", "r", "--iterations", "2"],
        ["predict", "r"],
        ["export", "r"],
        ["plugins", "check", "student_t"],
    ):
        done = mpcc(tmp_path, *words)
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "r" / "export-2" / "prior.safetensors").is_file()
