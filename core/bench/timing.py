"""How fast training is: seconds per iteration under each engine, what they go to, and what the machine could do.

Everything that is compared is measured in turn, round after round, in one process: what else the machine does meanwhile
then falls on all alike.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from mpcc.core.method.training import Trainer

__all__ = ["FORMULAS", "Measured", "Spread", "interleaved", "section_seconds", "training_figures"]

Seconds = list[list[float]]

FORMULAS = {
    "median, quartiles": "of the seconds of all timed iterations of all rounds; the spread is their difference",
    "speedup": "median over rounds of (median of plain / median of the engine) in the same round",
    "images_per_second": "real images: d_steps * batch / median",
    "operations_per_iteration": "counted by torch.utils.flop_counter before anything is fused or saved: "
    "multiplications and additions in convolutions and matrix products, forward and backward",
    "rate": "operations_per_iteration / median, FLOP/s: nominal, of the operations before fusion, also where an engine "
    "gets the same result with fewer of them",
    "rate of a reference": "its operations / the median of its seconds, FLOP/s; float32 is not rounded to tf32",
    "of_matmul": "rate / rate of the matmul in the engine's precision",
    "of_best": "rate / the highest rate among matmul and convolutions in the engine's precision",
    "shares": "seconds of a section / seconds of all, over iterations of their own, one in each round; on CUDA "
    "executed one by one, while the fast engine replays a whole iteration as one graph",
}


@attrs.frozen
class Spread:
    """The middle of a few measurements and how far they lie apart.

    Attributes:
        median: The middle.
        low: Lower quartile.
        high: Upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of some values, at least one.

        Example:
            >>> Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
            Spread(median=3.0, low=2.0, high=4.0)
        """
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high))

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"median": self.median, "quartiles": [self.low, self.high], "spread": self.high - self.low}


@attrs.frozen(eq=False)
class Measured:
    """Something that is timed in turn with others.

    Attributes:
        name: Of it.
        step: What is timed.
        active: Returns a context for a round of it.
        afterwards: What is done at the end of a round, outside of all timings.
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
    told: Callable[[int], None] = lambda at: None,
) -> dict[str, Seconds]:
    """Time several things in turn: in each round, of each one step that is not timed and some that are, one by one.

    Arguments:
        subjects: What is timed, in this order in every round.
        rounds: How often the turn comes to each.
        iterations: Timed steps in each round.
        wait: Returns when the device has finished.
        told: Called at the start of each round with its number, from 1.

    Returns:
        Seconds of every timed step, a list for each round, by name.

    Example:
        >>> steps = []
        >>> pair = [Measured(name, lambda name=name: steps.append(name)) for name in "ab"]
        >>> found = interleaved(pair, rounds=2, iterations=1)
        >>> "".join(steps), [len(each) for each in found["a"]]
        ('aabbaabb', [1, 1])
    """
    seconds: dict[str, Seconds] = {subject.name: [] for subject in subjects}
    for at in range(1, rounds + 1):
        told(at)
        for subject in subjects:
            with subject.active():
                subject.step()
                wait()
                timed = []
                for _ in range(iterations):
                    begin = time.perf_counter()
                    subject.step()
                    wait()
                    timed.append(time.perf_counter() - begin)
                seconds[subject.name].append(timed)
                subject.afterwards()
    return seconds


def section_seconds(trainer: Trainer, wait: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Carry out one iteration and return the seconds of each of its sections, and of the ``rest``.

    Sections are real images, generated images, and the rows of the trainer's phases. The device is waited for after
    each. On CUDA an engine may replay a recorded iteration, which has no sections: here it is carried out update by
    update whatever the engine does otherwise.

    Arguments:
        trainer: It does one iteration more.
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
    """Work out what the table shows of each engine.

    Arguments:
        seconds: Of timed iterations, by engine, a list for each round.
        phases: Seconds of the sections of some iterations, by engine.
        rates: FLOP/s by precision: ``matmul`` and ``best``.
        operations: Floating-point operations of an iteration.
        images: Real images in an iteration.

    Returns:
        By engine: raw seconds, median, quartiles, speedup over ``plain`` (None without it), images and operations a
        second and what fraction of the references that is, shares of sections.
    """
    found = {}
    for name, timed in seconds.items():
        spread = Spread.of([each for one in timed for each in one])
        precision = name.partition("-")[2] or "float32"
        rate = operations / spread.median
        total = {phase: sum(each[phase] for each in phases[name]) for phase in phases[name][0]}
        found[name] = {
            "seconds": timed,
            **spread.plain(),
            "speedup": speedup(seconds["plain"], timed) if "plain" in seconds else None,
            "images_per_second": images / spread.median,
            "rate": rate,
            "of_matmul": rate / rates[precision]["matmul"],
            "of_best": rate / rates[precision]["best"],
            "phases": {
                "seconds": [dict(each) for each in phases[name]],
                "shares": {phase: value / sum(total.values()) for phase, value in total.items()},
            },
        }
    return found


def speedup(plain: Seconds, other: Seconds) -> float:
    """Return how many times as fast the other is: the median over rounds of the quotients of their medians.

    Example:
        >>> speedup([[2.0, 2.0], [8.0], [3.0]], [[1.0], [4.0, 4.0], [3.0]])
        2.0
    """
    return float(np.median([np.median(one) / np.median(two) for one, two in zip(plain, other, strict=True)]))
