"""Which score chooses the best evaluation of a run, and what is refused before it trains."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.config import environment_layer, resolve
from mpcc.core.contracts import Direction, Evaluation, FeatureRequest, Metric
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.best_score import BestScore, score_to_watch
from mpcc.core.evaluation.findings import find
from mpcc.core.registry import load_registry
from mpcc.core.run.assembly import build_model, load_data
from mpcc.core.run.saved_run import run_layer, take_weights
from mpcc.core.storage.checkpoint import load_checkpoint
from mpcc.plugins.metrics.kept_information import KeptInformation, kept_information


class Several(Metric):
    """Three scores without labels; the last is neither better higher nor lower."""

    needs_labels = False

    def scores(self, name: str, request: FeatureRequest) -> Mapping[str, Direction]:
        return {f"{name}_up": "higher", f"{name}_down": "lower", f"{name}_width": "neither"}

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        return dict.fromkeys(self.scores("several", FeatureRequest()), 1.0)


class One(Several):
    def scores(self, name: str, request: FeatureRequest) -> Mapping[str, Direction]:
        return {"distance": "lower", "width": "neither"}


class Constant(Several):
    """One score under the metric's own name."""

    def __init__(self, needs_labels: bool = False) -> None:
        self.needs_labels = needs_labels

    def scores(self, name: str, request: FeatureRequest) -> Mapping[str, Direction]:
        return Metric.scores(self, name, request)


class Judge(Constant):
    judges_clusterings = True


CHOICES: dict[str, Metric] = {
    "labelled": Constant(needs_labels=True),
    "plain": Constant(),
    "several": Several(),
    "one": One(),
    "judge": Judge(),
}
KNOWN = [*CHOICES, "elsewhere"]


def watched(wanted: str, clusters: int = 3, metrics: Mapping[str, Metric] = CHOICES) -> BestScore | None:
    return score_to_watch(wanted, metrics, KNOWN, FeatureRequest(), clusters)


@pytest.mark.parametrize(
    ("wanted", "name", "higher"),
    [
        ("plain", "plain", True),
        ("several_up", "several_up", True),
        ("several_down", "several_down", False),
        ("one", "distance", False),  # its only score with a direction
        ("distance", "distance", False),
        ("auto", "judge", True),
    ],
)
def test_the_best_is_chosen_by_a_score_or_by_a_metric_that_has_one(wanted: str, name: str, higher: bool) -> None:
    assert watched(wanted) == BestScore(name, higher)
    assert watched("none") is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("several", "--best-by several: this metric has several scores: expected one of several_up, several_down"),
        ("several_width", "neither higher nor lower values of it are better; expected plain, several_up, several_down"),
        ("labelled", "--best-by labelled: it needs labels, which training must not use; expected plain"),
        ("elsewhere", "--best-by elsewhere: --metrics leaves it out; expected plain"),
        (
            "distanse",
            "unknown score for --best-by: 'distanse': did you mean 'distance'. .expected one of auto, distance, ",
        ),
    ],
)
def test_what_cannot_choose_the_best_is_refused_with_the_scores_that_can(wanted: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        watched(wanted)


def test_automatic_choice_says_so_if_nothing_judges_clusterings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert watched("auto", metrics={"plain": CHOICES["plain"], "one": One()}) is None
    assert "no best.pt will be kept: no computed metric judges clusterings" in caplog.text
    assert "choose a score with --best-by: plain, distance" in caplog.text
    caplog.clear()
    assert watched("auto", clusters=1) is None
    assert "no best.pt will be kept: one cluster leaves nothing to judge" in caplog.text


def test_an_evaluation_without_the_announced_score_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    best = BestScore("distance", higher=False)
    assert not best.improves({"distanz": 1.0}, 500)
    assert "iteration 500 cannot be compared for best.pt: no score is named distance; there are: distanz" in caplog.text
    assert best.improves({"distance": 1.0}, 1000)


# Settings, none of a preset, with which 250 iterations find clusters among the digits.
CLUSTERING = [
    *("--preset=none", "--data=digits", "--arch.width=6", "--latent-dim=20", "--iterations=250", "--threads=1"),
    *("--d-steps=2", "--e-steps=2", "--lr=7e-4", "--lr-decay=0.2", "--prior-lr=3e-3", "--ema-decay=0.99"),
    *("--ema-start=200", "--prior.scale-floor=0.2", "--prior.initial-raw-scale=-2"),
]


@pytest.mark.check
def test_on_digits_a_collapse_of_a_trained_clustering_scores_below_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    registry, folder = load_registry([]), tmp_path / "run"
    with pytest.raises(SystemExit, match="0"):
        entry.run_main([*CLUSTERING, "--device", "cpu", "--out", str(folder)])
    config = resolve(registry, [environment_layer(), run_layer(folder)], "none")
    data, device, source = load_data(config), torch.device("cpu"), folder / "checkpoints" / "last.pt"
    model = build_model(config, 1, device)
    take_weights(model, load_checkpoint(source), source)
    found = find(model, data, torch.arange(len(data)), {"kept_information": KeptInformation()}, config.run)
    clusters, again = found.evaluation.assignments, found.images.reconstructed_clusters()
    complete = found.scores["kept_information"]
    assert complete == kept_information(clusters, again, 10) > 0.3
    # Join the closest components of the prior, two at a time: the clusters of images and reconstructions with them.
    centres = model.prior.component(torch.arange(10)).mean.detach()
    distances = torch.cdist(centres, centres).fill_diagonal_(torch.inf)
    joined, scores = torch.arange(10), [complete]
    while len(joined.unique()) > 1:
        i, j = divmod(int(distances.argmin()), 10)
        distances[i, j] = distances[j, i] = torch.inf
        if joined[i] != joined[j]:
            joined[joined == joined[j]] = int(joined[i])
            scores.append(kept_information(joined[clusters], joined[again], 10))
    assert all(collapsed < complete - 0.02 for collapsed in scores[1:])
    assert scores[-1] == 0
    # A run that never leaves its start is worse than the trained one, too.
    fresh = find(build_model(config, 1, device), data, torch.arange(300), {"kept": KeptInformation()}, config.run)
    assert fresh.scores["kept"] < complete
