"""Entropies of the components: what a prior declares, what a run takes, and what it says about it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from mpcc.core.commands.entry import run_main
from mpcc.core.errors import InvalidInput, PluginError
from mpcc.core.method.entropy import EntropyPolicy, monte_carlo_entropies
from mpcc.core.registry import load_registry
from mpcc.core.testing import ContractViolation, check_prior
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
    assert EntropyPolicy.of(make(Quadrature)) == EntropyPolicy("numerical", tolerance=1e-3)
    for cls in (GaussianMixture, Bounded, Unknown):
        assert EntropyPolicy.of(make(cls), "monte-carlo", 8) == EntropyPolicy("monte-carlo", 8)


@pytest.mark.parametrize(
    ("cls", "wanted", "samples", "message"),
    [
        (
            Unknown,
            "auto",
            None,
            "Unknown has neither an entropy, exact or numerical, nor .* --entropy monte-carlo --entropy-samples 64",
        ),
        (Unknown, "closed-form", None, "Unknown has neither"),
        (Bounded, "closed-form", None, "declares 'lower-bound' .nearest valid choice: --entropy lower-bound"),
        (GaussianMixture, "lower-bound", None, "declares 'closed-form'"),
        (GaussianMixture, "numerical", None, "declares 'closed-form'"),
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


POINTS = torch.linspace(-9, 9, 181, dtype=torch.float64)


class Quadrature(GaussianMixture):
    """Products of mixtures of two Gaussians, one scale to each side of the location, with a quadrature as entropy."""

    entropy_kind = "numerical"
    entropy_tolerance = 1e-3

    def component(self, y: Tensor) -> Distribution:
        scale, loc = self.scales()[y], self.loc[y]
        loc, scale = torch.stack([loc - scale, loc + scale], -1), scale.unsqueeze(-1)
        sides = Categorical(torch.ones_like(loc), validate_args=False)
        return Independent(Reparameterised(sides, Normal(loc, scale, validate_args=False), validate_args=False), 1)

    def entropies(self) -> Tensor:
        # z = loc + s t, so H(z) = log s + H(t), and H(t) is an integral without parameters.
        t = POINTS
        log_density = torch.logaddexp(Normal(-1.0, 1.0).log_prob(t), Normal(1.0, 1.0).log_prob(t)) - math.log(2)
        of_t = -torch.trapezoid(log_density.exp() * log_density, t).item()
        return (torch.log(self.scales()) + of_t).sum(1)


class Reparameterised(MixtureSameFamily):
    """The mixture with draws that carry gradients to locations and scales, given the side."""

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        draws = self.component_distribution.rsample(torch.Size(sample_shape))
        sides = self.mixture_distribution.sample(torch.Size(sample_shape)).unsqueeze(-1)
        return draws.gather(-1, sides).squeeze(-1)


class Sloppy(Quadrature):
    """Its error is twice as large as it says."""

    def entropies(self) -> Tensor:
        return super().entropies() + 0.05

    entropy_tolerance = 0.01


@torch.no_grad()
def test_a_numerical_entropy_is_that_of_scipy_within_its_tolerance() -> None:
    prior = make(Quadrature)

    def surprise(z: float, loc: float, scale: float) -> float:
        density = (norm.pdf(z, loc - scale, scale) + norm.pdf(z, loc + scale, scale)) / 2
        return -density * math.log(density) if density > 0 else 0.0

    for k, found in enumerate(prior.entropies().tolist()):
        expected = 0.0
        for loc, scale in zip(prior.loc[k].tolist(), prior.scales()[k].tolist(), strict=True):
            expected += quad(surprise, loc - 12 * scale, loc + 12 * scale, args=(loc, scale), limit=200)[0]
        assert abs(found - expected) < Quadrature.entropy_tolerance


def test_the_kit_holds_a_numerical_entropy_to_its_tolerance() -> None:
    options = GaussianMixtureOptions()
    assert check_prior(Quadrature, options).passed
    with pytest.raises(ContractViolation, match=r"expected the same within entropy_tolerance 0.01"):
        check_prior(Sloppy, options)


class Loose(Quadrature):
    """Its tolerance says nothing."""

    entropy_tolerance = 0.5


class Exact(GaussianMixture):
    """A tolerance of what is exact."""

    entropy_tolerance = 0.01


@pytest.mark.parametrize(
    ("cls", "expected"), [(Loose, "above 0 and at most 0.1 nats"), (Exact, "expected 0, got 0.01")]
)
def test_the_kit_refuses_a_tolerance_that_says_nothing(cls: type[GaussianMixture], expected: str) -> None:
    with pytest.raises(ContractViolation, match=expected):
        check_prior(cls, GaussianMixtureOptions())


@pytest.mark.parametrize("tolerance", [0.0, -1.0, math.nan, math.inf, "small"])
def test_a_numerical_entropy_without_a_tolerance_is_refused(tolerance: object) -> None:
    prior = make(Quadrature)
    prior.entropy_tolerance = tolerance  # type: ignore[assignment]
    with pytest.raises(PluginError, match=r"Quadrature.entropy_tolerance: expected the largest error .* got"):
        EntropyPolicy.of(prior)


def test_the_record_of_a_numerical_entropy_has_its_tolerance() -> None:
    policy = EntropyPolicy.of(make(Quadrature))
    assert policy.record() == {"kind": "numerical", "tolerance": 1e-3}
    assert "by numerical integration, within 0.001 nats" in str(policy.warning())
