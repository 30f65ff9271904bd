"""Ctrl-C at any time, also while modules are imported: one line, status 130, no traceback, nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpcc.core.commands import start
from mpcc.plugins.datasets.digits import Digits

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


# From the start of a command to its first iteration: what is interrupted there.
BEFORE_TRAINING = {
    "loading": "mpcc.plugins.datasets.digits.Digits.load",
    "measuring": "mpcc.core.run.run.measure",
    "first weights": "mpcc.core.run.whole_run.take_first_weights",
    "run folder made": "mpcc.core.run.whole_run.execute",
    "files opened": "mpcc.core.run.execution.stop_requests",
}


def interrupts(*given: Any, **named: Any) -> None:
    signal.raise_signal(signal.SIGINT)
    pytest.fail("it went on")


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        start.run_main([str(word) for word in words])
    assert isinstance(end.value.code, int)
    return end.value.code


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("moment", BEFORE_TRAINING)
def test_before_training_it_says_that_nothing_was_written_and_nothing_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(BEFORE_TRAINING[moment], interrupts)
    length = ["--minutes", "5"] if moment == "measuring" else TINY[:2]
    assert run(*length, *TINY[2:]) == 130
    line = "mpcc-run: interrupted: training had not begun, and nothing of the run was written"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["loading", "measuring"])
def test_before_a_resumed_run_goes_on_it_says_that_the_run_is_as_it_was_and_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*TINY) == 0
    before = files(tmp_path)
    monkeypatch.setattr(BEFORE_TRAINING[moment], interrupts)
    capsys.readouterr()
    assert (
        run("--resume", "runs/made", *(["--minutes", "5"] if moment == "measuring" else ["--iterations", "9"])) == 130
    )
    line = "mpcc-run: interrupted: training had not gone on, and runs/made is as it was"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert files(tmp_path) == before


def test_between_two_seeds_it_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    load, calls = Digits.load, []

    def second(self: Digits, *given: Any, **named: Any) -> Any:
        calls.append(given)
        return interrupts() if len(calls) == 2 else load(self, *given, **named)

    monkeypatch.setattr(Digits, "load", second)
    assert run(*TINY, "--seeds", "4,7", "--all") == 130
    line = "mpcc-run: interrupted: seed 7 had not begun; continue with: mpcc-run --resume runs/made"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert run("--resume", "runs/made") == 0


# Sends the signal at the first import that happens while there is a run folder in which training has not begun.
LATE_IMPORTS = PROGRAM.replace(
    "if cls.seen == int(sys.argv[1]):",
    "handler = signal.getsignal(signal.SIGINT)\n"
    "        begun = os.path.exists('runs/made/checkpoints') or not os.path.isdir('runs/made')\n"
    "        if not begun and handler.__module__ == 'mpcc.core.commands.start':",
)


@pytest.mark.check
def test_no_module_is_imported_while_a_run_folder_is_made(tmp_path: Path) -> None:
    """An interruption of an import ends the process at once, and would leave the folder."""
    command = [sys.executable, "-c", LATE_IMPORTS, "0", *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
