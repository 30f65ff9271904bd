"""What follows an iteration, as a value."""

from __future__ import annotations

import attrs

from mpcc.core.config import RunSettings
from mpcc.core.config.settings import Interval

__all__ = ["Due", "due_after", "evaluations_left", "next_evaluation"]


@attrs.frozen
class Due:
    """What follows an iteration.

    Attributes:
        log: Whether its terms are logged.
        evaluate: Whether the model is evaluated.
        save: Whether a checkpoint is saved.
        stop: Whether the run stops there, before its end.
    """

    log: bool
    evaluate: bool
    save: bool
    stop: bool


def due_after(done: int, settings: RunSettings, since_saved: float, *, asked_to_stop: bool) -> Due:
    """Return what follows an iteration. Everything follows the last one, and a run that stops is saved.

    Arguments:
        done: Iterations so far.
        settings: How often things are done.
        since_saved: Seconds since the last checkpoint.
        asked_to_stop: Whether the user wants the run to stop.

    Example:
        >>> settings = RunSettings(iterations=9, log_every=2, eval_every=4, checkpoint_every=3)
        >>> due_after(4, settings, 0.0, asked_to_stop=False)
        Due(log=True, evaluate=True, save=False, stop=False)
    """
    last = done == settings.iterations
    stop = asked_to_stop and not last
    return Due(
        log=last or done % settings.log_every == 0,
        evaluate=last or done % settings.eval_every == 0 or done == settings.first_eval,
        save=last or stop or Interval.parse(settings.checkpoint_every).due(done, since_saved),
        stop=stop,
    )


def next_evaluation(done: int, settings: RunSettings) -> int:
    """Return the iteration of the next evaluation.

    Example:
        >>> settings = RunSettings(iterations=9, eval_every=4, first_eval=1)
        >>> [next_evaluation(done, settings) for done in range(9)]
        [1, 4, 4, 4, 8, 8, 8, 8, 9]
    """
    regular = min((done // settings.eval_every + 1) * settings.eval_every, settings.iterations)
    return regular if settings.first_eval is None or settings.first_eval <= done else min(regular, settings.first_eval)


def evaluations_left(done: int, settings: RunSettings) -> int:
    """Return how many evaluations follow.

    Example:
        >>> settings = RunSettings(iterations=9, eval_every=4, first_eval=1)
        >>> [evaluations_left(done, settings) for done in range(10)]
        [4, 3, 3, 3, 2, 2, 2, 2, 1, 0]
    """
    every, end, first = settings.eval_every, settings.iterations, settings.first_eval
    count = end // every - done // every + (end % every != 0 and done < end)
    return count + (first is not None and done < first < end and first % every != 0)
