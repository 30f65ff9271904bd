"""File systems that cannot flush a folder, that refuse locks, or that keep names which are not text."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLock

from mpcc.core.commands import entry
from mpcc.core.config import options
from mpcc.core.errors import InvalidInput
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.core.storage.folder_lock import locked
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.system.file_names import address_of, path_of
from mpcc.core.system.whole_files import flush_folder, write_whole
from mpcc.plugins.datasets.options import FolderOptions

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 4},
    **{"eval-every": 4, "eval-images": 60, "standing-passes": 1, "checkpoint-every": 1, "keep-checkpoints": 1},
    **{"device": "cpu", "threads": 1},
}
LOST = (errno.EIO, errno.ENOSPC)
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EROFS)
REFUSED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
posix = pytest.mark.skipif(os.name != "posix", reason="flush of folders and flock are POSIX's")

# Calls of the system that fail as they do on such file systems; $FOLDER_FLUSH and $LOCK are the numbers of the errors.
LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
static int refused(const char *name) {
    const char *number = getenv(name);
    if (number == NULL) return 0;
    errno = atoi(number);
    return 1;
}
int flock(int file, int operation) {
    int (*original)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    return refused("LOCK") ? -1 : original(file, operation);
}
int fsync(int file) {
    int (*original)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    struct stat found;
    if (fstat(file, &found) == 0 && S_ISDIR(found.st_mode) && refused("FOLDER_FLUSH")) return -1;
    return original(file);
}
"""
RUN = "from mpcc.core.commands.entry import run_main; run_main()"


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def status_of(function: Callable[[list[str]], None], *words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        function([str(word) for word in words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def refuse_flush(monkeypatch: pytest.MonkeyPatch, number: int, *, folders: bool) -> None:
    """Let ``os.fsync`` fail for folders or for files."""
    flush = os.fsync

    def refusing(handle: Any) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir() == folders:
            raise OSError(number, os.strerror(number))
        flush(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no way to tell what a descriptor stands for")
    monkeypatch.setattr(os, "fsync", refusing)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    import fcntl

    def refusing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refusing)


@posix
@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_folder_that_cannot_be_flushed_costs_nothing_and_old_checkpoints_are_still_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_flush(monkeypatch, number, folders=True)
    checkpoints = KeptCheckpoints(tmp_path / "checkpoints", keep=1)
    for iteration in (1, 2, 3, 4):
        checkpoints.save({"iteration": iteration}, best=iteration == 2)
    found = {path.name: load_checkpoint(path)["iteration"] for path in checkpoints.folder.iterdir()}
    assert found == {"last.pt": 4, "iteration-3.pt": 3, "best.pt": 2}


@posix
@pytest.mark.parametrize("number", LOST)
def test_a_disk_that_fails_while_it_flushes_a_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_flush(monkeypatch, number, folders=True)
    with pytest.raises(OSError, match=os.strerror(number)):
        flush_folder(tmp_path)


@posix
def test_a_folder_that_may_not_be_read_is_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    flush_folder(tmp_path)


@posix
@pytest.mark.parametrize(
    ("number", "whole"), [(errno.EINVAL, True), (errno.ENOTSUP, True), *((number, False) for number in LOST)]
)
def test_a_file_that_cannot_be_flushed_is_whole_unless_its_content_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, whole: bool
) -> None:
    write_whole(tmp_path / "file", b"before")
    refuse_flush(monkeypatch, number, folders=False)
    if whole:
        write_whole(tmp_path / "file", b"after")
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            write_whole(tmp_path / "file", b"after")
    assert (tmp_path / "file").read_bytes() == (b"after" if whole else b"before")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_old_checkpoint_that_cannot_be_removed_is_warned_of_and_the_new_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = KeptCheckpoints(tmp_path, keep=0)
    checkpoints.save({"iteration": 1})
    remove = Path.unlink

    def refusing(self: Path, missing_ok: bool = False) -> None:
        if self.name == "iteration-1.pt":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        remove(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    checkpoints.save({"iteration": 2})
    assert load_checkpoint(checkpoints.newest)["iteration"] == 2
    path = tmp_path / "iteration-1.pt"
    assert caplog.messages == [f"checkpoint {path} could not be removed: Operation not permitted"]


@posix
@pytest.mark.parametrize("number", REFUSED)
def test_where_locks_are_refused_a_run_warns_in_a_line_and_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    refuse_locks(monkeypatch, number)
    folder = tmp_path / "run"
    assert status_of(entry.run_main, *tiny(), "--out", folder) == 0
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "refuses locks" in line)
    reason = f"warning: the file system of {folder} refuses locks ({os.strerror(number)}): the file .lock-holder marks "
    assert warning.startswith(reason)
    assert not (folder / ".lock-holder").exists()


@posix
def test_a_file_stands_in_for_a_lock_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr("mpcc.core.storage.folder_lock.PATIENCE", 0.1)
    in_use = rf"in use by another run \(process {os.getpid()} on .*rm .*lock-holder"
    with locked(tmp_path):
        with pytest.raises(InvalidInput, match=in_use), locked(tmp_path):
            pass
        assert (tmp_path / ".lock-holder").exists()
    with locked(tmp_path):
        pass
    # A process of another machine may still be there; one of this machine that is gone is not.
    (tmp_path / ".lock-holder").write_text("1\nanother-machine\n")
    with pytest.raises(InvalidInput, match=r"\(process 1 on another-machine\)"), locked(tmp_path):
        pass


@posix
def test_the_file_of_a_process_that_was_killed_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(SoftFileLock, "is_lock_held_by_us"):
        pytest.skip("this version of filelock takes no file over")
    lock = "import os, sys, filelock; lock = filelock.SoftFileLock(sys.argv[1]); lock.acquire(); os._exit(9)"
    subprocess.run([sys.executable, "-c", lock, str(tmp_path / ".lock-holder")], check=False)
    assert (tmp_path / ".lock-holder").exists()
    refuse_locks(monkeypatch, errno.ENOTSUP)
    with locked(tmp_path):
        pass
    assert not (tmp_path / ".lock-holder").exists()


@posix
@pytest.mark.check
@pytest.mark.skipif(shutil.which("gcc") is None or sys.platform != "linux", reason="no gcc, or no LD_PRELOAD")
@pytest.mark.parametrize(
    ("variables", "words"),
    [({"FOLDER_FLUSH": "22"}, ""), ({"FOLDER_FLUSH": "95", "LOCK": "37"}, "No locks"), ({"LOCK": "95"}, "supported")],
)
def test_a_whole_run_on_such_a_file_system(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    source, library = tmp_path / "odd.c", tmp_path / "odd.so"
    source.write_text(LIBRARY, encoding="utf-8")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, *tiny(), "--out", str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(library), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {
        *("last.pt", "iteration-3.pt", "best.pt")
    }
    assert ("refuses locks" in done.stderr) == bool(words)
    assert words in done.stderr
    assert "UserWarning" not in done.stderr


NAMES = ["plain", "two words", "per%20cent", "café", "file:", "caf\udce9", "50%\udcff", "a\nb", "\udce9#?x"]


@pytest.mark.parametrize("name", NAMES)
def test_every_path_is_valid_text_in_a_configuration_and_is_read_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "images"
    text = options.plain(FolderOptions(path=path))["path"]
    text.encode()
    assert text == address_of(path)
    assert options.make(FolderOptions, {"path": text}, "the data set").path == path
    assert path_of(text) == path


def test_a_uri_is_that_of_the_standard_library() -> None:
    path = Path("/data/\udce9 %") if os.name == "posix" else Path("C:/data/\udce9 %")
    assert address_of(path) == path.as_uri()


@posix
def test_folders_whose_names_are_not_text_work_from_training_to_prediction(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    from PIL import Image

    images, folder = tmp_path / "im\udce9", tmp_path / "run_\udcff" / "new"
    try:
        images.mkdir()
    except OSError:
        pytest.skip("the file system accepts names in UTF-8 only")
    for index in range(12):
        Image.effect_noise((8, 8), 90.0).save(images / f"{index}.png")
    words = [*tiny(iterations=1, clusters=3), "--data=folder", f"--data.path={images}", "--out", str(folder)]
    assert status_of(entry.run_main, *words) == 0
    saved = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    assert saved["data"]["path"] == images.as_uri()
    assert capsysbinary.readouterr().out.startswith(os.fsencode(folder))
    assert status_of(entry.run_main, "--resume", folder, "--iterations=2") == 0
    assert status_of(entry.run_main, "--config", folder / "config.toml", "--out", tmp_path / "again") == 0
    for command in ("evaluate", "predict", "export"):
        assert status_of(entry.main, command, folder) == 0
    assert status_of(entry.main, "predict", folder, images, "--out", folder / "more.csv") == 0
    assert b"Traceback" not in capsysbinary.readouterr().err


def test_events_of_a_text_that_is_not_valid_are_written(tmp_path: Path) -> None:
    from mpcc.core.reporting.event_log import EventLog

    events = EventLog(tmp_path)
    events.note("restart", "cannot read caf\udce9")
    events.close()
    (file,) = tmp_path.iterdir()
    assert rb"cannot read caf\udce9" in file.read_bytes()
