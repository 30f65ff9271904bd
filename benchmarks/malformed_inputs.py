"""Run the commands on thousands of malformed inputs, and count what must not happen.

    python benchmarks/malformed_inputs.py --cases 2600 --seed 0

Real files of every kind are made in a temporary folder. For each case Hypothesis spoils some of them, or words of a
command line (`malformed_cases`), and the command that reads them is run, in a process that does many cases. Allowed are
the status 0; the status 2 with one line that says what is wrong, and nothing changed or left behind; and 3, where
training really ran and diverged. Counted besides are exceptions that nothing caught, or that came out of our own
plugins; cases of more than a minute; a GiB of memory more than before, or a request for memory that was denied;
processes that died; files that were changed or left behind; and other statuses. Printed as a table of Markdown, with
the command that repeats each case that was bad; exits with 1 if there is any. A case is the same for the same seed,
kind and number, as long as the versions of Hypothesis and of these files are.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from unittest import mock

import attrs
import hypothesis
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy
from malformed_cases import KINDS, Case

__all__ = ["Outcome", "main", "supervise"]

LIMIT_SECONDS = 60
LIMIT_BYTES = 2**30
# Beyond what a process has at its start. More would be a danger to the machine, and is as good as huge.
ADDRESS_SPACE = 6 * 2**30
BAD = ("tracebacks", "hangs", "allocations", "crashes", "damaged", "unclear")
# Where a case works, below the folder that is watched: names with a few steps up stay inside.
PLACE = "a/b/c/d/case"
# A process of its own that shares nothing: in this one mpcc is not imported, see `malformed_cases`.
PROCESSES = get_context("spawn")


@attrs.frozen
class Outcome:
    """What happened in one case.

    Attributes:
        kind: One of `KINDS`.
        number: Of the case, within its kind.
        status: Of the command, or None if it did not end by itself.
        bad: Which of `BAD` it was.
        told: The last line on standard error, and whatever else helps to understand.
    """

    kind: str
    number: int
    status: int | None
    bad: Sequence[str] = ()
    told: str = ""


class TimeLimit(BaseException):
    """A case takes too long."""


def out_of_time(number: int, frame: FrameType | None) -> None:
    raise TimeLimit


def without_network(*_: object, **__: object) -> None:
    raise OSError(101, "Network is unreachable")


def drawn(strategy: SearchStrategy[Case], seed: str) -> Case:
    """Draw one case; the same one for the same seed."""
    cases = []

    # The first example is always the simplest one.
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    return cases[-1]


def digest(folder: Path) -> dict[str, str]:
    """Return what is below a folder: by path, a hash, a link's target, or a word for anything else."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def damage(before: Mapping[str, str], after: Mapping[str, str], case: Case, status: int | None) -> list[str]:
    """Return what was changed, removed, or made that should not have been."""
    allowed = tuple(f"{PLACE}/{name}" for name in case.writes if status in (0, 3))
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    inside = [name for name in changed if any(name == each or name.startswith(f"{each}/") for each in allowed)]
    return [name for name in changed if "__pycache__" not in name and name not in inside]


def run_case(case: Case, root: Path) -> tuple[int | None, list[str], str]:
    """Write the files of a case into a new folder, run its command, and return its status and what was bad."""
    from mpcc.core import checkpoint, cli

    shutil.rmtree(root, ignore_errors=True)
    folder = root / PLACE
    folder.mkdir(parents=True)
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name in case.sealed:
        with (folder / name).open("r+b") as file:
            checkpoint.add_digest(file)
    os.chdir(folder)
    before, peak = digest(root), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, bad, told = None, [], ""
    # Encoded as a terminal's are.
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    signal.alarm(LIMIT_SECONDS)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        mock.patch.dict(os.environ, case.environment),
    ):
        try:
            (cli.run_main if case.command == "mpcc-run" else cli.main)(list(case.arguments))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException as error:
            bad.append("hangs" if isinstance(error, TimeLimit) else "tracebacks")
            told = traceback.format_exc()[-3000:]
        finally:
            signal.alarm(0)
    err.seek(0)
    said = err.read()
    last = said.rstrip("\n").rpartition("\n")[2]
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak > LIMIT_BYTES / 1024 or asked_for_memory(said + told):
        bad.append("allocations")
    if "--traceback" not in case.arguments and ("Traceback (most recent call last)" in said or blames_our_plugin(last)):
        bad.append("tracebacks")
    if status not in (0, 2, 3, None) or (status in (2, 3) and not re.match(r"mpcc(-run)?: error: \S", last)):
        bad.append("unclear")
    wrong = damage(before, digest(root), case, status)
    if wrong:
        bad.append("damaged")
    os.chdir(root.parent)
    return status, sorted(set(bad)), " | ".join(filter(None, (f"{wrong}" if wrong else "", last[:600], told)))


def asked_for_memory(said: str) -> bool:
    """Return whether an allocation was denied: elsewhere it might have been granted."""
    return (
        re.search(r"MemoryError|can't allocate|not enough memory|Unable to allocate|std::bad_alloc", said) is not None
    )


