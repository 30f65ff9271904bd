"""``mpcc plugins new``: what it writes works, passes its own tests, and is in the house's style."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpcc.core.commands import entry
from mpcc.core.commands.scaffold import create_project
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import KINDS

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--iterations", "1", "--eval-images", "40", "--threads", "1", "--standing-passes", "1"]
FLAGS = {
    "prior": ["--prior", "my-own"],
    "architecture": ["--arch", "my-own"],
    "dataset": ["--data", "my-own", "--arch", "biggan8", "--clusters", "4"],
    "metric": ["--metrics", "my-own"],
    "objective": ["--objective", "my-own"],
}


@pytest.mark.check
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_project_installs_passes_its_tests_and_runs(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["plugins", "new", kind, "my-own", "--out", str(tmp_path)])
    assert caught.value.code == 0
    project, target = tmp_path / "mpcc-my-own", tmp_path / "installed"
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *check, "--no-cache", str(project)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", str(target), str(project)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True)

    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-3000:]
    done = run("-c", "from mpcc.core.commands.entry import run_main; run_main()", *FLAGS[kind], *TINY, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "my-own" in (project / "run" / "results.json").read_text()
    done = run("-c", "from mpcc.core.commands.entry import main; main()", "plugins", "check", "my-own")
    assert done.returncode == 0, done.stdout
    assert "no torch" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_runs_before_it_is_installed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = create_project(kind, f"own-{kind}", tmp_path)
    monkeypatch.syspath_prepend(str(project / "src"))
    flags = [word.replace("my-own", f"own-{kind}") for word in FLAGS[kind]]
    hooks = next(project.rglob("plugin.py"))
    plugin = ["--plugin", str(hooks.rename(hooks.with_name(f"own_{kind}_hooks.py")))]  # a name for each in one process
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*flags, *plugin, *TINY, "--out", str(tmp_path / "run")])
    assert caught.value.code == 0, capsys.readouterr().err
    assert f"own-{kind}" in (tmp_path / "run" / "results.json").read_text()


def test_the_project_is_named_after_the_plugin(tmp_path: Path) -> None:
    project = create_project("prior", "Heavy_Tails", tmp_path)
    assert project == tmp_path / "mpcc-heavy-tails"
    assert {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()} == {
        *("pyproject.toml", "README.md", "tests/test_heavy_tails.py"),
        *(f"src/mpcc_heavy_tails/{name}.py" for name in ("__init__", "plugin", "options", "prior")),
    }
    assert "class HeavyTails(LocationScaleMixture)" in (project / "src/mpcc_heavy_tails/prior.py").read_text()
    assert "$" not in "".join(path.read_text() for path in project.rglob("*") if path.is_file())
    assert list(tmp_path.iterdir()) == [project]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("pior", "x", "unknown kind of plugin 'pior': did you mean 'prior'. .expected one of"),
        ("prior", "my prior", "nearest valid choice: my_prior"),
        ("prior", "3d", "nearest valid choice: d"),
        ("prior", "", "nearest valid choice: my_prior"),
        ("prior", "../x", "nearest valid choice: x"),
        ("prior", "none", "'none' is a word of Python .nearest valid choice: none_prior"),
        ("prior", "gmm", "there is a prior 'gmm' already .nearest valid choice: gmm2"),
    ],
)
def test_a_project_that_cannot_be_is_refused(tmp_path: Path, kind: str, name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        create_project(kind, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_a_missing_folder_is_named(tmp_path: Path) -> None:
    create_project("metric", "mine", tmp_path)
    with pytest.raises(InvalidInput, match=r"mpcc-mine exists already: expected a new folder"):
        create_project("prior", "mine", tmp_path)
    with pytest.raises(InvalidInput, match=r"nowhere/mpcc-mine cannot be made: No such file"):
        create_project("prior", "mine", tmp_path / "nowhere")


# For each kind: the default of an option, what it becomes, the formula, and what it becomes.
EDITS = {
    "prior": (
        'default="laplace"',
        'default="normal"',
        "return Laplace(loc, scale, validate_args=False)",
        "return Normal(loc, 2 * scale, validate_args=False)",
    ),
    "architecture": ("default=64", "default=24", "h = torch.relu(self.hidden(h))", "h = torch.tanh(self.hidden(h))"),
    "dataset": ("default=20.0", "default=35.0", "+= 120", "+= 90 - 40 * random.random()"),
    "metric": (
        "default=1.0",
        "default=2.5",
        "float(v_measure_score(labels, clusters, beta=beta))",
        "float(v_measure_score(labels, clusters, beta=beta)) ** 2",
    ),
    "objective": ("default=1.0", "default=0.2", "slope.square().flatten(1).sum(1).mean()", "slope.abs().mean()"),
}


@pytest.fixture
def installed(tmp_path: Path) -> Callable[[str], tuple[Path, dict[str, str]]]:
    """Return a function that makes a project importable with its entry point; it returns the project and variables."""

    def install(kind: str) -> tuple[Path, dict[str, str]]:
        project = create_project(kind, "my-own", tmp_path)
        record = project / "src" / "mpcc_my_own-0.1.0.dist-info"
        record.mkdir()
        (record / "METADATA").write_text("Metadata-Version: 2.1\nName: mpcc-my-own\nVersion: 0.1.0\n")
        (record / "entry_points.txt").write_text("[mpcc]\nmpcc_my_own = mpcc_my_own.plugin\n")
        path = os.pathsep.join([str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return project, {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    return install


def replace(project: Path, old: str, new: str) -> None:
    """Replace a text wherever the source of a project has it."""
    found = [path for path in (project / "src").rglob("*.py") if old in path.read_text()]
    assert found, old
    for path in found:
        path.write_text(path.read_text().replace(old, new))


def own_tests(project: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the tests of a project."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


@pytest.mark.check
@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_of_a_project_survive_the_first_edit(
    kind: str, installed: Callable[[str], tuple[Path, dict[str, str]]]
) -> None:
    project, environment = installed(kind)
    default, other_default, formula, other_formula = EDITS[kind]
    replace(project, "MyOwn", "Renamed")
    replace(project, default, other_default)
    replace(project, formula, other_formula)
    # `MyOwnOptions` was renamed with the class; a new option goes to its end.
    options = next((project / "src").rglob("options.py"))
    with options.open("a", encoding="utf-8") as file:
        file.write('    colour: str = attrs.field(default="red", metadata={"help": "a new option"})\n')
    done = own_tests(project, environment)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.check
def test_the_tests_of_a_project_find_a_fault(installed: Callable[[str], tuple[Path, dict[str, str]]]) -> None:
    project, environment = installed("metric")
    replace(project, "float(v_measure_score(labels, clusters, beta=beta))", "float(clusters[0])")
    done = own_tests(project, environment)
    assert done.returncode == 1
    assert "laws broken" in done.stdout
