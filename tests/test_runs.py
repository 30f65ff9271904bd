"""Whole runs, tiny ones: what they leave, that they repeat, stop and resume to the bit, and never train on labels."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpcc.core.commands import entry
from mpcc.core.contracts import ImageSet
from mpcc.core.errors import PluginError
from mpcc.core.method.training import Trainer
from mpcc.core.run import execution
from mpcc.core.storage.checkpoint import save_checkpoint
from mpcc.core.storage.checkpoint_contents import Contents
from mpcc.core.storage.run_folder import RunFolder
from mpcc.plugins.datasets.digits import Digits

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 2, "iterations": 6},
    **{"eval-every": 3, "eval-images": 60, "standing-passes": 2, "log-every": 2, "checkpoint-every": 2, "seed": 0},
    **{"device": "cpu", "threads": 1, "lr": 0.001, "prior-lr": 0.0016, "lr-decay": 0, "prior.scale-floor": 0.2},
    # No preset: the tests say what they need. All optional terms are on, so that their random states are saved, too.
    **{"preset": "none", "balance-weight": 1, "consistency-weight": 1, "invariant-to": "shift", "real-terms-rise": 4},
    **{"generator-latent-weight": 1, "generator-membership-weight": 1},
}
# Windows has no signal for a terminal that closes.
HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
BLIND = {"kept_information", "silhouette", "reconstruction", "occupancy_used", "occupancy_entropy"}
SCORES = {"acc", "purity", "nmi", "ari", *BLIND}
TERMS = {
    *("data_discriminator", "data_generator", "latent", "membership", "entropy", "label"),
    *("balance", "consistency", "generator_latent", "generator_membership"),
}


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        entry.run_main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def state(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return loaded


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, each in items for name, leaf in flat(each, f"{path}/{key}").items()}
    return {path: value}


def same_training(one: Path, two: Path) -> bool:
    """Whether networks, averages, optimizers, random states and data position are equal to the bit."""
    parts = "parts", "optimizers", "random", "stream", "iteration"
    first, second = (flat({part: state(run)[part] for part in parts}) for run in (one, two))
    assert first.keys() == second.keys()
    return all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "assignments.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six iterations."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(*tiny(), "--out", str(folder)) == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a real signal arrive in the middle of certain iterations."""
    iterate = Trainer.iterate

    def arrange(*iterations: int, number: int = signal.SIGINT, times: int = 1) -> None:
        def interrupted(self: Trainer) -> dict[str, torch.Tensor]:
            terms = iterate(self)
            if self.iteration in iterations:
                for _ in range(times):
                    signal.raise_signal(number)
            return terms

        monkeypatch.setattr(Trainer, "iterate", interrupted)

    return arrange


def test_the_run_folder_has_exactly_the_documented_files(finished: Path) -> None:
    found = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    (events,) = (name for name in found if name.startswith("events.out.tfevents"))
    sheets = {"clusters.png", "samples.png", "interpolations.png", "reconstructions.png", "confusion.png", "kmeans.png"}
    pictures = sheets | {f"clusters/{k}.png" for k in range(10)}
    tables = {
        "config.toml",
        "results.json",
        "metrics.jsonl",
        "assignments.csv",
        "confusion.csv",
        "posterior.npy",
        "latents.npy",
        "clusters.npz",
        "report.html",
        "projector_config.pbtxt",
        *(f"projector/{name}" for name in ("images.png", "latents.tsv", "metadata.tsv")),
    }
    checkpoints = {f"checkpoints/{name}.pt" for name in ("last", "iteration-4", "iteration-2", "best")}
    assert found == {events, *pictures, *tables, *checkpoints, ".lock"}
    for name in pictures:
        with Image.open(finished / name) as picture:
            assert picture.mode == "RGB"


