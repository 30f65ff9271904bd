"""A third party's distribution in a clean environment: installed by pip, found, checked, run, listed, and broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import attrs
import pytest

pytestmark = pytest.mark.check
EXAMPLE = Path("examples/mpcc-generalized-normal")
TINY = ["--iterations", "2", "--eval-images", "60", "--threads", "1", "--arch.width", "2", "--standing-passes", "1"]
BROKEN = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "mpcc-broken"
version = "6.6"

[project.entry-points.mpcc]
broken = "mpcc_broken"

[tool.setuptools]
py-modules = ["mpcc_broken"]
"""


@attrs.frozen
class Environment:
    """A virtual environment, and a folder to work in.

    Attributes:
        root: Of the environment.
        workplace: The current folder of all commands.
    """

    root: Path
    workplace: Path

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment."""
        program = self.root / "bin" / command[0]
        kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MPCC_REGISTRY"}}
        return subprocess.run(
            [str(program), *command[1:]],
            cwd=self.workplace,
            env={**kept, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
        )

    def install(self, *what: str) -> None:
        """Install with pip, offline and without dependencies."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.root / "bin" / "python"), "install", "--quiet"]
        pip += ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", *what]
        done = subprocess.run(pip, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def rows(self) -> dict[str, dict[str, str | None]]:
        """The listing of plugins, by name."""
        done = self.run("mpcc", "plugins", "--json")
        assert done.returncode == 0, done.stderr
        return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def environment(
    distributions: dict[str, Path], clean_copy: Path, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """A new environment with mpcc's wheel and the example, which sees the heavy dependencies of the running one."""
    folder = tmp_path_factory.mktemp("clean")
    made = Environment(folder / "venv", folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made.root)], check=True)
    (site,) = (made.root / "lib").glob("python*/site-packages")
    # A path in a .pth file adds the folder alone: .pth files inside it, such as that of an editable mpcc, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    made.install(str(distributions["wheel"]))
    assert "generalized_normal" not in made.rows()
    shutil.copytree(clean_copy / EXAMPLE, folder / "example")
    made.install(str(folder / "example"))
    return made


def test_it_is_found_and_listed_with_its_distribution_and_version(environment: Environment) -> None:
    row = environment.rows()["generalized_normal"]
    assert (row["kind"], row["origin"], row["version"]) == ("prior", "mpcc-generalized-normal", "1.0.0")
    assert row["error"] is None
    where = environment.run("python", "-c", "import mpcc.core.registry as m; print(m.__file__)").stdout
    assert where.startswith(str(environment.root))


def test_it_is_checked_against_the_contract(environment: Environment) -> None:
    done = environment.run("mpcc", "plugins", "check", "generalized_normal")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prior generalized_normal: all " in done.stdout
    assert "FAILED" not in done.stdout


def test_its_own_tests_pass(environment: Environment) -> None:
    done = environment.run(
        "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(environment.workplace / "example")
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_it_clusters_digits_and_the_results_name_it(environment: Environment) -> None:
    options = ["--prior.learn-shape", "--prior.weights", "trainable"]
    done = environment.run("mpcc-run", "--prior", "generalized_normal", *options, *TINY, "--out", "run")
    assert done.returncode == 0, done.stderr
    results = json.loads((environment.workplace / "run" / "results.json").read_text())
    assert results["plugins"]["prior generalized_normal"] == "mpcc-generalized-normal 1.0.0"
    assert results["prior"]["shape"] == pytest.approx(1.5, abs=0.1)
    assert environment.run("mpcc-run", "--resume", "run", "--iterations", "3").returncode == 0


def test_a_broken_plugin_beside_it_is_reported_and_everything_else_works(environment: Environment) -> None:
    broken = environment.workplace / "broken"
    broken.mkdir()
    (broken / "pyproject.toml").write_text(BROKEN)
    (broken / "mpcc_broken.py").write_text("import attrs\n\nraise OSError('no licence')\n")
    environment.install(str(broken))
    rows = environment.rows()
    error = str(rows["broken"]["error"])
    assert (rows["broken"]["origin"], rows["broken"]["version"]) == ("mpcc-broken", "6.6")
    assert error.startswith("OSError: no licence (")
    assert error.endswith("mpcc_broken.py:3)")
    assert rows["generalized_normal"]["error"] is None
    assert rows["gmm"]["error"] is None
    for prior in ("generalized_normal", "gmm"):
        done = environment.run("mpcc-run", "--prior", prior, *TINY, "--out", f"beside-{prior}")
        assert done.returncode == 0, done.stderr
    asked = environment.run("mpcc-run", "--prior", "broken")
    assert asked.returncode == 2
    assert "unknown prior 'broken'" in asked.stderr
    assert "not loaded: plugin 'broken' of mpcc-broken 6.6" in asked.stderr
    strict = environment.run("mpcc-run", "--dry-run", MPCC_STRICT_PLUGINS="1")
    assert (strict.returncode, strict.stdout) == (2, "")
    assert "plugin 'broken' of mpcc-broken 6.6" in strict.stderr
    assert "OSError: no licence" in strict.stderr
