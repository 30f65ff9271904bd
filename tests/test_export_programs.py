"""Exported programs compute what mpcc does, for any number of images and every built-in prior; others are refused."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mpcc.core.api.loaded_run import load
from mpcc.core.commands import entry
from mpcc.core.evaluation.generation import Generation
from mpcc.core.evaluation.inference import predict
from mpcc.core.export.checked_programs import write_programs
from mpcc.core.export.programs import EncoderProgram
from mpcc.core.layers.fusion import fuse
from mpcc.core.method.model import Model
from mpcc.core.registry import load_registry
from mpcc.plugins.architectures.biggan import BigGAN8, BigGAN16
from mpcc.plugins.architectures.options import BigGANOptions

ROOT = Path(__file__).resolve().parents[1]
K, J = 5, 3
TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": J, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"standing-passes": 2, "eval-images": 40, "seed": 3, "device": "cpu", "threads": 1, "clusters": K},
}
PLUGIN = """
import torch
from torch.distributions import Independent, StudentT
from mpcc.core.hookspecs import hookimpl
from mpcc.plugins.priors.gmm import GaussianMixture

class Drawn(GaussianMixture):
    def encoder_distribution(self, loc, raw_scale):
        return Independent(StudentT(3.0, loc, torch.exp(raw_scale / 2), validate_args=False), 1, validate_args=False)

@hookimpl
def register_priors(register):
    register("drawn", "drawn:Drawn", summary="x.", options="mpcc.plugins.priors.options:GaussianMixtureOptions")
"""

Program = Callable[..., Sequence[np.ndarray[Any, Any]]]


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def train(run: Path, *more: str | Path) -> Path:
    assert command(entry.run_main, *[f"--{name}={value}" for name, value in TINY.items()], *more, f"--out={run}") == 0
    return run


def opened(path: Path) -> Program:
    """A file as a function of arrays, read in the way in which users read it."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        names = [each.name for each in session.get_inputs()]
        return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))
    module = torch.export.load(path).module()

    def call(*inputs: np.ndarray[Any, Any]) -> Sequence[np.ndarray[Any, Any]]:
        with torch.no_grad():
            found = module(*map(torch.from_numpy, inputs))
        return [each.numpy() for each in ((found,) if isinstance(found, Tensor) else found)]

    return call


def some_model(prior: nn.Module, architecture: Any, channels: int = 1) -> Model:
    """A model with large parameters, so that clusters differ."""
    model = Model.assemble(prior, architecture.build(K, J, channels), torch.device("cpu"))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in prior.named_parameters():
            if name in ("loc", "raw_scale", "logits", "factor"):
                parameter.copy_(torch.randn(parameter.shape))
    fuse(model.networks.encoder)
    return model


