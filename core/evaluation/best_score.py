"""The best evaluation of a run, by a score that needs no labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from mpcc.core.contracts import FeatureRequest, Metric
from mpcc.core.errors import InvalidInput, unknown_name

__all__ = ["BestScore", "score_to_watch"]

AUTOMATIC, NOTHING = "auto", "none"

logger = logging.getLogger(__name__)


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
        """Record an evaluation and return whether it is the best so far; of equal ones the first counts.

        An evaluation without the score is not the best, and a warning says so: a plugin gives other scores than it has
        announced.
        """
        value = scores.get(self.name)
        if value is None:
            given = ", ".join(scores) or "none"
            logger.warning(
                "iteration %d cannot be compared for best.pt: no score is named %s; there are: %s",
                iteration,
                self.name,
                given,
            )
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


def score_to_watch(
    wanted: str, metrics: Mapping[str, Metric], known: Iterable[str], request: FeatureRequest, clusters: int
) -> BestScore | None:
    """Return the score that decides which evaluation is kept, before anything is trained.

    Arguments:
        wanted: A score; or a metric with one score by which evaluations can be compared; or ``auto`` for the first
            computed metric that judges clusterings, and a log message if there is none; or ``none`` for no score.
        metrics: The metrics that are computed, by name.
        known: The names of all metrics.
        request: The settings of scores of features, which name some scores.
        clusters: K; with one cluster ``auto`` has nothing to judge.

    Raises:
        InvalidInput: If there is no such score, it is not computed, it needs labels, or it has no direction; the
            message lists the scores that there are, and the nearest.
    """
    if wanted == NOTHING:
        return None
    blind = {name: metric for name, metric in metrics.items() if not metric.needs_labels}
    of_metric = {name: metric.scores(name, request) for name, metric in blind.items()}
    directions = {score: direction for scores in of_metric.values() for score, direction in scores.items()}
    comparable = [score for score, direction in directions.items() if direction != "neither"]
    if wanted == AUTOMATIC:
        judges = [name for name, metric in blind.items() if metric.judges_clusterings]
        scores = [score for name in judges for score in of_metric[name] if score in comparable]
        if scores and clusters > 1:
            return BestScore(scores[0], directions[scores[0]] == "higher")
        why = "one cluster leaves nothing to judge" if clusters == 1 else "no computed metric judges clusterings"
        choice = f"choose a score with --best-by: {', '.join(comparable)}" if comparable else "see --metrics"
        logger.info("no best.pt will be kept: %s; %s", why, choice)
        return None
    choices = [*comparable, AUTOMATIC, NOTHING]
    expected = f"expected {', '.join(choices)}"
    if wanted in of_metric:
        own = [score for score in of_metric[wanted] if score in comparable]
        if len(own) == 1:
            return BestScore(own[0], directions[own[0]] == "higher")
        if own and wanted not in own:
            raise InvalidInput(f"--best-by {wanted}: this metric has several scores: expected one of {', '.join(own)}")
    if wanted in comparable:
        return BestScore(wanted, directions[wanted] == "higher")
    if wanted in directions or wanted in of_metric:
        raise InvalidInput(f"--best-by {wanted}: neither higher nor lower values of it are better; {expected}")
    if wanted in metrics or any(wanted in metric.scores(name, request) for name, metric in metrics.items()):
        raise InvalidInput(f"--best-by {wanted}: it needs labels, which training must not use; {expected}")
    if wanted in known:
        raise InvalidInput(f"--best-by {wanted}: --metrics leaves it out; {expected}")
    raise unknown_name("score for --best-by:", wanted, choices)
