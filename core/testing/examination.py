"""The loop that checks laws: each by itself, from the same state of the process, and within a limit of time."""

from __future__ import annotations

import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import attrs
import torch
from torch.distributions import Distribution

from mpcc.core.registry import reason
from mpcc.core.system.randomness import own_randomness
from mpcc.core.system.time_limits import Overdue, time_limit
from mpcc.core.testing.cases import SizeRefused
from mpcc.core.testing.report import Finding, Law, LawBroken, Report, Undecided, harmless

__all__ = ["SECONDS", "belongs", "examine_laws", "raised"]

S = TypeVar("S")
# The limit of a law, in seconds.
SECONDS = 120.0
OVERDUE = "did not end within"
# The longest message of an exception, in characters.
LONGEST = 300


def examine_laws(
    kind: str,
    name: str,
    cls: type,
    subject: S,
    laws: Iterable[Law[S]],
    seed: int,
    *,
    seconds: float = SECONDS,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Report:
    """Check every law, each from the same random state, and leave the caller's state of the process as it was.

    Arguments:
        kind: For the report.
        name: For the report.
        cls: The plugin's class, which tells which lines of a traceback are the plugin's.
        subject: The argument of every law.
        laws: In the order of the report.
        seed: Of torch's, NumPy's and Python's global random states during each law.
        seconds: The limit of each law.
        tell: Is called with each finding when its law ends.

    Example:
        >>> from mpcc.core.testing.report import Laws, require
        >>> small = Laws[int]()
        >>> @small.add("the number is below 10")
        ... def below(number: int) -> str:
        ...     require(number < 10, f"it is {number}")
        ...     return f"{number}"
        >>> examine_laws("number", "eleven", int, 11, small, seed=0).lines()
        ['number eleven: 1 of 1 laws broken', 'FAILED  the number is below 10: it is 11']
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    findings: list[Finding] = []
    causes: dict[str, str] = {}
    for law in laws:
        if cause := next((each.name for each in findings if not each.passed and each.name in law.after), ""):
            findings.append(Finding(law.name, True, Undecided(f"not checked, because of {cause!r}")))
            tell(findings[-1])
            continue
        with own_randomness(seed, device), own_settings():
            finding = examine_law(law, subject, cls, seconds)
        if finding.detail.startswith("raised") and not finding.passed:
            # One fault of a plugin often stops many laws at one line.
            first = causes.setdefault(finding.detail, law.name)
            if first != law.name:
                finding = attrs.evolve(finding, detail=f"raised the same exception as in {first!r}")
        overdue = finding.detail.startswith(OVERDUE)
        stops = not finding.passed and (law.essential or overdue)
        if stops:
            why = "the others may not end either" if overdue else "the other laws need this one"
            finding = attrs.evolve(finding, detail=f"{finding.detail}; nothing else was checked, for {why}")
        findings.append(finding)
        tell(finding)
        if stops:
            break
    return Report(kind, name, tuple(findings))


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Put back what a plugin may change for the whole process, and let it print to standard error only.

    These are the default dtype, which a run leaves at float32, the default device, the filters of warnings, and
    whether torch checks the arguments of distributions.
    """
    dtype, device, checking = torch.get_default_dtype(), torch.get_default_device(), Distribution._validate_args
    torch.set_default_dtype(torch.float32)
    try:
        with torch.enable_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        Distribution.set_default_validate_args(checking)


def examine_law(law: Law[S], subject: S, cls: type, seconds: float) -> Finding:
    """Check one law; whatever it raises becomes a finding."""
    try:
        with time_limit(seconds):
            return Finding(law.name, True, law.check(subject))
    except LawBroken as error:
        return Finding(law.name, False, str(error))
    except SizeRefused as error:
        return Finding(law.name, True, Undecided(f"not checked: {error}"))
    except Overdue as error:
        return Finding(law.name, False, f"{OVERDUE} {seconds:g} s{place_of(error, cls)}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and asyncio.CancelledError, too, are no end of the report
        return Finding(law.name, False, raised(error, cls))


def raised(error: BaseException, cls: type) -> str:
    """Return an exception in one line: type, message, and the innermost line of the plugin that it came through."""
    return f"raised {harmless(reason(error), LONGEST)}{place_of(error, cls)}"


def place_of(error: BaseException, cls: type) -> str:
    """Return the innermost line of the plugin that an exception came through, or else its innermost line of all."""
    frames = list(traceback.walk_tb(error.__traceback__))
    of_plugin = [frame for frame in frames if belongs(str(frame[0].f_globals.get("__name__", "")), cls)]
    return "".join(f" at {frame.f_code.co_filename}:{line}" for frame, line in (of_plugin or frames)[-1:])


def belongs(module: str, cls: type) -> bool:
    """Tell whether a module is in the package of the plugin's class and outside of the core."""
    if module == "mpcc.core" or module.startswith("mpcc.core."):
        return False
    return module.partition(".")[0] == cls.__module__.partition(".")[0]
