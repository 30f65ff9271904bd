"""A disk that is full, at the beginning, for a while or in the end: what was written stays whole, a line says it.

The disk is a small file system that is mounted for the test, where that is allowed, and everywhere on POSIX a limit on
the size of files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.evaluation.findings import Findings
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 8},
    **{"eval-every": 4, "eval-images": 60, "standing-passes": 2, "log-every": 2, "checkpoint-every": 2, "seed": 0},
    **{"device": "cpu", "threads": 1},
}
FULL = "No space left on device"
# A run in a process of its own, whose files may have so many bytes.
LIMITED = """
import resource, sys
from mpcc.core.commands.entry import run_main
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
run_main(sys.argv[2:])
"""
posix = pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX's")


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


def limited(size: int, *arguments: str | Path) -> tuple[int, list[str]]:
    """Run ``mpcc-run`` with a limit on the size of files; return its status and the lines of its errors."""
    words = [sys.executable, "-c", LIMITED, str(size), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, lines(done.stderr)


def lines(err: str) -> list[str]:
    """The lines of what a run says on standard error, none of which is a traceback."""
    assert "Traceback" not in err
    return err.splitlines()


def iteration(folder: Path) -> int:
    """The iteration of the newest checkpoint, which is whole."""
    found: int = load_checkpoint(folder / "checkpoints" / "last.pt")["iteration"]
    return found


def same_weights(one: Path, two: Path) -> bool:
    first, second = (load_checkpoint(folder / "checkpoints" / "last.pt")["parts"] for folder in (one, two))
    return all(torch.equal(value, second[part][name]) for part in first for name, value in first[part].items())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that had room for everything."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert run(*tiny(), "--out", folder) == 0
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system in memory."""
    place = tmp_path / "disk"

    def mount(options: str) -> Path:
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode != 0:
            pytest.skip("no file system may be mounted here")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    """Leave no room on a disk."""
    with (place / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def refuse(*_: Any) -> None:
    raise OSError(errno.ENOSPC, FULL)


def empty(place: Path) -> None:
    """Make room again."""
    (place / "filler").unlink()


def test_a_disk_that_is_full_for_a_while_costs_what_was_due_then_and_nothing_else(
    finished: Path,
    disk: Callable[[str], Path],
    before: Callable[[int, Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = disk("size=2m")
    folder = place / "run"
    before(3, lambda: fill(place))
    before(5, lambda: empty(place))
    assert run(*tiny(), "--out", folder) == 0
    said = lines(capsys.readouterr().err)
    kept = f"training goes on; the last checkpoint is kept: {folder / 'checkpoints' / 'last.pt'} (iteration 2)"
    assert f"warning: a checkpoint could not be written: {FULL}; {kept}" in said
    assert f"warning: the evaluation of iteration 4 could not be written: {FULL}; {kept}" in said
    assert iteration(folder) == 8
    assert same_weights(finished, folder)
    assert (folder / "assignments.csv").read_bytes() == (finished / "assignments.csv").read_bytes()
    assert not list(folder.rglob("*.part"))


def test_a_disk_that_is_full_in_the_end_keeps_the_last_checkpoint_and_the_run_is_resumed_from_it(
    finished: Path,
    disk: Callable[[str], Path],
    before: Callable[[int, Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = disk("size=2m")
    folder = place / "run"
    before(5, lambda: fill(place))
    assert run(*tiny(), "--out", folder) == 4
    said = lines(capsys.readouterr().err)
    assert sum("TensorBoard events could not be written" in line for line in said) == 1
    assert said[-1] == (
        f"mpcc-run: error: the last checkpoint could not be written: {FULL}; free space; the last checkpoint is kept: "
        f"{folder / 'checkpoints' / 'last.pt'} (iteration 4); continue with: mpcc-run --resume {folder}"
    )
    assert iteration(folder) == 4
    # Nor can it be resumed as long as there is no room; nothing is lost by trying.
    earlier = contents(folder / "checkpoints")
    assert run("--resume", folder) == 4
    refused = f"mpcc-run: error: {folder} could not be written: {FULL}; free space there"
    assert lines(capsys.readouterr().err)[-1].startswith(f"{refused}; the last checkpoint is kept: ")
    assert contents(folder / "checkpoints") == earlier
    empty(place)
    assert run("--resume", folder) == 0
    assert same_weights(finished, folder)
    recorded = [json.loads(line)["iteration"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert recorded == [4, 8]


def test_a_disk_that_never_had_room_for_a_checkpoint_leaves_the_results_if_it_had_room_for_them(
    disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = disk("size=2m")
    save = KeptCheckpoints.save

    def without_room(self: KeptCheckpoints, state: dict[str, Any], *, best: bool = False) -> None:
        fill(place)
        try:
            save(self, state, best=best)
        finally:
            empty(place)

    monkeypatch.setattr(KeptCheckpoints, "save", without_room)
    assert run(*tiny(best_by="none"), "--out", place / "run") == 4
    assert lines(capsys.readouterr().err)[-1] == (
        f"mpcc-run: error: the last checkpoint could not be written: {FULL}; there is no other checkpoint, "
        f"but the results are in {place / 'run'}"
    )
    assert json.loads((place / "run" / "results.json").read_text())["iterations"] == 8
    # Without results, too, a folder in which training has begun is kept: its events and scores are there.
    monkeypatch.setattr(RunFolder, "write_results", refuse)
    folder = place / "new" / "run"
    assert run(*tiny(best_by="none"), "--out", folder) == 4
    assert lines(capsys.readouterr().err)[-1].endswith(
        f"there is no other checkpoint: free space and start anew; run folder {folder} is kept, without a checkpoint"
    )
    assert (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize(("options", "room"), [("size=64k", False), *((f"nr_inodes={n}", True) for n in (1, 2, 3, 4))])
def test_a_run_that_finds_no_room_at_all_leaves_nothing_and_says_so_in_a_line(
    disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str], options: str, room: bool
) -> None:
    place = disk(options)
    if not room:
        fill(place)
    earlier = list(place.iterdir())
    assert run(*tiny(), "--out", place / "new" / "run") == 4
    said = [line for line in lines(capsys.readouterr().err) if "error" in line]
    assert len(said) == 1
    assert str(place / "new") in said[0]
    assert FULL in said[0]
    assert list(place.iterdir()) == earlier


def test_no_room_for_the_files_of_the_last_evaluation_is_repaired_by_mpcc_evaluate(
    finished: Path, disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = disk("size=2m")
    folder = place / "run"
    write = RunFolder.write_findings

    def without_room(self: RunFolder, findings: Findings) -> None:
        fill(place)
        try:
            write(self, findings)
        finally:
            empty(place)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_findings", without_room)
        assert run(*tiny(), "--out", folder) == 4
    said = lines(capsys.readouterr().err)
    assert said[-1] == (
        f"mpcc-run: error: the results could not be written: {FULL}; the run is saved; the last checkpoint is kept: "
        f"{folder / 'checkpoints' / 'last.pt'} (iteration 8); free space, then: mpcc evaluate {folder}"
    )
    assert iteration(folder) == 8
    # The command that repairs it needs room, too, and leaves nothing without.
    fill(place)
    for words in (["evaluate", folder], ["export", folder], ["evaluate", finished, "--out", place / "out"]):
        assert command(entry.main, *words) == 4
        (line,) = lines(capsys.readouterr().err)
        assert FULL in line
    assert not list(place.glob("**/e*-8*"))
    assert not (place / "out").exists()
    empty(place)
    assert command(entry.main, "evaluate", folder) == 0
    assert (folder / "evaluation-8" / "assignments.csv").read_bytes() == (finished / "assignments.csv").read_bytes()


def test_a_line_of_metrics_that_finds_no_room_leaves_no_part_of_it(disk: Callable[[str], Path]) -> None:
    place = disk("size=64k")
    folder = RunFolder(place)
    # The rest of the file's last page is room that no full disk takes away.
    while not folder.metrics.exists() or folder.metrics.stat().st_size < 4050:
        folder.append_metrics({"iteration": 1})
    fill(place)
    earlier = folder.metrics.read_bytes()
    with pytest.raises(OSError, match=FULL):
        folder.append_metrics({"iteration": 2, "metrics": {"x" * 90: 1.0}})
    assert folder.metrics.read_bytes() == earlier
    empty(place)
    folder.append_metrics({"iteration": 2})
    folder.cut_metrics(2)
    assert folder.metrics.read_bytes() == earlier + b'{"iteration": 2}\n'


@posix
@pytest.mark.check
def test_a_checkpoint_that_is_larger_than_files_may_be_is_warned_of_and_the_run_resumed_without_the_limit(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert run(*tiny(iterations=2, eval_every=8), "--out", folder) == 0
    earlier = (folder / "checkpoints" / "last.pt").read_bytes()
    status, said = limited(len(earlier) - 1000, "--resume", folder, "--iterations=8", "--eval-every=4")
    assert status == 4, said
    assert sum(line.startswith("warning: a checkpoint could not be written: File too large") for line in said) == 3
    assert said[-1].startswith("mpcc-run: error: the last checkpoint could not be written: File too large; ")
    assert said[-1].endswith(f"last.pt (iteration 2); continue with: mpcc-run --resume {folder}")
    assert (folder / "checkpoints" / "last.pt").read_bytes() == earlier
    assert not list(folder.rglob("*.part"))
    assert run("--resume", folder) == 0
    assert same_weights(finished, folder)


@posix
@pytest.mark.check
def test_events_that_are_larger_than_files_may_be_are_given_up_and_nothing_else_is(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    status, said = limited(200_000, *tiny(eval_every=1), "--out", folder)
    assert status == 0, said
    events = "warning: TensorBoard events could not be written: File too large; the run goes on without them"
    assert [line for line in said if "could not be written" in line] == [events]
    assert same_weights(finished, folder)


@posix
@pytest.mark.check
@pytest.mark.parametrize(
    ("size", "part"), [(500, "{folder} could not be written"), (500_000, "mpcc evaluate {folder}")]
)
def test_other_files_that_are_larger_than_files_may_be_end_the_run_with_one_line(
    tmp_path: Path, size: int, part: str
) -> None:
    folder = tmp_path / "run"
    # The posterior of so many images and clusters is the largest file: 719 kB.
    arguments = tiny(clusters=100, eval_images="all", iterations=2, eval_every=2)
    status, said = limited(size, *arguments, "--out", folder)
    assert status == 4, said
    assert part.format(folder=folder) in said[-1]
    assert "File too large" in said[-1]
    assert folder.exists() == (size > 500)
    if folder.exists():
        assert command(entry.main, "evaluate", folder) == 0
