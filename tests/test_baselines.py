"""The other methods of clustering: they find what is there, end in time, and leave results like ours."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score

from mpcc.core.errors import InvalidInput

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ("k-means", "ward", "t-sne", "isomap", "umap", "vade", "dec")


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module with the methods."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("baseline_methods")
    sys.modules.pop("baseline_methods", None)


@pytest.fixture
def baselines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The command, in an empty folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield importlib.import_module("baselines")
    sys.modules.pop("baselines", None)


def blobs(count: int = 90, dimensions: int = 16) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Three groups far apart, within [0, 1], and the group of each point."""
    points, groups = make_blobs(count, dimensions, centers=3, cluster_std=0.3, random_state=1)
    low, high = points.min(), points.max()
    return ((points - low) / (high - low)).astype(np.float32), groups


@pytest.mark.parametrize("name", [*NAMES[:4], pytest.param("umap", marks=pytest.mark.check)])
def test_every_method_finds_three_groups_that_lie_far_apart(methods: ModuleType, name: str) -> None:
    method = methods.METHODS[name]
    if method.package is not None:
        pytest.importorskip(method.package[0])
    points, groups = blobs()
    found = methods.cluster(method, points, 3, 0, 120.0, None)
    assert found.clusters.shape == (90,)
    assert found.fitted_on == 90
    assert adjusted_rand_score(groups, found.clusters) == 1
    assert np.array_equal(found.clusters, methods.cluster(method, points, 3, 0, 120.0, None).clusters)


@pytest.mark.check
@pytest.mark.parametrize("name", NAMES[5:])
def test_trained_methods_take_as_many_epochs_as_there_is_time_for(methods: ModuleType, name: str) -> None:
    pytest.importorskip("clustpy")
    points, _ = blobs(40)
    found = methods.cluster(methods.METHODS[name], points, 3, 0, 2.0, None)
    assert found.clusters.shape == (40,)
    assert set(found.clusters) <= {0, 1, 2}
    assert found.details["usual_epochs"] == [100, 150]
    assert all(1 <= epochs <= usual for epochs, usual in zip(*found.details.values(), strict=True))
    assert sum(found.details["epochs"]) < 250


def test_methods_of_scikit_learn_give_what_scikit_learn_gives(methods: ModuleType) -> None:
    pixels = (load_digits().data[:300] / 16).astype(np.float32)
    for name, expected in (
        ("k-means", KMeans(10, n_init=10, random_state=3).fit_predict(pixels)),
        ("ward", AgglomerativeClustering(10).fit_predict(pixels)),
    ):
        found = methods.cluster(methods.METHODS[name], pixels, 10, 3, 60.0, None).clusters
        assert adjusted_rand_score(expected, found) == 1


def test_a_part_is_fitted_and_the_rest_goes_to_the_nearest_neighbour(methods: ModuleType) -> None:
    points, groups = blobs()
    found = methods.cluster(methods.METHODS["ward"], points, 3, 5, 60.0, 30)
    assert found.fitted_on == 30
    part = np.sort(np.random.default_rng(5).choice(90, 30, replace=False))
    of_part = AgglomerativeClustering(3).fit_predict(points[part])
    nearest = cdist(points, points[part]).argmin(1)
    assert adjusted_rand_score(of_part[nearest], found.clusters) == 1
    assert adjusted_rand_score(groups, found.clusters) == 1
    assert methods.cluster(methods.METHODS["ward"], points, 3, 5, 60.0, 500).fitted_on == 90
    assert methods.METHODS["ward"].most == methods.METHODS["isomap"].most == 10_000


def test_epochs_are_cut_in_proportion_if_the_time_does_not_suffice(methods: ModuleType) -> None:
    assert methods.shortened_epochs(100, 150, 1.0, 400.0) == (100, 150)
    for left in (10.0, 77.0, 200.0):
        first, second = methods.shortened_epochs(100, 150, 1.0, left)
        assert first + second <= 0.8 * left
        assert second == pytest.approx(1.5 * first, abs=1.5)
    assert methods.shortened_epochs(100, 150, 1.0, 0.0) == (1, 1)


