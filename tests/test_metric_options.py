"""Options of metrics: flags ``--metrics.NAME.OPTION``, tables ``[metrics.NAME]``, and what a run makes of them."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpcc.core.commands import entry
from mpcc.core.config import Layer, resolve
from mpcc.core.config.layers import config_layer
from mpcc.core.registry import Registry, load_registry

TINY = ["--iterations", "1", "--eval-images", "40", "--threads", "1", "--standing-passes", "1"]
PLUGIN = '''
"""A score whose value is its option."""

import attrs
from mpcc.core.contracts import Metric
from mpcc.core.hookspecs import hookimpl


@attrs.frozen
class Options:
    power: float = attrs.field(default=1.0, validator=attrs.validators.gt(0.0), metadata={"help": "of the score"})


class Echo(Metric):
    needs_labels = False

    def __init__(self, options):
        self.power = options.power

    def compute(self, evaluation):
        return self.power


@hookimpl
def register_metrics(register):
    register("the_echo", "fake_echo:Echo", summary="Its option.", options="fake_echo:Options", defaults={"power": 3.0})
    register("silent", "fake_echo:Echo", summary="The same.", options="fake_echo:Options", on_request=True)
'''


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with the plugin; leave no module behind."""
    monkeypatch.chdir(tmp_path)
    Path("fake_echo.py").write_text(PLUGIN, encoding="utf-8")
    yield
    sys.modules.pop("fake_echo", None)


@pytest.fixture
def registry() -> Registry:
    """The built-in plugins and the file."""
    return load_registry((), plugins=[Path("fake_echo.py")])


def command(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> tuple[int, str, str]:
    """Run a command in this process; return status, output, errors."""
    with pytest.raises(SystemExit) as caught:
        getattr(entry, name)([*words])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def scores(folder: str) -> dict[str, float]:
    """Return the scores of a run folder."""
    found: dict[str, float] = json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))["metrics"]
    return found


def test_the_flag_of_a_metric_changes_its_score_and_the_run_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = ["--plugin", "fake_echo.py"]
    typed = ["--metrics", "the_echo", "--metrics.the_echo.power", "7"]
    status, _, errors = command(capsys, "run_main", *plugin, *typed, *TINY, "--out", "run")
    assert status == 0, errors
    assert scores("run") == {"the_echo": 7.0}
    assert tomllib.loads(Path("run/config.toml").read_text())["metrics"] == {"the_echo": {"power": 7.0}}
    status, _, errors = command(capsys, "run_main", "--resume", "run", "--iterations", "2")
    assert status == 0, errors
    assert scores("run") == {"the_echo": 7.0}
    status, _, errors = command(capsys, "run_main", "--resume", "run", "--metrics.the_echo.power", "8")
    assert (status, "--metrics.the_echo.power cannot change when a run is resumed" in errors) == (2, True)
    status, _, errors = command(capsys, "main", "evaluate", "run", "--metrics.the_echo.power", "9", "--out", "again")
    assert status == 0, errors
    assert scores("again") == {"the_echo": 9.0}


def test_without_a_flag_the_registered_default_holds(registry: Registry) -> None:
    config = resolve(registry, [])
    assert {section: values.power for section, values in config.metrics.items()} == {"metrics.the_echo": 3.0}
    # A metric on request has options once it is named.
    named = resolve(registry, [Layer("flag", {"run": {"metrics": "silent"}})])
    assert {section: values.power for section, values in named.metrics.items()} == {"metrics.silent": 1.0}
    assert resolve(load_registry(()), []).metrics == {}


def test_a_configuration_with_options_of_metrics_is_read_as_it_was_written(registry: Registry) -> None:
    config = resolve(registry, [Layer("flag", {"metrics.the_echo": {"power": "0.5"}})])
    text = config.to_toml(origins=True)
    assert "[metrics.the_echo]" in text
    assert "# flag" in next(line for line in text.splitlines() if line.startswith("power = 0.5"))
    again = resolve(registry, [config_layer(tomllib.loads(text), "config.toml")])
    assert again.metrics == config.metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics.the_echo.power", "0"], "--metrics.the_echo.power: the value must be > 0.0: 0.0"),
        (["--metrics.the_echo.power", "x"], "--metrics.the_echo.power: expected a finite number, got 'x'"),
        (["--metrics.the_echo.powr", "2"], "did you mean '--metrics.the_echo.power'?"),
        (["--metrics.the_ecko.power", "2"], "did you mean 'the_echo'?"),
        (["--metrics.acc.power", "2"], "unknown option of metric 'acc' of mpcc"),
        (["--metrics", "acc", "--metrics.the_echo.power", "2"], "nearest valid choice: --metrics acc,the_echo)"),
        (
            ["--metrics.silent.power", "2"],
            "the run does not compute silent (nearest valid choice: --metrics all,silent",
        ),
        (["--metrics.power", "2"], "unknown option '--metrics.power'"),
        (["--metrics.the_echo.", "2"], "unknown option '--metrics.the_echo.'"),
    ],
)
def test_a_flag_that_cannot_be_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = command(capsys, "run_main", "--plugin", "fake_echo.py", *words, "--dry-run")
    assert (status, message in errors) == (2, True), errors


def test_help_shows_the_options_of_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = command(capsys, "run_main", "--plugin", "fake_echo.py", "--help")
    assert "Options of the metric the_echo" in out
    assert "of the score [default: 3.0]" in " ".join(out.split())
