"""The benchmarks: their commands run for one step, and what they compute is right on small cases."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: str, cwd: Path) -> str:
    """Run a benchmark for one step and return what it prints."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments, "--iterations", "1", "--eval-images", "200"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.check
def test_the_benchmark_of_priors_prints_both_tables_and_reuses_its_runs(tmp_path: Path) -> None:
    printed = run("priors", "--priors", "gmm", "cauchy", "--seeds", "0", cwd=tmp_path)
    lines = printed.splitlines()
    assert lines[1] == "| prior | acc | nmi |"
    assert "| prior | clean | 1 of 20 off by 5 | 1 of 20 off by 10 | 3 of 20 off by 10 |" in lines
    assert [line.split()[1] for line in lines if line.startswith(("| gmm", "| cauchy"))] == ["gmm", "cauchy"] * 2
    assert {path.name for path in (tmp_path / "runs/priors").iterdir()} == {"gmm-0", "cauchy-0"}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    assert run("priors", "--priors", "gmm", "cauchy", "--seeds", "0", cwd=tmp_path) == printed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")} == before


@pytest.mark.check
@pytest.mark.parametrize("kind", ["noise", "corrupted"])
def test_the_benchmark_of_contaminated_digits_scores_the_clean_ones(tmp_path: Path, kind: str) -> None:
    lines = run("outliers", "--priors", "gmm", "--seeds", "0", "--kind", kind, cwd=tmp_path).splitlines()
    assert lines[1] == "| prior | acc of clean digits | nmi of clean digits | auroc of low confidence |"
    assert lines[-1].startswith("| gmm | 0.")


@pytest.mark.check
def test_runs_that_are_killed_and_resumed_end_like_an_uninterrupted_run(tmp_path: Path) -> None:
    small = (
        "--arch.width",
        "1",
        "--batch",
        "10",
        "--latent-dim",
        "3",
        "--standing-passes",
        "1",
        "--metrics",
        "occupancy",
    )
    command = [sys.executable, str(BENCHMARKS / "killed_runs.py"), "--kills", "2", "--iterations", "16", *small]
    done = subprocess.run([*command, "--out", "killed"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 killed runs ended with the weights of the uninterrupted run" in done.stdout


def test_spoilt_latents_differ_in_so_many_coordinates_by_the_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil = script("priors", monkeypatch).spoil
    z = torch.randn(50, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.equal(spoil(z, 0, 0.0), z)
    moved = spoil(z, 3, 10.0) - z
    assert (moved.abs() > 1e-9).sum(1).tolist() == [3] * 50
    torch.testing.assert_close(moved.abs().sum(1), torch.full((50,), 30.0, dtype=torch.float64))
    assert 0.3 < (moved > 0).sum() / 150 < 0.7


def test_contamination_adds_noise_or_spoils_digits_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = script("contaminated_digits", monkeypatch)
    for kind, total in (("noise", 1797 + 180), ("corrupted", 1797)):
        options = plugin.ContaminatedDigitsOptions(kind=kind, fraction=0.1)
        data = plugin.ContaminatedDigits(options).load(8, None, False)
        assert data.images.shape == (total, 1, 8, 8)
        marked = [index for index, path in enumerate(data.paths) if path.startswith(kind)]
        assert len(marked) == 180
        assert all((int(data.labels[index]) == 10) == (kind == "noise") for index in marked)
        clean = plugin.ContaminatedDigits(plugin.ContaminatedDigitsOptions(fraction=0.0)).load(8, None, False)
        same = [torch.equal(data.images[index], clean.images[index]) for index in range(1797)]
        assert sum(same) == (1797 if kind == "noise" else 1797 - 180)


@pytest.mark.check
def test_the_learning_curve_of_a_run_is_drawn_and_its_last_scores_are_printed(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "mpcc-run"), "--iterations", "2", "--eval-every", "1"]
    command += ["--eval-images", "100", "--metrics", "acc,nmi", "--out", str(tmp_path / "run")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, str(BENCHMARKS / "learning_curve.py"), str(tmp_path / "run"), "--out", "curve.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["acc", "nmi"]
    assert "at iteration 2, minute" in done.stdout
