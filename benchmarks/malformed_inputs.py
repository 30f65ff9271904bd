"""Run the commands on thousands of malformed inputs, and count outcomes that must not happen.

    python benchmarks/malformed_inputs.py --cases 2600 --seed 0

Real files of every kind are made in a temporary folder. For each case Hypothesis damages some of them, or words of a
command line (`malformed_cases`), and the command that reads them is run, in a process that does many cases. Three
statuses are allowed: 0; 2, with one line that says what is wrong, and no file changed or left behind; and 3, if
training ran and diverged. The other outcomes are bad: uncaught exceptions, or exceptions out of our own plugins; cases
of more than a minute; a GiB of memory more than before, or a request for memory that was denied; processes that died;
files that were changed or left behind; and other statuses. The output is a table of Markdown, and the command that
repeats each bad case; the exit status is 1 if there is one. The same seed, kind and number give the same case as long
as neither Hypothesis nor these files change.
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
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from unittest import mock

import attrs
import hypothesis
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy
from malformed_cases import KINDS, Case

__all__ = ["Outcome", "main", "supervise"]

LIMIT_SECONDS = 60
LIMIT_BYTES = 2**30
# An allocation that was denied here might be granted elsewhere.
DENIED = re.compile(r"MemoryError|can't allocate|not enough memory|Unable to allocate|std::bad_alloc")
# An exception out of a built-in plugin. For other plugins the message rightly names the place.
BLAMED = re.compile(r"\(built-in\): \S*plugins/\w+/\w+\.py:\d+")
# Bytes beyond those that a process has at its start. More would endanger the machine, and counts as huge.
ADDRESS_SPACE = 6 * 2**30
BAD = ("tracebacks", "hangs", "allocations", "crashes", "damaged", "unclear")
# The working folder, below the watched folder, so that names with a few steps up stay inside.
PLACE = "a/b/c/d/case"
# Hypothesis describes strategies, and these hold the files that they damage.
warnings.filterwarnings("ignore", "Generating overly large repr")
# Two examples for a case: the first is always the simplest one.
DRAWING = hypothesis.settings(
    hypothesis.settings(max_examples=2, database=None, deadline=None, phases=[hypothesis.Phase.generate]),
    suppress_health_check=list(hypothesis.HealthCheck),
)


@attrs.frozen
class Outcome:
    """The outcome of one case.

    Attributes:
        kind: One of `KINDS`.
        number: The number of the case within its kind.
        status: The exit status of the command, or None if it did not end by itself.
        bad: The bad outcomes, of `BAD`.
        details: The last line on standard error, and more that helps to understand the case.
    """

    kind: str
    number: int
    status: int | None
    bad: Sequence[str] = ()
    details: str = ""


class TimeLimit(KeyboardInterrupt):
    """A case takes too long. It ends as by Ctrl-C, which no command takes for a fault of a plugin.

    Attributes:
        reached: Whether the alarm of the present case has gone off.
    """

    reached = False


def out_of_time(*_: object) -> None:
    """End a case by its alarm."""
    TimeLimit.reached = True
    raise TimeLimit


def drawn(strategy: SearchStrategy[Case], seed: str) -> Case:
    """Draw one case; the same one for the same seed."""
    cases: list[Case] = []

    @hypothesis.seed(seed)
    @DRAWING
    @hypothesis.given(strategy)
    def collect(case: Case) -> None:
        cases.append(case)

    collect()
    return cases[-1]


def digest(folder: Path) -> dict[str, str]:
    """Return all paths below a folder, each with a hash, a link's target, or a word for anything else."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            contents[name] = f"link to {path.readlink()}"
        else:
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return contents


def damage(before: Mapping[str, str], after: Mapping[str, str], case: Case, status: int | None) -> list[str]:
    """Return the paths that were changed, removed or made without permission."""
    allowed = [Path(PLACE, name) for name in case.writes if status in (0, 3)]
    changed = sorted(Path(name) for name in {*before, *after} if before.get(name) != after.get(name))
    return [
        str(path)
        for path in changed
        if "__pycache__" not in path.parts and not any(path.is_relative_to(place) for place in allowed)
    ]


def run_case(case: Case, root: Path) -> tuple[int | None, list[str], str]:
    """Write the files of a case into a new folder, run its command, and return status, bad outcomes and details."""
    from mpcc.core.bench.memory import resident
    from mpcc.core.commands import entry
    from mpcc.core.storage.checkpoint import add_digest

    shutil.rmtree(root, ignore_errors=True)
    folder = root / PLACE
    folder.mkdir(parents=True)
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name in case.sealed:
        with (folder / name).open("r+b") as file:
            add_digest(file)
    os.chdir(folder)
    before, peak = digest(root), resident("VmHWM")  # getrusage would count the memory of a large parent too
    status, bad, details = None, list[str](), ""
    # Encoded as a terminal's are.
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    TimeLimit.reached = False
    signal.alarm(LIMIT_SECONDS)
    variables = mock.patch.dict(os.environ, case.environment)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(), variables:
        try:
            (entry.run_main if case.command == "mpcc-run" else entry.main)(list(case.arguments))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException as error:
            bad += [] if isinstance(error, TimeLimit) else ["tracebacks"]
            details = traceback.format_exc()[-3000:]
        finally:
            signal.alarm(0)
    if TimeLimit.reached:
        status = None
        bad.append("hangs")
    err.seek(0)
    errors = err.read()
    last = errors.rstrip("\n").rpartition("\n")[2]
    if resident("VmHWM") - peak > LIMIT_BYTES or DENIED.search(errors + details):
        bad.append("allocations")
    if "--traceback" not in case.arguments and ("Traceback (most recent call last)" in errors or BLAMED.search(last)):
        bad.append("tracebacks")
    if status not in (0, 2, 3, None) or (status in (2, 3) and not re.match(r"mpcc(-run)?: error: \S", last)):
        bad.append("unclear")
    wrong = damage(before, digest(root), case, status)
    if wrong:
        bad.append("damaged")
    os.chdir(root.parent)
    return status, sorted(set(bad)), " | ".join(filter(None, (f"{wrong}" if wrong else "", last[:600], details)))


