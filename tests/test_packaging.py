"""What ships: the package list, the source distribution, the wheel, and an installation of it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

PACKAGES = ("core", "plugins")
ROOT_MODULES = {"__init__.py", "__main__.py"}
SOURCE_FOLDERS = ("core", "plugins", "tests", "docs", "examples", "benchmarks")
SOURCE_FILES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "registry.toml",
    "requirements.lock",
)


@pytest.fixture(scope="module")
def settings(repository: Path) -> dict[str, Any]:
    """The section tool.setuptools of pyproject.toml."""
    section: dict[str, Any] = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]
    return section


def files_under(root: Path, *folders: str) -> set[str]:
    """Paths of all files in these folders of a clean copy, relative to it."""
    return {
        path.relative_to(root).as_posix() for folder in folders for path in (root / folder).rglob("*") if path.is_file()
    }


def package_data(root: Path, settings: dict[str, Any]) -> set[str]:
    """Paths of the files that pyproject.toml lists as package data, relative to the root."""
    found = set()
    for package, patterns in settings["package-data"].items():
        folder = root.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            matches = {path.relative_to(root).as_posix() for path in folder.glob(pattern)}
            assert matches, f"package-data of {package} lists {pattern!r}, which matches no file in {folder}"
            found |= matches
    return found


def test_the_package_list_equals_the_tree(repository: Path, settings: dict[str, Any]) -> None:
    tree = {"mpcc"} | {
        ".".join(("mpcc", *path.parent.relative_to(repository).parts))
        for folder in PACKAGES
        for path in (repository / folder).rglob("*.py")
    }
    assert len(settings["packages"]) == len(set(settings["packages"]))
    assert set(settings["packages"]) == tree


def test_every_package_has_an_init_file(repository: Path, settings: dict[str, Any]) -> None:
    folders = [repository.joinpath(*package.split(".")[1:]) for package in settings["packages"] if "." in package]
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_two_modules_lie_at_the_root_of_the_repository_and_no_other(repository: Path) -> None:
    # The root is the package mpcc: any module there ships inside the wheel.
    assert {path.name for path in repository.glob("*.py")} == ROOT_MODULES


def test_every_file_of_the_packages_is_a_module_or_listed_package_data(
    clean_copy: Path, settings: dict[str, Any]
) -> None:
    others = {path for path in files_under(clean_copy, *PACKAGES) if not path.endswith(".py")}
    assert others <= package_data(clean_copy, settings)


@pytest.mark.check
def test_the_wheel_holds_every_module_and_the_package_data_and_nothing_else(
    distributions: dict[str, Path], clean_copy: Path, settings: dict[str, Any]
) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        inside = {name for name in wheel.namelist() if not PurePosixPath(name).parts[0].endswith(".dist-info")}
    modules = {path for path in files_under(clean_copy, *PACKAGES) if path.endswith(".py")} | ROOT_MODULES
    assert inside == {f"mpcc/{path}" for path in modules | package_data(clean_copy, settings)}
    assert {"mpcc/registry.toml", "mpcc/core/py.typed", "mpcc/plugins/py.typed"} <= inside


@pytest.mark.check
def test_the_wheel_carries_its_licence_and_its_commands(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        (licence,) = [name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        (entry_points,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
        assert wheel.read(licence)
        commands = wheel.read(entry_points).decode()
    assert "mpcc-run = " in commands
    assert "mpcc = " in commands


@pytest.mark.check
def test_the_source_distribution_holds_all_that_is_needed_to_build_and_test(
    distributions: dict[str, Path], clean_copy: Path
) -> None:
    with tarfile.open(distributions["sdist"]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    expected = files_under(clean_copy, *SOURCE_FOLDERS)
    expected |= {name for name in SOURCE_FILES if (clean_copy / name).is_file()}
    assert expected - inside == set()
    assert {name for name in inside if "__pycache__" in name or name.endswith(".pyc")} == set()


@pytest.mark.check
def test_every_module_of_the_installed_wheel_imports_and_finds_the_registry(
    installed: Path, clean_copy: Path, tmp_path: Path
) -> None:
    modules = [
        ".".join(("mpcc", *PurePosixPath(path).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(files_under(clean_copy, *PACKAGES))
        if path.endswith(".py") and not path.endswith("__main__.py")
    ]
    # In the installed tree the registry lies one folder above core, as in a checkout.
    program = (
        "import importlib, pathlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(pathlib.Path(importlib.import_module(name).__file__).resolve())\n"
        "print(pathlib.Path(sys.modules['mpcc.core'].__file__).resolve().parents[1] / 'registry.toml')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", program, *modules],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [str(path) for path in paths if not path.is_relative_to(installed.resolve())] == []
    assert len(paths) == len(modules) + 1
    assert paths[-1].is_file()


def run_python(*arguments: str, folder: Path, path: Path | None = None) -> str:
    """Run Python in a folder and return what it prints."""
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


ROOT_PROGRAM = """
import sys
before = set(sys.modules)
import mpcc
print(sorted(set(sys.modules) - before - {"mpcc", "__future__"}), mpcc.__version__, "__version__" in dir(mpcc))
try:
    mpcc.no_such_name
except AttributeError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["checkout", pytest.param("wheel", marks=pytest.mark.check)])
def test_the_root_package_knows_its_version_and_imports_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue("installed") if kind == "wheel" else None
    version = importlib.metadata.version("mpcc")
    lines = run_python("-c", ROOT_PROGRAM, folder=tmp_path, path=path).splitlines()
    assert lines == [f"[] {version} True", "module 'mpcc' has no attribute 'no_such_name'"]


@pytest.mark.check
def without_time(printed: str) -> list[str]:
    """The lines of a command but those about the speed of this machine, which is never the same twice."""
    return [line for line in printed.splitlines() if "this machine" not in line]


def test_the_package_runs_as_its_commands_do(tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    for module, command in (
        (["plugins", "--json"], ["mpcc", "plugins", "--json"]),
        (["run", "--dry-run"], ["mpcc-run", "--dry-run"]),
    ):
        done = subprocess.run([scripts / command[0], *command[1:]], cwd=tmp_path, capture_output=True, text=True)
        assert without_time(run_python("-m", "mpcc", *module, folder=tmp_path)) == without_time(done.stdout)
        assert done.returncode == 0


def test_each_lower_bound_has_been_tried(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = {
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    }
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("### The lowest versions")[2]
    tried = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|$", text.partition("\n## ")[0], re.MULTILINE))
    assert {bound.partition(">=")[0] for bound in bounds} | {"Python"} == set(tried)
    for bound in bounds:
        name, _, lowest = bound.partition(">=")
        assert f"{tried[name]}.".startswith(f"{lowest}."), f"{bound}, but {tried[name]} was tried: make floors"
