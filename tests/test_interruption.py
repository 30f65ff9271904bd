"""Ctrl-C at any time, also while modules are imported: one line, status 130, no traceback, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpcc.core.commands import start

# A finder at the front of the search sees each import, and sends the signal at one of them.
PROGRAM = """
import os, signal, sys
from mpcc.core.commands.start import run_main

class Sender:
    seen = 0

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        cls.seen += 1
        if cls.seen == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Sender)
run_main(sys.argv[2:])
"""
TINY = [
    *("--iterations", "3", "--batch", "10", "--eval-images", "20", "--standing-passes", "1", "--arch.width", "1"),
    *("--threads", "1", "--device", "cpu", "--out", "runs/made"),
]


@pytest.mark.parametrize(
    "imports",
    [1, 30, *(pytest.param(number, marks=pytest.mark.check) for number in (100, 180, 250, 400, 700, 1200, 1800, 2500))],
)
def test_it_ends_a_command_that_is_still_importing(tmp_path: Path, imports: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(imports), *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mpcc-run: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_it_is_an_exception_and_the_old_handler_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(words: list[str], began: float) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    monkeypatch.setattr("mpcc.core.commands.entry.main", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        start.main(["plugins"])
    assert end.value.code == 130
    assert capsys.readouterr().err == "mpcc: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_that_ignores_it_goes_on_ignoring_it(tmp_path: Path) -> None:
    program = PROGRAM.replace("\nrun_main(", "\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nrun_main(")
    command = [sys.executable, "-c", program, "30", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mpcc ")
