"""Entropies of the components: what a prior declares, what a run takes, and what it says about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from mpcc.core.commands.entry import run_main
from mpcc.core.errors import InvalidInput
from mpcc.core.method.entropy import EntropyPolicy, monte_carlo_entropies
from mpcc.core.registry import load_registry
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

TINY = ["--iterations", "2", "--eval-images", "40", "--eval-every", "2", "--log-every", "1", "--threads", "1"]


class Unknown(GaussianMixture):
    """A prior that says nothing of its entropy."""

    entropy_kind = "none"

    def entropies(self) -> Tensor:
        raise AssertionError("a prior without entropies is never asked for them")


class Bounded(GaussianMixture):
    """A prior with a declared lower bound: one nat below."""

    entropy_kind = "lower-bound"

    def entropies(self) -> Tensor:
        return super().entropies() - 1


def make(cls: type[GaussianMixture] = GaussianMixture) -> GaussianMixture:
    torch.manual_seed(0)
    return cls(3, 2, GaussianMixtureOptions())


@pytest.mark.parametrize("name", load_registry().names("prior"))
@torch.no_grad()
def test_the_estimate_is_the_closed_form_within_its_error(name: str) -> None:
    entry = load_registry().entry("prior", name)
    options = entry.options_class()
    torch.manual_seed(0)
    prior = entry.load()(3, 2, options()) if options else entry.load()(3, 2, None)
    estimates = torch.stack([monte_carlo_entropies(prior, 500) for _ in range(40)])
    error = estimates.std(0) / 40**0.5
    assert bool(((estimates.mean(0) - prior.entropies()).abs() < 5 * error).all())


def test_the_gradient_of_the_estimate_is_that_of_the_closed_form_within_its_error() -> None:
    prior = make()
    exact = torch.autograd.grad(prior.entropies().sum(), prior.raw_scale)[0]
    found = torch.stack(
        [torch.autograd.grad(monte_carlo_entropies(prior, 500).sum(), prior.raw_scale)[0] for _ in range(40)]
    )
    assert bool(((found.mean(0) - exact).abs() < 5 * found.std(0) / 40**0.5 + 1e-6).all())


def test_auto_takes_what_the_prior_declares_and_an_estimate_only_when_asked() -> None:
    assert EntropyPolicy.of(make()) == EntropyPolicy("closed-form")
    assert EntropyPolicy.of(make(Bounded)) == EntropyPolicy("lower-bound")
    for cls in (GaussianMixture, Bounded, Unknown):
        assert EntropyPolicy.of(make(cls), "monte-carlo", 8) == EntropyPolicy("monte-carlo", 8)


@pytest.mark.parametrize(
    ("cls", "wanted", "samples", "message"),
    [
        (Unknown, "auto", None, "Unknown has neither .* --entropy monte-carlo --entropy-samples 64"),
        (Unknown, "closed-form", None, "Unknown has neither"),
        (Bounded, "closed-form", None, "declares 'lower-bound' .nearest valid choice: --entropy lower-bound"),
        (GaussianMixture, "lower-bound", None, "declares 'closed-form'"),
        (GaussianMixture, "monte-carlo", None, "expected its sample count, such as --entropy-samples 64"),
        (GaussianMixture, "auto", 9, "--entropy-samples 9 goes with --entropy monte-carlo, got --entropy auto"),
    ],
)
def test_a_policy_that_the_prior_cannot_follow_is_refused(
    cls: type[GaussianMixture], wanted: str, samples: int | None, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        EntropyPolicy.of(make(cls), wanted, samples)


def test_the_policy_asks_the_prior_or_estimates() -> None:
    bounded = make(Bounded)
    torch.testing.assert_close(EntropyPolicy("lower-bound").entropies(bounded), make().entropies() - 1)
    assert EntropyPolicy("monte-carlo", 5).entropies(make(Unknown)).shape == (3,)
    assert EntropyPolicy("closed-form").warning() is None
    assert "lower bound" in str(EntropyPolicy("lower-bound").warning())
    assert "5 samples" in str(EntropyPolicy("monte-carlo", 5).warning())


@pytest.mark.parametrize("estimated", [False, True])
def test_a_run_records_where_its_entropies_come_from(
    tmp_path: Path, estimated: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--entropy", "monte-carlo", "--entropy-samples", "6"] if estimated else []
    with pytest.raises(SystemExit) as exit_info:
        run_main([*TINY, *asked, "--out", str(tmp_path / "run")])
    assert exit_info.value.code == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    config = (tmp_path / "run" / "config.toml").read_text()
    notes = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["tensors"]
    if estimated:
        assert results["entropy"] == {"kind": "monte-carlo", "samples": 6}
        assert 'entropy = "monte-carlo"\nentropy_samples = 6\n' in config
        assert "entropy/text_summary" in notes
        assert "Monte Carlo estimate from 6 samples" in capsys.readouterr().err
    else:
        assert results["entropy"] == {"kind": "closed-form"}
        assert 'entropy = "closed-form"\n' in config
        assert "entropy/text_summary" not in notes
        assert "entropy term" not in capsys.readouterr().err


class TwoHumps(GaussianMixture):
    """Components that are mixtures of two Gaussians: a density, no closed-form entropy, a lower bound.

    The entropy of a mixture is concave in its parts: H >= sum_i w_i H_i.
    """

    entropy_kind = "lower-bound"

    def component(self, y: Tensor) -> Distribution:
        loc = torch.stack([self.loc[y] - 1, self.loc[y] + 1], dim=-2)
        scale = self.scales()[y].unsqueeze(-2).expand_as(loc)
        humps = Independent(Normal(loc, scale), 1)
        return MixtureSameFamily(Categorical(torch.ones(*y.shape, 2)), humps)

    def entropies(self) -> Tensor:
        return super().component(torch.arange(self.clusters)).entropy()


@torch.no_grad()
def test_a_bound_by_concavity_lies_below_the_entropy() -> None:
    prior = make(TwoHumps)
    components = prior.component(torch.arange(3))
    z = components.sample(torch.Size([20_000]))
    surprise = -components.log_prob(z)
    assert bool((prior.entropies() < surprise.mean(0) - 5 * surprise.std(0) / 20_000**0.5).all())