def test_a_missing_package_is_named_before_anything_runs(
    baselines: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert baselines.main(["run", "--data", "digits", "--methods", "k-means,umap"]) == 2
    error = capsys.readouterr().err
    assert "umap-learn, which is not installed: pip install -e '.[baselines]'" in error
    assert not any(Path().iterdir())


def test_bad_input_is_one_line_and_status_2(baselines: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--data", "digits", "--methods", "kmeans"], "did you mean 'k-means'?"),
        (["--data", "digit", "--methods", "ward"], "did you mean 'digits'?"),
        (["--data", "digits", "--methods", "ward", "--iteration", "3"], "--iteration"),
        (["--data", "digits", "--methods", "ward", "--seeds", "a"], "got 'a'"),
    ):
        assert baselines.main(["run", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("baselines.py: ")
        assert message in error
        assert error.count("\n") == 1
    assert not any(Path().iterdir())


def call(baselines: ModuleType, *words: str) -> int:
    """Run methods on the digits."""
    places = ["--results", "results", "--rate-seconds", "0.01"]
    return int(baselines.main(["run", "--data", "digits", *words, *places]))


@pytest.mark.check
def test_a_method_leaves_a_result_that_is_not_made_twice(
    baselines: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(baselines, "--methods", "k-means,ward", "--seeds", "0-1", "--clusters", "12", "--most", "500") == 0
    files = {path: path.stat().st_mtime_ns for path in Path("results").iterdir()}
    assert {path.name for path in files} == {
        f"digits-{name}-{seed}.json" for name in ("k-means", "ward") for seed in (0, 1)
    }
    found = json.loads(Path("results/digits-ward-1.json").read_text())
    assert found["ended"] == "finished"
    assert found["images"] == 1797
    assert found["fitted_on"] == 500
    assert found["pixels"] == 8
    assert found["clusters"] == {"total": 12, "used": 12}
    assert 0.6 < found["scores"]["acc"] <= found["scores"]["purity"] < 1
    assert 0 < found["fit_seconds"] < found["wall_seconds"] < found["budget_seconds"]
    words = found["command"].split()
    assert words[:4] == ["baselines.py", "run", "--data", "digits"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given.items() >= {"--methods": "ward", "--seeds": "1", "--clusters": "12", "--most": "500"}.items()
    assert call(baselines, "--methods", "k-means,ward", "--seeds", "0-1", "--clusters", "12") == 0
    assert {path: path.stat().st_mtime_ns for path in Path("results").iterdir()} == files
    capsys.readouterr()
    assert baselines.main(["table", "--results", "results"]) == 0
    printed = capsys.readouterr().out
    assert "| k-means | 2 | 0." in printed
    assert "fitted on 500 of 1,797 images, the rest by nearest neighbour" in printed


@pytest.mark.check
def test_images_of_ones_own_and_a_score_of_the_rest(baselines: ModuleType) -> None:
    digits = load_digits()
    np.savez("own.npz", images=(digits.images[:200] * 15).astype(np.uint8), labels=digits.target[:200])
    words = ["run", "--data", "arrays", "--data.path", "own.npz", "--pixels", "8", "--chosen-images", "50"]
    words += ["--methods", "k-means", "--seeds", "0", "--results", "results", "--rate-seconds", "0.01"]
    assert baselines.main(words) == 0
    (path,) = Path("results").iterdir()
    assert path.name == "own-8-pixels-k-means-0.json"
    found = json.loads(path.read_text())
    assert found["rest"]["from"] == 50
    assert found["rest"]["acc"] != found["scores"]["acc"]
    # The command gives images without labels no score, but a time.
    np.save("unlabelled.npy", (digits.images[:60] * 15).astype(np.uint8))
    words[words.index("own.npz")] = "unlabelled.npy"
    assert baselines.main(words) == 0
    assert "scores" not in json.loads(Path("results/unlabelled-8-pixels-k-means-0.json").read_text())


def test_a_method_that_takes_too_long_is_ended_and_says_so(
    baselines: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(baselines, "--methods", "t-sne", "--seeds", "0", "--budget", "0.3") == 0
    found = json.loads(Path("results/digits-t-sne-0.json").read_text())
    assert found["ended"] == "not finished in 0.3 s"
    assert "scores" not in found
    capsys.readouterr()
    assert baselines.main(["table", "--results", "results"]) == 0
    assert "1 of 1: not finished in 0.3 s" in capsys.readouterr().out


def test_what_a_method_has_started_is_ended_with_it(baselines: ModuleType) -> None:
    program = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    ended, seconds, _ = baselines.limited([sys.executable, "-c", program], 2.0, 1)
    assert ended == "not finished in 2 s"
    assert seconds < 30
    child = int(Path("child").read_text())
    deadline = time.monotonic() + 10
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(child)


def running(process: int) -> bool:
    """Return whether a process still computes; one that has ended and was not waited for does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_how_a_process_ended_is_told(baselines: ModuleType) -> None:
    for program, expected in (
        ("pass", ("finished", "")),
        ("import sys; sys.exit('no room')", ("failed", "no room")),
        ("import os; os.kill(os.getpid(), 9)", ("ended by the system, probably out of memory", "")),
    ):
        ended, _, last = baselines.limited([sys.executable, "-c", program], 60.0, None)
        assert (ended, last) == expected
    program = "import os; assert os.environ['OMP_NUM_THREADS'] == os.environ['NUMBA_NUM_THREADS'] == '3'"
    assert baselines.limited([sys.executable, "-c", program], 60.0, 3)[0] == "finished"


def test_a_method_that_fails_has_no_result(
    baselines: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "limited", lambda *_: ("failed", 1.0, "ValueError: no"))
    assert call(baselines, "--methods", "k-means", "--seeds", "0") == 1
    assert "digits-k-means-0.json: failed: ValueError: no" in capsys.readouterr().err
    assert not Path("results").exists()


def test_all_images_that_the_page_shows_can_be_asked_for_by_their_settings(baselines: ModuleType) -> None:
    with pytest.raises(InvalidInput, match="--data-root"):
        baselines.load(baselines.configuration(["--data", "mnist", "--data-root", "nowhere"]), 28)
    data = baselines.load(baselines.configuration(["--data", "digits"]), None)
    assert tuple(data.images.shape) == (1797, 1, 8, 8)
