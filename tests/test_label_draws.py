"""Systematic draws of y: counts, marginal distribution, variance, and gradients against exact sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mpcc.core.config import Layer, resolve
from mpcc.core.label_draws import systematic_labels
from mpcc.core.registry import load_registry
from mpcc.core.run import assembly
from mpcc.core.run.assembly import build_model
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

PHI = torch.tensor([0.07, 0.33, 0.0, 0.4, 0.2], dtype=torch.float64)


def draws(count: int, times: int, weights: Tensor = PHI) -> Tensor:
    torch.manual_seed(0)
    return torch.stack([systematic_labels(weights, count) for _ in range(times)])


@pytest.mark.parametrize("count", [1, 3, 10, 57])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cluster_gets_its_share_rounded_up_or_down(count: int, dtype: torch.dtype) -> None:
    y = draws(count, 500, PHI.to(dtype))
    assert (y.dtype, y.shape) == (torch.int64, (500, count))
    counts = torch.nn.functional.one_hot(y, len(PHI)).sum(1)
    expected = count * PHI
    assert bool((counts >= (expected - 1e-5).floor()).all())
    assert bool((counts <= (expected + 1e-5).ceil()).all())
    assert int(counts[:, 2].sum()) == 0


@pytest.mark.parametrize("place", [0, 4, 9])
def test_the_label_at_each_place_is_distributed_as_phi(place: int) -> None:
    times = 20_000
    shares = torch.nn.functional.one_hot(draws(10, times)[:, place], len(PHI)).double().mean(0)
    errors = (PHI * (1 - PHI) / times).sqrt()
    assert bool(((shares - PHI).abs() <= 5 * errors).all())


def test_two_places_are_not_tied_to_each_other_beyond_the_counts() -> None:
    """With equal weights and as many labels as clusters, the draws are uniform permutations."""
    y = draws(3, 12_000, torch.full((3,), 1 / 3))
    orders = (9 * y[:, 0] + 3 * y[:, 1] + y[:, 2]).bincount()
    orders = orders[orders > 0]
    assert len(orders) == math.factorial(3)
    assert bool(((orders - 2000).abs() <= 5 * math.sqrt(12_000 / 6 * 5 / 6)).all())


@pytest.mark.parametrize("count", [5, 10])
def test_with_fewer_labels_than_clusters_any_two_clusters_meet(count: int) -> None:
    """A batch is a random choice of N of 2N equal clusters: pairs are as frequent as in drawing without replacement."""
    clusters, times = 2 * count, 20_000
    present = torch.nn.functional.one_hot(draws(count, times, torch.full((clusters,), 1 / clusters)), clusters).sum(1)
    assert int(present.max()) == 1
    together = (present.T @ present).double()[~torch.eye(clusters, dtype=torch.bool)] / times
    expected = (count - 1) / (2 * (clusters - 1))
    errors = math.sqrt(expected * (1 - expected) / times)
    assert bool(((together - expected).abs() <= 5 * errors).all())


def test_a_mean_keeps_its_expectation_and_loses_variance() -> None:
    values = torch.tensor([1.0, -2.0, 5.0, 0.5, 3.0], dtype=torch.float64)
    exact = float((PHI * values).sum())
    means = values[draws(20, 4000)].mean(1)
    assert abs(float(means.mean()) - exact) <= 5 * float(means.std()) / math.sqrt(4000)
    independent = float(((PHI * values**2).sum() - exact**2) / 20)
    assert float(means.var()) < 0.2 * independent


def test_over_many_draws_the_gradient_of_a_trained_phi_is_that_of_the_expectation() -> None:
    torch.manual_seed(0)
    prior = GaussianMixture(3, 1, GaussianMixtureOptions(weights="trainable")).double()
    prior.label_draws = "systematic"
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.2, 0.5, 0.3]).log())
    values = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (exact,) = torch.autograd.grad((prior.weights() * values).sum(), prior.logits)
    found = []
    for _ in range(3000):
        y = prior.sample_labels(7)
        ratio = prior.label_ratio(y)
        assert ratio is not None
        found += torch.autograd.grad((ratio * values[y]).mean(), prior.logits)
    gradients = torch.stack(found)
    errors = gradients.std(0) / math.sqrt(len(gradients))
    assert bool(((gradients.mean(0) - exact).abs() <= 5 * errors).all())


@pytest.mark.parametrize("label_draws", ["independent", "systematic"])
def test_the_prior_of_a_run_draws_as_the_run_was_told(label_draws: str) -> None:
    config = resolve(load_registry(), [Layer("flag", {"run": {"label_draws": label_draws}})])
    torch.manual_seed(0)
    prior = build_model(config, 1, torch.device("cpu")).prior
    assert prior.label_draws == label_draws
    batches = torch.stack([prior.sample(50)[1].bincount(minlength=10) for _ in range(5)])
    assert bool((batches == 5).all()) is (label_draws == "systematic")


class OwnLabels(GaussianMixture):
    """A third party's prior that draws its labels itself."""

    def sample_labels(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize(("label_draws", "warnings"), [("independent", 0), ("systematic", 1)])
def test_a_prior_with_draws_of_its_own_keeps_them_and_a_line_says_so(
    label_draws: str, warnings: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = resolve(load_registry(), [Layer("flag", {"run": {"label_draws": label_draws}})])
    own, entropy = OwnLabels(10, 20, GaussianMixtureOptions()), assembly.make_prior(config)[1]
    monkeypatch.setattr(assembly, "make_prior", lambda config: (own, entropy))
    build_model(config, 1, torch.device("cpu"))
    assert [record.getMessage() for record in caplog.records] == [
        "OwnLabels draws its labels itself: --label-draws systematic does not change it"
    ] * warnings


def test_a_prior_draws_independent_labels_unless_it_is_told_otherwise() -> None:
    torch.manual_seed(0)
    prior = GaussianMixture(5, 2, GaussianMixtureOptions())
    torch.manual_seed(1)
    _, independent = prior.sample(50)
    torch.manual_seed(1)
    assert torch.equal(independent, torch.multinomial(prior.weights(), 50, replacement=True))
    prior.label_draws = "systematic"
    _, systematic = prior.sample(50)
    assert systematic.bincount().tolist() == [10] * 5
