"""``--minutes``: from what the parts of a run cost to its number of iterations and all that follows from it.

Only the time before training is known when this is decided. Training itself does not look at the clock: the number of
iterations is a value of the configuration, so that the run can be repeated and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

import attrs

from mpcc.core.config import RunConfig, RunSettings
from mpcc.core.config.settings import Interval
from mpcc.core.config.time_budget import free_settings
from mpcc.core.errors import InvalidInput
from mpcc.core.reporting.pace import counted, spoken
from mpcc.core.reporting.verdict import CLUSTERS_NEED, TOO_SHORT
from mpcc.core.run.costs import Costs
from mpcc.core.run.due import evaluations_left

__all__ = ["Budget", "budgeted", "comment_of", "measuring_seconds"]

# The first evaluation: after this many seconds of training, but not before this many iterations.
FIRST_SECONDS, FIRST_ITERATIONS = 120, 3
# A longer run is evaluated ten times, but at least every half hour.
EVALUATIONS, LONGEST_INTERVAL = 10, 1800
# Evaluations may take this share of the first ten minutes, and this share of the time after them. Images and passes
# are cut to take less.
EARLY_SECONDS, EARLY_SHARE, LATER_SHARE, AIM = 600, 0.2, 0.1, 0.09
# An evaluation has at least so many images, in all and for a cluster, and so many passes; passes take this share of it.
FEWEST_IMAGES, FEWEST_OF_A_CLUSTER, FEWEST_PASSES, PASSES_SHARE = 200, 10, 2, 0.25
# The generator's average remembers this share of the iterations, at most the paper's 10,000; it starts after a tenth.
AVERAGE_SHARE, LONGEST_MEMORY, AVERAGE_START = 0.05, 10_000, 0.1
RISE_SHARE = 0.15
# The share of a run after which the prior is fitted at the latest.
LATEST_FIT = 0.6
# Checkpoints may take this share of the time; a minute at least lies between two.
CHECKPOINT_SHARE, CHECKPOINT_SECONDS = 0.02, 60
LOG_ENTRIES = 100
# Seconds that a process takes to end, the last report and the points of the projector among them, and the share of the
# budget that is kept for what was not measured.
ENDING, RESERVE = 1.5, 0.02
# The share of a budget that is spent on measuring, and the most seconds.
MEASURING_SHARE, MOST_MEASURING = 0.03, 30


@attrs.frozen
class Budget:
    """What a time budget came to.

    Attributes:
        minutes: The budget.
        iterations: How many fit into it.
        done: Iterations of the resumed run before that.
        costs: What was measured.
        before: Seconds from the start of the command to the end of the measurement.
        evaluations: How many there will be.
        images: Evaluated images in each.
        evaluation_seconds: Expected seconds of each.
        scheduled: The number of iterations of the preset.
        preset: The preset, or none.
        runs: How many whole runs the minutes are for.
    """

    minutes: float
    iterations: int
    done: int
    costs: Costs
    before: float
    evaluations: int
    images: int
    evaluation_seconds: float
    scheduled: int
    preset: str = ""
    runs: float = 1.0

    @property
    def line(self) -> str:
        """What the budget came to, in one line."""
        more = "more " if self.done else ""
        shared = "" if self.runs == 1 else f" for the work of {self.runs:.3g} runs"
        text = (
            f"{counted(self.minutes, f'{more}minute')}{shared}: {counted(self.iterations, f'{more}iteration')} at "
            f"{self.costs.iteration:.2g} s, {counted(self.evaluations, 'evaluation')} of {self.images:,} images"
        )
        if self.done:
            text += f", to iteration {self.done + self.iterations:,}"
        if (short := TOO_SHORT - self.done - self.iterations) > 0 and self.runs == 1:
            needed = 60 * self.minutes + 1.1 * short * self.costs.iteration
            text += f"; that is too short, {CLUSTERS_NEED}: take --minutes {math.ceil(needed / 60)}"
        if self.done:
            return text
        if self.preset and not 2 / 3 <= self.iterations / self.scheduled <= 1.5:
            seconds = self.scheduled * self.costs.iteration + self.evaluations * self.evaluation_seconds
            text += f"; the {self.scheduled:,} of {self.preset} need about {spoken(self.before + seconds)} here"
        return text

    def record(self) -> dict[str, float]:
        """Return it as plain numbers for ``results.json`` and checkpoints."""
        return {
            "minutes": self.minutes,
            "iterations": self.iterations,
            "seconds_per_iteration": round(self.costs.iteration, 6),
            "seconds_before_training": round(self.before, 3),
            "evaluations": self.evaluations,
            "seconds_per_evaluation": round(self.evaluation_seconds, 3),
        }


def comment_of(record: Mapping[str, float]) -> str:
    """Return the comment on a configuration that a time budget has set, from `Budget.record`; empty without one."""
    if not record:
        return ""
    return (
        f"--minutes {record['minutes']:g} came to these values, at {record['seconds_per_iteration']:.3g} s an "
        f"iteration and {record['seconds_per_evaluation']:.3g} s an evaluation."
    )


def measuring_seconds(minutes: float) -> float:
    """Return how long the iterations of the copy may be timed."""
    return min(60 * minutes * MEASURING_SHARE, MOST_MEASURING)


def budgeted(
    config: RunConfig, costs: Costs, *, before: float, images: int, done: int | None = None, runs: float = 1.0
) -> tuple[RunConfig, Budget]:
    """Return the configuration that a time budget comes to; ``minutes`` is None in it.

    Arguments:
        config: With minutes.
        costs: What the parts of the run cost here.
        before: Seconds from the start of the command until now.
        images: How many images there are.
        done: Iterations that a resumed run has done; only the number of iterations changes then. None for a new run.
        runs: How many whole runs the minutes are for.

    Raises:
        InvalidInput: If not even one iteration and one evaluation fit.
    """
    run = config.run
    assert run.minutes is not None, "there is no budget"
    free = {"iterations"} if done is not None else free_settings(config.origins)
    left = (60 * run.minutes * (1 - RESERVE) - before - ENDING) / runs - costs.start
    planned = plan(run, costs, left, free, images)
    if planned is None:
        raise too_short(run, costs, before, fewest(run, free, images), runs)
    made, evaluation = planned
    iterations = made.iterations
    if done:
        made = attrs.evolve(made, iterations=iterations + done)
    evaluations = evaluations_left(done or 0, made)
    budget = Budget(
        minutes=run.minutes,
        iterations=iterations,
        done=done or 0,
        costs=costs,
        before=before,
        evaluations=evaluations,
        images=wanted(made, images),
        evaluation_seconds=evaluation,
        scheduled=run.iterations,
        preset=config.origins.get("run.iterations", "") if scheduled_by_preset(config) else "",
        runs=runs,
    )
    origins = {**config.origins, **{f"run.{name}": f"{run.minutes:g} minutes" for name in free}}
    return attrs.evolve(config, run=attrs.evolve(made, minutes=None), origins=origins), budget


def scheduled_by_preset(config: RunConfig) -> bool:
    """Return whether a preset gave the number of iterations."""
    return config.origins.get("run.iterations", "").startswith("preset ")


def plan(run: RunSettings, costs: Costs, left: float, free: Set[str], images: int) -> tuple[RunSettings, float] | None:
    """Return settings that fill the time, and the seconds of an evaluation; None if there is too little.

    Arguments:
        run: The settings.
        costs: What the parts cost.
        left: Seconds for iterations, evaluations and checkpoints.
        free: The settings that may be set.
        images: How many images there are.
    """
    allowed = EARLY_SHARE * min(left, EARLY_SECONDS) + LATER_SHARE * max(left - EARLY_SECONDS, 0)
    smallest = costs.of_evaluation(*fewest(run, free, images))
    between = max(CHECKPOINT_SECONDS, costs.checkpoint / CHECKPOINT_SHARE)
    if "checkpoint_every" not in free:
        typed = Interval.parse(run.checkpoint_every)
        between = typed.seconds or (typed.iterations or 1) * costs.iteration
    # The last iteration is saved, whatever the interval.
    left = (left - costs.checkpoint) / (1 + costs.checkpoint / between)
    if left <= 0:
        return None
    if "eval_every" not in free:
        number = max(1, math.ceil(left / (costs.iteration * run.eval_every)))
        made, evaluation = cut(run, costs, AIM * left / number, free, images)
        iterations = filled(left, costs.iteration, evaluation + costs.checkpoint, run.eval_every)
        if iterations < 1:
            return None
        made = attrs.evolve(made, iterations=iterations)
        return scheduled(made, costs, free, between, run.iterations), evaluation
    # Evaluations are so many seconds of training apart; those of a run of a few minutes are nearer.
    apart = min(FIRST_SECONDS, 0.4 * left)
    interval = max(apart, min(left / EVALUATIONS, LONGEST_INTERVAL))
    # Numbers of regular evaluations, and whether an early one comes before them; the last choice is taken in any case.
    choices = [(count, left / count > 1.5 * FIRST_SECONDS) for count in range(max(1, int(left / interval)), 0, -1)]
    for count, early in [*choices, (1, False)]:
        number = count + (early if "first_eval" in free else run.first_eval is not None)
        made, evaluation = cut(run, costs, AIM * left / number, free, images)
        # The best evaluation so far is saved, too.
        iterations = int((left - number * (evaluation + costs.checkpoint)) / costs.iteration)
        enough = iterations >= count * max(FIRST_ITERATIONS, apart / costs.iteration)
        if number * smallest <= allowed and enough:
            break
    if iterations < 1:
        return None
    every = math.ceil(iterations / count)
    first = max(FIRST_ITERATIONS, math.ceil(FIRST_SECONDS / costs.iteration))
    made = attrs.evolve(made, iterations=iterations, eval_every=every)
    if "first_eval" in free:
        made = attrs.evolve(made, first_eval=first if early and first < every else None)
    return scheduled(made, costs, free, between, run.iterations), evaluation


def filled(left: float, iteration: float, evaluation: float, every: int) -> int:
    """Return how many iterations fit, with an evaluation after every few of them and after the last one.

    Example:
        >>> [filled(left, iteration=1.0, evaluation=3.0, every=5) for left in (3.5, 4.0, 8.0, 11.9, 12.0, 16.0)]
        [0, 1, 5, 5, 6, 10]
    """
    whole, rest = divmod(left, every * iteration + evaluation)
    return int(whole) * every + max(0, int((rest - evaluation) / iteration))


def fewest(run: RunSettings, free: Set[str], images: int) -> tuple[int, int]:
    """Return the fewest images and standing passes that an evaluation may have."""
    most, passes = wanted(run, images), run.standing_passes
    least = max(FEWEST_IMAGES, FEWEST_OF_A_CLUSTER * run.clusters)
    return (
        min(most, least) if "eval_images" in free else most,
        min(passes, FEWEST_PASSES) if "standing_passes" in free else passes,
    )


def wanted(run: RunSettings, images: int) -> int:
    """Return how many images an evaluation has under these settings."""
    return images if run.eval_images == "all" else min(int(run.eval_images), images)


def cut(run: RunSettings, costs: Costs, seconds: float, free: Set[str], images: int) -> tuple[RunSettings, float]:
    """Return settings whose evaluation takes so many seconds, if it can, and the seconds that it takes."""
    most, passes = wanted(run, images), run.standing_passes
    least, least_passes = fewest(run, free, images)
    room = seconds - costs.evaluation

    def affordable(share: float, cost: float, lowest: int, highest: int) -> int:
        share = max(share, 0.0)
        return highest if highest * cost <= share else max(int(share / cost), lowest)

    some = affordable(PASSES_SHARE * room, costs.standing_pass, least_passes, passes)
    chosen = affordable(room - some * costs.standing_pass, costs.image, least, most)
    if chosen == most:
        some = affordable(room - most * costs.image, costs.standing_pass, least_passes, passes)
    elif chosen > least:
        chosen = max(least, rounded(chosen))
    if "standing_passes" in free:
        run = attrs.evolve(run, standing_passes=some)
    if "eval_images" in free and chosen < most:
        run = attrs.evolve(run, eval_images=chosen)
    return run, costs.of_evaluation(chosen, some)


def rounded(number: int) -> int:
    """Return a number with its first two digits, the others 0.

    Example:
        >>> rounded(2345), rounded(99)
        (2300, 99)
    """
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit


def scheduled(run: RunSettings, costs: Costs, free: Set[str], between: float, intended: int) -> RunSettings:
    """Return settings with averages, rise, fit, checkpoints and log entries that suit the number of iterations.

    A shorter run than the preset's has its fit of the prior after as many iterations, if that leaves time after it:
    the latents need these iterations to form groups.

    Arguments:
        run: With the number of iterations.
        costs: What an iteration costs.
        free: The settings that may be set.
        between: Seconds between two checkpoints.
        intended: The number of iterations that the other settings were made for.
    """
    iterations = run.iterations
    memory = min(max(AVERAGE_SHARE * iterations, 1), LONGEST_MEMORY)
    suitable: dict[str, Any] = {
        "ema_decay": round(1 - 1 / memory, 6),
        "ema_start": min(run.ema_start, int(AVERAGE_START * iterations)),
        "checkpoint_every": min(math.ceil(between / costs.iteration), iterations),
        "log_every": min(run.log_every, max(1, iterations // LOG_ENTRIES)),
    }
    if run.prior_fit:
        as_late = run.prior_fit * max(1.0, intended / iterations)
        # At the latest, half-way between its own share and that of a second fit.
        latest = min(LATEST_FIT, (run.prior_fit + run.prior_refit) / 2) if run.prior_refit else LATEST_FIT
        suitable["prior_fit"] = max(run.prior_fit, round(min(as_late, latest), 3))
    if run.balance_weight or run.consistency_weight or run.density_weight:
        suitable["real_terms_rise"] = min(run.real_terms_rise, math.ceil(RISE_SHARE * iterations))
    return attrs.evolve(run, **{name: value for name, value in suitable.items() if name in free})


def too_short(
    run: RunSettings, costs: Costs, before: float, smallest: tuple[int, int], runs: float = 1.0
) -> InvalidInput:
    """Return the error for a budget in which not one iteration fits.

    Arguments:
        run: The settings.
        costs: What the parts cost.
        before: Seconds until now.
        smallest: Images and passes of the smallest evaluation.
        runs: How many whole runs the minutes are for.
    """
    evaluation = costs.of_evaluation(*smallest)
    needed = before + ENDING + runs * (costs.start + costs.iteration + 2 * costs.checkpoint + evaluation)
    minutes = needed * 1.1 / (1 - RESERVE) / 60
    unit = 10 ** (math.floor(math.log10(minutes)) - 1)
    nearest = math.ceil(minutes / unit) * unit
    return InvalidInput(
        f"--minutes {run.minutes:g} is too short: the start took {before + costs.start:.1f} s, an iteration takes "
        f"{costs.iteration:.2g} s, and an evaluation {evaluation:.2g} s; nearest valid choice: --minutes {nearest:.2g}"
    )