def test_the_projector_of_tensorboard_finds_latents_metadata_and_images(finished: Path) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector import ProjectorConfig

    config = ProjectorConfig()
    text_format.Parse((finished / "projector_config.pbtxt").read_text(encoding="utf-8"), config)
    (embedding,) = config.embeddings
    latents = np.loadtxt(finished / embedding.tensor_path, delimiter="\t", ndmin=2)
    assert latents == pytest.approx(np.load(finished / "latents.npy"), rel=1e-4)
    with (finished / embedding.metadata_path).open(encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file, delimiter="\t"))
    with (finished / "assignments.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(point["index"], point["cluster"], point["label"]) for point in points] == [
        (row["index"], row["cluster"], row["label"]) for row in rows
    ]
    with Image.open(finished / embedding.sprite.image_path) as sprite:
        # Sixty images of 8 pixels, eight in a row.
        assert (sprite.size, list(embedding.sprite.single_image_dim)) == ((64, 64), [8, 8])


def test_points_have_the_names_of_clusters_and_make_a_table_with_images(finished: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    table = tmp_path / "points.parquet"
    clusters = [int(row["cluster"]) for row in rows(folder)]
    named = clusters[0]
    (folder / "names.toml").write_text(f'[names]\n{named} = "the first"\n', encoding="utf-8")
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            entry.main(["report", str(folder), "--points", str(table)])
        read = parquet.read_table(table).to_pydict()
        table.unlink()
    assert read["cluster"] == clusters
    assert read["name"] == ["the first" if n == named else f"cluster {n}" for n in clusters]
    assert read["label"] == [row["label"] for row in rows(folder)]
    assert np.std(read["x"]) >= np.std(read["y"]) > 0
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in read["image"]])
    wanted = load_digits().images[[int(row["index"]) for row in rows(folder)]] * (255 / 16)
    assert np.abs(pixels - wanted).max() <= 1
    with (folder / "projector" / "metadata.tsv").open(encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file, delimiter="\t"))
    assert [point["name"] for point in points] == ["the first" if n == named else str(n) for n in clusters]
    # Without names, the column goes away again.
    (folder / "names.toml").unlink()
    with pytest.raises(SystemExit, match="0"):
        entry.main(["report", str(folder)])
    metadata = Path("projector", "metadata.tsv")
    assert (folder / metadata).read_bytes() == (finished / metadata).read_bytes()


