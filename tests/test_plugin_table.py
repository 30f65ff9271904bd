"""The table of plugins fits the terminal and loses nothing; in a file it has one line for each plugin."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mpcc.core.registry import load_registry

PLUGIN = """
from mpcc.core.hookspecs import hookimpl

@hookimpl
def register_priors(register):
    register("a-prior-with-a-rather-long-name", "m:C", summary="A [bold]summary[/bold] of mine.", options="gone.m:O")
"""
COMMAND = [sys.executable, "-m", "mpcc", "plugins", "--plugin", "fake_wide.py"]
NAMES = [entry.name for entry in load_registry([]).all_entries()]


def on_terminal(folder: Path, width: int) -> list[str]:
    """Run the command on a terminal of that width and return its lines, without colours."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(COMMAND, stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=variables)
    os.close(follower)
    content = b""
    while True:
        try:
            part = os.read(leader, 2**16)
        except OSError:  # Linux says so when the other end has closed.
            break
        if not part:
            break
        content += part
    os.close(leader)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", content.decode()).replace("\r", "").splitlines()


@pytest.mark.check
@pytest.mark.parametrize("width", [60, 80, 140])
def test_it_is_as_wide_as_the_terminal_and_loses_no_word(tmp_path: Path, width: int) -> None:
    (tmp_path / "fake_wide.py").write_text(PLUGIN, encoding="utf-8")
    lines = on_terminal(tmp_path, width)
    assert max(map(len, lines)) <= width
    assert not any("\u2026" in line for line in lines)
    first_words = {line.split(" ")[0] for line in lines}
    assert {*NAMES, "a-prior-with-a-rather-long-name"} <= first_words
    if width > 60:  # Words that are longer than their column are broken.
        assert any("[bold]summary[/bold]" in line for line in lines)
        assert any("ModuleNotFoundError" in line for line in lines)


def test_in_a_file_each_plugin_has_one_line(tmp_path: Path) -> None:
    (tmp_path / "fake_wide.py").write_text(PLUGIN, encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(COMMAND, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("a-prior-with-a-rather-long-name"))
    assert "A [bold]summary[/bold] of mine." in line
    assert line.rstrip().endswith("cannot import gone.m: ModuleNotFoundError: No module named 'gone'")
    assert len(done.stdout.splitlines()) == len(NAMES) + 2
