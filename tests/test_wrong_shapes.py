"""A plugin that returns a wrong shape ends a run before training, in one line: plugin, method, both shapes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpcc.core.commands import entry

TINY = ["--iterations", "1", "--eval-images", "20", "--threads", "1", "--metrics", "occupancy"]
ARCHITECTURE = """
import torch
from torch import nn
from mpcc.core.contracts import Architecture, Networks
from mpcc.core.hookspecs import hookimpl


class Generator(nn.Module):
    def __init__(self, K, J, D):
        super().__init__()
        self.D, self.entry, self.label, self.out = D, nn.Linear(J, 8), nn.Embedding(K, 8), nn.Linear(8, D * 64)

    def forward(self, z, y):
        x = torch.tanh(self.out(self.entry(z) + self.label(y))).view(-1, self.D, 8, 8)
        return {generator}


class Discriminator(nn.Module):
    def __init__(self, D):
        super().__init__()
        self.out = nn.Linear(D * 64, 1)

    def forward(self, x):
        score = self.out(x.flatten(1))
        return {discriminator}


class Encoder(nn.Module):
    def __init__(self, J, D):
        super().__init__()
        self.loc, self.scale = nn.Linear(D * 64, J), nn.Linear(D * 64, J)

    def forward(self, x):
        loc, scale = self.loc(x.flatten(1)), self.scale(x.flatten(1))
        return {encoder}


class Wrong(Architecture):
    image_size = 8

    def __init__(self, options):
        pass

    def build(self, clusters, latent_dim, channels):
        parts = Generator(clusters, latent_dim, channels), Discriminator(channels), Encoder(latent_dim, channels)
        return {networks}


@hookimpl
def register_architectures(register):
    register("wrong", "fake_wrong:Wrong", summary="Wrong.")
"""
RIGHT = {"generator": "x", "discriminator": "score.squeeze(1)", "encoder": "loc, scale", "networks": "Networks(*parts)"}
PRIOR = """
import torch
from torch.distributions import Normal
from mpcc.core.hookspecs import hookimpl
from mpcc.core.mixture import LocationScaleMixture


class Wrong(LocationScaleMixture):
    def family(self, loc, scale):
        return Normal(loc, scale, validate_args=False)

    def {method}:
        return {value}


@hookimpl
def register_priors(register):
    register("wrong", "fake_wrong:Wrong", summary="Wrong.", options="mpcc.core.mixture_options:MixtureOptions")
"""
DATASET = """
import torch
from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.hookspecs import hookimpl


class Wrong(Dataset):
    def __init__(self, options):
        pass

    def load(self, image_size, root, download):
        images = torch.zeros(60, 1, image_size, image_size, dtype=torch.uint8)
        return {value}


@hookimpl
def register_datasets(register):
    register("wrong", "fake_wrong:Wrong", summary="Wrong.")
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder; leave no module behind."""
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("fake_wrong", None)


def refused(source: str, flag: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a plugin file that is wrong, and return the error: one line, and no run folder."""
    Path("fake_wrong.py").write_text(source, encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--plugin", "fake_wrong.py", flag, "wrong", *TINY, "--out", "run"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2, error
    assert not Path("run").exists()
    return error


@pytest.mark.parametrize(
    ("network", "value", "message"),
    [
        ("generator", "x[..., :4, :4]", "generator(z, y): expected shape (3, 1, 8, 8), (N, D, R, R), got (3, 1, 4, 4)"),
        ("generator", "x.flatten(1)", "generator(z, y): expected shape (3, 1, 8, 8), (N, D, R, R), got (3, 64)"),
        ("generator", "x.long()", "generator(z, y): expected floating-point numbers, got torch.int64"),
        ("discriminator", "score", "discriminator(images): expected shape (3,), (N,), got (3, 1)"),
        ("encoder", "loc", "encoder(images): expected two tensors, loc and raw_scale, got a Tensor"),
        ("encoder", "loc[:, 1:], scale", "encoder(images), loc: expected shape (3, 20), (N, J), got (3, 19)"),
        ("networks", "parts", "build(): expected Networks, got a tuple"),
        ("networks", "Networks(*parts[:2], None)", "build().encoder: expected a torch.nn.Module, got a NoneType"),
    ],
)
def test_networks(network: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(ARCHITECTURE.format(**{**RIGHT, network: value}), "--arch", capsys)
    assert "architecture 'wrong' of local file" in error
    assert message in error


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("weights(self)", "self.phi[:-1]", "weights(): expected shape (10,), (K,), got (9,)"),
        ("scales(self)", "self.raw_scale.exp().sum(1)", "scales(): expected shape (10, 20), (K, J), got (10,)"),
        ("component(self, y)", "self.loc[y]", "component(y): expected a torch Distribution, got a Tensor"),
        (
            "component(self, y)",
            "Normal(self.loc[y], self.scales()[y])",
            "component(y): expected batch shape (3,) for 3 rows and event shape (20,), (J,), got (3, 20) and (); "
            "torch's Independent(..., 1) makes the last axis an event",
        ),
        ("entropies(self)", "self.scales().log()", "entropies(): expected shape (10,), (K,), got (10, 20)"),
        ("entropies(self)", "0.0", "entropies(): expected shape (10,), (K,), got a float"),
        (
            "encoder_distribution(self, loc, raw_scale)",
            "Normal(loc, raw_scale.exp())",
            "encoder_distribution(loc, raw_scale): expected batch shape (3,) for 3 rows",
        ),
        ("input_map(self, z)", "torch.cat([z, z], 1)", "input_map(z): expected shape (3, 20), (N, J), got (3, 40)"),
    ],
)
def test_priors(method: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(PRIOR.format(method=method, value=value), "--prior", capsys)
    assert "prior 'wrong' of local file" in error
    assert message in error


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("images", "load(): expected an ImageSet, got a Tensor"),
        ("ImageSet(images[:, 0])", "expected uint8 images (N, D, R, R), got torch.uint8 (60, 8, 8)"),
        ("ImageSet(images.numpy())", "expected uint8 images (N, D, R, R), got a ndarray of uint8 (60, 1, 8, 8)"),
        ("ImageSet(images, [0] * 60)", "labels: expected an int64 tensor of shape (60,), (N,), got list"),
        (
            "ImageSet(images, torch.zeros(60, 2, dtype=torch.int64))",
            "labels: expected an int64 tensor of shape (60,), (N,), got shape (60, 2)",
        ),
    ],
)
def test_data_sets(value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(DATASET.format(value=value), "--data", capsys)
    assert "dataset 'wrong' of local file" in error
    assert message in error
