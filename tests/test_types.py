"""Type-checking, strictly, of what a user's type checker sees: the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.check
def test_the_installed_package_passes_mypy(installed: Path, clean_copy: Path, tmp_path: Path) -> None:
    # Not the folders: they are called core and plugins there, not mpcc.core and mpcc.plugins. A fresh cache, since an
    # old one repeats errors under the paths of an earlier copy.
    configuration = ["--config-file", str(clean_copy / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *configuration],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
