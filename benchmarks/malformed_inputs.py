"""Run the commands on thousands of malformed inputs, and count what must not happen.

    python benchmarks/malformed_inputs.py --cases 2600 --seed 0

Real files of every kind are made in a temporary folder. For each case some of them, or words of a command line, are
spoilt (`malformation`), and the command that reads them is run, in a process that does many cases. Allowed are the
status 0; the status 2 with one line that says what is wrong, and nothing changed or left behind; and 3, where training
really ran and diverged. Counted besides are exceptions that nothing caught, or that came out of our own plugins; cases
of more than a minute; a GiB of memory more than before, or a request for memory that was denied; processes that died;
files that were changed or left behind; and other statuses. Printed as a table of Markdown, with the command that
repeats each case that was bad; exits with 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from types import FrameType

import attrs
from malformed_cases import KINDS
from malformed_commands import Case

from mpcc.core.commands import entry

__all__ = ["Outcome", "main", "supervise"]

LIMIT_SECONDS = 60
LIMIT_BYTES = 2**30
# Beyond what a process has at its start. More would be a danger to the machine, and is as good as huge.
ADDRESS_SPACE = 6 * 2**30
BAD = ("tracebacks", "hangs", "allocations", "crashes", "damaged", "unclear")


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


@contextlib.contextmanager
def captured() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Catch both outputs, encoded as a terminal's are."""
    out, err = io.BytesIO(), io.BytesIO()
    old = sys.stdout, sys.stderr
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(err, encoding="utf-8", errors="backslashreplace", write_through=True)
    try:
        yield out, err
    finally:
        sys.stdout.detach()
        sys.stderr.detach()
        sys.stdout, sys.stderr = old


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
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if status in (0, 3):
        allowed = tuple(case.writes)
        changed = [name for name in changed if not any(name == each or name.startswith(f"{each}/") for each in allowed)]
    return [name for name in changed if "__pycache__" not in name]


def run_case(kind: str, number: int, seed: int, stock: Path, work: Path) -> Outcome:
    """Make one case in a new folder, run it, look what happened, and remove the folder."""
    random = Random(f"{seed}/{kind}/{number}")
    folder = work / f"{kind}-{number}"
    folder.mkdir()
    os.chdir(folder)
    case = KINDS[kind](random, folder, stock)
    before, shared = digest(folder), digest(stock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, bad, told = None, [], ""
    os.environ.update(case.environment)
    command = entry.run_main if case.command == "mpcc-run" else entry.main
    signal.alarm(LIMIT_SECONDS)
    with captured() as (_, err), warnings.catch_warnings():
        try:
            command(list(case.arguments))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except TimeLimit:
            bad.append("hangs")
            told = traceback.format_exc()[-2000:]
        except BaseException:
            bad.append("tracebacks")
            told = traceback.format_exc()[-3000:]
        finally:
            signal.alarm(0)
    for name in case.environment:
        del os.environ[name]
    said = err.getvalue().decode("utf-8", "replace")
    last = said.rstrip("\n").rpartition("\n")[2]
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak > LIMIT_BYTES / 1024 or asked_for_memory(said + told):
        bad.append("allocations")
    if "--traceback" not in case.arguments and ("Traceback (most recent call last)" in said or blames_our_plugin(last)):
        bad.append("tracebacks")
    if status not in (0, 2, 3, None) or (status in (2, 3) and not re.match(r"mpcc(-run)?: error: \S", last)):
        bad.append("unclear")
    wrong = damage(before, digest(folder), case, status) + (["stock"] if digest(stock) != shared else [])
    if wrong:
        bad.append("damaged")
    told = " | ".join(filter(None, (f"{wrong}" if wrong else "", last[:600], told)))
    os.chdir(work)
    shutil.rmtree(folder)
    return Outcome(kind, number, status, sorted(set(bad)), f"{shown(case)} -> {told}")


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


def work_through(seed: int, stock: Path, work: Path) -> None:
    """Do the cases that standard input names, one a line, and write an outcome for each."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, out_of_time)
    socket.socket.connect = without_network  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = without_network  # type: ignore[assignment]
    os.environ.pop("MPCC_DATA", None)
    import torch

    torch.set_num_threads(1)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        kind, number = line.split()
        outcome = run_case(kind, int(number), seed, stock, work)
        answers.write(json.dumps(attrs.asdict(outcome)) + "\n")
        answers.flush()


class Worker:
    """A process that does one case after another; a new one is started where the old one was bad."""

    def __init__(self, seed: int, stock: Path, work: Path) -> None:
        here = [sys.executable, "-X", "faulthandler", __file__, "--worker", str(stock), str(work), "--seed", str(seed)]
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1
        )

    def do(self, kind: str, number: int) -> Outcome:
        """Do one case; the process may be gone afterwards."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{kind} {number}\n")
        ready, _, _ = select.select([stdout], [], [], 2 * LIMIT_SECONDS)
        if not ready:
            return Outcome(kind, number, None, ["hangs"], "the process did not answer to its alarm")
        line = stdout.readline()
        if not line:
            self.errors.seek(0)
            told = self.errors.read().decode("utf-8", "replace")[-3000:]
            return Outcome(kind, number, None, ["crashes"], f"status {self.process.wait()} | {told}")
        return Outcome(**json.loads(line))

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def supervise(chosen: Sequence[tuple[str, int]], seed: int, folder: Path) -> Iterator[Outcome]:
    """Do cases, each in a worker that has seen nothing bad, and yield what happened."""
    from wellformed_inputs import build

    stock, work = folder / "stock", folder / "work"
    build(stock)
    work.mkdir()
    worker: Worker | None = None
    try:
        for kind, number in chosen:
            worker = worker or Worker(seed, stock, work)
            outcome = worker.do(kind, number)
            if outcome.bad:
                worker.end()
                worker = None
                shutil.rmtree(work / f"{kind}-{number}", ignore_errors=True)
            yield outcome
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
    made.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = made.parse_args(arguments)
    if given.worker:
        work_through(given.seed, *given.worker)
        return
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
