"""Starts the processes of a command with several devices, through the launcher of torchrun, and tells how they ended.

``mpcc-run --devices N`` and ``mpcc predict --devices N`` call `launch`. A user of several machines calls torchrun
itself, with ``-m mpcc run`` or ``-m mpcc predict``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence

import torch

from mpcc.core.errors import EXIT_INTERRUPTED, InvalidInput, RankLost
from mpcc.core.run.ranks.environment import LAUNCHED
from mpcc.core.run.timed_steps import load_before
from mpcc.core.system.signals import handlers_put_back

__all__ = ["check_devices", "launch", "without_devices"]

FLAG = "--devices"
SECONDS_TO_STOP = 600


def check_devices(devices: int, device: str) -> None:
    """Check that a machine has as many devices as are asked for.

    Arguments:
        devices: How many.
        device: The kind: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InvalidInput: If it has fewer GPUs, or fewer cores.
    """
    cuda = device != "cpu" and torch.cuda.is_available()
    count = torch.cuda.device_count() if cuda else load_before()[1]
    if devices > count:
        what = "GPU" if cuda else "core"
        raise InvalidInput(
            f"{FLAG} {devices}: this machine has {count} {what}{'s' * (count != 1)}: expected at most one process each "
            f"(nearest valid choice: {FLAG} {count})"
        )


def without_devices(words: Sequence[str]) -> list[str]:
    """Return the words of a command without ``--devices N``.

    Example:
        >>> without_devices(["--devices", "2", "--data", "digits", "--devices=4"])
        ['--data', 'digits']
    """
    kept = [word for word in words if not word.startswith(f"{FLAG}=")]
    while FLAG in kept:
        position = kept.index(FLAG)
        del kept[position : position + 2]
    return kept


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for a ``with`` block, then put back the old environment."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def lost_others(status: int) -> bool:
    """Return whether a process with this exit status has ended because another one had ended."""
    return status in (RankLost.status, -signal.SIGTERM)


def launch(words: Sequence[str], devices: int, advice: str) -> int:
    """Run ``mpcc`` in several processes of this machine, and return the exit status of the first that failed.

    Arguments:
        words: The arguments of each process; the first is the command, such as ``run``.
        devices: How many processes.
        advice: What to do if a process is lost, the end of the message.

    Raises:
        RankLost: If a process was ended by a signal, and no process has said so.
    """
    # These imports take a second, and other commands do without them.
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It reports every process that ends; the message below says it in one line.
    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        # Each process has a session of its own, which no Ctrl-C of the terminal reaches: all signals are passed on.
        signals_to_handle="SIGINT,SIGTERM,SIGHUP",
        shutdown_timeout=SECONDS_TO_STOP,
    )
    # With more threads than cores, they would wait for each other.
    threads = {"OMP_NUM_THREADS": str(max(1, load_before()[1] // devices))} | dict(os.environ)
    try:
        # The launcher of torch leaves its own handlers of signals behind.
        with variables({**threads, LAUNCHED: str(devices)}), handlers_put_back():
            elastic_launch(config, sys.executable)("-m", "mpcc", *words)
    except SignalException:
        return EXIT_INTERRUPTED
    except ChildFailedError as error:
        rank, first = min(error.failures.items(), key=lambda each: (lost_others(each[1].exitcode), each[1].timestamp))
        if first.exitcode > 0 and first.exitcode != RankLost.status:
            return int(first.exitcode)
        how = f" was ended by {signal.Signals(-first.exitcode).name}" if first.exitcode < 0 else " has ended"
        raise RankLost(f"process {rank} of {devices}{how}, and so all of them; {advice}") from error
    return 0
