"""A configuration whose plugin is not installed says what to install."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from mpcc.core.commands import entry
from mpcc.core.config import read_config, resolve
from mpcc.core.registry import load_registry

HOOKS = """
from mpcc.core.hookspecs import hookimpl

@hookimpl
def register_priors(register):
    register("{prior}", "mpcc.plugins.priors.gmm:GaussianMixture", summary="A prior.",
             options="mpcc.plugins.priors.options:GaussianMixtureOptions")

@hookimpl
def register_metrics(register):
    register("{metric}", "mpcc.plugins.metrics.purity:Purity", summary="A metric.")
"""
NAME = "mpcc-test-shapes"
WORDS = [
    *("--prior", "shapes", "--metrics", "shape_score", "--iterations", "1", "--batch", "10", "--arch.width", "1"),
    *("--standing-passes", "1", "--eval-images", "20", "--threads", "1", "--device", "cpu", "--out", "run"),
]


class Site:
    """A folder of installed distributions, at the front of the search path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(self, version: str, prior: str = "shapes", metric: str = "shape_score", body: str = HOOKS) -> None:
        """Write a distribution with a plugin, in place of the one that is there."""
        self.uninstall()
        (self.path / "mpcc_test_shapes.py").write_text(body.format(prior=prior, metric=metric), encoding="utf-8")
        info = self.path / f"mpcc_test_shapes-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[mpcc]\nshapes = mpcc_test_shapes\n", encoding="utf-8")
        importlib.invalidate_caches()

    def uninstall(self) -> None:
        """Remove the distribution."""
        for folder in self.path.glob("*.dist-info"):
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        (self.path / "mpcc_test_shapes.py").unlink(missing_ok=True)
        sys.modules.pop("mpcc_test_shapes", None)
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    return Site(folder)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        (entry.run_main if words[0].startswith("--") else entry.main)(list(words))
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    return err.partition("error: ")[2].strip()


def test_a_run_whose_plugins_are_gone_names_what_to_install(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.install("1.5")
    with pytest.raises(SystemExit) as end:
        entry.run_main(WORDS)
    assert end.value.code == 0
    written = tomllib.loads(Path("run/config.toml").read_text(encoding="utf-8"))["distributions"]
    assert written == {"prior shapes": f"{NAME} 1.5", "metric shape_score": f"{NAME} 1.5"}
    site.uninstall()
    expected = f"prior 'shapes' came with {NAME} 1.5, which is not installed: pip install {NAME}"
    for words in (
        ["evaluate", "run"],
        ["predict", "run"],
        ["--resume", "run", "--iterations", "2"],
        ["--config", "run/config.toml"],
        ["--config", "run/config.toml", "--dry-run"],
    ):
        assert refused(capsys, *words) == expected
    # The metric alone is missed, too.
    missing = refused(capsys, "--config", "run/config.toml", "--prior", "gmm")
    assert missing == f"metric 'shape_score' came with {NAME} 1.5, which is not installed: pip install {NAME}"
    # Another version, which has it not, and one that is broken.
    site.install("2.0", prior="forms")
    assert refused(capsys, "evaluate", "run") == (
        f"prior 'shapes' came with {NAME} 1.5, and 2.0 does not have it: pip install {NAME}==1.5"
    )
    site.install("1.5", body="raise ImportError('a library is gone')")
    message = refused(capsys, "evaluate", "run")
    assert message.startswith("unknown prior 'shapes'")
    assert f"not loaded: plugin 'shapes' of {NAME} 1.5" in message
    assert "a library is gone" in message
    site.install("1.5")
    assert "distributions" not in refused(capsys, "evaluate", "run", "--out", "run")


def test_built_in_plugins_and_plugin_files_need_no_distribution(site: Site) -> None:
    assert "distributions" not in tomllib.loads(resolve(load_registry([]), []).to_toml())
    Path("local_shapes.py").write_text(HOOKS.format(prior="shapes", metric="m"), encoding="utf-8")
    registry = load_registry([], plugins=[Path("local_shapes.py")])
    Path("c.toml").write_text('[prior]\nname = "shapes"\n', encoding="utf-8")
    assert "distributions" not in tomllib.loads(resolve(registry, [read_config(Path("c.toml"))]).to_toml())


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("distributions = 3", "distributions: expected a table, got 3"),
        ("distributions = { 'prior x' = 3 }", "distributions: prior x: expected a name and a version, got 3"),
        ("distributions = { 'prior x' = '; rm -r ~' }", "expected a name and a version"),
        ("distributions = { 'prior x' = '--pre 1' }", "expected a name and a version"),
    ],
)
def test_what_is_no_distribution_is_refused(
    site: Site, capsys: pytest.CaptureFixture[str], line: str, part: str
) -> None:
    Path("c.toml").write_text(f"{line}\n", encoding="utf-8")
    assert part in refused(capsys, "--config", "c.toml")