def blames_our_plugin(line: str) -> bool:
    """Return whether an error is an exception out of our own plugins: for theirs it is the place that helps."""
    return re.search(r"\(built-in\): \S*plugins/\w+/\w+\.py:\d+", line) is not None


def shown(case: Case) -> str:
    """Return a command line, short."""
    words = [word if len(word) < 60 else f"{word[:40]}..({len(word)})" for word in case.arguments]
    return f"{case.command} {words!r}".encode("utf-8", "backslashreplace").decode()


def work_through(pipe: Connection, folder: Path) -> None:
    """Do the cases that come through a pipe, and send what happened."""
    # What the system libraries say goes into a file, and this process knows of no network.
    handle = os.open(folder / "errors", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    faulthandler.enable()
    signal.signal(signal.SIGALRM, out_of_time)
    socket.socket.connect = without_network  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = without_network  # type: ignore[assignment]
    os.environ.pop("MPCC_DATA", None)
    import torch

    from mpcc.core import cli  # noqa: F401

    torch.set_num_threads(1)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        pipe.send(run_case(pipe.recv(), folder / "watched"))


def write_stock(folder: Path) -> None:
    """Write the files that are spoilt."""
    from wellformed_inputs import build

    build(folder)


class Worker:
    """A process that does one case after another; a new one is started where the old one was bad."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pipe, other_end = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=work_through, args=(other_end, folder))
        self.process.start()
        other_end.close()

    def do(self, case: Case) -> tuple[int | None, list[str], str]:
        """Do one case; the process may be gone afterwards."""
        self.pipe.send(case)
        if not self.pipe.poll(2 * LIMIT_SECONDS):
            return None, ["hangs"], "the process did not answer to its alarm"
        try:
            return self.pipe.recv()
        except EOFError:
            self.process.join()
            told = (self.folder / "errors").read_text(encoding="utf-8", errors="replace")[-3000:]
            return None, ["crashes"], f"status {self.process.exitcode} | {told}"

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def supervise(chosen: Sequence[tuple[str, int]], seed: int, folder: Path) -> Iterator[Outcome]:
    """Do cases, each in a worker that has seen nothing bad, and yield what happened."""
    set_hypothesis_home_dir(folder / "hypothesis")
    stock_folder = folder / "stock"
    building = PROCESSES.Process(target=write_stock, args=(stock_folder,))
    building.start()
    building.join()
    files = sorted(path for path in stock_folder.rglob("*") if path.is_file())
    stock = {path.relative_to(stock_folder).as_posix(): path.read_bytes() for path in files}
    strategies = {kind: KINDS[kind](stock) for kind, _ in chosen}
    worker: Worker | None = None
    try:
        for kind, number in chosen:
            case = drawn(strategies[kind], f"{seed}/{kind}/{number}")
            worker = worker or Worker(folder)
            status, bad, told = worker.do(case)
            if bad:
                worker.end()
                worker = None
            yield Outcome(kind, number, status, bad, f"{shown(case)} -> {told}")
    finally:
        if worker is not None:
            worker.end()


def table(outcomes: Sequence[Outcome], kinds: Sequence[str]) -> list[str]:
    """Return the counts by kind."""
    heads = ("kind", "cases", "0", "2", "3", "other", *BAD)
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name in [*kinds, "all"]:
        own = [each for each in outcomes if name in (each.kind, "all")]
        statuses = Counter(str(each.status) if each.status in (0, 2, 3) else "other" for each in own)
        bad = Counter(word for each in own for word in each.bad)
        counts = [len(own), *(statuses[head] for head in heads[2:6]), *(bad[word] for word in BAD)]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--cases", type=int, default=2600, help="how many, dealt out to the kinds in turn")
    made.add_argument("--seed", type=int, default=0, help="another seed is another set of cases")
    made.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="all by default")
    made.add_argument("--only", metavar="KIND:NUMBER", nargs="+", help="repeat these cases, and tell all about them")
    given = made.parse_args(arguments)
    kinds: list[str] = given.kinds
    chosen = [(kinds[number % len(kinds)], number // len(kinds)) for number in range(given.cases)]
    if given.only:
        chosen = [(kind, int(number)) for kind, _, number in (each.partition(":") for each in given.only)]
        kinds = list(dict.fromkeys(kind for kind, _ in chosen))
    started, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="malformed-") as folder:
        for outcome in supervise(chosen, given.seed, Path(folder)):
            outcomes.append(outcome)
            if outcome.bad or given.only:
                print(
                    f"{outcome.kind}:{outcome.number} {' '.join(outcome.bad)} status {outcome.status}: {outcome.told}"
                )
                sys.stdout.flush()
    print("\n".join(table(outcomes, kinds)))
    print(f"\n{len(outcomes)} cases in {time.monotonic() - started:.0f} s, seed {given.seed}")
    failed = [each for each in outcomes if each.bad]
    for each in failed:
        print(f"python benchmarks/malformed_inputs.py --seed {given.seed} --only {each.kind}:{each.number}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
