"""Events of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mpcc.core.method.terms import TermWeights
from mpcc.core.reporting.event_log import EventLog
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

WEIGHTS = TermWeights.published(1, 8, 4)


def test_terms_are_logged_raw_and_weighted(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    weights = {"data_discriminator": 1.5, "latent": 0.1}
    log.losses(5, {"data_discriminator": 2.0, "latent": 3.0}, weights, {"prior": 0.5}, {"encoder": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    read = {tag: events.Scalars(tag)[0] for tag in events.Tags()["scalars"]}
    assert {event.step for event in read.values()} == {5}
    values = {tag: event.value for tag, event in read.items()}
    assert values == pytest.approx(
        {
            **{"terms/data_discriminator": 2.0, "weighted/data_discriminator": 3.0},
            **{"terms/latent": 3.0, "weighted/latent": 0.3, "learning_rate/prior": 0.5},
            "gradient_norm/encoder": 0.25,
        }
    )


def test_resumed_events_hide_those_that_are_written_anew(tmp_path: Path) -> None:
    first = EventLog(tmp_path)
    for step in (1, 2, 3, 4):
        first.scores(step, {"acc": 0.1})
    first.close()
    second = EventLog(tmp_path, purge_step=3)
    for step in (3, 4, 5):
        second.scores(step, {"acc": 0.9})
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("Scores/acc")
    assert [(event.step, round(event.value, 1)) for event in events] == [
        (1, 0.1),
        (2, 0.1),
        (3, 0.9),
        (4, 0.9),
        (5, 0.9),
    ]


class Plain(GaussianMixture):
    """A mixture that reports no scales, a scalar and a vector."""

    def scales(self) -> Tensor | None:  # type: ignore[override]
        return None

    def quantities(self) -> dict[str, Tensor]:
        return {"df": torch.tensor(3.0), "tails": torch.arange(4.0)}


def test_a_prior_without_scales_has_no_histogram_of_them_and_its_other_quantities_are_written(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.prior(1, Plain(2, 3, GaussianMixtureOptions()))
    log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["histograms"] == ["prior/weights", "prior/tails"]
    assert [(event.step, event.value) for event in events.Scalars("prior/df")] == [(1, 3.0)]


def test_a_note_is_written_as_text(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.note("entropy", "noisy")
    log.close()
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["tensors"] == ["entropy/text_summary"]
