"""How fast a run goes, how long it will still take, and whether that is longer than its time budget."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace", "counted", "duration", "spoken"]

# The first estimate comes after so many seconds of iterations, and so many of them.
ESTIMATED_AFTER, ESTIMATED_FROM = 10, 2
# After how many seconds a run is long, and what a user may not know then.
LONG, ADVICE = 3600, "--minutes 30 would fit a run into half an hour"
# What a budget may be exceeded by before that is said: a share of it, and seconds.
LATE_SHARE, LATE_SECONDS = 0.05, 5


def counted(number: float, noun: str) -> str:
    """Return a number with a noun in the singular or plural.

    Example:
        >>> counted(1.0, "minute"), counted(1200, "iteration"), counted(0.5, "minute")
        ('1 minute', '1,200 iterations', '0.5 minutes')
    """
    spelled = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{spelled} {noun}" if number == 1 else f"{spelled} {noun}s"


def spoken(seconds: float) -> str:
    """Return a length of time in words.

    Example:
        >>> [spoken(seconds) for seconds in (1.2, 89.0, 600.0, 20000.0, 500000.0)]
        ['1 s', '89 s', '10 minutes', '5.6 hours', '5.8 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def duration(seconds: float, done: int, total: int, evaluations: int, runs: float = 1.0) -> str:
    """Return how long a run will take, and if that is long, what would shorten it.

    Arguments:
        seconds: Of an iteration.
        done: Iterations so far.
        total: Iterations in all.
        evaluations: Evaluations that follow.
        runs: The work of how many runs this is.

    Example:
        >>> duration(0.05, 0, 1_000, 1)
        'about 50 s of training on this machine: 1,000 iterations at 0.05 s; 1 evaluation besides'
        >>> duration(0.4, 0, 20_000, 4)[:94]
        'about 2.2 hours of training on this machine: 20,000 iterations at 0.4 s; 4 evaluations besides'
    """
    left = total - done
    shared = "" if runs == 1 else f" for the work of {runs:.3g} runs"
    text = (
        f"about {spoken(seconds * left * runs)} of training on this machine{shared}: {counted(left, 'iteration')} at "
        f"{seconds:.2g} s; {counted(evaluations, 'evaluation')} besides"
    )
    return f"{text}; {ADVICE}" if seconds * left * runs > LONG else text


class Pace:
    """The seconds of iterations and evaluations so far. The first iteration of a process does not count.

    Arguments:
        minutes: The time budget of the command, or None.
        began: The clock's time at its start.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, minutes: float | None = None, began: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budget = None if minutes is None else 60 * minutes
        self._began = began
        self._clock = clock
        self._last = clock()
        self._iterations = -1
        self._seconds = 0.0
        self._evaluation = 0.0
        self._estimated = False

    def iterated(self) -> None:
        """Count an iteration and what has followed the one before, except an evaluation."""
        seconds = self._lap()
        self._iterations += 1
        if self._iterations > 0:
            self._seconds += seconds

    def evaluated(self) -> None:
        """Count an evaluation."""
        self._evaluation = self._lap()

    def _lap(self) -> float:
        now = self._clock()
        self._last, before = now, self._last
        return now - before

    def estimate(self, done: int, total: int, evaluations: int, next_evaluation: int) -> str | None:
        """Return a line about the time that a run will take, once, as soon as that can be told; else None.

        Arguments:
            done: Iterations so far.
            total: Iterations in all.
            evaluations: Evaluations that follow.
            next_evaluation: The iteration of the next one.
        """
        if self._estimated or self._iterations < ESTIMATED_FROM or self._seconds < ESTIMATED_AFTER:
            return None
        self._estimated = True
        if done == total:
            return None
        each = self._seconds / self._iterations
        text = f"iteration {done}/{total}: {each:.2g} s an iteration, about {spoken(each * (total - done))} to go"
        text += " and the evaluations" if evaluations else ""
        if next_evaluation < total:
            text += f"; the first results in about {spoken(each * (next_evaluation - done))}"
        if self._budget is None and each * (total - done) > LONG:
            text += f"; {ADVICE}"
        late = self.late(done, total, evaluations)
        return f"{text}; {late}" if late else text

    def late(self, done: int, total: int, evaluations: int) -> str:
        """Return words for the time by which the run will exceed its budget, or an empty text.

        Arguments:
            done: Iterations so far.
            total: Iterations in all.
            evaluations: Evaluations that follow.
        """
        if self._budget is None or self._iterations < 1:
            return ""
        left = self._seconds / self._iterations * (total - done) + self._evaluation * evaluations
        excess = self._clock() + left - (self._began + self._budget)
        if excess <= max(LATE_SHARE * self._budget, LATE_SECONDS):
            return ""
        over = f"about {spoken(excess)} over the {counted(self._budget / 60, 'minute')}"
        return f"{over}: the machine is slower than when measured"
