"""Plugins in files of one's own: ``--plugin FILE``, ``--registry FILE`` and ``$MPCC_REGISTRY``."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry

TINY = ["--iterations", "1", "--eval-images", "40", "--threads", "1"]
PRIOR = """
from torch.distributions import Laplace
from mpcc.core.hookspecs import hookimpl
from mpcc.core.mixture import LocationScaleMixture

class Mine(LocationScaleMixture):
    def family(self, loc, scale):
        return Laplace(loc, scale, validate_args=False)
"""
HOOK = """
@hookimpl
def register_priors(register):
    register("mine", "fake_prior:Mine", summary="Mine.", options="mpcc.core.mixture_options:MixtureOptions")
"""
TABLE = """
[priors.mine]
target = "fake_prior:Mine"
options = "mpcc.core.mixture_options:MixtureOptions"
summary = "Mine, from a table."
defaults = { scale_floor = 0.3 }

[presets.small]
source = "a test"
prior = { name = "mine" }
run = { clusters = 3 }
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder; leave no module and no search path behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("MPCC_REGISTRY", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, command: str = "run") -> tuple[int, str, str]:
    """Run a command in this process; return status, output, errors."""
    with pytest.raises(SystemExit) as caught:
        (entry.run_main if command == "run" else entry.main)(list(arguments))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_a_file_is_a_plugin_and_its_run_finds_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fake_prior.py"
    file.write_text(PRIOR + HOOK)
    status, _, err = run(capsys, "--plugin", "fake_prior.py", "--prior", "mine", *TINY, "--out", "a b")
    assert status == 0, err
    config = tomllib.loads(Path("a b/config.toml").read_text())
    assert config["plugins"] == [str(file)]
    assert config["prior"]["name"] == "mine"
    used = json.loads(Path("a b/results.json").read_text())["plugins"]["prior mine"]
    assert used.startswith("local file ")
    assert run(capsys, "--config", "a b/config.toml", "--out", "again")[0] == 0
    assert tomllib.loads(Path("again/config.toml").read_text()) == config
    assert run(capsys, "--resume", "a b", "--iterations", "2")[0] == 0
    file.write_text(PRIOR + HOOK + "\n# changed\n")
    status, _, err = run(capsys, "--resume", "a b", "--iterations", "3")
    assert status == 2
    assert f"plugins have changed: prior mine was {used}" in err
    file.unlink()
    status, _, err = run(capsys, "--config", "a b/config.toml", "--out", "third")
    assert (status, err) == (2, f"mpcc-run: error: --plugin {file}: no such file\n")


def test_a_registry_file_adds_names_defaults_and_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "fake_prior.py").write_text(PRIOR)
    file = tmp_path / "tables" / "mine.toml"
    file.write_text(TABLE)
    status, out, err = run(capsys, "--registry", "tables/mine.toml", "--preset", "small", "--dry-run")
    assert status == 0, err
    config = tomllib.loads(out)
    assert config["registries"] == [str(file)]
    assert (config["prior"]["name"], config["prior"]["scale_floor"], config["run"]["clusters"]) == ("mine", 0.3, 3)
    assert run(capsys, "--registry", str(file), "--preset", "small", *TINY, "--out", "run")[0] == 0
    assert run(capsys, "--resume", "run", "--iterations", "2")[0] == 0


def test_the_environment_names_registry_files_and_each_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake_prior.py").write_text(PRIOR)
    file = tmp_path / "mine.toml"
    file.write_text(TABLE)
    monkeypatch.setenv("MPCC_REGISTRY", f"{file}:")
    registry = load_registry(registries=[Path("mine.toml")])
    assert registry.registry_files == (file,)
    assert registry.entry("prior", "mine").described().startswith("prior 'mine' of registry file ")
    assert "small" in registry.presets


