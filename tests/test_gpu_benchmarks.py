"""The plan for the first half-hour on a GPU, tried on a CPU with tiny settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"
TINY = "--arch.width=1 --iterations=3 --threads=1 --standing-passes=1"


def step(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Carry out a step and return how it ended."""
    command = [sys.executable, str(GPU / "steps.py"), *arguments, "--device", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)


@pytest.mark.check
def test_step_a_runs_the_cuda_tests_and_measures_engines(tmp_path: Path) -> None:
    # The time is up before an engine is measured; the CUDA tests are skipped.
    step("A", "--out", str(tmp_path), "--presets", "digits", "--seconds", "0.001")
    ended = json.loads((tmp_path / "steps.json").read_text())
    assert set(ended) == {"tests", "engines"}
    tiny = ["--presets", "digits", "--device", "cpu", "--engines", "fast", "--each", "0.01"]
    rows = subprocess.run(
        [sys.executable, str(GPU / "engines.py"), "--out", str(tmp_path), *tiny],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads((tmp_path / "engines.json").read_text())
    assert set(found) == {"digits fast"}, rows.stdout
    assert found["digits fast"]["unwaited_ms"] > 0
    assert (tmp_path / "kernels-digits-fast.txt").read_text().count(" us ") > 20


@pytest.mark.check
def test_step_b_stops_with_a_checkpoint_and_goes_on_from_it(tmp_path: Path) -> None:
    endless = TINY.replace("--iterations=3", "--iterations=100000")
    assert (
        step("B", "--out", str(tmp_path), "--presets", "digits", "--seconds", "25", "--also", endless).returncode == 0
    )
    assert json.loads((tmp_path / "steps.json").read_text())["digits"]["status"] == 130
    first = (tmp_path / "digits.txt").read_text()
    assert "stopped at iteration" in first
    assert step("B", "--out", str(tmp_path), "--presets", "digits", "--seconds", "25").returncode == 0
    assert (tmp_path / "digits.txt").read_text().count("stopped at iteration") == 2


@pytest.mark.check
def test_step_c_trains_benches_and_checks_plugins(tmp_path: Path) -> None:
    done = step("C", "--out", str(tmp_path), "--presets", "digits", "--seconds", "90", "--also", TINY)
    ended = json.loads((tmp_path / "steps.json").read_text())
    assert set(ended) == {"digits", "bench", "kit"}, done.stderr
    assert ended["digits"]["status"] == 0
    assert (tmp_path / "digits" / "results.json").exists()
