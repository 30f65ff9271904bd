"""Memory that runs out or must not grow, and two runs that want one folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.commands.scaffold import create_project
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.plugins.architectures import biggan

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 8},
    **{"eval-every": 4, "eval-images": 60, "standing-passes": 2, "log-every": 2, "checkpoint-every": 2, "seed": 0},
    **{"device": "cpu", "threads": 1},
}
# So many bytes of memory beyond those that are mapped when everything is imported.
LIMITED = """
import resource, sys
from pathlib import Path
import mpcc.core.run.execution
from mpcc.core.commands.entry import run_main
size = int(sys.argv[1]) + int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size, size))
run_main(sys.argv[2:])
"""
PLAIN = "from mpcc.core.commands.entry import run_main; run_main()"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def run(*arguments: str | Path) -> int:
    return command(entry.run_main, *arguments)


def start(code: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start a process with some code and one thread."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def lines(err: str) -> list[str]:
    """The lines of what a run says on standard error, none of which is a traceback."""
    assert "Traceback" not in err
    return err.splitlines()


def iteration(folder: Path) -> int:
    """The iteration of the newest checkpoint, which is whole."""
    found: int = load_checkpoint(folder / "checkpoints" / "last.pt")["iteration"]
    return found


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that had memory for everything."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(*tiny(), "--out", folder) == 0
    return folder


CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.90 GiB"
CPU = (
    "[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
)
SHORT = {
    " (20.00 GiB were asked for)": torch.OutOfMemoryError(CUDA),
    " (9 bytes were asked for)": RuntimeError(CPU),
    " (1.20 GiB were asked for)": MemoryError("Unable to allocate 1.20 GiB for an array with shape (9,)"),
    "": MemoryError(),
}


@pytest.mark.parametrize("asked", SHORT)
@pytest.mark.parametrize("place", ["trainer", "plugin"])
def test_too_little_memory_is_one_line_with_the_settings_to_lower_and_the_last_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[int, Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
    asked: str,
    place: str,
) -> None:
    folder = tmp_path / "new" / "run"

    def fail(*_: Any) -> None:
        raise SHORT[asked]

    for number, kept in ((4, True), (2, False)):
        with monkeypatch.context() as patched:
            # The code of a plugin is not to blame for it.
            failing = fail if place == "trainer" else lambda: patched.setattr(biggan.Generator, "forward", fail)
            before(number, failing)
            assert run(*tiny(), "--out", folder) == 4
        last = lines(capsys.readouterr().err)[-1]
        assert last.startswith(
            f"mpcc-run: error: out of memory while training{asked}: lower --batch 10, --eval-images 60, --arch.width 1 "
        )
        assert (
            last.endswith(f"; the last checkpoint is kept: {folder / 'checkpoints' / 'last.pt'} (iteration 2)") == kept
        )
        assert folder.is_dir(), "training has begun: only the user deletes the folder"
        if kept:
            assert iteration(folder) == 2
            shutil.rmtree(folder)


def test_too_little_memory_for_a_checkpoint_does_not_make_it_a_broken_one(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    earlier = contents(finished)
    monkeypatch.setattr(torch, "load", fail)
    assert run("--resume", finished, "--iterations", "9") == 4
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith("mpcc-run: error: out of memory while loading the checkpoint: lower --batch")
    assert contents(finished) == earlier


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["evaluate"], "evaluating (20.00 GiB were asked for): lower --eval-images 60, or"),
        (["predict", "--batch=7"], "predicting (20.00 GiB were asked for): lower --batch 7, "),
    ],
)
def test_too_little_memory_to_use_a_run_is_one_line_as_well(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    remedy: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(CUDA)

    earlier = contents(finished)
    monkeypatch.setattr(biggan.Encoder, "forward", fail)
    assert command(entry.main, words[0], finished, *words[1:]) == 4
    (line,) = lines(capsys.readouterr().err)
    assert line.startswith(f"mpcc: error: out of memory while {remedy}")
    assert contents(finished) == earlier


@linux
@pytest.mark.check
def test_a_process_with_too_little_memory_for_its_batch_says_what_to_lower(tmp_path: Path) -> None:
    arguments = tiny(batch=1000, **{"arch.width": 32})
    process = start(LIMITED, str(300 * 2**20), *arguments, "--out", tmp_path / "run")
    said = lines(process.communicate(timeout=300)[1])
    assert process.returncode == 4, said
    pattern = r"out of memory while training \(\d+ bytes were asked for\): lower --batch 1000, .*--arch\.width 32 "
    assert re.search(pattern, said[-1]), said
    assert (tmp_path / "run").is_dir(), "training has begun: only the user deletes the folder"


@pytest.mark.check
def test_a_second_run_into_a_folder_is_refused_until_the_first_has_ended_however_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    arguments = tiny(iterations=100_000, eval_every=100_000, checkpoint_every=1)
    first = start(PLAIN, *arguments, "--out", folder)
    try:

        def wait_for(number: int) -> int:
            deadline = time.monotonic() + 120
            while not (folder / "checkpoints" / "last.pt").exists() or iteration(folder) < number:
                assert first.poll() is None, first.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return iteration(folder)

        reached = wait_for(1)
        config = (folder / "config.toml").read_bytes()
        assert run("--resume", folder, "--iterations", "200000") == 2
        (line,) = lines(capsys.readouterr().err)
        assert line.startswith(
            f"mpcc-run: error: run folder {folder} is in use by another run: wait until it has ended"
        )
        assert run(*tiny(), "--out", folder) == 2
        assert "already exists" in capsys.readouterr().err
        assert (folder / "config.toml").read_bytes() == config
        reached = wait_for(reached + 3)
    finally:
        first.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        _, err = first.communicate()
    assert len(lines(err)) == 1
    reached = iteration(folder)
    assert run("--resume", folder, "--iterations", str(reached + 2)) == 0
    assert iteration(folder) == reached + 2


SAMPLER = """
import os, resource
from pathlib import Path
from mpcc.core.hookspecs import hookimpl

@hookimpl
def step_ended(iteration):
    if iteration % 250 == 0:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        with Path(os.environ["RESIDENT"]).open("a") as file:
            file.write(f"{iteration} {resident}\\n")
"""


@linux
@pytest.mark.check
def test_memory_does_not_grow_over_thousands_of_iterations(tmp_path: Path) -> None:
    # Fully connected layers, two each: the smallest networks that use everything that training keeps.
    project = create_project("architecture", "tiny-layers", tmp_path)
    hooks = next(project.rglob("plugin.py"))
    (tmp_path / "sampler.py").write_text(SAMPLER, encoding="utf-8")
    arguments = tiny(arch="tiny-layers", batch=4, iterations=2500, eval_every=450, log_every=100, checkpoint_every=250)
    files = [f"--plugin={hooks}", f"--plugin={tmp_path / 'sampler.py'}"]
    sampled_into = tmp_path / "resident.txt"
    places = {"PYTHONPATH": str(hooks.parents[1]), "RESIDENT": str(sampled_into)}
    process = start(PLAIN, *arguments, *files, "--out", tmp_path / "run", **places)
    said = lines(process.communicate(timeout=600)[1])
    assert process.returncode == 0, said
    sampled = dict(map(int, line.split()) for line in sampled_into.read_text().splitlines())
    assert list(sampled) == list(range(250, 2501, 250))
    # The first two evaluations are in it already.
    growth = sampled[2500] - sampled[1000]
    assert growth < 5 * 2**20, sampled
