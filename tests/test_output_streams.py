"""Output that cannot be shown never fails a command: a closed pipe or terminal, a full disk, other letters."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

import pytest

from mpcc.core.commands import entry
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.core.system.output_streams import SafeStream, quoted, safe_streams
from mpcc.core.system.signals import ends_interrupt, handled

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 3},
    **{"eval-every": 1, "eval-images": 60, "standing-passes": 1, "log-every": 1, "checkpoint-every": 2, "seed": 0},
    **{"device": "cpu", "threads": 1},
}
RUN = "from mpcc.core.commands.entry import run_main; run_main()"
MPCC = "from mpcc.core.commands.entry import main; main()"
FULL = Path("/dev/full")
posix = pytest.mark.skipif(os.name != "posix", reason="pipes and descriptors are POSIX's")
with_full_device = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def status_of(function: Callable[[list[str]], None], *words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        function([str(word) for word in words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert status_of(entry.run_main, *tiny(), "--out", folder) == 0
    return folder


@contextlib.contextmanager
def without_reader(**settings: Any) -> Iterator[TextIO]:
    """A text stream into a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", **settings)
    try:
        yield stream
    finally:
        with contextlib.suppress(OSError):
            stream.close()


@posix
def test_a_stream_whose_reader_is_gone_drops_its_text() -> None:
    with without_reader() as stream:
        safe = SafeStream(stream)
        print("hello", file=safe, flush=True)
        assert isinstance(safe.failure, BrokenPipeError)
        assert safe.full is None
        assert not safe.isatty()
        print("hello again", file=safe, flush=True)


@posix
def test_after_a_closed_pipe_every_writer_of_the_process_writes_to_the_null_device() -> None:
    with without_reader(buffering=1) as stream:
        print("hello", file=SafeStream(stream, owns=True))
        os.write(stream.fileno(), b"another writer\n")
        print("the end of the interpreter", file=stream, flush=True)


@with_full_device
def test_a_full_disk_is_tried_again_and_forgotten_in_the_end() -> None:
    with FULL.open("w") as stream:
        safe = SafeStream(stream, owns=True)
        for _ in range(10):
            assert safe.write("x" * 3000) == 3000
        safe.flush()
        assert safe.full == "No space left on device"
        safe.finish()
        stream.flush()


@posix
def test_a_disk_that_has_room_again_gets_the_texts_that_follow(tmp_path: Path) -> None:
    class Filled(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(28, "No space left on device")
            return super().write(text)

    stream = Filled()
    safe = SafeStream(stream)
    print("lost", file=safe)
    stream.full = False
    print("shown", file=safe)
    assert stream.getvalue().strip() == "shown"


def test_a_process_without_standard_output_drops_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with safe_streams() as output:
        print("hello")
        print("hello", file=sys.stderr)
        assert sys.stdout.encoding == "utf-8"
    assert output.failure is None
    assert sys.stdout is None


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("utf-8", "café ☕ caf\udce9", "café ☕ ".encode() + b"caf\xe9"),
        ("latin-1", "café ☕ caf\udce9", b"caf\xe9 \\u2615 caf\xe9"),
        ("ascii", "café ☕ \ud800", b"caf\\xe9 \\u2615 \\ud800"),
    ],
)
def test_letters_that_an_encoding_lacks_are_escaped_and_bytes_of_names_are_kept(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, expected: bytes
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, errors="strict", newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    with safe_streams():
        print(text, end="")
    stream.flush()
    assert raw.getvalue() == expected
    assert stream.errors == "strict"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", "back\\slash", "caf\udce9", "a'\\ \nb\udcff", "é\udce9"]
)
def test_a_quoted_path_is_the_same_word_for_bash(name: str) -> None:
    word = quoted(Path(name))
    word.encode()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)


def commands(finished: Path, folder: Path) -> dict[str, tuple[Callable[[list[str]], None], list[str]]]:
    run = str(finished)
    return {
        "mpcc": (entry.main, []),
        "mpcc --help": (entry.main, ["--help"]),
        "mpcc --version": (entry.main, ["--version"]),
        "mpcc-run --help": (entry.run_main, ["--help"]),
        "mpcc-run --dry-run": (entry.run_main, [*tiny(), "--dry-run"]),
        "mpcc-run": (entry.run_main, [*tiny(), "--out", str(folder / "run")]),
        "mpcc plugins": (entry.main, ["plugins"]),
        "mpcc plugins --json": (entry.main, ["plugins", "--json"]),
        "mpcc plugins check": (entry.main, ["plugins", "check", "purity"]),
        "mpcc plugins new": (entry.main, ["plugins", "new", "metric", "my_metric", "--out", str(folder)]),
        "mpcc evaluate": (entry.main, ["evaluate", run, "--out", str(folder / "evaluation")]),
        "mpcc predict": (entry.main, ["predict", run, "--out", str(folder / "predictions.csv")]),
        "mpcc export": (entry.main, ["export", run, "--out", str(folder / "export")]),
    }


