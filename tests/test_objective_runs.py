"""AIM, VaDE and the VAE through the commands: train, resume, evaluate, predict, sample, export, bench; from Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mpcc
from mpcc.core.commands import entry
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.core.storage.checkpoint import load_checkpoint

TINY = {
    **{"preset": "none", "arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 4, "d-steps": 1, "e-steps": 2},
    **{"iterations": 6, "eval-every": 3, "eval-images": 60, "standing-passes": 2, "log-every": 1, "seed": 0},
    **{"checkpoint-every": 2, "device": "cpu", "threads": 1, "lr": 1e-3},
}
OF_OBJECTIVE = {"aim": {}, "vade": {"clusters": 3, "prior-fit": 0.5}, "vae": {"objective.likelihood": "logistic"}}
TERMS = {
    "aim": {"data_discriminator", "data_generator", "latent"},
    "vade": {"reconstruction", "latent_divergence", "label_divergence"},
    "vae": {"reconstruction", "latent_divergence"},
}
every_objective = pytest.mark.parametrize("objective", TERMS)


def command(function: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        function([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def train(objective: str, out: Path, **changes: Any) -> int:
    values = {**TINY, **OF_OBJECTIVE[objective], **changes}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    return command(entry.run_main, f"--objective={objective}", *flags, f"--out={out}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each objective; no test changes it."""
    folder = tmp_path_factory.mktemp("runs")
    for objective in TERMS:
        assert train(objective, folder / objective) == 0
    return {objective: folder / objective for objective in TERMS}


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(run / "checkpoints" / "last.pt")
    return {f"{part}.{name}": value for part, tensors in state["parts"].items() for name, value in tensors.items()}


@every_objective
def test_every_term_is_logged_raw_and_weighted(runs: dict[str, Path], objective: str) -> None:
    events = EventAccumulator(str(runs[objective])).Reload()
    tags = set(events.Tags()["scalars"])
    assert {tag.removeprefix("terms/") for tag in tags if tag.startswith("terms/")} == TERMS[objective]
    assert {tag.removeprefix("weighted/") for tag in tags if tag.startswith("weighted/")} == TERMS[objective]
    names = [
        warning["name"] for warning in json.loads((runs[objective] / "results.json").read_text())["health"]["warnings"]
    ]
    assert "discriminator_won" not in names
    assert "two_groups" not in names


@every_objective
@pytest.mark.parametrize("dies_at", [2, 3, 5])
def test_a_run_that_was_killed_and_resumed_ends_with_the_same_bits(
    runs: dict[str, Path], objective: str, dies_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Trainer.iterate

    def killed(self: Trainer) -> dict[str, torch.Tensor]:
        if self.iteration == dies_at:
            raise KeyboardInterrupt
        return iterate(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "iterate", killed)
        assert train(objective, tmp_path / "run") == 130
    torch.rand(5)  # the next process would have another random state
    assert command(entry.run_main, "--resume", tmp_path / "run") == 0
    found, expected = weights(tmp_path / "run"), weights(runs[objective])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# Another value of each setting that an objective may have no use for.
OTHER_VALUES = {
    **{"d_steps": 2, "prior_lr": 0.1, "balance_direction": "prior"},
    **{
        "prior_fit_groups": "mixture",
        "real_terms_rise": 1,
        "entropy": "monte-carlo",
        "entropy_samples": 7,
    },
}


@every_objective
def test_results_say_whether_the_prior_has_been_fitted(runs: dict[str, Path], objective: str) -> None:
    fitted = json.loads((runs[objective] / "results.json").read_text())["prior_fitted"]
    assert fitted == ("prior-fit" in OF_OBJECTIVE[objective])


@every_objective
def test_settings_without_use_change_no_bit(runs: dict[str, Path], objective: str, tmp_path: Path) -> None:
    unused = load_registry([]).entry("objective", objective).unused
    assert unused
    assert train(objective, tmp_path / "run", **{name.replace("_", "-"): OTHER_VALUES[name] for name in unused}) == 0
    found, expected = weights(tmp_path / "run"), weights(runs[objective])
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    one, other = (json.loads((run / "results.json").read_text()) for run in (tmp_path / "run", runs[objective]))
    assert [one[name] for name in ("metrics", "health")] == [other[name] for name in ("metrics", "health")]


@every_objective
def test_a_run_is_evaluated_predicted_from_sampled_and_exported(
    runs: dict[str, Path], objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, images = runs[objective], (load_digits().images[:12] * 15).astype(np.uint8)
    np.save("digits.npy", images)
    assert command(entry.main, "evaluate", run, "--out", "again") == 0
    scores = json.loads((tmp_path / "again" / "results.json").read_text())["metrics"]
    assert scores == json.loads((run / "results.json").read_text())["metrics"]
    assert command(entry.main, "predict", run, "digits.npy", "--out", "found.csv") == 0
    assert len(Path("found.csv").read_text().splitlines()) == 13
    assert command(entry.main, "sample", run, "--cluster", "0", "--count", "3", "--out", "samples") == 0
    assert len(list(Path("samples").glob("*.png"))) == 3
    assert command(entry.main, "export", run, "--format", "safetensors,torch", "--out", "exported") == 0
    files = {path.name for path in Path("exported").iterdir()}
    assert ("likelihood.safetensors" in files) == (objective != "aim")
    assert {"encoder.pt2", "generator.pt2"} <= files
    loaded = mpcc.load(run)
    assert loaded.predict(images).shape == (12,)
    assert loaded.reconstruct(images).shape == images.shape


def test_samples_of_vade_depend_on_the_cluster_through_z_alone(runs: dict[str, Path]) -> None:
    loaded = mpcc.load(runs["vade"])
    z = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    np.testing.assert_array_equal(loaded.inverse_transform(z, 0), loaded.inverse_transform(z, 2))


def test_the_estimator_takes_an_objective() -> None:
    images = load_digits().images[:60]
    settings = {"batch": 10, "arch.width": 1, "standing_passes": 1}
    model = mpcc.MPCC(
        3, arch="biggan8", preset="digits-vade", objective="vade", iterations=2, random_state=0, settings=settings
    )
    with pytest.warns(UserWarning, match="MPCC"):
        model.fit(images)
    assert set(model.labels_) <= {0, 1, 2}
    assert model.run_.config.objective.name == "vade"
    with pytest.raises(ValueError, match=r"run\.clusters 10: the objective vae requires 1"):
        mpcc.MPCC(objective="vae", arch="biggan8", preset="digits", iterations=1).fit(images)


def test_the_bench_measures_the_bound(tmp_path: Path) -> None:
    small = ["--parts", "training", "--engines", "plain,fast", "--rounds", "1", "--iterations", "1"]
    out = tmp_path / "bench"
    assert command(entry.main, "bench", "--presets", "digits-vade", *small, "--threads", "1", "--out", out) == 0
    training = json.loads((out / "bench.json").read_text())["presets"]["digits-vade"]["training"]
    shares = training["engines"]["fast"]["phases"]["shares"]
    assert shares["bound"] > 0.5
    assert shares["autoencoder"] == 0
    assert training["operations_counted"] == "from shapes alone"


def test_weights_of_another_objective_are_no_start(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"clusters": 3, "init-from": runs["vade"]}
    flags = [f"--{name}={value}" for name, value in {**TINY, **values}.items()]
    assert command(entry.run_main, *flags, f"--out={tmp_path / 'run'}") == 2
    assert "objective was vade, is mpcc" in capsys.readouterr().err
    more = {**OF_OBJECTIVE["vade"], "init-from": runs["vade"], "iterations": 1}
    assert train("vade", tmp_path / "other", **more) == 0
