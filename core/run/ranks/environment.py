"""What torchrun says to a process in its environment, without torch."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

__all__ = [
    *("LAUNCHED", "begun", "earlier_folder", "follows", "launched", "let_the_first_end"),
    "told_by_launcher",
]

# ``mpcc-run --devices`` sets it for the processes that it starts.
LAUNCHED = "MPCC_DEVICES"
# The file of a run folder with the identity of the job of torchrun that has begun the run.
JOB = Path("checkpoints") / "torchrun-job"
# The first of several processes ends within this time.
SECONDS_TO_END = 10


def launched() -> bool:
    """Return whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def follows() -> bool:
    """Return whether this process is one of several, and not the first, which alone talks to the user."""
    return launched() and os.environ["RANK"] != "0"


def told_by_launcher() -> bool:
    """Return whether the command that has started the processes says which of them has ended."""
    return launched() and LAUNCHED in os.environ


def job() -> str | None:
    """Return the identity of the job of torchrun, the same after a restart of its processes; None if it has none."""
    identity = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    # Jobs without an identity all have this one.
    return None if identity == "none" and not restarted else identity


def begun(folder: Path) -> None:
    """Write down in a run folder which job of torchrun has begun the run.

    Raises:
        OSError: If it cannot be written.
    """
    if launched():
        (folder / JOB).parent.mkdir(exist_ok=True)
        (folder / JOB).write_text(os.environ.get("TORCHELASTIC_RUN_ID", "none"), encoding="utf-8")


def earlier_folder(out: Path | None) -> Path | None:
    """Return the run folder that the same job of torchrun has begun before its processes were restarted, or None.

    Arguments:
        out: The run folder that the user named; by default all below ``runs/`` are looked at.
    """
    identity = job()
    if identity is None or not launched():
        return None
    for folder in [out] if out is not None else sorted(Path("runs").glob("*"), reverse=True):
        try:
            if (folder / JOB).read_text(encoding="utf-8") == identity:
                return folder
        except (OSError, UnicodeDecodeError):
            continue
    return None


def let_the_first_end() -> None:
    """Wait for the first process, or the signal of the launcher that comes when it has ended.

    A launcher that sees a process end stops the others, and the first one could not say what is wrong.
    """
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(SECONDS_TO_END)
