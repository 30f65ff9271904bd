"""The best evaluation of a run, by a score that needs no labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from mpcc.core.contracts import Metric
from mpcc.core.errors import InvalidInput, unknown_name

__all__ = ["BestScore", "score_to_watch"]

AUTOMATIC, NOTHING = "auto", "none"


@attrs.define
class BestScore:
    """The best value of a score so far.

    Attributes:
        name: Of the metric.
        higher: Whether higher is better.
        value: None before the first evaluation.
        iteration: The iteration of that evaluation.

    Example:
        >>> best = BestScore("reconstruction", higher=False)
        >>> [best.improves({"reconstruction": value}, at) for at, value in enumerate([0.3, 0.4, 0.2])]
        [True, False, True]
        >>> best.iteration
        2
    """

    name: str
    higher: bool
    value: float | None = None
    iteration: int | None = None

    def improves(self, scores: Mapping[str, float], iteration: int) -> bool:
        """Record an evaluation and return whether it is the best so far; of equal ones the first counts."""
        value = scores.get(self.name)
        if value is None:
            return False
        if self.value is not None and (value <= self.value if self.higher else value >= self.value):
            return False
        self.value, self.iteration = value, iteration
        return True

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return attrs.asdict(self)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Take values from `plain`; values of another score are ignored."""
        if state is not None and (state["name"], state["higher"]) == (self.name, self.higher):
            self.value, self.iteration = state["value"], state["iteration"]


def score_to_watch(wanted: str, metrics: Mapping[str, Metric], known: Iterable[str]) -> BestScore | None:
    """Return the score that decides which evaluation is kept.

    Arguments:
        wanted: A metric's name; ``auto`` for the first that is computed and needs no labels; ``none`` for no score.
        metrics: The metrics that are computed, by name.
        known: The names of all metrics.

    Raises:
        InvalidInput: If the metric does not exist, is not computed, or needs labels.
    """
    if wanted == NOTHING:
        return None
    blind = {name: metric for name, metric in metrics.items() if not metric.needs_labels}
    if wanted == AUTOMATIC:
        return next((BestScore(name, metric.higher_is_better) for name, metric in blind.items()), None)
    choices = f"expected {', '.join([*blind, AUTOMATIC, NOTHING])}"
    if wanted not in known:
        raise unknown_name("metric for --best-by:", wanted, [*blind, AUTOMATIC, NOTHING])
    if wanted not in metrics:
        raise InvalidInput(f"--best-by {wanted}: --metrics leaves it out; {choices}")
    if wanted not in blind:
        raise InvalidInput(f"--best-by {wanted}: it needs labels, which training must not use; {choices}")
    return BestScore(wanted, blind[wanted].higher_is_better)
