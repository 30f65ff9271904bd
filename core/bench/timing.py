"""The speed of training: seconds per iteration under each engine, their shares, and fractions of the reference rates.

Everything that is compared is measured in turn, round after round, in one process. Other load of the machine then
affects all measurements alike.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from mpcc.core.method.training import Trainer
from mpcc.core.run.timed_steps import timed

__all__ = ["FORMULAS", "Measured", "Spread", "flattened", "interleaved", "section_seconds", "training_figures"]

# Seconds of timed steps, a list for each round.
Seconds = list[list[float]]

FORMULAS = {
    "median, quartiles": "of the seconds of all timed iterations of all rounds; the spread is their difference",
    "speedup": "median over rounds of (median of plain / median of the engine) in the same round",
    "images_per_second": "real images that an iteration takes / median",
    "operations_per_iteration": "counted by torch.utils.flop_counter before fusion and other savings: "
    "multiplications and additions in convolutions and matrix products, forward and backward",
    "rate": "operations_per_iteration / median, FLOP/s: nominal, from the operations before fusion, also if an engine "
    "gets the same result with fewer operations",
    "rate of a reference": "its operations / the median of its seconds, FLOP/s; only those in tf32 are rounded to it",
    "of_matmul": "rate / rate of the matmul in the engine's precision",
    "of_best": "rate / the highest rate among matmul and convolutions in the engine's precision",
    "shares": "seconds of a section / seconds of all sections, over separate iterations, one in each round; on CUDA "
    "these execute section by section, while the fast engine replays a whole iteration as one graph",
}


@attrs.frozen
class Spread:
    """Median and quartiles of a few measurements.

    Attributes:
        median: Median.
        low: Lower quartile.
        high: Upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value or more.

        Example:
            >>> Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
            Spread(median=3.0, low=2.0, high=4.0)
        """
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))

    def plain(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"median": self.median, "quartiles": [self.low, self.high], "spread": self.high - self.low}


@attrs.frozen(eq=False)
class Measured:
    """A step that is timed in turn with others.

    Attributes:
        name: Its name.
        step: The function to time.
        active: Returns a context for a round of steps.
        afterwards: Called at the end of a round, outside all timings.
    """

    name: str
    step: Callable[[], object]
    active: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    afterwards: Callable[[], object] = lambda: None


def interleaved(
    subjects: Sequence[Measured],
    rounds: int,
    iterations: int,
    wait: Callable[[], None] = lambda: None,
    on_round: Callable[[int], None] = lambda number: None,
) -> dict[str, Seconds]:
    """Time several steps in turn; in each round, each takes one step that is not timed and then some that are.

    Arguments:
        subjects: The steps, in their order in every round.
        rounds: Number of rounds.
        iterations: Timed steps in each round.
        wait: Returns when the device has finished.
        on_round: Called at the start of each round with its number, from 1.

    Returns:
        Seconds of every timed step by name, a list for each round.

    Example:
        >>> steps = []
        >>> pair = [Measured(name, lambda name=name: steps.append(name)) for name in "ab"]
        >>> seconds = interleaved(pair, rounds=2, iterations=1)
        >>> "".join(steps), [len(timed) for timed in seconds["a"]]
        ('aabbaabb', [1, 1])
    """
    seconds: dict[str, Seconds] = {subject.name: [] for subject in subjects}
    for number in range(1, rounds + 1):
        on_round(number)
        for subject in subjects:
            with subject.active():
                subject.step()
                wait()
                seconds[subject.name].append([timed(subject.step, wait) for _ in range(iterations)])
                subject.afterwards()
    return seconds


def flattened(rounds: Seconds) -> list[float]:
    """Return the seconds of all rounds in one list."""
    return [seconds for steps in rounds for seconds in steps]


def section_seconds(trainer: Trainer, wait: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Carry out one iteration and return the seconds of each of its sections, and of the ``rest``.

    Sections are real images, generated images, and the rows of the trainer's phases. The clock waits for the device
    after each section. On CUDA, an engine may replay recorded iterations, which have no sections; this iteration is
    never replayed.

    Arguments:
        trainer: The trainer, which carries out one more iteration.
        wait: Returns when the device has finished.
    """
    names = ["real images", "generated images", *(row.name for row in trainer.phases)]
    seconds = dict.fromkeys(names, 0.0)

    @contextlib.contextmanager
    def clock(name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        wait()
        seconds[name] += time.perf_counter() - begin

    before, trainer.section = trainer.section, clock
    try:
        begin = time.perf_counter()
        trainer.iterate(recorded=trainer.model.device.type != "cuda")
        wait()
        whole = time.perf_counter() - begin
    finally:
        trainer.section = before
    return {**seconds, "rest": max(0.0, whole - sum(seconds.values()))}


def training_figures(
    seconds: Mapping[str, Seconds],
    phases: Mapping[str, Sequence[Mapping[str, float]]],
    rates: Mapping[str, Mapping[str, float]],
    operations: int,
    images: int,
) -> dict[str, dict[str, Any]]:
    """Compute the figures of each engine for the table.

    Arguments:
        seconds: Seconds of timed iterations by engine, a list for each round.
        phases: Seconds of the sections of some iterations, by engine.
        rates: FLOP/s by precision: ``matmul`` and ``best``.
        operations: Floating-point operations of an iteration.
        images: Real images in an iteration.

    Returns:
        By engine: raw seconds, median, quartiles, speedup over ``plain`` (None without it), images and operations a
        second, fractions of the reference rates, and shares of the sections.
    """
    figures = {}
    for name, rounds in seconds.items():
        spread = Spread.of(flattened(rounds))
        precision = name.partition("-")[2] or "float32"
        rate = operations / spread.median
        total = {phase: sum(sections[phase] for sections in phases[name]) for phase in phases[name][0]}
        figures[name] = {
            "seconds": rounds,
            **spread.plain(),
            "speedup": speedup(seconds["plain"], rounds) if "plain" in seconds else None,
            "images_per_second": images / spread.median,
            "rate": rate,
            "of_matmul": rate / rates[precision]["matmul"],
            "of_best": rate / rates[precision]["best"],
            "phases": {
                "seconds": [dict(sections) for sections in phases[name]],
                "shares": {phase: value / sum(total.values()) for phase, value in total.items()},
            },
        }
    return figures


def speedup(plain: Seconds, other: Seconds) -> float:
    """Return how many times faster the other engine is: the median over rounds of the ratio of the two medians.

    Example:
        >>> speedup([[2.0, 2.0], [8.0], [3.0]], [[1.0], [4.0, 4.0], [3.0]])
        2.0
    """
    ratios = [np.median(slow) / np.median(fast) for slow, fast in zip(plain, other, strict=True)]
    return float(np.median(ratios))