def check(model: Model, size: int, folder: Path, formats: Sequence[str] = ("torch", "onnx")) -> None:
    channels = model.averaged(torch.zeros(2, J), torch.zeros(2).long()).shape[1]
    images = torch.randint(0, 256, (300, channels, size, size), dtype=torch.uint8)
    generation = Generation(model, passes=2, batch=10, seed=0)
    write_programs(model, generation, images[:20], formats, folder, "it")
    expected, samples = predict(model, images), generation.sample(300, seed=1)
    assert expected.posterior.max() - expected.posterior.min() > 0.05
    for ending in (".pt2", ".onnx")[: len(formats)]:
        encoder, generator = opened(folder / f"encoder{ending}"), opened(folder / f"generator{ending}")
        for count in (1, 5, 300):
            z, posterior = encoder(images[:count].numpy())
            np.testing.assert_allclose(z, expected.locations[:count], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(posterior, expected.posterior[:count], rtol=1e-4, atol=1e-5)
            (made,) = generator(samples.z[:count].numpy(), samples.clusters[:count].numpy())
            assert made.dtype == np.uint8
            assert np.abs(made.astype(int) - samples.images[:count].numpy()).max() <= 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats of the run."""
    folder = tmp_path_factory.mktemp("exports") / "export"
    assert command(entry.main, "export", finished, "--format", "safetensors,torch,onnx", "--out", folder) == 0
    return folder


# One whose points are quantiles without gradients, one with the most functions; the others take ten seconds each.
QUICK = ("gmm", "student_t")


@pytest.mark.parametrize(
    "name",
    # The fixed prior has one cluster; test_objective_runs.py exports it.
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.check)
        for name in load_registry().names("prior")
        if load_registry().entry("prior", name).options_class()
    ],
)
def test_the_programs_of_every_built_in_prior_compute_what_mpcc_does(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    registered = load_registry().entry("prior", name)
    prior = registered.load()(K, J, registered.options_class()(weights="trainable"))
    check(some_model(prior, BigGAN8(BigGANOptions(width=2))), 8, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"conditioning": "split"},
        pytest.param({"conditioning": "shared", "upsampling": "nearest"}, marks=pytest.mark.check),
    ],
)
def test_programs_of_other_networks_and_colours_do_too(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    registered = load_registry().entry("prior", "gmm")
    prior = registered.load()(K, J, registered.options_class()())
    architecture = BigGAN16(BigGANOptions(width=2, power_iterations="forward", **options))
    check(some_model(prior, architecture, channels=3), 16, tmp_path)


def test_the_command_writes_all_formats_and_prints_the_largest_differences(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(entry.main, "export", finished, "--format", "torch", "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    first, *compared, last = out.splitlines()
    assert err == ""
    assert first == f"{tmp_path / 'out'}: iteration 2, 2 files"
    assert [line.partition(" ")[0] for line in compared] == ["encoder.pt2:", "generator.pt2:"]
    assert all("largest difference from mpcc " in line and "at 1, 2, 7 and 32 images" in line for line in compared)
    assert last == "compared on 32 images of the run"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.toml", "encoder.pt2", "generator.pt2"}


def test_exported_files_predict_and_generate_as_the_loaded_run_does(finished: Path, exported: Path) -> None:
    run, images = load(finished), np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
    new, clusters = run.sample(9, seed=5)
    for ending in ("pt2", "onnx"):
        z, posterior = opened(exported / f"encoder.{ending}")(images[:, None])
        np.testing.assert_allclose(z, run.transform(images), atol=1e-5)
        np.testing.assert_allclose(posterior, run.posterior(images), atol=1e-5)
        latents = run.generated(9, seed=5).z.numpy()
        (made,) = opened(exported / f"generator.{ending}")(latents, clusters)
        assert np.abs(made[:, 0].astype(int) - new).max() <= 1


def test_a_program_needs_no_mpcc(exported: Path) -> None:
    code = f"""
import sys
sys.modules["mpcc"] = None
import torch
z, posterior = torch.export.load({str(exported / "encoder.pt2")!r}).module()(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
assert (z.shape, posterior.shape) == ((4, {J}), (4, {K}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=exported)


def test_a_program_does_not_say_where_the_source_is(exported: Path) -> None:
    for name in ("encoder", "generator"):
        with zipfile.ZipFile(exported / f"{name}.pt2") as archive:
            contents = [archive.read(member) for member in archive.namelist()]
        for content in (*contents, (exported / f"{name}.onnx").read_bytes()):
            assert str(ROOT).encode() not in content
            assert b"site-packages" not in content


def test_onnx_names_its_inputs_and_outputs_and_the_free_dimension(exported: Path) -> None:
    encoder, generator = (onnxruntime.InferenceSession(exported / f"{name}.onnx") for name in ("encoder", "generator"))
    assert {each.name: each.shape for each in encoder.get_inputs()} == {"images": ["batch", 1, 8, 8]}
    assert {each.name: each.shape for each in encoder.get_outputs()} == {"z": ["batch", J], "posterior": ["batch", K]}
    assert {each.name: each.shape for each in generator.get_inputs()} == {"z": ["batch", J], "y": ["batch"]}
    assert {each.name: each.shape for each in generator.get_outputs()} == {"images": ["batch", 1, 8, 8]}


def test_without_the_images_of_the_run_generated_ones_are_compared(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError(2, "No such file", "digits")

    monkeypatch.setattr("mpcc.plugins.datasets.digits.Digits.load", gone)
    assert command(entry.main, "export", finished, "--format", "torch", "--out", tmp_path / "out") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("compared on 32 generated images, because those of the run cannot be read: ")
    assert "cannot read digits: No such file" in last


def test_a_prior_that_draws_for_its_posterior_is_refused_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "drawn.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    run = train(tmp_path / "run", f"--plugin={plugin}", "--prior=drawn")
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert command(entry.main, "export", run, "--format", "safetensors,torch") == 2
    out, err = capsys.readouterr()
    assert out == ""
    *others, err = err.splitlines()
    assert len(others) <= 1  # torch 2.9 logs a line of its own
    assert "the encoder of prior drawn and architecture biggan8 cannot be exported as a program" in err
    assert "what can be exported is --format safetensors" in err
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before
    assert command(entry.main, "export", run) == 0


@pytest.mark.parametrize("what", [lambda z: z + 0.01, lambda z: z * float("nan")])
def test_a_file_that_computes_something_else_is_an_error_and_nothing_is_left(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: Callable[[Tensor], Tensor],
) -> None:
    forward = EncoderProgram.forward

    def wrong(self: EncoderProgram, images: Tensor) -> tuple[Tensor, Tensor]:
        z, posterior = forward(self, images)
        return what(z), posterior

    monkeypatch.setattr(EncoderProgram, "forward", wrong)
    assert command(entry.main, "export", finished, "--format", "torch", "--out", tmp_path / "new" / "out") == 2
    assert "encoder.pt2 computes something else than mpcc: the largest difference is " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_format_that_does_not_exist_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(entry.main, "export", finished, "--format", "safetensors,onx") == 2
    assert "unknown --format 'onx': did you mean 'onnx'?" in capsys.readouterr().err
    assert not list(finished.glob("export*"))


def test_without_the_packages_of_onnx_the_extra_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert command(entry.main, "export", finished, "--format", "torch,onnx", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        'mpcc: error: --format onnx needs onnxscript, which is not installed: pip install "mpcc[onnx]"\n'
    )
    assert not (tmp_path / "out").exists()
