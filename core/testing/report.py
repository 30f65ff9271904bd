"""What the contract kit reports: laws, whether each one holds, and the loop that checks them.

A law is a function of the plugin under test. It returns the figures that show that the law holds. If the law is
broken, `require` stops it with the figures that show the opposite. A law that raises anything else counts as broken,
too: its finding names the exception and the line of the plugin. The laws after it are still checked.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Generic, NoReturn, TypeVar

import attrs
import torch

from mpcc.core.registry import reason
from mpcc.core.system.randomness import own_randomness

__all__ = ["ContractViolation", "Finding", "Law", "LawBroken", "Laws", "Report", "broken", "examine_laws", "require"]

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
        """Return the report as lines: a summary, then one for each finding."""
        count = len(self.findings)
        summary = f"{len(self.failures)} of {count} laws broken" if self.failures else f"all {count} laws hold"
        return [f"{self.kind} {self.name}: {summary}", *(finding.line() for finding in self.findings)]


class ContractViolation(AssertionError):
    """A plugin breaks its contract; the message lists every law that it breaks.

    Arguments:
        report: All findings.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        failures = "".join(f"\n  {finding.name}: {finding.detail}" for finding in report.failures)
        super().__init__(f"{report.lines()[0]}{failures}")


class LawBroken(Exception):
    """A law does not hold; the message gives the figures."""


def broken(detail: str) -> NoReturn:
    """Stop a law that does not hold.

    Raises:
        LawBroken: Always.
    """
    raise LawBroken(detail)


def require(condition: bool, detail: str) -> None:
    """Check one condition of a law.

    Raises:
        LawBroken: With the detail, if the condition does not hold.
    """
    if not condition:
        broken(detail)


@attrs.frozen
class Law(Generic[S]):
    """A sentence and the function that checks it.

    Attributes:
        name: The sentence.
        check: Takes the plugin under test and returns figures; stops at `require`.
        essential: Whether no other law can be checked if this one is broken.
    """

    name: str
    check: Callable[[S], str]
    essential: bool = False


class Laws(list[Law[S]]):
    """Laws in the order of the report.

    Example:
        >>> small = Laws[int]()
        >>> @small.add("the number is below 10")
        ... def below(number: int) -> str:
        ...     require(number < 10, f"it is {number}")
        ...     return f"{number}"
        >>> examine_laws("number", "eleven", int, 11, small, seed=0).lines()
        ['number eleven: 1 of 1 laws broken', 'FAILED  the number is below 10: it is 11']
    """

    def add(self, name: str, essential: bool = False) -> Callable[[Callable[[S], str]], Law[S]]:
        """Return a decorator that makes a `Law` of a function and appends it."""

        def append(check: Callable[[S], str]) -> Law[S]:
            self.append(Law(name, check, essential))
            return self[-1]

        return append


def examine_laws(kind: str, name: str, cls: type, subject: S, laws: Iterable[Law[S]], seed: int) -> Report:
    """Check every law, each from the same random state, and leave the caller's random states as they were.

    Arguments:
        kind: For the report.
        name: For the report.
        cls: The plugin's class, which tells which lines of a traceback are the plugin's.
        subject: The argument of every law.
        laws: In the order of the report.
        seed: Of torch's, NumPy's and Python's global random states during each law.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    findings: list[Finding] = []
    for law in laws:
        with own_randomness(seed, device), torch.enable_grad():
            finding = examine_law(law, subject, cls)
        if law.essential and not finding.passed:
            detail = f"{finding.detail}; nothing else was checked, for the other laws need this one"
            findings.append(attrs.evolve(finding, detail=detail))
            break
        findings.append(finding)
    return Report(kind, name, tuple(findings))


def examine_law(law: Law[S], subject: S, cls: type) -> Finding:
    """Check one law; whatever it raises becomes a finding."""
    try:
        return Finding(law.name, True, law.check(subject))
    except LawBroken as error:
        return Finding(law.name, False, str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and asyncio.CancelledError, too, are no end of the report
        return Finding(law.name, False, raised(error, cls))


def raised(error: BaseException, cls: type) -> str:
    """Return an exception in one line: type, message, and the innermost line of the plugin that it came through."""
    frames = list(traceback.walk_tb(error.__traceback__))
    of_plugin = [frame for frame in frames if belongs(str(frame[0].f_globals.get("__name__", "")), cls)]
    where = "".join(f" at {frame.f_code.co_filename}:{line}" for frame, line in (of_plugin or frames)[-1:])
    return f"raised {reason(error)}{where}"


def belongs(module: str, cls: type) -> bool:
    """Tell whether a module is in the package of the plugin's class and outside of the core."""
    if module == "mpcc.core" or module.startswith("mpcc.core."):
        return False
    return module.partition(".")[0] == cls.__module__.partition(".")[0]
