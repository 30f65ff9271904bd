"""``--init-from``: a new run from another one's weights, on other images; what does not fit is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from mpcc.core.commands import entry
from mpcc.core.storage.checkpoint import load_checkpoint

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"standing-passes": 2, "eval-images": 40, "device": "cpu", "threads": 1, "metrics": "occupancy"},
}


def train(out: Path, **more: object) -> int:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in more.items()}}
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*(f"--{name}={value}" for name, value in values.items()), f"--out={out}"])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert train(folder, iterations=5, data="digits") == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = load_checkpoint(folder / "checkpoints" / "last.pt")["parts"]
    return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}


@pytest.mark.parametrize("form", ["folder", "checkpoint"])
def test_a_run_starts_from_the_weights_on_other_images(
    first: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "others.npy", (load_digits().images[100:160] * 15).astype(np.uint8))
    source = first if form == "folder" else first / "checkpoints" / "last.pt"
    # With steps this small, the weights hardly move.
    small = {"lr": 1e-12, "prior_lr": 1e-12, "iterations": 1, "preset": "digits"}
    data = {"data": "arrays", "data.path": tmp_path / "others.npy"}
    assert train(tmp_path / "new", init_from=source, **small, **data) == 0
    assert "the run starts from the weights of" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "new" / "checkpoints" / "last.pt")["iteration"] == 1
    before, after = weights(first), weights(tmp_path / "new")
    trained = [name for name in before if name.startswith(("prior.", "encoder.", "generator.")) and "weight" in name]
    assert trained
    for name in trained:
        assert torch.allclose(before[name], after[name], atol=1e-6), name


def test_the_configuration_repeats_it_and_a_resumed_run_does_not_need_the_source(first: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(first, tmp_path / "source"))
    assert train(tmp_path / "one", init_from=source, data="digits", iterations=4) == 0
    with pytest.raises(SystemExit):
        entry.run_main(["--config", str(tmp_path / "one" / "config.toml"), "--out", str(tmp_path / "two")])
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    shutil.rmtree(source)
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--resume", str(tmp_path / "one"), "--iterations", "5"])
    assert caught.value.code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": 9}, "run.clusters was 10, is 9"),
        ({"prior": "cauchy"}, "prior.name was gmm, is cauchy"),
        ({"arch.width": 2}, "arch.width was 1, is 2"),
    ],
)
def test_other_networks_are_refused_before_anything_is_written(
    first: Path, tmp_path: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "new", init_from=first, data="digits", **changes) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_source_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "new", init_from=tmp_path, data="digits") == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