def test_the_listing_knows_both_kinds_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fake_prior.py").write_text("print('hello')\n" + PRIOR + HOOK)
    status, out, err = run(capsys, "plugins", "--json", "--plugin", "fake_prior.py", command="mpcc")
    assert (status, err) == (0, "hello\n")
    (row,) = [row for row in json.loads(out) if row["name"] == "mine"]
    assert (row["kind"], row["origin"], row["error"]) == ("prior", "local file", None)
    assert run(capsys, "plugins", "list", "--plugin", "fake_prior.py", command="mpcc")[0] == 0


def test_a_name_in_two_sources_is_refused_with_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fake_prior.py").write_text(PRIOR + HOOK.replace('"mine"', '"gmm"'))
    status, _, err = run(capsys, "--plugin", "fake_prior.py", "--dry-run")
    assert status == 2
    assert "prior 'gmm' is claimed by mpcc" in err
    assert "and local file" in err
    (tmp_path / "mine.toml").write_text("[presets.digits]\nrun = { clusters = 3 }\n")
    status, _, err = run(capsys, "--registry", "mine.toml", "--dry-run")
    assert (status, "preset 'digits' is in registry.toml of mpcc and in" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("fake-x.py", "", "'fake-x' cannot be the name of a module (nearest valid choice: fake_x.py)"),
        ("fake_x.txt", "", "expected a Python file, *.py"),
        ("json.py", "", "a module 'json' exists already"),
        ("torch.py", "", "a module 'torch' exists already"),
        ("fake_x.py", "import nothing_of_this_name", "fake_x.py:1): ModuleNotFoundError: No module named"),
        ("fake_x.py", "raise SystemExit(5)", "SystemExit: 5"),
        ("fake_x.py", "import asyncio\nraise asyncio.CancelledError('over')", "fake_x.py:2): CancelledError: over"),
        ("fake_x.py", "def broken(:", "SyntaxError"),
        (
            "fake_x.py",
            "from mpcc.core.hookspecs import hookimpl\n@hookimpl\ndef register_prior(register): ...",
            "unknown hook 'register_prior': did you mean 'register_priors'? (expected one of evaluated, pictures, regi",
        ),
    ],
)
def test_a_file_that_can_be_no_plugin_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    status, out, err = run(capsys, "--plugin", name, *TINY, "--out", "run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not Path("run").exists()
    assert name.partition(".")[0] not in sys.modules or name in {"json.py", "torch.py"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[priors.x]\ntarget = 'a:B'\n", "expected a field 'summary', but it has none"),
        ("[priors.x]\ntarget = 'a:B'\nsummary = 's'\nopts = 'c:D'\n", "did you mean 'options'?"),
        ("[prior.x]\ntarget = 'a:B'\n", "did you mean 'priors'?"),
        ("priors = 3\n", "expected tables [priors.NAME], got priors = 3"),
        ("[priors]\nx = 3\n", "expected a table, got 3"),
        ("[presets.x]\nrun = 3\n", "expected a table run = { ... }, got 3"),
        ("[presets.x]\nprio = {}\n", "did you mean 'prior'?"),
        ("[priors.x\n", "not valid TOML"),
        ("[priors.x]\ntarget = 'a.B'\nsummary = 's'\n", "is not an import path like 'package.module:Class'"),
    ],
)
def test_a_file_that_is_no_registry_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "mine.toml").write_text(content)
    status, out, err = run(capsys, "--registry", "mine.toml", "--dry-run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_missing_registry_file_and_a_flag_without_value_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--registry no.toml: no such file" in run(capsys, "--registry", "no.toml", "--dry-run")[2].replace(
        str(Path.cwd()) + "/", ""
    )
    assert "--plugin: expected a path, got nothing" in run(capsys, "--plugin")[2]


@pytest.mark.parametrize("value", ['"x.py"', "[3]", '[""]'])
def test_a_configuration_lists_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    (tmp_path / "c.toml").write_text(f"plugins = {value}\n")
    status, _, err = run(capsys, "--config", "c.toml", "--dry-run")
    assert status == 2
    assert "c.toml: plugins: expected a list of files, got" in err


def test_a_registry_error_is_an_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        load_registry(plugins=[Path("nowhere.py")])
