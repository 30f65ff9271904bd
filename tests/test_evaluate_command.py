"""``mpcc evaluate``: the same scores again, other ones on request, nothing of the run touched, errors in one line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mpcc.core.commands import entry
from mpcc.core.storage.checkpoint import save_checkpoint
from mpcc.plugins.datasets.digits import Digits
from mpcc.plugins.datasets.options import DigitsOptions

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 4},
    **{"eval-every": 2, "eval-images": 70, "standing-passes": 2, "checkpoint-every": 4, "seed": 3, "device": "cpu"},
    **{"prior": "student_t", "prior.scale-floor": 0.2, "ema-decay": 0.5, "ema-start": 1, "threads": 1},
}
PICTURES = {"clusters.png", "samples.png", "interpolations.png", "reconstructions.png", "confusion.png", "kmeans.png"}
OF_CLUSTERS = {f"clusters/{k}.png" for k in range(10)}
TABLES = {"assignments.csv", "confusion.csv", "posterior.npy", "latents.npy", "clusters.npz"}


def pixels(images: Tensor) -> Tensor:
    """Features of images: their pixels."""
    return images.float().flatten(1)


def command(entry: Any, *arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        entry(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def evaluate(*arguments: str | Path) -> int:
    return command(entry.main, "evaluate", *map(str, arguments))


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return loaded


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


PLUGIN = """
from mpcc.core.contracts import Metric
from mpcc.core.hookspecs import hookimpl

class Largest(Metric):
    needs_labels = False
    def __init__(self, options=None):
        pass
    def compute(self, evaluation):
        return float(evaluation.assignments.bincount().max())

class Failing(Largest):
    on_request = True
    def compute(self, evaluation):
        raise KeyError("oops")

