"""A plugin that raises, wherever it does, is named; everything else goes on working."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpcc.core.commands import entry

TINY = ["--iterations", "4", "--eval-images", "40", "--eval-every", "2", "--checkpoint-every", "2", "--threads", "1"]
# One file with a plugin for every way to fail; the word in a name says where it raises.
PLUGIN = """
import asyncio
import attrs
import torch
from torch.distributions import Normal
from mpcc.core.contracts import Dataset, Metric
from mpcc.core.hookspecs import hookimpl
from mpcc.core.mixture import LocationScaleMixture
from mpcc.core.mixture_options import MixtureOptions
from mpcc.plugins.architectures.biggan import BigGAN8


class Normals(LocationScaleMixture):
    def family(self, loc, scale):
        return Normal(loc, scale, validate_args=False)


class Building(Normals):
    def __init__(self, *arguments):
        raise KeyError("no such thing")


class Forward(Normals):
    def family(self, loc, scale):
        return Normal(loc, scale[:-1].expand(3, 3), validate_args=False)


class UnsaidError(Exception):
    def __str__(self):
        raise ValueError("cannot be said")


class Unsaid(Normals):
    def family(self, loc, scale):
        raise UnsaidError


class Cancelled(Normals):
    def family(self, loc, scale):
        raise asyncio.CancelledError("over")


class Shapeless(Normals):
    def family(self, loc, scale):
        return None


class Late(Normals):
    calls = 0

    def family(self, loc, scale):
        Late.calls += 1
        if Late.calls > 97:
            raise RuntimeError("tired")
        return super().family(loc, scale)


class Weird(torch.nn.Module):
    def forward(self, z, y):
        return z @ y


class Network(BigGAN8):
    def build(self, clusters, latent_dim, channels):
        networks = super().build(clusters, latent_dim, channels)
        networks.generator.blocks[0].norm1 = Weird()
        return networks


class Loading(Dataset):
    def __init__(self, options):
        pass

    def load(self, image_size, root, download):
        return {}["images"]


class Scoring(Metric):
    def __init__(self, options):
        pass

    def compute(self, evaluation):
        return 1 / 0


class NoClass:
    df: float = 3.0


def odd(instance, attribute, value):
    raise LookupError("odd validator")


@attrs.frozen
class OddOptions(MixtureOptions):
    df: float = attrs.field(default=3.0, validator=odd, metadata={"help": "h"})


@attrs.frozen
class BadDefault(MixtureOptions):
    df: float = attrs.field(default=-1.0, validator=attrs.validators.gt(0.0), metadata={"help": "h"})


@hookimpl
def register_priors(register):
    shared = "mpcc.core.mixture_options:MixtureOptions"
    for name in ("Normals", "Building", "Forward", "Unsaid", "Cancelled", "Shapeless", "Late"):
        register(name.lower(), f"fake_all:{name}", summary="s", options=shared)
    for name in ("NoClass", "OddOptions", "BadDefault", "Missing"):
        register(name.lower(), "fake_all:Normals", summary="s", options=f"fake_all:{name}")


@hookimpl
def register_architectures(register):
    register("network", "fake_all:Network", summary="s", options="mpcc.plugins.architectures.options:BigGANOptions")


@hookimpl
def register_datasets(register):
    register("loading", "fake_all:Loading", summary="s")


@hookimpl
def register_metrics(register):
    register("scoring", "fake_all:Scoring", summary="s")
"""


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The plugin in a file of an empty folder."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "fake_all.py"
    file.write_text(PLUGIN)
    yield file
    sys.modules.pop("fake_all", None)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run mpcc-run with the plugin; return status, output, errors."""
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--plugin", "fake_all.py", *arguments])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.mark.parametrize(
    ("flags", "named", "reason"),
    [
        (["--prior", "building"], "prior 'building'", "KeyError: 'no such thing'"),
        (["--prior", "forward"], "prior 'forward'", "RuntimeError: "),
        (["--prior", "unsaid"], "prior 'unsaid'", ": UnsaidError"),
        (["--prior", "cancelled"], "prior 'cancelled'", "CancelledError: over"),
        # The exception comes from our own file, in a method that the plugin's class inherits.
        (["--prior", "shapeless"], "prior 'shapeless'", "AttributeError: "),
        (["--arch", "network"], "architecture 'network'", "RuntimeError: "),
        (["--data", "loading"], "dataset 'loading'", "KeyError: 'images'"),
        (["--metrics", "acc,scoring"], "metric 'scoring'", "ZeroDivisionError: division by zero"),
    ],
)
def test_what_raises_in_a_plugin_is_named_with_file_and_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: list[str], named: str, reason: str
) -> None:
    # All metrics are asked for by default, the failing one as well.
    metrics = [] if "--metrics" in flags else ["--metrics", "acc"]
    status, out, err = run(capsys, *flags, *metrics, *TINY, "--preset", "digits", "--out", "run")
    assert (status, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith(f"mpcc-run: error: {named} of local file "), line
    assert f"({tmp_path / 'fake_all.py'}): /" in line
    assert "shapeless" in flags or f"): {tmp_path / 'fake_all.py'}:" in line
    assert reason in line
    assert "Traceback" not in err
    # What is built is tried before training. Once training has begun, as for a metric, the folder is kept.
    assert Path("run").exists() == line.endswith("run folder run is kept, without a checkpoint")
    assert Path("run").exists() == (flags[0] == "--metrics")


def test_a_late_failure_keeps_the_last_checkpoint_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "--prior", "late", "--metrics", "acc", *TINY, "--out", "run")
    assert status == 2
    assert "RuntimeError: tired; the last checkpoint is kept: run/checkpoints/last.pt" in err
    assert Path("run/checkpoints/last.pt").exists()


def test_the_traceback_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run(capsys, "--prior", "building", *TINY, "--out", "run", "--traceback")
    assert "Traceback" in err
    assert "no such thing" in err


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("noclass", [], "options class fake_all.NoClass is not an attrs class"),
        ("missing", [], "fake_all has no 'Missing'"),
        ("oddoptions", ["--prior.df", "4"], "LookupError: odd validator"),
        ("oddoptions", [], "LookupError: odd validator"),
        ("baddefault", [], "'df' must be > 0.0: -1.0"),
    ],
)
def test_options_that_raise_are_an_error_of_their_plugin_alone(
    capsys: pytest.CaptureFixture[str], name: str, flags: list[str], message: str
) -> None:
    status, _, err = run(capsys, "--prior", name, *flags, "--dry-run")
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert run(capsys, "--prior", "normals", "--dry-run")[0] == 0
    assert run(capsys, "--help")[0] == 0


def test_the_listing_shows_options_that_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["plugins", "--plugin", "fake_all.py"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "load error" in out
    assert "NoClass" in out


def test_a_working_plugin_of_the_same_file_runs(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--prior", "normals", "--metrics", "acc,nmi", *TINY, "--out", "run")
    assert (status, out.startswith("run: 4 iterations")) == (0, True)


def test_an_exception_of_our_own_code_is_not_laid_at_a_plugins_door(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpcc.core.evaluation.findings.score", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        entry.run_main([*TINY, "--out", "run"])
    assert Path("run/config.toml").exists()
