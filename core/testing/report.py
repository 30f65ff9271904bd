"""What the contract kit finds: a law and whether it holds, the report on one plugin, and the loop over the laws.

A law is a function of the plugin under test. It returns the figures that show that the law holds, or stops at
`require` with the figures that show the opposite. A law that raises anything else counts as broken, too: its finding
names the exception and the line of the plugin, and the laws after it are still checked.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar

import attrs
import numpy as np
import torch

__all__ = ["ContractViolation", "Finding", "Law", "LawBroken", "Report", "broken", "examine_laws", "law", "require"]

S = TypeVar("S")


@attrs.frozen
class Finding:
    """One law, and whether it holds.

    Attributes:
        name: The law, a short sentence.
        passed: Whether it holds.
        detail: The figures, or why it could not be checked.
    """

    name: str
    passed: bool
    detail: str = ""

    def line(self) -> str:
        """Return the finding as one line.

        Example:
            >>> Finding("weights sum to 1", False, "sum 1.1").line()
            'FAILED  weights sum to 1: sum 1.1'
        """
        return f"{'ok' if self.passed else 'FAILED':<8}{self.name}{f': {self.detail}' if self.detail else ''}"


@attrs.frozen
class Report:
    """All findings on one plugin.

    Attributes:
        kind: ``prior``, ``architecture``, ``dataset`` or ``metric``.
        name: The registered name, or that of the class.
        findings: In the order of the laws.

    Example:
        >>> findings = (Finding("it builds", True), Finding("weights sum to 1", False, "sum 1.1"))
        >>> report = Report("prior", "mine", findings)
        >>> print("\\n".join(report.lines()))
        prior mine: 1 of 2 laws broken
        ok      it builds
        FAILED  weights sum to 1: sum 1.1
    """

    kind: str
    name: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every law holds."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that did not pass."""
        return tuple(finding for finding in self.findings if not finding.passed)

    def lines(self) -> list[str]:
        """Return the report as lines: a summary, then one a finding."""
        count = len(self.findings)
        summary = f"{len(self.failures)} of {count} laws broken" if self.failures else f"all {count} laws hold"
        return [f"{self.kind} {self.name}: {summary}", *(finding.line() for finding in self.findings)]


class ContractViolation(AssertionError):
    """A plugin breaks its contract; the message lists every law that it breaks.

    Arguments:
        report: What was found, all of it.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        failures = "".join(f"\n  {finding.name}: {finding.detail}" for finding in report.failures)
        super().__init__(f"{report.lines()[0]}{failures}")


class LawBroken(Exception):
    """A law does not hold; the message gives the figures."""


def broken(detail: str) -> NoReturn:
    """Say that a law does not hold.

    Raises:
        LawBroken: Always.
    """
    raise LawBroken(detail)


def require(condition: bool, detail: str) -> None:
    """Check one condition of a law.

    Raises:
        LawBroken: With the detail, if it does not hold.
    """
    if not condition:
        raise LawBroken(detail)


@attrs.frozen
class Law(Generic[S]):
    """A sentence and the function that checks it.

    Attributes:
        name: The sentence.
        check: Takes the plugin under test, returns figures; stops at `require`.
        essential: Whether nothing else can be checked where it does not hold.
    """

    name: str
    check: Callable[[S], str]
    essential: bool = False


def law(name: str, essential: bool = False) -> Callable[[Callable[[S], str]], Law[S]]:
    """Make a `Law` of a function."""

    def mark(check: Callable[[S], str]) -> Law[S]:
        return Law(name, check, essential)

    return mark


def examine_laws(kind: str, name: str, cls: type, subject: S, laws: Sequence[Law[S]], seed: int) -> Report:
    """Check every law, each from the same random state, and leave the caller's random states as they were.

    Arguments:
        kind: For the report.
        name: For the report.
        cls: The plugin's class, to find its lines in a traceback.
        subject: What the laws take.
        laws: In the order of the report.
        seed: Of torch's, numpy's and Python's global random states during each law.
    """
    findings: list[Finding] = []
    for each in laws:
        with isolated(seed):
            finding = examine_law(each, subject, cls)
        if each.essential and not finding.passed:
            detail = f"{finding.detail}; nothing else was checked, for the other laws need this one"
            findings.append(attrs.evolve(finding, detail=detail))
            break
        findings.append(finding)
    return Report(kind, name, tuple(findings))


def examine_law(each: Law[S], subject: S, cls: type) -> Finding:
    """Check one law; whatever it raises becomes a finding."""
    try:
        return Finding(each.name, True, each.check(subject))
    except LawBroken as error:
        return Finding(each.name, False, str(error))
    except (Exception, SystemExit) as error:
        return Finding(each.name, False, raised(error, cls))


def raised(error: BaseException, cls: type) -> str:
    """Return an exception in one line: type, message, and the innermost line of the plugin that it came through."""
    text = " ".join(str(error).split())
    frames = list(traceback.walk_tb(error.__traceback__))
    chosen = frames[-1] if frames else None
    for frame, line in frames:
        if belongs(str(frame.f_globals.get("__name__", "")), cls):
            chosen = (frame, line)
    where = f" at {chosen[0].f_code.co_filename}:{chosen[1]}" if chosen else ""
    return f"raised {type(error).__name__}{f': {text}' if text else ''}{where}"


def belongs(module: str, cls: type) -> bool:
    """Tell whether a module is of the plugin: in the package of its class, and not of the core."""
    if module == "mpcc.core" or module.startswith("mpcc.core."):
        return False
    return module.partition(".")[0] == cls.__module__.partition(".")[0]


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Fix all global random states for the length of a ``with`` block, gradients on, and restore them after it."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    before_numpy, before_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(before_numpy)
        random.setstate(before_python)