@hookimpl
def register_metrics(register):
    register("largest", "largest_cluster:Largest", summary="Images in the largest cluster.")
    register("failing", "largest_cluster:Failing", summary="Fails.")
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a plugin file of its own."""
    home = tmp_path_factory.mktemp("runs")
    (home / "largest_cluster.py").write_text(PLUGIN, encoding="utf-8")
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    plugin = ["--plugin", str(home / "largest_cluster.py")]
    assert command(entry.run_main, *flags, *plugin, "--out", str(home / "run")) == 0
    return home / "run"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_a_run_leaves_posterior_confusion_and_errors(finished: Path) -> None:
    assert {*PICTURES, *TABLES} <= {path.name for path in finished.iterdir()}
    table, posterior = rows(finished / "assignments.csv"), np.load(finished / "posterior.npy")
    assert list(table[0]) == ["index", "path", "cluster", "confidence", "reconstruction_error", "label"]
    assert posterior.dtype == np.float32
    assert posterior.shape == (70, 10)
    assert [int(row["cluster"]) for row in table] == posterior.argmax(axis=1).tolist()
    np.testing.assert_allclose([float(row["confidence"]) for row in table], posterior.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-5)
    errors = [float(row["reconstruction_error"]) for row in table]
    scores = results(finished)["metrics"]
    assert np.mean(errors) == pytest.approx(scores["reconstruction"], rel=1e-4)
    confusion = rows(finished / "confusion.csv")
    assert sum(int(row[str(k)]) for row in confusion for k in range(10)) == 70
    assert sum(int(row[row["matched_cluster"]]) for row in confusion if row["matched_cluster"]) / 70 == scores["acc"]
    assert set(scores) == {
        *("acc", "purity", "nmi", "ari", "silhouette", "reconstruction"),
        *("kept_information", "occupancy_used", "occupancy_entropy", "largest"),
    }
    tags = EventAccumulator(str(finished)).Reload().Tags()
    assert "confusion" in tags["images"]
    assert {f"Scores/{name}" for name in scores} <= set(tags["scalars"])


def test_with_the_runs_own_settings_everything_is_the_same(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    torch.rand(11)  # whatever the random state is
    assert evaluate(finished) == 0
    out, err = capsys.readouterr()
    folder = finished / "evaluation-4"
    assert out.startswith(f"{folder}: iteration 4, 70 images acc 0.")
    assert "warning" not in err.lower()
    new, old = results(folder), results(finished)
    assert new["metrics"] == old["metrics"]
    same = {
        "not_computed",
        "evaluated",
        "baseline",
        "data",
        "entropy",
        "prior",
        "clusters",
        "iterations",
        "seed",
        "plugins",
        "versions",
    }
    assert {key: new[key] for key in same} == {key: old[key] for key in same}
    assert set(contents(folder)) == {*PICTURES, *OF_CLUSTERS, *TABLES, "results.json", "report.html"}
    for name in (*PICTURES, *OF_CLUSTERS, *TABLES):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    after = contents(finished)
    assert {name: after[name] for name in before} == before
    # The next one has another name.
    assert evaluate(finished) == 0
    assert (finished / "evaluation-4-2").is_dir()
    shutil.rmtree(folder)
    shutil.rmtree(finished / "evaluation-4-2")


def test_other_images_other_metrics_and_another_folder(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "kept.pt"
    shutil.copyfile(finished / "checkpoints" / "last.pt", checkpoint)
    before = contents(finished)
    arguments = ["--metrics", "acc,squared_mean_error", "--eval-images", "all", "--device", "cpu"]
    assert evaluate(finished, *arguments, "--checkpoint", checkpoint, "--out", tmp_path / "new" / "here") == 0
    assert "1797 images acc 0." in capsys.readouterr().out
    found = results(tmp_path / "new" / "here")
    assert list(found["metrics"]) == ["acc", "squared_mean_error"]
    assert found["evaluated"]["images"] == 1797
    assert found["checkpoint"] == str(checkpoint)
    assert len(np.load(tmp_path / "new" / "here" / "posterior.npy")) == 1797
    assert contents(finished) == before


def test_an_evaluation_needs_no_score_for_the_best_checkpoint(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = (run / "config.toml").read_text(encoding="utf-8")
    assert 'best_by = "auto"' in config
    config = config.replace('best_by = "auto"', 'best_by = "reconstruction"')
    (run / "config.toml").write_text(config, encoding="utf-8")
    assert evaluate(run, "--metrics", "acc", "--out", tmp_path / "new") == 0
    assert list(results(tmp_path / "new")["metrics"]) == ["acc"]
    assert "best.pt" not in capsys.readouterr().err


def test_a_run_that_was_trained_with_kernels_for_a_gpu_is_evaluated_without(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = (run / "config.toml").read_text(encoding="utf-8")
    assert 'kernels = "torch"\n' in config
    (run / "config.toml").write_text(config.replace('kernels = "torch"', 'kernels = "triton"'), encoding="utf-8")
    assert evaluate(run, "--metrics", "acc") == 0


def test_scores_of_features_of_ones_own_are_computed_on_request(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "my_features", sys.modules[__name__])
    arguments = ["--metrics", "all,fid,kid", "--features", "my_features:pixels", "--generated-images", "60"]
    assert evaluate(finished, *arguments, "--out", tmp_path / "first") == 0
    assert evaluate(finished, *arguments, "--out", tmp_path / "second") == 0
    found = results(tmp_path / "first")
    assert found["metrics"] == results(tmp_path / "second")["metrics"]
    own = {key: value for key, value in found["metrics"].items() if "[" in key}
    assert list(own) == [
        *("frechet_distance[my_features:pixels]", "kernel_distance[my_features:pixels]"),
        "kernel_distance_deviation[my_features:pixels]",
    ]
    assert own["frechet_distance[my_features:pixels]"] > 0
    assert {key: value for key, value in found["metrics"].items() if "[" not in key} == results(finished)["metrics"]
    assert found["evaluated"]["features"] == {"extractor": "my_features:pixels", "generated_images": 60}


def test_metrics_of_other_plugin_files_can_be_asked_for(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "smallest_cluster.py"
    text = PLUGIN.replace("largest", "smallest").replace("Largest", "Smallest").replace("max()", "min()")
    file.write_text(text.replace('"failing", ', '"failing2", '), encoding="utf-8")
    assert evaluate(finished, "--plugin", file, "--metrics", "smallest,largest", "--out", tmp_path / "out") == 0
    found = results(tmp_path / "out")
    sizes = torch.tensor([int(row["cluster"]) for row in rows(tmp_path / "out" / "assignments.csv")]).bincount()
    assert found["metrics"] == {"smallest": float(sizes.min()), "largest": float(sizes.max())}
    assert found["plugins"]["metric smallest"].startswith("local file ")


def test_a_run_may_compute_scores_of_features_and_its_curves_have_legal_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "my_features", sys.modules[__name__])
    flags = [f"--{name}={value}" for name, value in {**TINY, "iterations": 2}.items()]
    features = ["--metrics", "acc,fid", "--features", "my_features:pixels", "--generated-images", "30"]
    assert command(entry.run_main, *flags, *features, "--out", str(tmp_path / "run")) == 0
    assert list(results(tmp_path / "run")["metrics"]) == ["acc", "frechet_distance[my_features:pixels]"]
    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]
    assert "Scores/frechet_distance_my_features_pixels" in tags
    assert "reconstruction_error" not in rows(tmp_path / "run" / "assignments.csv")[0]


def test_a_run_without_labels_has_no_confusion(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index, image in enumerate(torch.randint(256, (30, 8, 8), dtype=torch.uint8)):
        Image.fromarray(image.numpy()).save(tmp_path / "images" / f"{index:02}.png")
    flags = [f"--{name}={value}" for name, value in {**TINY, "clusters": 3}.items()]
    run = tmp_path / "run"
    assert command(entry.run_main, *flags, "--data=folder", f"--data-root={tmp_path / 'images'}", f"--out={run}") == 0
    expected = {"kept_information", "silhouette", "reconstruction", "occupancy_used", "occupancy_entropy"}
    assert set(results(run)["metrics"]) == expected
    assert not list(run.glob("confusion*"))
    # The images have moved since.
    (tmp_path / "images").rename(tmp_path / "moved")
    assert evaluate(run) == 2
    assert evaluate(run, "--data-root", tmp_path / "moved") == 0
    assert results(run / "evaluation-4")["metrics"] == results(run)["metrics"]
    assert not list((run / "evaluation-4").glob("confusion*"))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err.startswith("mpcc: error: ")
    assert err.count("\n") == 1
    assert out == ""
    return err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ["--metrics", "acc,puritty"],
            "unknown metric 'puritty': did you mean 'purity'? (expected one of acc, all, ari",
        ),
        (["--metrics", "failing"], "largest_cluster.py:15: KeyError: 'oops'"),
        (["--eval-images", "none"], "--eval-images: expected"),
        (["--eval-images", "0"], "--eval-images: must be at least 1 or all, got 0"),
        (["--generated-images", "0"], "--generated-images: "),
        (["--device", "gpu"], "unknown value for --device: 'gpu'"),
        (["--metrics", "fid", "--features", "nowhere:f"], "--features nowhere:f: cannot import nowhere"),
        (["--metrics", "fid", "--feature-weights", "gone.pth"], "gone.pth: no such file"),
        (["--checkpoint", "gone.pt"], "checkpoint gone.pt: no such file"),
        (["--data-root", ""], "--data-root"),
        (["--plugin", "gone.py"], "--plugin"),
        (["--clusters", "3"], "--clusters"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    before = contents(finished)
    assert evaluate(finished, *arguments, "--out", tmp_path / "out") == 2
    assert part in one_line(capsys)
    assert not (tmp_path / "out").exists()
    assert contents(finished) == before


def test_an_output_folder_that_exists_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(finished, "--out", tmp_path) == 2
    assert f"--out {tmp_path} already exists: expected a new folder" in one_line(capsys)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {tmp_path / "gone": "no such folder", tmp_path: "this folder does not hold a run"}
    for folder, part in expected.items():
        assert evaluate(folder) == 2
        assert f"{folder}: {part}" in one_line(capsys)
    (tmp_path / "config.toml").write_text("[run", encoding="utf-8")
    assert evaluate(tmp_path) == 2
    assert f"run folder {tmp_path}: {tmp_path / 'config.toml'}: not valid TOML" in one_line(capsys)


def spoil(copy: Path, how: str) -> None:
    path = copy / "checkpoints" / "last.pt"
    saved = torch.load(path, weights_only=True)
    if how == "broken":
        path.write_bytes(path.read_bytes()[:2000])
        return
    if how == "gone":
        path.unlink()
        return
    if how == "parts":
        del saved["parts"]
    elif how == "weights":
        saved["parts"]["encoder"].popitem()
    elif how == "data":
        saved["images"] = [5, 1, 8, 8]
    elif how == "config":
        config = copy / "config.toml"
        config.write_text(config.read_text(encoding="utf-8").replace("scale_floor = 0.2", "scale_floor = 0.3"))
    save_checkpoint(path, saved)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("broken", "last.pt: cannot be read, it is broken or not a checkpoint"),
        ("gone", "last.pt: no such file"),
        ("parts", "'parts' is missing: expected a checkpoint of a run"),
        ("weights", "does not fit config.toml: Error"),
        ("data", "the data set has changed: expected images of shape [5, 1, 8, 8], got [1797, 1, 8, 8]"),
        ("config", "does not belong to the run's config.toml: prior.scale_floor was 0.2, is 0.3"),
    ],
)
def test_a_checkpoint_that_does_not_belong_is_one_line(
    copy: Path, capsys: pytest.CaptureFixture[str], how: str, part: str
) -> None:
    spoil(copy, how)
    before = contents(copy)
    assert evaluate(copy) == 2
    assert part in one_line(capsys)
    assert contents(copy) == before


def test_a_model_that_has_diverged_is_told_as_such(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "checkpoints" / "last.pt"
    saved = torch.load(path, weights_only=True)
    name = next(iter(saved["parts"]["encoder"]))
    saved["parts"]["encoder"][name].fill_(float("nan"))
    save_checkpoint(path, saved)
    assert evaluate(copy) == 3
    assert "not finite: training has diverged" in one_line(capsys)
    assert not list(copy.glob("evaluation*"))


def test_weights_that_are_not_there_stop_a_run_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    assert command(entry.run_main, "--metrics", "all,fid", "--out", str(tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "weights of the standard feature extractor are not there" in err
    assert not (tmp_path / "run").exists()


def test_plugins_that_have_changed_since_are_warned_of(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "checkpoints" / "last.pt"
    saved = torch.load(path, weights_only=True)
    saved["plugins"]["prior student_t"] = "mpcc 0.0.9"
    save_checkpoint(path, saved)
    assert evaluate(copy) == 0
    assert "prior student_t was mpcc 0.0.9 when the checkpoint was saved, is mpcc 0.1.0" in capsys.readouterr().err


def test_help_names_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--help") == 0
    out = capsys.readouterr().out
    for flag in ("--metrics", "--eval-images", "--features", "--feature-weights", "--generated-images", "--data-root"):
        assert flag in out
    for flag in ("--picture-clusters", "--download", "--device", "--checkpoint", "--out", "--plugin", "--registry"):
        assert flag in out


@pytest.mark.parametrize("arguments", [["--help"], ["nowhere"], ["{run}", "--device", "gpu"], ["{run}", "--out", "/"]])
def test_help_and_what_can_be_checked_without_torch_never_import_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert command(entry.run_main, "--dry-run") == 0
    (tmp_path / "config.toml").write_text(capsys.readouterr().out, encoding="utf-8")
    given = [argument.format(run=tmp_path) for argument in ["evaluate", *arguments]]
    code = (
        f"import sys\nfrom mpcc.core.commands import entry\ntry: entry.main({given!r})\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'sklearn', 'PIL') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def labelled_digits(folder: Path, count: int, *, colour: bool = False) -> Path:
    """A folder with the last digits, a subfolder for each class."""
    digits = Digits(DigitsOptions()).load(8, None, False)
    assert digits.labels is not None
    for index in range(1797 - count, 1797):
        place = folder / str(int(digits.labels[index]))
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(digits.images[index, 0].numpy())
        (image.convert("RGB") if colour else image).save(place / f"{index}.png")
    return folder


def test_labelled_images_of_another_data_set_are_scored_and_the_folder_says_which(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    images = labelled_digits(tmp_path / "others", 60)
    assert evaluate(finished, "--data", "folder", "--data.path", images, "--eval-images", "all") == 0
    folder = finished / "evaluation-4-folder-others"
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith(f"{folder}: iteration 4, 60 images acc 0.")
    assert out.splitlines()[1].startswith(f"not the run's own images: folder {images}: 60 ")
    assert "may have seen" not in out
    found = results(folder)
    assert found["own_images"] is False
    assert found["images_of"]["name"] == "folder"
    assert found["images_of"]["path"] == str(images)
    assert (found["evaluated"]["images"], found["evaluated"]["labelled"]) == (60, 60)
    assert found["data"]["images"] == [60, 1, 8, 8]
    assert found["baseline"]["images"] == 60
    # The same pixels have the same clusters in an evaluation of all of the run's own images.
    assert evaluate(finished, "--eval-images", "all", "--out", tmp_path / "all") == 0
    assert results(tmp_path / "all")["own_images"] is True
    expected = {row["path"].partition("#")[2]: row for row in rows(tmp_path / "all" / "assignments.csv")}
    for row in rows(folder / "assignments.csv"):
        own = expected[Path(row["path"]).stem]
        assert (row["cluster"], row["label"]) == (own["cluster"], own["label"])
        assert float(row["confidence"]) == pytest.approx(float(own["confidence"]), abs=2e-6)
    after = contents(finished)
    assert {name: after[name] for name in before} == before
    shutil.rmtree(folder)
    assert {name for name in contents(finished) if "evaluation" in name} == set()


def test_another_split_of_the_runs_data_is_scored_and_a_line_says_what_the_run_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = Digits(DigitsOptions()).load(8, None, False)
    assert digits.labels is not None
    arrays = {
        f"{part}_{name}": value[place].numpy()
        for part, place in (("train", slice(0, 100)), ("test", slice(100, 130)))
        for name, value in (("images", digits.images), ("labels", digits.labels))
    }
    np.savez(tmp_path / "digits.npz", **arrays)
    run = tmp_path / "run"
    flags = [f"--{name}={value}" for name, value in {**TINY, "eval-images": "all"}.items()]
    data = ["--data=arrays", f"--data.path={tmp_path / 'digits.npz'}"]
    assert command(entry.run_main, *flags, *data, "--data.split=train", f"--out={run}") == 0
    capsys.readouterr()
    assert evaluate(run, "--data.split", "test") == 0
    folder = run / "evaluation-4-arrays-test"
    out = capsys.readouterr().out
    assert "the run was trained on the same data set with --data.split train: it may have seen these images" in out
    found = results(folder)
    assert (found["evaluated"]["images"], found["images_of"]["split"]) == (30, "test")
    labels = [int(row["label"]) for row in rows(folder / "assignments.csv")]
    assert labels == digits.labels[100:130].tolist()
    assert results(run)["evaluated"]["images"] == 100
    # The value that the run has is no other split.
    assert evaluate(run, "--data.split", "train") == 0
    assert results(run / "evaluation-4")["metrics"] == results(run)["metrics"]
    assert results(run / "evaluation-4")["own_images"] is True


def test_fewer_images_than_clusters_are_evaluated(finished: Path, tmp_path: Path) -> None:
    images = labelled_digits(tmp_path / "few", 4)
    assert evaluate(finished, "--data", images, "--out", tmp_path / "out") == 0
    assert results(tmp_path / "out")["evaluated"]["images"] == 4
    assert len(np.load(tmp_path / "out" / "posterior.npy")) == 4


def test_a_copy_of_the_runs_images_is_told_to_be_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = labelled_digits(tmp_path / "images", 40)
    shutil.copytree(images, tmp_path / "copied")
    flags = [f"--{name}={value}" for name, value in {**TINY, "clusters": 3}.items()]
    run = tmp_path / "run"
    assert command(entry.run_main, *flags, f"--data={images}", f"--out={run}") == 0
    capsys.readouterr()
    assert evaluate(run, "--data.path", tmp_path / "copied") == 0
    assert "not the run's own images" not in capsys.readouterr().out
    assert results(run / "evaluation-4")["own_images"] is True
    assert results(run / "evaluation-4")["metrics"] == pytest.approx(results(run)["metrics"], abs=1e-6)


def test_images_with_other_channels_and_names_that_do_not_exist_are_one_line(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = labelled_digits(tmp_path / "colour", 5, colour=True)
    expected = {
        ("--data", "folder", "--data.path", str(images), "--data.channels", "3"): "expected images with 1 channel, as",
        ("--data", "folder", "--data.path", str(tmp_path / "gone")): "gone",
        ("--data", "digitss"): "did you mean 'digits'",
        ("--data.spilt", "test"): "--data.spilt",
        ("--prior.scale-floor", "0.3"): "--prior.scale-floor cannot change when a run is evaluated",
    }
    for arguments, part in expected.items():
        assert evaluate(finished, *arguments, "--out", tmp_path / "out") == 2, arguments
        # A line may say how the images were read.
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[-1].startswith("mpcc: error: ")
        assert part in err.splitlines()[-1]
        assert not (tmp_path / "out").exists()
