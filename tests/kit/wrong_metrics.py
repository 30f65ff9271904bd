"""Metrics that are wrong, each in one way; the docstring of a class says in which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpcc.core.contracts import Evaluation, FeatureRequest, Metric
from mpcc.core.hookspecs import hookimpl


def counts(evaluation: Evaluation) -> Tensor:
    """Return how many images of each class are in each cluster."""
    assert evaluation.labels is not None
    table = torch.zeros(evaluation.clusters, int(evaluation.labels.max()) + 1)
    ones = torch.ones(len(evaluation.labels))
    return table.index_put_((evaluation.assignments, evaluation.labels), ones, accumulate=True)


class Majority(Metric):
    """Right: the share of images in the majority class of their cluster."""

    def compute(self, evaluation: Evaluation) -> Any:
        return float(counts(evaluation).amax(1).sum() / counts(evaluation).sum())


class Sampling(Majority):
    """Of more than 2,000 images, some are chosen at random."""

    def compute(self, evaluation: Evaluation) -> Any:
        if len(evaluation.locations) <= 2000:
            return super().compute(evaluation)
        few = torch.from_numpy(np.random.permutation(len(evaluation.locations))[:500])
        assert evaluation.labels is not None
        part = Evaluation(evaluation.posterior[few], evaluation.locations[few], evaluation.labels[few])
        return super().compute(part)


class Recording(Majority):
    """The record holds an array."""

    needs_images = True

    def compute(self, evaluation: Evaluation) -> Any:
        assert evaluation.images is not None
        evaluation.images.record["sizes"] = {"clusters": [np.arange(3)]}
        return super().compute(evaluation)


class TakesAName(Majority):
    """One of its scores has the name of another metric."""

    def scores(self, name: str, request: FeatureRequest) -> Mapping[str, Any]:
        return {name: "higher", "purity": "higher"}

    def compute(self, evaluation: Evaluation) -> Any:
        return {"its_name": super().compute(evaluation), "purity": super().compute(evaluation)}


class OrderedClasses(Majority):
    """The distance of class numbers within a cluster."""

    higher_is_better = False

    def compute(self, evaluation: Evaluation) -> Any:
        assert evaluation.labels is not None
        labels = evaluation.labels.double()
        means = [labels[evaluation.assignments == k] for k in evaluation.assignments.unique().tolist()]
        return float(sum((each - each.mean()).abs().sum() for each in means) / len(labels))


class Sorting(Majority):
    """The labels are sorted in place afterwards."""

    def compute(self, evaluation: Evaluation) -> Any:
        score = super().compute(evaluation)
        assert evaluation.labels is not None
        evaluation.labels.copy_(evaluation.labels.sort().values)
        return score


class WrongSecond(Majority):
    """The direction of its second score is wrong."""

    def scores(self, name: str, request: FeatureRequest) -> Mapping[str, Any]:
        return {"its_share": "higher", "its_error": "higher"}

    def compute(self, evaluation: Evaluation) -> Any:
        share = super().compute(evaluation)
        return {"its_share": share, "its_error": 1 - share}


class Written(Majority):
    """The score is a text."""

    def compute(self, evaluation: Evaluation) -> Any:
        return f"{super().compute(evaluation):.3f}"


class FirstHalf(Majority):
    """Only the first half of the images counts."""

    def compute(self, evaluation: Evaluation) -> Any:
        half = slice((len(evaluation.locations) + 1) // 2)
        assert evaluation.labels is not None
        return super().compute(
            Evaluation(evaluation.posterior[half], evaluation.locations[half], evaluation.labels[half])
        )


@hookimpl
def register_metrics(register: Any) -> None:
    for name, cls in globals().items():
        if isinstance(cls, type) and issubclass(cls, Majority) and cls is not Majority:
            register(name, f"wrong_metrics:{name}", summary=cls.__doc__ or "")