@pytest.mark.parametrize(("name", "message"), [("points.csv", "points.parquet"), ("taken.parquet", "already exists")])
def test_a_table_of_points_that_cannot_be_written_is_one_line(
    finished: Path, tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.parquet").touch()
    with pytest.raises(SystemExit, match="2"):
        entry.main(["report", str(finished), "--points", str(tmp_path / name)])
    assert message in capsys.readouterr().err


def test_results_metrics_and_assignments_say_what_was_found(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert set(results) == {
        *("metrics", "not_computed", "iterations", "prior_fitted", "seconds", "evaluation_seconds"),
        *("iterations_per_second", "evaluated", "baseline", "entropy", "prior", "clusters", "health"),
        *("seed", "data", "device", "threads", "engine", "plugins", "versions"),
    }
    assert set(results["metrics"]) == SCORES
    assert (results["iterations"], results["seed"], results["not_computed"]) == (6, 0, {})
    assert (results["evaluated"]["images"], results["evaluated"]["of"]) == (60, 1797)
    assert sum(results["clusters"]["sizes"]) == 60
    assert results["seconds"] > results["evaluation_seconds"] > 0
    assert {"mpcc", "python", "torch"} <= set(results["versions"])
    assert "prior gmm" in results["plugins"]
    assert (results["entropy"], results["prior"]) == ({"kind": "closed-form"}, {"weights": [0.1] * 10})
    assert [line["iteration"] for line in lines(finished)] == [3, 6]
    assert lines(finished)[-1] == {"iteration": 6, "evaluated": 60, "metrics": results["metrics"]}
    table = rows(finished)
    assert len(table) == 60
    assert set(table[0]) == {"index", "path", "cluster", "confidence", "reconstruction_error", "label"}
    for row in table:
        assert row["path"] == f"digits#{row['index']}"
        assert 0 <= int(row["cluster"]) < 10
        assert 0.1 <= float(row["confidence"]) <= 1


def test_the_checkpoint_holds_everything_that_the_next_iteration_needs(finished: Path) -> None:
    saved = state(finished)
    assert set(saved) == {"format_version", *attrs.fields_dict(Contents)}
    assert set(saved["parts"]) == {"prior", "generator", "discriminator", "encoder", "averaged_generator"}
    assert set(saved["optimizers"]) == {"prior", "generator", "discriminator", "encoder"}
    assert saved["iteration"] == 6
    assert saved["stream"] == {"epoch": 0, "position": 60}
    assert tomllib.loads(saved["config"]) == tomllib.loads((finished / "config.toml").read_text(encoding="utf-8"))
    for value in flat(saved).values():
        assert isinstance(value, torch.Tensor | int | float | str | bool | None)


def test_the_configuration_of_a_run_folder_runs_it_again_to_the_bit(finished: Path, tmp_path: Path) -> None:
    assert run("--config", str(finished / "config.toml"), "--out", str(tmp_path / "again")) == 0
    for name in ("metrics.jsonl", "assignments.csv", "config.toml", "samples.png"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()
    assert same_training(finished, tmp_path / "again")


def test_another_seed_trains_otherwise_and_other_evaluations_do_not(finished: Path, tmp_path: Path) -> None:
    assert run(*tiny(seed=1, eval_every=6), "--out", str(tmp_path / "seed")) == 0
    assert not same_training(finished, tmp_path / "seed")
    weights = (state(folder)["parts"]["generator"] for folder in (finished, tmp_path / "seed"))
    assert any(not torch.equal(*pair) for pair in zip(*(each.values() for each in weights), strict=True))
    assert run(*tiny(eval_every=1, eval_images=15, log_every=1), "--out", str(tmp_path / "often")) == 0
    assert same_training(finished, tmp_path / "often")


@pytest.mark.parametrize("stops", [(3,), (1, 4)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *HANGUP])
def test_a_stopped_run_resumes_to_the_same_bits(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    stops: tuple[int, ...],
    number: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    stop_at(*stops, number=number)
    arguments = [*tiny(), "--out", "my run"]
    for iteration in stops:
        assert run(*arguments) == 130
        err = capsys.readouterr().err
        assert err.splitlines()[-1] == (
            f"mpcc-run: stopped at iteration {iteration}; continue with: mpcc-run --resume 'my run'"
        )
        assert "Traceback" not in err
        assert state(tmp_path / "my run")["iteration"] == iteration
        torch.rand(7)  # the random state that the new process would find is another one
        arguments = ["--resume", "my run"]
    assert run(*arguments) == 0
    assert same_training(finished, tmp_path / "my run")
    for name in ("metrics.jsonl", "assignments.csv"):
        assert (tmp_path / "my run" / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_that_died_is_cut_back_to_its_checkpoint(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Trainer.iterate

    def killed(self: Trainer) -> dict[str, torch.Tensor]:
        if self.iteration == 5:
            raise KeyboardInterrupt
        return iterate(self)

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "iterate", killed)
        assert run(*tiny(checkpoint_every=2, eval_every=1), "--out", str(folder)) == 130
    assert [line["iteration"] for line in lines(folder)] == [1, 2, 3, 4, 5]
    assert state(folder)["iteration"] == 4
    assert run("--resume", str(folder)) == 0
    assert [line["iteration"] for line in lines(folder)] == [1, 2, 3, 4, 5, 6]
    assert same_training(finished, folder)
    events = EventAccumulator(str(folder)).Reload()
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps)), tag


def test_a_second_interruption_ends_at_once(
    finished: Path, tmp_path: Path, stop_at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    stop_at(3, times=2)
    assert run(*tiny(), "--out", str(tmp_path / "kept")) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "mpcc-run: interrupted"
    assert state(tmp_path / "kept")["iteration"] == 2
    # Without a checkpoint, too, a folder in which training has begun is kept.
    fresh = tmp_path / "new" / "fresh"
    assert run(*tiny(checkpoint_every=5), "--out", str(fresh)) == 130
    *_, kept, last = capsys.readouterr().err.splitlines()
    folder = f"run folder {fresh} is kept, without a checkpoint"
    assert (kept, last) == (f"mpcc-run: {folder}; continue with: mpcc-run --resume {fresh}", "mpcc-run: interrupted")
    stop_at()
    assert run("--resume", str(fresh), "--checkpoint-every=2") == 0
    assert same_training(finished, fresh)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_goes_on_with_more_iterations(copy: Path, tmp_path: Path) -> None:
    assert run("--resume", str(copy), "--iterations", "9") == 0
    assert run(*tiny(iterations=9), "--out", str(tmp_path / "long")) == 0
    assert same_training(copy, tmp_path / "long")
    assert lines(copy) == lines(tmp_path / "long")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ("", "the run has done 6 iterations: expected more with --iterations, got 6"),
        ("--iterations 4", "the run has done 6 iterations: expected more with --iterations, got 4"),
        (
            "--lr 0.1",
            "--lr cannot change when a run is resumed: leave it out (may change: --best-by, --checkpoint-every",
        ),
        ("--arch biggan16", "--arch cannot change"),
        ("--prior.scale-floor 0.3", "--prior.scale-floor cannot change"),
        ("--out x", "leave out --out"),
        ("--preset none", "leave out --config, --preset and --compat"),
    ],
)
def test_flags_that_a_resumed_run_cannot_follow_are_refused(
    finished: Path, capsys: pytest.CaptureFixture[str], flags: str, part: str
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert run("--resume", str(finished), *flags.split()) == 2
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


SPOILT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "'stream' is missing": lambda saved: saved.pop("stream"),
    "does not fit config.toml: Error": lambda saved: saved["parts"]["prior"].clear(),
    "does not fit config.toml": lambda saved: saved.update(random={"cpu": torch.zeros(3), "cuda": []}),
    "prior gmm was other 7.0": lambda saved: saved["plugins"].update({"prior gmm": "other 7.0"}),
    "exp_avg in the optimizer of the encoder": lambda saved: saved["optimizers"]["encoder"]["state"][0].update(
        exp_avg=torch.zeros(1)
    ),
    "config: expected a table [run]": lambda saved: saved.update(config="run = 3"),
    "'seconds': expected a number": lambda saved: saved.update(seconds=torch.zeros(2)),
    "the data set has changed": lambda saved: saved.update(images=[5, 1, 8, 8]),
    "broken or not a checkpoint": lambda saved: None,
    "or another order": lambda saved: saved.update(fingerprint="0" * 64),
}


@pytest.mark.parametrize("part", SPOILT)
def test_a_checkpoint_that_cannot_be_continued_is_one_line(
    copy: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    saved, path = state(copy), copy / "checkpoints" / "last.pt"
    SPOILT[part](saved)
    save_checkpoint(path, saved)
    if "broken" in part:
        for each in path.parent.iterdir():
            each.write_bytes(each.read_bytes()[:1000])
    assert run("--resume", str(copy), "--iterations", "9") == 2
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1


def test_labels_never_touch_the_training(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Digits.load

    def relabelled(self: Digits, *arguments: Any) -> Any:
        loaded = load(self, *arguments)
        object.__setattr__(loaded, "labels", loaded.labels.flip(0))
        return loaded

    monkeypatch.setattr(Digits, "load", relabelled)
    assert run(*tiny(), "--out", str(tmp_path / "run")) == 0
    assert same_training(finished, tmp_path / "run")
    assert [row["cluster"] for row in rows(finished)] == [row["cluster"] for row in rows(tmp_path / "run")]


def test_a_folder_of_images_without_labels_is_clustered_with_its_paths(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(torch.randint(256, (30, 8, 8), dtype=torch.uint8)):
        Image.fromarray(image.numpy()).save(images / f"{index:02}.png")
    folder = tmp_path / "run"
    assert run(*tiny(data="folder", data_root=images, clusters=3), "--out", str(folder)) == 0
    assert [row["path"] for row in rows(folder)] == [f"{index:02}.png" for index in range(30)]
    assert "label" not in rows(folder)[0]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert set(results["metrics"]) == BLIND
    assert results["not_computed"] == dict.fromkeys(["acc", "purity", "nmi", "ari"], "the data set has no labels")


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    iterate = Trainer.iterate

    def diverging(self: Trainer) -> dict[str, torch.Tensor]:
        terms = iterate(self)
        return {**terms, "latent": terms["latent"] / 0} if self.iteration >= 3 else terms

    monkeypatch.setattr(Trainer, "iterate", diverging)
    folder = tmp_path / "run"
    # The log is written rarely: no checkpoint of a diverged state may be saved in between.
    assert run(*tiny(log_every=100, eval_every=100), "--out", str(folder)) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"mpcc-run: error: the latent term is (inf|nan|-inf) at iteration 4: .*--lr.*last checkpoint", last)
    assert state(folder)["iteration"] == 2


QUANTITIES = {
    *("empty_clusters", "clusters_with_two_peaks", "least_diversity", "saturation", "posterior_entropy"),
    *("agreement", "discriminator_hinge"),
    *(f"spectral_norm_{network}" for network in ("generator", "discriminator", "encoder")),
    *(f"gradient_norm_{part}" for part in ("generator", "discriminator", "encoder", "prior")),
}


def test_every_term_metric_rate_picture_and_histogram_is_in_the_events(finished: Path) -> None:
    events = EventAccumulator(str(finished)).Reload()
    tags = events.Tags()
    parts = {"discriminator", "generator", "encoder", "prior"}
    assert set(tags["scalars"]) == {
        *(f"{kind}/{term}" for kind in ("terms", "weighted") for term in TERMS),
        *(f"Scores/{score}" for score in SCORES),
        *(f"{kind}/{part}" for kind in ("learning_rate", "gradient_norm") for part in parts),
        *(
            f"health/{quantity}"
            for quantity in QUANTITIES
            if not quantity.startswith(("gradient_norm_", "discriminator_hinge"))
        ),
    }
    assert {tag.partition("/")[0] for tag in tags["tensors"]} == {"health", "Run", "custom_scalars__config__"}
    # The page opens with the scores, and each curve has a line about it.
    assert min(tags["scalars"]).startswith("Scores/")
    assert all(events.SummaryMetadata(tag).summary_description for tag in tags["scalars"])
    assert all(events.SummaryMetadata(tag).data_class for tag in tags["scalars"])
    assert events.PluginTagToContent("hparams").keys() == {
        f"_hparams_/{name}" for name in ("experiment", "session_start_info", "session_end_info")
    }
    assert len(list(finished.rglob("events.out.tfevents.*"))) == 1
    assert set(tags["images"]) == {"clusters", "samples", "interpolations", "reconstructions", "confusion", "kmeans"}
    histograms = ["prior/scales", "prior/weights", "latents/locations", "latents/scales", "latents/posterior_entropy"]
    assert tags["histograms"] == histograms
    # The page Custom Scalars is laid out by phase: every term stands where it is minimised.
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    for phase in ("discriminator", "generator and prior", "encoder and prior", "encoder"):
        assert f"Terms: {phase}".encode() in layout
    assert [event.step for event in events.Scalars("terms/latent")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("Scores/acc")] == [3, 6]
    raw, weighted = events.Scalars("terms/latent")[0].value, events.Scalars("weighted/latent")[0].value
    assert weighted == pytest.approx(raw / 64, rel=1e-5)
    assert events.Scalars("learning_rate/prior")[0].value == pytest.approx(1.6e-3)
    assert events.Scalars("Scores/acc")[-1].value == pytest.approx(lines(finished)[-1]["metrics"]["acc"])


@pytest.mark.check
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *HANGUP])
def test_ctrl_c_and_sigterm_stop_a_process_with_a_checkpoint_and_pictures(tmp_path: Path, number: int) -> None:
    command = "from mpcc.core.commands.entry import run_main; run_main()"
    arguments = [*tiny(iterations=100_000, eval_every=100_000, checkpoint_every=1), "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    # Before that, a line tells of the number of clusters.
    stopped = err.partition("run folder run\n")[2].splitlines()
    if number != signal.SIGINT:
        # What may kill the process soon gets the checkpoint alone.
        assert len(stopped) == 1
        assert re.fullmatch(r"mpcc-run: stopped at iteration \d+; continue with: mpcc-run --resume run", stopped[0])
        assert state(tmp_path / "run")["iteration"] > 0
        return
    assert len(stopped) == 3
    assert stopped[0] == "saved; evaluating the model as it is now (Ctrl-C again skips this)"
    assert stopped[1] == "look at report.html, clusters.png and assignments.csv in run"
    assert re.fullmatch(r"mpcc-run: stopped at iteration \d+; continue with: mpcc-run --resume run", stopped[2])
    done = state(tmp_path / "run")["iteration"]
    assert done > 0
    # There is something to look at, of which the run that goes on knows nothing.
    assert json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["iterations"] == done
    assert (tmp_path / "run" / "clusters.png").is_file()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_with_a_broken_newest_checkpoint_goes_on_from_the_one_before_to_the_same_bits(
    finished: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = copy / "checkpoints" / "last.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert run("--resume", str(copy)) == 0
    err = capsys.readouterr().err
    assert f"checkpoint {newest}: cannot be read, it is broken" in err
    assert f"continuing from an earlier checkpoint: {copy / 'checkpoints' / 'iteration-4.pt'}\n" in err
    assert "going on after iteration 4 of " in err
    assert same_training(finished, copy)


def test_a_run_without_any_checkpoint_starts_from_the_beginning(
    finished: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy / "checkpoints")
    assert run("--resume", str(copy)) == 0
    assert "has no checkpoint yet: the run starts from the beginning" in capsys.readouterr().err
    assert same_training(finished, copy)
    assert lines(copy) == lines(finished)


def test_other_versions_and_threads_are_named_and_the_run_goes_on(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "checkpoints" / "last.pt"
    saved = state(copy)
    saved["versions"]["torch"], saved["threads"] = "1.0", 77
    save_checkpoint(path, saved)
    assert run("--resume", str(copy), "--iterations", "7") == 0
    expected = (
        f"torch was 1.0, is {torch.__version__.partition('+')[0]}; threads were 77, are 1: the continued run may differ"
    )
    assert expected in capsys.readouterr().err.replace(torch.__version__, torch.__version__.partition("+")[0])


@pytest.mark.parametrize(
    ("saved", "further", "expected"),
    [
        (
            6,
            10,
            "the step sizes of iteration 6 were 0.33 of the first ones, with --iterations 10 they would have been 1:",
        ),
        (
            20,
            7,
            "the step sizes of iteration 6 were 1 of the first ones, with --iterations 7 they would have been 0.57:",
        ),
        (20, 30, None),
    ],
)
def test_step_sizes_that_fall_elsewhere_are_named(
    saved: int, further: int, expected: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "falling"
    assert run("--out", str(folder), *tiny(lr_decay=0.5)) == 0
    path = folder / "checkpoints" / "last.pt"
    save_checkpoint(
        path, {**state(folder), "config": state(folder)["config"].replace("iterations = 6", f"iterations = {saved}")}
    )
    assert run("--resume", str(folder), "--iterations", str(further)) == 0
    err = capsys.readouterr().err
    assert ("step sizes" in err) == (expected is not None)
    assert (expected or "") in err
    assert lines(folder)[-1]["iteration"] == further


@pytest.mark.parametrize("iterations", [10**12 + 1, 10**400])
def test_more_iterations_than_anybody_trains_are_refused(iterations: int, tmp_path: Path) -> None:
    assert run("--out", str(tmp_path / "long"), *tiny(iterations=iterations)) == 2


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--best-by", "acc"], "--best-by acc: it needs labels, which training must not use"),
        (["--best-by", "silhouete"], "did you mean 'silhouette'?"),
        (["--best-by", "fid"], "--best-by fid: --metrics leaves it out; expected kept_information, silhouette"),
        (
            ["--best-by", "occupancy"],
            "--best-by occupancy: this metric has several scores: expected one of occupancy_used",
        ),
        (["--best-by", "occupancy_entropi"], "did you mean 'occupancy_entropy'?"),
    ],
)
def test_only_a_score_without_labels_chooses_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], part: str
) -> None:
    assert run(*tiny(), *flags, "--out", str(tmp_path / "run")) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def mean_pixels(images: torch.Tensor) -> torch.Tensor:
    """Two features of an image."""
    return images.float().mean((1, 3))[:, :2]


@pytest.mark.parametrize(
    ("wanted", "name", "best_of"),
    [
        ("reconstruction", "reconstruction", min),
        ("auto", "kept_information", max),
        ("occupancy_entropy", "occupancy_entropy", max),
        ("fid", f"frechet_distance[{__name__}:mean_pixels]", min),
        ("none", "", max),
    ],
)
def test_the_best_checkpoint_is_that_of_the_best_evaluation(
    tmp_path: Path, wanted: str, name: str, best_of: Callable[[list[float]], float]
) -> None:
    folder = tmp_path / "run"
    features = ["--features", f"{__name__}:mean_pixels", "--generated-images", "50"]
    chosen = ["--metrics", "all,fid", *features] if wanted == "fid" else []
    assert run(*tiny(eval_every=1), *chosen, "--best-by", wanted, "--out", str(folder)) == 0
    best = folder / "checkpoints" / "best.pt"
    if wanted == "none":
        assert not best.exists()
        return
    scores = [line["metrics"][name] for line in lines(folder)]
    assert torch.load(best, weights_only=True)["iteration"] == scores.index(best_of(scores)) + 1


def test_the_score_of_the_best_may_change_when_a_run_goes_on(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--resume", str(copy), "--iterations", "9", "--best-by", "reconstruction") == 0
    assert state(copy)["best"]["name"] == "reconstruction"
    best = torch.load(copy / "checkpoints" / "best.pt", weights_only=True)
    assert best["best"] == state(copy)["best"]
    assert run("--resume", str(copy), "--iterations", "12", "--best-by", "occupancy") == 2
    assert "expected one of occupancy_used, occupancy_entropy" in capsys.readouterr().err


def test_a_run_without_a_best_checkpoint_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert run(*tiny(metrics="acc,silhouette"), "--out", str(folder)) == 0
    expected = (
        "no best.pt will be kept: no computed metric judges clusterings; choose a score with --best-by: silhouette"
    )
    assert capsys.readouterr().err.count(expected) == 1
    assert not (folder / "checkpoints" / "best.pt").exists()


def test_labels_of_one_class_are_no_labelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Digits.load

    def one_class(self: Digits, *arguments: Any) -> ImageSet:
        data = load(self, *arguments)
        assert data.labels is not None
        return attrs.evolve(data, labels=torch.zeros_like(data.labels))

    monkeypatch.setattr(Digits, "load", one_class)
    folder = tmp_path / "run"
    assert run(*tiny(), "--out", str(folder)) == 0
    why = "all 60 evaluated images are of one class, which is no labelling"
    assert capsys.readouterr().err.count(f"left out: acc, purity, nmi, ari: {why}") == 1
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert set(results["metrics"]) == BLIND
    assert results["not_computed"] == dict.fromkeys(["acc", "purity", "nmi", "ari"], why)


def not_a_number(images: torch.Tensor) -> torch.Tensor:
    return mean_pixels(images) / 0 * 0


def test_an_extractor_that_fails_ends_a_run_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--metrics", "fid", "--features", f"{__name__}:not_a_number"]
    assert run(*tiny(), *flags, "--out", str(tmp_path / "run")) == 2
    assert "expected finite features, got nan or infinity" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_checkpoints_may_be_saved_by_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(*tiny(checkpoint_every="0.000001s", iterations=3), "--keep-checkpoints", "9", "--out", str(folder)) == 0
    assert {path.name for path in (folder / "checkpoints").glob("iteration-*")} == {"iteration-1.pt", "iteration-2.pt"}


def test_a_run_from_before_there_were_objectives_goes_on(copy: Path) -> None:
    saved = state(copy)
    saved["plugins"] = {name: version for name, version in saved["plugins"].items() if "objective" not in name}
    table = '[objective]\nname = "mpcc"\n'
    assert table in saved["config"]
    saved["config"] = saved["config"].replace(table, "")
    save_checkpoint(copy / "checkpoints" / "last.pt", saved)
    config = copy / "config.toml"
    config.write_text(config.read_text().replace(table, ""))
    assert run("--resume", str(copy), "--iterations", "7") == 0
    assert state(copy)["iteration"] == 7


def test_optimizers_step_as_the_run_says_whatever_a_checkpoint_says(copy: Path, finished: Path) -> None:
    path, saved = copy / "checkpoints" / "last.pt", state(copy)
    for optimizer in saved["optimizers"].values():
        optimizer["param_groups"][0].update(lr=7.0, fused=False, betas=(0.9, 0.9))
    save_checkpoint(path, saved)
    assert run("--resume", str(copy), "--iterations", "9") == 0
    assert state(copy)["optimizers"]["encoder"]["param_groups"][0]["lr"] == pytest.approx(1e-3)


def test_sigterm_twice_still_saves(tmp_path: Path, stop_at: Callable[..., None]) -> None:
    stop_at(3, number=signal.SIGTERM, times=2)
    assert run(*tiny(), "--out", str(tmp_path / "run")) == 130
    assert state(tmp_path / "run")["iteration"] == 3


def test_a_run_that_fails_keeps_the_evaluations_that_it_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    iterate = Trainer.iterate

    def failing(self: Trainer) -> dict[str, torch.Tensor]:
        if self.iteration == 4:
            raise PluginError("a plugin is broken")
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", failing)
    folder = tmp_path / "run"
    assert run(*tiny(eval_every=2, checkpoint_every=100), "--out", str(folder)) == 2
    assert len(lines(folder)) == 2
    best = folder / "checkpoints" / "best.pt"
    assert f"a plugin is broken; the last checkpoint is kept: {best}" in capsys.readouterr().err


def test_a_configuration_cannot_ask_for_downloads(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (finished / "config.toml").read_text(encoding="utf-8")
    assert "download = false" in text
    (tmp_path / "config.toml").write_text(text.replace("download = false", "download = true"), encoding="utf-8")
    assert run("--config", str(tmp_path / "config.toml")) == 2
    assert "a file cannot ask for downloads" in capsys.readouterr().err


def test_a_run_whose_first_evaluation_is_far_shows_a_first_look_that_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = tiny(iterations=6, eval_every=6, checkpoint_every=6)
    assert run(*arguments, "--out", str(tmp_path / "plain")) == 0
    capsys.readouterr()
    # Both bounds are passed at once, so that the look comes after the third iteration.
    monkeypatch.setattr(execution, "FIRST_LOOK_SECONDS", 0)
    monkeypatch.setattr(execution, "FIRST_LOOK_IMAGES", 20)
    seen: list[int] = []
    whole = RunFolder.write_results

    def noted(folder: RunFolder, results: Any) -> None:
        seen.append(results["iterations"])
        whole(folder, results)

    monkeypatch.setattr(RunFolder, "write_results", noted)
    assert run(*arguments, "--out", str(tmp_path / "looked")) == 0
    assert seen == [3, 6]
    assert "a first look, at 20 images" in capsys.readouterr().err
    for name in ("metrics.jsonl", "assignments.csv", "posterior.npy", "clusters.png"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "looked" / name).read_bytes()
    one, other = (state(tmp_path / name) for name in ("plain", "looked"))
    for name in ("hinges", "gradient_norms", "told", "best", "iteration", "stream"):
        assert one[name] == other[name]
    assert torch.equal(one["random"]["cpu"], other["random"]["cpu"])
    for part, values in one["parts"].items():
        assert all(torch.equal(value, other["parts"][part][key]) for key, value in values.items())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PluginError("a metric fails"), MemoryError()])
def test_a_look_that_fails_costs_nothing_but_the_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    monkeypatch.setattr(execution, "FIRST_LOOK_SECONDS", 0)
    whole, calls = execution.find, []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return whole(*arguments)

    monkeypatch.setattr(execution, "find", failing)
    assert run(*tiny(iterations=6, eval_every=6, checkpoint_every=6), "--out", str(tmp_path / "run")) == 0
    assert len(calls) == 2
    said = capsys.readouterr().err
    skipped = isinstance(error, KeyboardInterrupt)
    assert ("the evaluation was skipped" if skipped else "warning: it could not be evaluated") in said
