"""q(y|x): Monte Carlo over q(z|x), the same value in any batch, families without quantiles, laws over all priors."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from mpcc.core.contracts import Prior
from mpcc.core.evaluation.image_posterior import POINTS, image_posterior, points_of
from mpcc.core.registry import load_registry
from mpcc.plugins.priors.distributions import StableStudentT
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

REGISTRY = load_registry([])
K, J, N = 4, 3, 9


def made(name: str, scale_floor: float | None = None) -> Prior:
    entry = REGISTRY.entry("prior", name)
    torch.manual_seed(1)
    cls = entry.options_class()
    options = None if cls is None else cls()
    if scale_floor is not None:
        options = attrs.evolve(options, scale_floor=scale_floor)
    prior: Prior = entry.load()(K, J, options)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


def heads() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(N, J, generator=generator), torch.randn(N, J, generator=generator) - 1


@pytest.mark.parametrize("name", REGISTRY.names("prior"))
def test_it_is_the_mean_over_the_encoders_distribution(name: str) -> None:
    """The points are few: they may be off by what their own number of independent draws would be, not by more."""
    prior, (location, raw) = made(name), heads()
    with torch.no_grad():
        found = image_posterior(prior, location, raw)
        torch.manual_seed(3)
        draws = prior.encoder_distribution(location, raw).sample(torch.Size((20_000,)))
        each = prior.log_responsibilities(draws.flatten(0, 1)).exp().unflatten(0, draws.shape[:2])
    assert torch.allclose(found.sum(1), torch.ones(N))
    error = each.std(0) / math.sqrt(POINTS)
    assert bool(((found - each.mean(0)).abs() <= 4 * error + 1e-6).all())


@pytest.mark.parametrize("name", REGISTRY.names("prior"))
def test_an_image_has_the_same_posterior_in_any_batch(name: str) -> None:
    prior, (location, raw) = made(name), heads()
    with torch.no_grad():
        whole = image_posterior(prior, location, raw)
        alone = torch.cat([image_posterior(prior, location[i : i + 1], raw[i : i + 1]) for i in range(N)])
    assert torch.allclose(whole, alone, atol=1e-6)


@pytest.mark.parametrize("name", REGISTRY.names("prior"))
def test_an_encoder_that_is_sure_of_z_gives_the_posterior_at_its_location(name: str) -> None:
    prior, (location, raw) = made(name), heads()
    with torch.no_grad():
        sure = image_posterior(prior, location, torch.full_like(raw, -40.0))
        assert torch.allclose(sure, prior.log_responsibilities(location).exp(), atol=1e-4)


@pytest.mark.parametrize("name", [*REGISTRY.names("prior"), "without quantiles"])
@pytest.mark.parametrize("scale_floor", [None, 0.01])
def test_a_raw_scale_far_out_has_a_finite_posterior(name: str, scale_floor: float | None) -> None:
    scale_floor = None if name == "standard_normal" else scale_floor  # it has no scales to set
    prior = made("gmm" if name == "without quantiles" else name, scale_floor)
    if name == "without quantiles":
        prior = Drawn(K, J, GaussianMixtureOptions())
    location, _ = heads()
    raws = torch.tensor([-1e3, -200.0, -100.0, 0.0, 100.0, 200.0, 1e3, 3e38])
    with torch.no_grad():
        found = torch.stack([image_posterior(prior, location, raw.expand_as(location)) for raw in raws])
        narrow = image_posterior(prior, location, torch.full_like(location, -40.0))
        far = image_posterior(prior, 1e9 * location, torch.full_like(location, 1e3))
    assert bool(torch.isfinite(found).all())
    assert bool(torch.isfinite(far).all())
    assert torch.allclose(found.sum(2), torch.ones(len(raws), N), atol=1e-5)
    assert torch.allclose(found[:3], narrow.expand(3, N, K), atol=1e-5)
    # Wider than wide makes no difference.
    assert torch.equal(found[-2], found[-1])


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_head_that_is_not_finite_is_not_hidden(wrong: float) -> None:
    prior, (location, raw) = made("gmm"), heads()
    raw[3, 1] = wrong
    with torch.no_grad():
        found = image_posterior(prior, location, raw)
    assert torch.isfinite(found).all(1).tolist() == [row != 3 for row in range(N)]


def test_no_random_state_changes() -> None:
    priors = [made("gmm"), Drawn(K, J, GaussianMixtureOptions())]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for prior in priors:
        image_posterior(prior, *heads())
    assert torch.equal(torch.get_rng_state(), before)


class WithoutQuantiles(Normal):
    def icdf(self, value: Tensor) -> Tensor:
        raise NotImplementedError


class Drawn(GaussianMixture):
    """A prior whose encoder's family has no quantiles."""

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        return Independent(WithoutQuantiles(loc, torch.exp(raw_scale / 2)), 1)


def test_a_family_without_quantiles_gives_draws_that_do_not_depend_on_the_batch() -> None:
    prior, (location, raw) = Drawn(K, J, GaussianMixtureOptions()), heads()
    points = points_of(prior, location, raw)
    assert points.shape == (POINTS, N, J)
    assert torch.equal(points[:, 4:5], points_of(prior, location[4:5], raw[4:5]))
    standard = (points - location) / torch.exp(raw / 2)
    assert torch.allclose(standard, standard[:, :1].expand_as(standard), atol=1e-5)


@pytest.mark.parametrize("nu", [0.7, 3.0, 50.0])
def test_the_quantiles_of_student_t_are_those_of_scipy(nu: float) -> None:
    at = torch.tensor([0.001, 0.2, 0.5, 0.9, 0.9999])
    loc, scale = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5]), torch.tensor([1.0, 0.5, 2.0, 1.0, 3.0])
    found: Any = StableStudentT(torch.tensor(nu), loc, scale).icdf(at)
    expected = stats.t.ppf(at.double(), nu, loc.double(), scale.double())
    assert torch.allclose(found.double(), torch.from_numpy(expected), rtol=1e-4)