@posix
@pytest.mark.parametrize("name", commands(Path(), Path()))
def test_every_command_ends_well_when_the_reader_of_its_output_is_gone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("safetensors")
    function, words = commands(finished, tmp_path)[name]
    written = {"run", "my-metric", "mpcc-my-metric", "evaluation", "predictions.csv", "export"}
    with without_reader(buffering=1) as out, without_reader(buffering=1) as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert status_of(function, *words) == 0
        assert (sys.stdout, sys.stderr) == (out, err)
    if name in ("mpcc-run", "mpcc plugins new", "mpcc evaluate", "mpcc predict", "mpcc export"):
        assert {path.name for path in tmp_path.iterdir()} & written
    if name == "mpcc-run":
        assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["iteration"] == 3


@with_full_device
@pytest.mark.parametrize("name", commands(Path(), Path()))
def test_on_a_full_disk_only_a_command_that_prints_its_result_fails(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip("safetensors")
    function, words = commands(finished, tmp_path)[name]
    files = name in ("mpcc-run", "mpcc plugins new", "mpcc evaluate", "mpcc predict", "mpcc export")
    with FULL.open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert status_of(function, *words) == (0 if files else 4)
    kind, program = "warning" if files else "error", name.partition(" ")[0]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{program}: {kind}: standard output could not be written: No space left on device"


def test_a_broken_pipe_elsewhere_is_not_taken_for_a_reader_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(words: Sequence[str]) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(entry, "mpcc_command", broken)
    with pytest.raises(BrokenPipeError):
        entry.main(["predict"])


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_a_signal_ends_a_command_that_does_not_train_and_leaves_nothing_half_written(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    from mpcc.core.storage.run_folder import RunFolder

    monkeypatch.setattr(RunFolder, "write_findings", lambda *_: signal.raise_signal(number))
    before = signal.getsignal(number)
    assert status_of(entry.main, "evaluate", finished, "--out", tmp_path / "new") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "mpcc: interrupted"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system's terminals send no signal")
def test_a_signal_that_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    received: list[int] = []
    try:
        with ends_interrupt(), handled(lambda number, _: received.append(number)):
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert received == [signal.SIGTERM]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which $RUN and $MPCC are the commands; return status, output and errors."""
    variables = {
        "RUN": f"{sys.executable} -c '{RUN}' {' '.join(tiny())}",
        "MPCC": f"{sys.executable} -c '{MPCC}'",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    line = line.replace("$RUN", variables["RUN"]).replace("$MPCC", variables["MPCC"])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        timeout=300,
    )


@posix
@pytest.mark.check
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "environment"),
    [
        ("$RUN --out run 2>&1 | head -1", {}),
        ("$RUN --out run >&-", {}),
        ("$RUN --out run >&- 2>&- <&-", {}),
        ("$RUN --out run > /dev/full 2>&1", {}),
        ("$RUN --out run_é && mv run_* run", {"PYTHONIOENCODING": "ascii"}),
        ("$RUN --out $'run_\\xe9' && mv run_* run", {}),
        ("$RUN --out run_é && mv run_* run", {"PYTHONIOENCODING": "latin-1"}),
        ("$RUN --out run > out && $MPCC plugins > /dev/null && $MPCC plugins >&-", {}),
        ("$MPCC plugins | head -1 && $MPCC --help | true && $RUN --out run", {}),
    ],
)
def test_a_process_ends_with_status_0_and_no_traceback_whatever_becomes_of_its_output(
    tmp_path: Path, line: str, environment: dict[str, str]
) -> None:
    if "/dev/full" in line and not FULL.exists():
        pytest.skip("no device that is always full")
    done = shell(line, tmp_path, **environment)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"Exception ignored" not in done.stdout + done.stderr
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["iteration"] == 3


@pytest.mark.check
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals")
@pytest.mark.parametrize("ignored", [True, False])
def test_a_closed_terminal_stops_a_run_with_a_checkpoint_and_a_disowned_run_goes_on(
    tmp_path: Path, ignored: bool
) -> None:
    master, slave = os.openpty()
    words = [sys.executable, "-c", RUN, *tiny(iterations=60 if ignored else 100_000), "--out", "run"]
    reaction = signal.SIG_IGN if ignored else signal.SIG_DFL
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, reaction),
    )
    os.close(slave)
    try:
        deadline = time.monotonic() + 200
        os.set_blocking(master, False)
        while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(BlockingIOError):
                os.read(master, 4096)
            time.sleep(0.05)
        os.close(master)
        if not ignored:
            process.send_signal(signal.SIGHUP)
        status = process.wait(timeout=200)
    finally:
        process.kill()
    reached = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["iteration"]
    assert (status, reached == 60) == ((0, True) if ignored else (130, False))


def test_streams_that_are_not_files_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", cast("TextIO", shown))
    with safe_streams():
        print("hello")
    assert shown.getvalue() == "hello\n"
