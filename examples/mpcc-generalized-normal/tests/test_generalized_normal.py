"""The distribution against scipy; the prior against the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpcc.core.evaluation.image_posterior import image_posterior
from mpcc.core.testing import check_prior
from scipy import stats
from torch.autograd import gradcheck

from mpcc_generalized_normal.distribution import GeneralizedNormal
from mpcc_generalized_normal.options import GeneralizedNormalOptions
from mpcc_generalized_normal.prior import GeneralizedNormalMixture

SHAPES = [0.5, 1.0, 1.5, 2.0, 3.0, 8.0]
LOC, SCALE = 0.7, 1.3
every_shape = pytest.mark.parametrize("shape", SHAPES)


def build(shape: float, dtype: torch.dtype = torch.float64) -> GeneralizedNormal:
    return GeneralizedNormal(*(torch.tensor(value, dtype=dtype) for value in (LOC, SCALE, shape)))


def test_the_registered_prior_fulfils_the_contract() -> None:
    assert check_prior("generalized_normal").passed


@pytest.mark.parametrize("shape", [1.2, 1.5, 2.0, 4.0])
def test_a_prior_with_a_learned_shape_and_trained_weights_fulfils_the_contract(shape: float) -> None:
    options = GeneralizedNormalOptions(shape=shape, learn_shape=True, weights="trainable")
    assert check_prior(GeneralizedNormalMixture, options).passed


@pytest.mark.parametrize("shape", [0.5, 8.0])
def test_a_prior_with_the_smallest_and_the_largest_shape_fulfils_the_contract(shape: float) -> None:
    assert check_prior(GeneralizedNormalMixture, GeneralizedNormalOptions(shape=shape)).passed


@every_shape
def test_density_distribution_function_moments_and_entropy_are_those_of_scipy(shape: float) -> None:
    ours, frozen = build(shape), stats.gennorm(shape, LOC, SCALE)
    x = np.concatenate([np.linspace(-4, 5, 41), [LOC]])
    np.testing.assert_allclose(ours.log_prob(torch.from_numpy(x)).numpy(), frozen.logpdf(x), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.cdf(torch.from_numpy(x)).numpy(), frozen.cdf(x), rtol=1e-10, atol=1e-12)
    assert ours.entropy().item() == pytest.approx(frozen.entropy(), rel=1e-10)
    assert (ours.mean.item(), ours.mode.item()) == (LOC, LOC)
    assert ours.variance.item() == pytest.approx(frozen.var(), rel=1e-10)


@every_shape
def test_quantiles_are_those_of_scipy_far_out_too(shape: float) -> None:
    p = np.array([1e-12, 1e-6, 0.01, 0.2, 0.2499, 0.2501, 0.5, 0.6, 0.7499, 0.9, 0.999999, 1 - 1e-12])
    found = build(shape).icdf(torch.from_numpy(p))
    np.testing.assert_allclose(found.numpy(), stats.gennorm(shape, LOC, SCALE).ppf(p), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(build(shape).cdf(found).numpy(), p, rtol=1e-9, atol=1e-15)
    narrow = build(shape, torch.float32).icdf(torch.from_numpy(p).float()[2:-2])
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow.numpy(), stats.gennorm(shape, LOC, SCALE).ppf(p.astype("f4")[2:-2]), rtol=1e-5)


def test_quantiles_have_the_gradients_of_location_and_scale() -> None:
    loc, scale = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (LOC, SCALE))
    p = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    assert gradcheck(lambda *given: GeneralizedNormal(*given, torch.tensor(1.5)).icdf(p), [loc, scale])


def test_quantiles_of_several_distributions_at_several_probabilities_broadcast() -> None:
    shapes = torch.tensor([[1.0], [1.5], [4.0]], dtype=torch.float64)
    loc = torch.tensor([0.0, 2.0], dtype=torch.float64)
    p = torch.rand(5, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = GeneralizedNormal(loc, torch.tensor(SCALE, dtype=torch.float64), shapes).icdf(p)
    expected = stats.gennorm(shapes.numpy(), loc.numpy(), SCALE).ppf(p.numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_posterior_of_images_needs_no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GeneralizedNormal, "rsample", None)
    prior = GeneralizedNormalMixture(3, 2, GeneralizedNormalOptions(shape=1.5, learn_shape=True))
    heads = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = image_posterior(prior, *heads)
        alone = torch.cat([image_posterior(prior, *heads[:, k : k + 1]) for k in range(50)])
    torch.testing.assert_close(posterior, alone, atol=1e-6, rtol=0)


@every_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_follow_the_distribution_of_scipy(shape: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    drawn = build(shape, dtype).rsample(torch.Size([20_000]))
    assert drawn.dtype == dtype
    assert stats.kstest(drawn.double().numpy(), stats.gennorm(shape, LOC, SCALE).cdf).pvalue > 1e-3


@every_shape
def test_gradients_of_density_and_entropy_are_those_of_finite_differences(shape: float) -> None:
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (LOC, SCALE, shape)]
    x = torch.tensor([-2.0, 0.1, 1.9], dtype=torch.float64)
    assert gradcheck(lambda *parameters: GeneralizedNormal(*parameters).log_prob(x), inputs)
    assert gradcheck(lambda *parameters: GeneralizedNormal(*parameters).entropy(), inputs[:1] + inputs[1:])


@pytest.mark.parametrize("shape", [1.0, 1.5, 2.0, 4.0])
def test_samples_carry_the_gradients_of_the_expectation(shape: float) -> None:
    # E[cos x] by quadrature, its derivatives by central differences; by samples, with their standard error.
    values = torch.tensor([LOC, SCALE, shape], dtype=torch.float64)
    x = np.linspace(-60, 60, 400_001)

    def expectation(parameters: np.ndarray) -> float:
        loc, scale, beta = parameters
        return float(np.sum(np.cos(x) * stats.gennorm(beta, loc, scale).pdf(x)) * (x[1] - x[0]))

    steps = 1e-4 * np.eye(3)
    exact = [(expectation(values.numpy() + h) - expectation(values.numpy() - h)) / 2e-4 for h in steps]
    torch.manual_seed(1)
    sampled = []
    for _ in range(30):
        parameters = [value.clone().requires_grad_() for value in values]
        mean = GeneralizedNormal(*parameters).rsample(torch.Size([5_000])).cos().mean()
        sampled.append(torch.stack(torch.autograd.grad(mean, parameters)))
    mean, error = torch.stack(sampled).mean(0), torch.stack(sampled).std(0) / 30**0.5
    assert bool(((mean - torch.tensor(exact, dtype=torch.float64)).abs() < 5 * error + 1e-4).all())


def test_the_density_at_its_centre_has_finite_gradients() -> None:
    for shape in SHAPES:
        parameters = [torch.tensor(value, requires_grad=True) for value in (LOC, SCALE, shape)]
        gradients = torch.autograd.grad(GeneralizedNormal(*parameters).log_prob(torch.tensor(LOC)), parameters)
        assert all(bool(torch.isfinite(gradient)) for gradient in gradients)


def test_it_expands_and_validates_like_any_distribution_of_torch() -> None:
    wide = build(1.5).expand(torch.Size([4, 2]))
    assert (wide.batch_shape, wide.rsample(torch.Size([3])).shape) == ((4, 2), (3, 4, 2))
    with pytest.raises(ValueError, match="scale"):
        GeneralizedNormal(torch.tensor(0.0), torch.tensor(-1.0), torch.tensor(1.0), validate_args=True)


def test_a_learned_shape_starts_where_it_is_told_and_stays_between_its_bounds() -> None:
    prior = GeneralizedNormalMixture(2, 2, GeneralizedNormalOptions(shape=1.5, learn_shape=True))
    assert prior.quantities()["shape"].item() == pytest.approx(1.5, rel=1e-6)
    for raw, bound in ((-100.0, 1.0), (100.0, 8.0)):
        with torch.no_grad():
            prior.raw_shape.fill_(raw)
        assert prior.shape().item() == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("options", [{"shape": 0.1}, {"shape": 9.0}, {"shape": 1.0, "learn_shape": True}])
def test_a_shape_out_of_bounds_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shape"):
        GeneralizedNormalOptions(**options)