def shown(case: Case) -> str:
    """Return a command line, short."""
    words = [word if len(word) < 60 else f"{word[:40]}..({len(word)})" for word in case.arguments]
    return f"{case.command} {words!r}".encode("utf-8", "backslashreplace").decode()


def end_with_parent() -> None:
    """Wait until the process that started this one ends in any way, then end this one."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def prepare(errors: Path) -> None:
    """Prepare a process for cases: no network, little memory, and the output of libraries goes into a file."""
    handle = os.open(errors, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    faulthandler.enable()
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGALRM, out_of_time)
    offline = mock.Mock(side_effect=OSError(101, "Network is unreachable"))
    socket.socket.connect = socket.getaddrinfo = offline  # type: ignore[method-assign]
    os.environ.pop("MPCC_DATA", None)
    import torch

    from mpcc.core.commands import entry  # noqa: F401

    torch.set_num_threads(1)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def write_stock(folder: Path) -> dict[str, bytes]:
    """Write the well-formed files, and return their contents."""
    from wellformed_inputs import build

    build(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@contextlib.contextmanager
def worker(errors: Path) -> Iterator[ProcessPoolExecutor]:
    """Lend a process that shares nothing with this one, in which mpcc is not imported: see `malformed_cases`."""
    context = get_context("spawn")
    pool = ProcessPoolExecutor(1, context, prepare, (errors,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in context.active_children():
            process.kill()


def supervise(chosen: Sequence[tuple[str, int]], seed: int, folder: Path) -> Iterator[Outcome]:
    """Do cases, each in a process without a bad case so far, and yield the outcomes."""
    errors, left = folder / "errors", list(reversed(chosen))
    set_hypothesis_home_dir(folder / "hypothesis")
    stock: dict[str, bytes] = {}
    while left:
        with worker(errors) as pool:
            stock = stock or pool.submit(write_stock, folder / "stock").result()
            strategies = {kind: KINDS[kind](stock) for kind, _ in chosen}
            bad: Sequence[str] = ()
            while left and not bad:
                kind, number = left.pop()
                case = drawn(strategies[kind], f"{seed}/{kind}/{number}")
                try:
                    status, bad, details = pool.submit(run_case, case, folder / "watched").result(2 * LIMIT_SECONDS)
                except TimeoutError:
                    status, bad, details = None, ["hangs"], "the process did not answer to its alarm"
                except BrokenProcessPool:
                    output = errors.read_text("utf-8", "replace")[-3000:]
                    status, bad, details = None, ["crashes"], f"the process died | {output}"
                yield Outcome(kind, number, status, bad, f"{shown(case)} -> {details}")


def table(outcomes: Sequence[Outcome], kinds: Sequence[str]) -> list[str]:
    """Return the counts by kind."""
    heads = ("kind", "cases", "0", "2", "3", "other", *BAD)
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name in [*kinds, "all"]:
        own = [outcome for outcome in outcomes if name in (outcome.kind, "all")]
        statuses = Counter(str(outcome.status) if outcome.status in (0, 2, 3) else "other" for outcome in own)
        bad = Counter(word for outcome in own for word in outcome.bad)
        counts = [len(own), *(statuses[head] for head in heads[2:6]), *(bad[word] for word in BAD)]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2600, help="how many, dealt out to the kinds in turn")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another set of cases")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="all by default")
    parser.add_argument("--only", metavar="KIND:NUMBER", nargs="+", help="repeat these cases, with all details")
    flags = parser.parse_args(arguments)
    kinds: list[str] = flags.kinds
    chosen = [(kinds[number % len(kinds)], number // len(kinds)) for number in range(flags.cases)]
    if flags.only:
        chosen = [(kind, int(number)) for kind, _, number in (name.partition(":") for name in flags.only)]
        kinds = list(dict.fromkeys(kind for kind, _ in chosen))
    started, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="malformed-") as folder:
        for outcome in supervise(chosen, flags.seed, Path(folder)):
            outcomes.append(outcome)
            if outcome.bad or flags.only:
                name, bad = f"{outcome.kind}:{outcome.number}", " ".join(outcome.bad)
                print(f"{name} {bad} status {outcome.status}: {outcome.details}", flush=True)
    print("\n".join(table(outcomes, kinds)))
    print(f"\n{len(outcomes)} cases in {time.monotonic() - started:.0f} s, seed {flags.seed}")
    failed = [outcome for outcome in outcomes if outcome.bad]
    for outcome in failed:
        print(f"python benchmarks/malformed_inputs.py --seed {flags.seed} --only {outcome.kind}:{outcome.number}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
