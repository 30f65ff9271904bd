"""What the contract kit reports: laws, and whether each one holds.

A law is a function of the plugin under test. It returns the figures that show that the law holds. If the law is
broken, `require` stops it with the figures that show the opposite. A law that holds may return a `Warned` text, which
asks the author to look at something, or an `Undecided` one, if nothing was found out.
`mpcc.core.testing.examination` checks the laws one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Generic, NoReturn, TypeVar

import attrs

__all__ = [
    "ContractViolation",
    "Finding",
    "Law",
    "LawBroken",
    "Laws",
    "Report",
    "Undecided",
    "Warned",
    "broken",
    "counted",
    "harmless",
    "require",
]

S = TypeVar("S")
# The longest detail of a finding, in characters.
LONGEST = 1000


class Warned(str):
    """The figures of a law that holds, but whose author should look at something."""


class Undecided(str):
    """Why it was not found out whether a law holds."""


def harmless(text: str, longest: int = LONGEST) -> str:
    r"""Return a text of a plugin as one line: control characters are escaped, and a long text is cut in its middle.

    Example:
        >>> print(harmless("\x1b[31mred\nline"), harmless("a" * 50, longest=9))
        \x1b[31mred line aa ... aa
    """
    line = " ".join(re.split(r"[ \n\r\t\f\v]+", text)).strip()
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)
    part = (longest - 5) // 2
    return line if len(line) <= longest else f"{line[:part]} ... {line[-part:]}"


def one_line(text: str) -> str:
    """Return the detail of a finding as one harmless line, of its own class."""
    return next((kind for kind in (Warned, Undecided) if isinstance(text, kind)), str)(harmless(text))


def counted(count: int, what: str) -> str:
    """Return a number with a noun.

    Example:
        >>> counted(1, "warning"), counted(2, "warning")
        ('1 warning', '2 warnings')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


@attrs.frozen
class Finding:
    """One law, and whether it holds.

    Attributes:
        name: The law, a short sentence.
        passed: Whether it holds.
        detail: The figures, or why it could not be checked; one line, without control characters.
    """

    name: str
    passed: bool
    detail: str = attrs.field(default="", converter=one_line)

    @property
    def word(self) -> str:
        """``ok``, ``FAILED``, ``warning`` if the author should look at something, or ``unknown``."""
        if not self.passed:
            return "FAILED"
        if isinstance(self.detail, Warned):
            return "warning"
        return "unknown" if isinstance(self.detail, Undecided) else "ok"

    def line(self) -> str:
        """Return the finding as one line.

        Example:
            >>> Finding("weights sum to 1", False, "sum 1.1").line()
            'FAILED  weights sum to 1: sum 1.1'
        """
        return f"{self.word:<8}{self.name}{f': {self.detail}' if self.detail else ''}"


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

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that passed with a warning."""
        return tuple(finding for finding in self.findings if finding.word == "warning")

    def summary(self) -> str:
        """Return one line: how many laws hold, and how many findings are warnings or unknown."""
        count, unknown = len(self.findings), sum(finding.word == "unknown" for finding in self.findings)
        parts = [f"{len(self.failures)} of {count} laws broken" if self.failures else f"all {count} laws hold"]
        parts += [counted(len(self.warnings), "warning")] if self.warnings else []
        parts += [f"{unknown} unknown"] if unknown else []
        return f"{self.kind} {self.name}: {', '.join(parts)}"

    def lines(self) -> list[str]:
        """Return the report as lines: a summary, then one for each finding."""
        return [self.summary(), *(finding.line() for finding in self.findings)]


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
        of_choices: Whether it is checked again for each choice that the plugin's options offer.
        after: The names of laws without which this one would only repeat a finding.
    """

    name: str
    check: Callable[[S], str]
    essential: bool = False
    of_choices: bool = True
    after: Collection[str] = ()


class Laws(list[Law[S]]):
    """Laws in the order of the report.

    Example:
        >>> small = Laws[int]()
        >>> @small.add("the number is below 10")
        ... def below(number: int) -> str:
        ...     require(number < 10, f"it is {number}")
        ...     return f"{number}"
        >>> small[0].check(9)
        '9'
    """

    def add(
        self, name: str, essential: bool = False, of_choices: bool = True, after: Collection[str] = ()
    ) -> Callable[[Callable[[S], str]], Law[S]]:
        """Return a decorator that makes a `Law` of a function and appends it."""

        def append(check: Callable[[S], str]) -> Law[S]:
            self.append(Law(name, check, essential, of_choices, after))
            return self[-1]

        return append
