"""The lowest versions that pyproject.toml allows: does a run train, and do the tests pass with them?

    make floors                                                                 # the same, with the Python of make
    python benchmarks/lowest_versions.py --python python3.12 --folder /tmp/floors

Needs uv, which comes with ``pip install uv``. It makes a new environment, installs each direct dependency in the lowest
version that pyproject.toml allows (and of all others, the newest that fit), trains one run for a few iterations and
runs a part of the tests. It prints the versions as a table and removes the environment, which takes some GB. The exit
status is 1 if something fails. The last table is in CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[1]
# They use every direct dependency: distributions, data sets, event files, metrics, locks, safetensors, Parquet, types.
TESTS = [
    *("test_terms", "test_joints", "test_priors", "test_training", "test_engine", "test_entropy", "test_metrics"),
    *("test_reporting", "test_runs", "test_commands", "test_config", "test_options", "test_registry", "test_datasets"),
    *("test_dataset_folder", "test_dataset_arrays", "test_export_command", "test_evaluate_command", "test_features"),
    *("test_predict_command", "test_prediction_output", "test_input_properties", "test_bench"),
]
RUN = [
    "--iterations",
    "20",
    "--eval-every",
    "10",
    "--checkpoint-every",
    "5",
    "--threads",
    "1",
    "--standing-passes",
    "1",
]


def direct_dependencies() -> list[str]:
    """Return the names of the distributions that pyproject.toml asks for, those of its extras too.

    The extra ``baselines`` is not among them: its packages need newer versions of the others than mpcc does.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "baselines"}
    wanted = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    return sorted({line.partition(">=")[0] for line in wanted})


def call(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return what it prints.

    Raises:
        SystemExit: If it fails.
    """
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout[-8000:], done.stderr[-8000:], sep="\n", file=sys.stderr)
        sys.exit(f"failed: {' '.join(str(word) for word in words[:4])} ...")
    return done.stdout


def main() -> None:
    """Install, run, test, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python of the new environment")
    parser.add_argument("--folder", type=Path, help="folder for the environment; by default a temporary one")
    parser.add_argument("--uv", default=shutil.which("uv") or "uv", help="the program uv")
    parser.add_argument("--keep", action="store_true", help="keep the environment, and take one that is there")
    flags = parser.parse_args()
    folder: Path = flags.folder or Path(tempfile.mkdtemp(prefix="mpcc-floors-"))
    environment = folder / "environment"
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    try:
        if not python.exists():
            call(flags.uv, "venv", "--quiet", "--python", flags.python, environment)
        install = [flags.uv, "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct"]
        call(*install, "--editable", f"{ROOT}[dev]")
        version = call(python, "-c", "import platform; print(platform.python_version())").strip()
        listed = call(flags.uv, "pip", "list", "--python", python, "--format", "freeze")
        versions = dict(line.split("==") for line in listed.splitlines() if "==" in line)
        print(call(python, "-m", "mpcc", "run", *RUN, "--out", folder / "run", cwd=folder).strip())
        files = [ROOT / "tests" / f"{name}.py" for name in TESTS]
        options = ["-q", "-p", "no:cacheprovider", "-m", "not check", "--numprocesses", "auto"]
        print(call(python, "-m", "pytest", *options, *files).strip().splitlines()[-1])
        print(f"\n| Python | {version} |\n| --- | --- |")
        for name in direct_dependencies():
            print(f"| {name} | {versions[name]} |")
    finally:
        if not flags.keep:
            shutil.rmtree(environment, ignore_errors=True)
            shutil.rmtree(folder / "run", ignore_errors=True)
            if flags.folder is None:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
