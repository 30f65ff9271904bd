"""Values of plugins in ``results.json``: kept where JSON can hold them, else one error that names the plugin."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.errors import PluginError
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.plain_values import plain_value

TINY = [
    *("--arch=biggan8", "--arch.width=1", "--batch=10", "--latent-dim=3", "--d-steps=1", "--e-steps=1"),
    *("--iterations=2", "--eval-every=1", "--eval-images=60", "--standing-passes=1", "--device=cpu"),
]
NUMBERS = itertools.count()
METRIC = """
import torch
from mpcc.core.contracts import Metric
from mpcc.core.hookspecs import hookimpl


class Recording(Metric):
    needs_images = True
    needs_labels = False

    def compute(self, evaluation):
        evaluation.images.record["recording"] = {VALUE}
        return 1.0


@hookimpl
def register_metrics(register):
    register("recording", "{MODULE}:Recording", summary="records a value")
"""
DATA = """
import torch
from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.hookspecs import hookimpl


class Described(Dataset):
    def __init__(self, options=None):
        pass

    def load(self, image_size, root, download):
        images = torch.randint(256, (30, 1, image_size, image_size), dtype=torch.uint8)
        return ImageSet(images, {VALUE})


@hookimpl
def register_datasets(register):
    register("described", "{MODULE}:Described", summary="describes itself with a value")
"""
PRIOR = """
import torch
from mpcc.core.hookspecs import hookimpl
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions


class Quantities(GaussianMixture):
    def quantities(self):
        return {"nu": torch.tensor({VALUE})}


@hookimpl
def register_priors(register):
    options = "mpcc.plugins.priors.options:GaussianMixtureOptions"
    register("quantities", "{MODULE}:Quantities", summary="has quantities", options=options)
"""


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry.run_main([str(word) for word in words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    """Writes a one-file plugin with a value in it; each has a name of its own, since modules stay loaded."""

    def write(text: str, value: str) -> Path:
        path = tmp_path / "plugins" / f"plain_values_{next(NUMBERS)}.py"
        path.parent.mkdir()
        path.write_text(text.replace("{VALUE}", value).replace("{MODULE}", path.stem), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(0.5), 0.5),
        (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (torch.tensor([True, False]), [True, False]),
        (torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True), 1.5),
        (torch.eye(2).to_sparse(), [[1.0, 0.0], [0.0, 1.0]]),
        (torch.zeros(0), []),
        (np.float32(0.25), 0.25),
        (np.int64(2**62), 2**62),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([{"a": np.int8(1)}], dtype=object), [{"a": 1}]),
        (np.str_("text"), "text"),
        (PurePosixPath("/a/b"), "/a/b"),
        ((1, [2, (3,)]), [1, [2, [3]]]),
        ({"b", "a"}, ["a", "b"]),
        (OrderedDict(a=torch.tensor(1), b=None), {"a": 1, "b": None}),
        ({1: "one", "two": 2}, {"1": "one", "two": 2}),
        ("caf\udce9", "caf\udce9"),
    ],
)
def test_what_json_can_hold_is_kept(value: object, expected: object) -> None:
    plain = plain_value(value, "record")
    assert plain == expected
    assert type(plain) is type(expected)
    assert json.loads(json.dumps(plain, allow_nan=False)) == expected


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": object()}}, "record.a.b is a object, which JSON cannot hold"),
        ([1.0, float("nan")], r"record\[1\] is nan: expected a finite number"),
        (torch.tensor([1.0, torch.inf]), r"record\[1\] is inf"),
        (np.float64("-inf"), "record is -inf"),
        (1j, "record is a complex"),
        (torch.tensor(1j), "record is a complex"),
        (b"bytes", "record is a bytes"),
        (Fraction(1, 3), "record is a Fraction"),
        (np.longdouble(1), "record is a longdouble"),
        ({(1, 2): 3}, "record has a key of type tuple"),
        ({1: 2, "1": 3}, "record has the key '1' twice"),
        (ENDLESS, "expected at most 50 values in each other"),
    ],
)
def test_what_json_cannot_hold_is_named_with_its_place(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain_value(value, "record")


def test_a_tensor_that_a_metric_records_is_written_as_numbers(plugin: Callable[..., Path], tmp_path: Path) -> None:
    path = plugin(METRIC, "{'worst': torch.tensor([0.5, 2.0]), 3: evaluation.assignments.max() * 0}")
    assert run(*TINY, "--plugin", path, "--metrics=recording,silhouette", "--out", tmp_path / "run") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["evaluated"]["recording"] == {"worst": [0.5, 2.0], "3": 0}


@pytest.mark.parametrize(
    ("value", "part"),
    [("object()", "record.recording is a object"), ("torch.tensor(torch.nan)", "record.recording is nan")],
)
def test_a_value_that_cannot_be_written_is_one_line_with_the_metric_and_the_folder_is_kept(
    plugin: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, part: str
) -> None:
    path, folder = plugin(METRIC, value), tmp_path / "run"
    assert run(*TINY, "--plugin", path, "--metrics=recording", "--out", folder) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"mpcc-run: error: metric 'recording': {part}")
    assert last.endswith(f"run folder {folder} is kept, without a checkpoint")
    assert (folder / "config.toml").exists()


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("description=torch.tensor(3)", "description: expected a text, got a Tensor"),
        ("paths=[torch.tensor(i) for i in range(30)]", "paths[0]: expected a text, got a Tensor"),
        ("torch.zeros(30, dtype=torch.int64), class_names=[7]", "class_names[0]: expected a text, got a int"),
    ],
)
def test_a_data_set_that_describes_itself_with_anything_but_text_is_named_before_training(
    plugin: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, part: str
) -> None:
    path = plugin(DATA, value)
    assert run(*TINY, "--plugin", path, "--data=described", "--clusters=3", "--out", tmp_path / "run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mpcc-run: error: dataset 'described' of ")
    assert line.endswith(part)
    assert not (tmp_path / "run").exists()


def test_a_quantity_of_a_prior_that_is_not_finite_is_named(
    plugin: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plugin(PRIOR, "torch.nan")
    assert run(*TINY, "--plugin", path, "--prior=quantities", "--out", tmp_path / "run") == 2
    assert ".Quantities: quantities.nu is nan: expected a finite number" in capsys.readouterr().err


def test_results_that_json_cannot_hold_leave_those_of_before(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_results({"iterations": 1})
    with pytest.raises(PluginError, match=r"results\.json\.plugin is a object"):
        folder.write_results({"plugin": object()})
    assert json.loads(folder.results.read_text(encoding="utf-8")) == {"iterations": 1}
