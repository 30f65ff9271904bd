"""Make a folder with all that a bare machine with a GPU and torch, and without a network, needs.

    python benchmarks/gpu/prepare.py DEST --data-root data --python 3.12 --sets MNIST

DEST gets ``wheels`` (mpcc and the pure packages that are named), ``project`` (tests, benchmarks) and ``data``.
There, in DEST:

    python3 -m pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site python3 project/benchmarks/gpu/steps.py A --out out --data-root data
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[2]
# Packages of pyproject.toml without compiled code, which an image with torch often lacks.
PURE = "attrs,cattrs,filelock,pluggy,pyro-api,pyro-ppl,rich,tomli-w"


def main() -> None:
    """Fetch, build and copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--data-root", type=Path, help="folder of the published data sets")
    parser.add_argument("--sets", default="MNIST", help="the folders in it that are copied")
    parser.add_argument("--python", default="3.12", help="version of Python there")
    parser.add_argument("--packages", default=PURE, help="pure packages that are missing there; empty for none")
    given = parser.parse_args()
    wheels = given.dest / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    if names := [name for name in given.packages.split(",") if name]:
        target = ["--only-binary=:all:", "--platform", "any", "--implementation", "py", "--python-version"]
        target.append(given.python)
        subprocess.run([*pip, "download", "--quiet", "--no-deps", *target, "--dest", str(wheels), *names], check=True)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels.resolve()), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    for folder in ("tests", "benchmarks"):
        shutil.copytree(
            ROOT / folder,
            given.dest / "project" / folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    shutil.copy2(ROOT / "pyproject.toml", given.dest / "project")
    if given.data_root is not None:
        for name in given.sets.split(","):
            shutil.copytree(given.data_root / name, given.dest / "data" / name, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
