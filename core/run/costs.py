"""What the parts of a run cost on this machine, in seconds, measured on a copy of the run that is thrown away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import attrs

from mpcc.core.run.timed_steps import Clock, timed

__all__ = ["Copy", "Costs", "iteration_seconds", "measure"]

# Iterations and images beyond which a measurement does not become more exact.
MOST_TIMED = 1000
FEW_IMAGES, GROWTH = 200, 4
FEW_PASSES = 4
# A checkpoint is serialised in memory here; the disk takes about as long again.
DISK = 2


@attrs.frozen
class Costs:
    """Seconds that the parts of a run take.

    Attributes:
        iteration: One iteration.
        start: What the first iterations take beyond that, and building the run.
        evaluation: An evaluation without images and without standing passes.
        image: An evaluated image.
        standing_pass: A pass for standing statistics.
        checkpoint: A checkpoint.
    """

    iteration: float
    start: float = 0.0
    evaluation: float = 0.0
    image: float = 0.0
    standing_pass: float = 0.0
    checkpoint: float = 0.0

    def of_evaluation(self, images: int, passes: int) -> float:
        """Return the seconds of an evaluation.

        Example:
            >>> Costs(iteration=1.0, evaluation=2.0, image=0.5, standing_pass=0.25).of_evaluation(images=4, passes=8)
            6.0
        """
        return self.evaluation + images * self.image + passes * self.standing_pass


@attrs.frozen(eq=False)
class Copy:
    """A copy of a run, to be measured and thrown away.

    Attributes:
        iterate: Carries out an iteration.
        evaluate: Evaluates a number of images after a number of standing passes.
        serialise: Serialises the state for a checkpoint.
        wait: Returns when the device has finished.
        settling: Iterations before the engine has settled, besides the first.
        images: How many images an evaluation may have at most.
        passes: How many standing passes an evaluation has if it takes time to have them all.
        built_in: Seconds that building the copy took.
    """

    iterate: Callable[[], object]
    evaluate: Callable[[int, int], object]
    serialise: Callable[[], object]
    images: int
    passes: int
    wait: Callable[[], None] = lambda: None
    settling: int = 0
    built_in: float = 0.0


def iteration_seconds(
    iterate: Callable[[], object],
    wait: Callable[[], None],
    *,
    settling: int,
    limit: float,
    clock: Clock = time.perf_counter,
) -> float:
    """Return the seconds of an iteration, from a few; from the first alone if there is no need to settle.

    Arguments:
        iterate: Carries out an iteration.
        wait: Returns when the device has finished.
        settling: Iterations before the engine has settled, besides the first.
        limit: Seconds for all of them, which one may exceed.
        clock: Returns the time in seconds.
    """
    first = timed(iterate, wait, clock)
    if first > limit and not settling:
        return first
    for _ in range(settling):
        timed(iterate, wait, clock)
    spent = [timed(iterate, wait, clock)]
    while first + sum(spent) < limit and len(spent) < MOST_TIMED:
        spent.append(timed(iterate, wait, clock))
    return statistics.median(spent)


def measure(copy: Copy, limit: float, clock: Clock = time.perf_counter) -> Costs:
    """Measure the parts of a run.

    The seconds of an evaluation are an affine function of images and passes, through a small evaluation, one with more
    passes and one with more images.

    Arguments:
        copy: The copy of the run.
        limit: Seconds for timed iterations, which one iteration may exceed; evaluations take about as long.
        clock: Returns the time in seconds.
    """
    settling = sum(timed(copy.iterate, copy.wait, clock) for _ in range(copy.settling + 1))
    iterations = [timed(copy.iterate, copy.wait, clock)]
    while sum(iterations) < limit and len(iterations) < MOST_TIMED:
        iterations.append(timed(copy.iterate, copy.wait, clock))
    iteration = sum(iterations) / len(iterations)

    def evaluation(images: int, passes: int) -> float:
        return timed(lambda: copy.evaluate(images, passes), copy.wait, clock)

    few = min(FEW_IMAGES, copy.images)
    # The first one imports what metrics need.
    evaluation(few, 1)
    small = evaluation(few, 1)
    extra = min(FEW_PASSES, copy.passes - 1)
    standing_pass = max(0.0, evaluation(few, 1 + extra) - small) / extra if extra else 0.0
    many, large = few, small
    while many < copy.images and large < limit / GROWTH:
        many = min(many * GROWTH, copy.images)
        large = evaluation(many, 1)
    image = max(0.0, large - small) / (many - few) if many > few else 0.0
    return Costs(
        iteration=iteration,
        start=copy.built_in + max(0.0, settling - (copy.settling + 1) * iteration),
        evaluation=max(0.0, small - few * image - standing_pass),
        image=image,
        standing_pass=standing_pass,
        checkpoint=DISK * timed(copy.serialise, copy.wait, clock),
    )
