"""``mpcc export``: every part whole in a file of its own, files whole or not at all, one-line errors."""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mpcc.core.commands import entry
from mpcc.core.method.model import Model
from mpcc.core.storage.checkpoint import load_checkpoint, save_checkpoint
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.options import StudentTOptions
from mpcc.plugins.priors.student_t import StudentTMixture

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"standing-passes": 2, "eval-images": 40, "seed": 3, "device": "cpu", "prior": "student_t", "threads": 1},
    **{"ema-decay": 0.5, "ema-start": 1},
}
PARTS = ("prior", "generator", "discriminator", "encoder", "averaged_generator")


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def export(*arguments: str | Path) -> int:
    return command(entry.main, "export", *arguments)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err.startswith("mpcc: error: ")
    assert err.count("\n") == 1
    assert out == ""
    return err


def fresh() -> Model:
    """The model of the run, untrained."""
    networks = BigGAN8(BigGANOptions(width=1)).build(10, 3, 1)
    return Model.assemble(StudentTMixture(10, 3, StudentTOptions()), networks, torch.device("cpu"))


def outputs(model: Model) -> list[Tensor]:
    """What the parts of a model compute of the same inputs."""
    generator = torch.Generator().manual_seed(1)
    z, x = torch.randn(10, 3, generator=generator), torch.rand(10, 1, 8, 8, generator=generator)
    y = torch.arange(10)
    for part in model.parts().values():
        part.eval()
    with torch.no_grad():
        networks, latent = model.networks, model.prior.input_map(z)
        return [
            model.prior.log_density(z),
            networks.generator(latent, y),
            model.averaged(latent, y),
            networks.discriminator(x),
            *networks.encoder(x),
        ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert command(entry.run_main, *[f"--{name}={value}" for name, value in TINY.items()], f"--out={run}") == 0
    return run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export of the run."""
    folder = tmp_path_factory.mktemp("exports") / "new" / "export"
    assert export(finished, "--out", folder) == 0
    return folder


def test_every_part_is_what_the_checkpoint_says_and_no_other_file_is_there(finished: Path, exported: Path) -> None:
    saved = load_checkpoint(finished / "checkpoints" / "last.pt")["parts"]
    assert {path.name for path in exported.iterdir()} == {"config.toml", *(f"{part}.safetensors" for part in PARTS)}
    assert set(saved) == set(PARTS)
    for part in PARTS:
        loaded = load_file(exported / f"{part}.safetensors")
        assert loaded.keys() == saved[part].keys()
        for name, value in loaded.items():
            assert (value.dtype, value.shape) == (saved[part][name].dtype, saved[part][name].shape)
            assert torch.equal(value, saved[part][name]), (part, name)
    assert (exported / "config.toml").read_bytes() == (finished / "config.toml").read_bytes()


def test_networks_built_anew_compute_what_those_of_the_checkpoint_do(finished: Path, exported: Path) -> None:
    saved = load_checkpoint(finished / "checkpoints" / "last.pt")["parts"]
    trained, taken_up, untrained = fresh(), fresh(), fresh()
    for part in PARTS:
        trained.parts()[part].load_state_dict(saved[part], strict=True)
        taken_up.parts()[part].load_state_dict(load_file(exported / f"{part}.safetensors"), strict=True)
    for found, expected, other in zip(outputs(taken_up), outputs(trained), outputs(untrained), strict=True):
        assert torch.equal(found, expected)
        assert not torch.equal(found, other)


def test_each_file_says_what_it_is(exported: Path) -> None:
    for part in PARTS:
        with safe_open(exported / f"{part}.safetensors", framework="pt") as file:
            assert file.metadata() == {
                "part": part,
                "iteration": "2",
                "mpcc": "0.1.0",
                "plugin": "student_t" if part == "prior" else "biggan8",
                "plugin_version": "mpcc 0.1.0",
            }


def test_the_shared_trunk_is_whole_and_equal_in_both_files(finished: Path, exported: Path) -> None:
    names = {
        part: {id(value): name for name, value in fresh_part.named_parameters()}
        for model in [fresh()]
        for part, fresh_part in model.parts().items()
    }
    shared = names["discriminator"].keys() & names["encoder"].keys()
    assert shared
    discriminator, encoder = (load_file(exported / f"{part}.safetensors") for part in ("discriminator", "encoder"))
    for key in shared:
        assert torch.equal(discriminator[names["discriminator"][key]], encoder[names["encoder"][key]])


def test_the_folder_is_named_after_the_iteration_and_another_checkpoint_may_be_chosen(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "checkpoints" / "other.pt"
    saved = load_checkpoint(copy / "checkpoints" / "last.pt")
    save_checkpoint(path, {**saved, "iteration": 1})
    assert export(copy) == 0
    assert export(copy) == 0
    assert export(copy, "--checkpoint", path) == 0
    out, err = capsys.readouterr()
    assert err == ""
    folders = [copy / "export-2", copy / "export-2-2", copy / "export-1"]
    assert [line.partition(", ")[0] for line in out.splitlines()] == [
        f"{folder}: iteration {iteration}" for folder, iteration in zip(folders, (2, 2, 1), strict=True)
    ]
    first, second = (load_file(folder / "encoder.safetensors") for folder in folders[:2])
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with safe_open(folders[2] / "prior.safetensors", framework="pt") as file:
        assert file.metadata()["iteration"] == "1"


def test_neither_data_nor_plugins_are_needed(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpcc.plugins.datasets.digits.Digits.load", lambda *_: 1 / 0)
    monkeypatch.setattr("mpcc.core.registry.load_registry", lambda *_, **__: 1 / 0)
    assert export(copy, "--out", tmp_path / "out") == 0


def test_a_folder_that_exists_is_left_alone(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = tmp_path / "mine", tmp_path / "file"
    folder.mkdir()
    file.write_text("mine", encoding="utf-8")
    for path in (folder, file):
        assert export(finished, "--out", path) == 2
        assert f"--out {path} already exists: expected a new folder" in one_line(capsys)
    assert export(finished, "--out", file / "below") == 2
    assert f"{file / 'below'} cannot be made" in one_line(capsys)
    assert list(folder.iterdir()) == []
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("cut", "cannot be read, it is broken or not a checkpoint"),
        ("gone", "no such file"),
        ("parts", "'parts' is missing: expected a checkpoint of a run"),
        ("encoder", "the encoder is missing: expected a checkpoint of a run"),
        ("versions", "'versions' is missing: expected a checkpoint of a run"),
        ("extra", "prior.extra is str, but safetensors hold only tensors"),
        ("config", "does not belong to the run's config.toml: run.lr was"),
    ],
)
def test_a_checkpoint_that_cannot_be_exported_is_one_line_and_leaves_nothing(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, part: str
) -> None:
    path = copy / "checkpoints" / "last.pt"
    saved = load_checkpoint(path)
    if how in ("parts", "versions"):
        del saved[how]
    elif how == "encoder":
        del saved["parts"]["encoder"]
    elif how == "extra":
        saved["parts"]["prior"]["extra"] = "text"
    elif how == "config":
        saved["config"] = saved["config"].replace("\nlr = ", "\nlr = 1")
    save_checkpoint(path, saved)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "gone":
        path.unlink()
    assert export(copy, "--out", tmp_path / "new" / "out") == 2
    line = one_line(capsys)
    assert str(path) in line
    assert part in line
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path / "gone") == 2
    assert f"{tmp_path / 'gone'}: no such folder: expected a run folder" in one_line(capsys)


def test_without_safetensors_the_extra_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    assert export(finished, "--out", tmp_path / "out") == 2
    assert one_line(capsys) == (
        'mpcc: error: mpcc export needs safetensors, which is not installed: pip install "mpcc[export]"\n'
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 4), (errno.EDQUOT, 4), (errno.EIO, 2), (None, 130)])
def test_a_write_that_fails_or_is_interrupted_leaves_nothing(
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int | None,
    status: int,
) -> None:
    replace = Path.replace

    def failing(part: Path, path: Path) -> Path:
        if path.name != "discriminator.safetensors":
            return replace(part, path)
        assert part.exists()
        assert (path.parent / "prior.safetensors").exists()
        raise KeyboardInterrupt if number is None else OSError(number, "it is so")

    monkeypatch.setattr(Path, "replace", failing)
    before = sorted(tmp_path.rglob("*"))
    assert export(copy) == status
    err = capsys.readouterr().err
    assert err.count("\n") <= 1
    assert number is None or f"{copy / 'export-2'} could not be written: it is so" in err
    assert sorted(tmp_path.rglob("*")) == before
