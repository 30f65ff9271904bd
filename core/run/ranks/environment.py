"""What torchrun says to a process in its environment, without torch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from pathlib import Path

__all__ = [
    *("LAUNCHED", "begun", "earlier_folder", "follows", "launched", "let_the_first_end"),
    *("of_all", "told_by_launcher"),
]

# ``mpcc-run --devices`` sets it for the processes that it starts.
LAUNCHED = "MPCC_DEVICES"
# The file of a run folder with the identity of the job of torchrun that has begun the run.
JOB = Path("checkpoints") / "torchrun-job"
# The first of several processes ends within this time.
SECONDS_TO_END = 10
# The name of a job that the user has not named.
NO_NAME = "none"


def launched() -> bool:
    """Return whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def follows() -> bool:
    """Return whether this process is one of several, and not the first, which alone talks to the user."""
    return launched() and os.environ["RANK"] != "0"


def told_by_launcher() -> bool:
    """Return whether the command that has started the processes says which of them has ended."""
    return launched() and LAUNCHED in os.environ


def identity_of_job() -> str:
    """Return what stays the same when torchrun restarts the processes of a job: its name, and a digest of its words."""
    words = hashlib.sha256(repr(sys.argv[1:]).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', NO_NAME)} {words}"


def newest_first(folder: Path) -> list[Path]:
    """Return what is in a folder, the newest first; nothing if there is no such folder."""
    try:
        return sorted(folder.iterdir(), key=lambda each: each.lstat().st_mtime, reverse=True)
    except OSError:
        return []


def begun(folder: Path) -> None:
    """Write down in a run folder which job of torchrun has begun the run.

    Raises:
        OSError: If it cannot be written.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        (folder / JOB).parent.mkdir(exist_ok=True)
        (folder / JOB).write_text(identity_of_job(), encoding="utf-8")


def earlier_folder(out: Path | None) -> Path | None:
    """Return the run folder that the same job of torchrun has begun before its processes were restarted, or None.

    Arguments:
        out: The run folder that the user named; by default all below ``runs/`` are looked at.
    """
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    # Jobs without a name all have this one: after a restart, only the folder tells them apart.
    if name is None or (name == NO_NAME and not (restarted and out is not None)):
        return None
    identity = identity_of_job()
    for folder in [out] if out is not None else newest_first(Path("runs")):
        try:
            if (folder / JOB).read_text(encoding="utf-8") == identity:
                return folder
        except (OSError, UnicodeDecodeError):
            continue
    return None


def of_all() -> str:
    """Return which of the processes this is, such as "3 of 8"; they count from 0."""
    return f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}"


def let_the_first_end() -> bool:
    """Wait for the signal of the launcher that comes when the first process has ended.

    A launcher that sees a process end stops the others, and the first one could not say what is wrong.

    Returns:
        Whether no signal has come, so that the first process has not met what this one has.
    """
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(SECONDS_TO_END)
        return True
    return False
