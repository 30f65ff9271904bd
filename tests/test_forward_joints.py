"""Equations 3 to 7 of the supplement, exact by enumeration and on Gaussian joints; VaDE's bound below log p(x)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import Tensor, nn

from mpcc.core.contracts import Networks
from mpcc.core.images.stream import ImageStream
from mpcc.core.method import bound_terms
from mpcc.core.method.bound import vade_loss
from mpcc.core.method.decoder import BernoulliLikelihood, GaussianLikelihood, LogisticLikelihood
from mpcc.core.method.engine import PlainEngine
from mpcc.core.method.losses import Batch
from mpcc.core.method.model import Model
from mpcc.core.method.phases import phases_of
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.plugins.objectives.options import VariationalOptions
from mpcc.plugins.objectives.vade import VariationalDeepEmbedding
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

every_seed = pytest.mark.parametrize("seed", range(5))
CPU = torch.device("cpu")


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """The divergence of two tables that sum to 1, in nats."""
    return float(np.sum(p * np.log(p / q)))


def conditional(random: np.random.Generator, *shape: int) -> np.ndarray:
    """A random positive table that sums to 1 over its last axis."""
    table = random.uniform(0.1, 1.0, size=shape)
    return table / table.sum(axis=-1, keepdims=True)


class Discrete:
    """VaDE's joints over few values, axes (x, z, y): q(x) q(z|x) q(y|x) and p(y) p(z|y) p(x|z)."""

    def __init__(self, seed: int, X: int = 4, Z: int = 3, Y: int = 2) -> None:
        random = np.random.default_rng(seed)
        self.counts = random.integers(1, 9, X)
        self.q_x, self.q_z_x = self.counts / self.counts.sum(), conditional(random, X, Z)
        self.q_y_x, self.p_y = conditional(random, X, Y), conditional(random, Y)
        self.p_z_y, self.p_x_z = conditional(random, Y, Z), conditional(random, Z, X)
        self.q = np.einsum("x,xz,xy->xzy", self.q_x, self.q_z_x, self.q_y_x)
        self.p = np.einsum("y,yz,zx->xzy", self.p_y, self.p_z_y, self.p_x_z)

    def of_labels(self) -> float:
        """E_q(z,x) KL(q(y|z,x) || p(y|z,x)), from the joints alone."""
        return sum(
            float(self.q[x, z].sum()) * kl(self.q[x, z] / self.q[x, z].sum(), self.p[x, z] / self.p[x, z].sum())
            for x, z in np.ndindex(self.q.shape[:2])
        )

    def of_latents(self) -> float:
        """E_q(x) KL(q(z|x) || p(z|x)), from the joints alone."""
        q, p = self.q.sum(2), self.p.sum(2)
        return sum(float(q[x].sum()) * kl(q[x] / q[x].sum(), p[x] / p[x].sum()) for x in range(len(q)))

    def terms(self) -> dict[str, float]:
        """The terms of the bound by the product, over a population whose frequencies are q(x)."""
        members = np.repeat(np.arange(len(self.counts)), self.counts)
        log_likelihood = (self.q_z_x * np.log(self.p_x_z.T)).sum(1)
        divergences = np.array([[kl(self.q_z_x[x], p) for p in self.p_z_y] for x in range(len(self.counts))])
        log_gamma = torch.from_numpy(np.log(self.q_y_x)[members])
        return {
            "reconstruction": float(bound_terms.reconstruction(torch.from_numpy(log_likelihood[members]))),
            "latent": float(bound_terms.latent_divergence(log_gamma, torch.from_numpy(divergences[members]))),
            "label": float(bound_terms.label_divergence(log_gamma, torch.from_numpy(np.log(self.p_y)))),
        }


@every_seed
def test_equation_3_the_forward_kl_is_labels_given_z_and_x_plus_latents_given_x_plus_images(seed: int) -> None:
    joints = Discrete(seed)
    of_images = kl(joints.q_x, joints.p.sum((1, 2)))
    assert kl(joints.q, joints.p) == pytest.approx(joints.of_labels() + joints.of_latents() + of_images, abs=1e-12)


@every_seed
def test_equation_4_the_labels_need_the_density_of_z_and_no_image(seed: int) -> None:
    joints, p_z = Discrete(seed), 0.0
    p_z = np.einsum("y,yz->z", joints.p_y, joints.p_z_y)
    written = sum(
        joints.q_x[x]
        * joints.q_z_x[x, z]
        * (np.sum(joints.q_y_x[x] * np.log(joints.q_y_x[x] / (joints.p_z_y[:, z] * joints.p_y))) + np.log(p_z[z]))
        for x, z in np.ndindex(joints.q_z_x.shape)
    )
    assert joints.of_labels() == pytest.approx(written, abs=1e-12)


@every_seed
def test_equation_5_the_latents_are_the_bound_of_two_variables_plus_log_p_of_x(seed: int) -> None:
    joints = Discrete(seed)
    p_z, p_x = np.einsum("y,yz->z", joints.p_y, joints.p_z_y), joints.p.sum((1, 2))
    q_zx = joints.q_x[:, None] * joints.q_z_x
    written = np.sum(q_zx * (np.log(joints.q_z_x / joints.p_x_z.T) - np.log(p_z))) + np.sum(joints.q_x * np.log(p_x))
    assert joints.of_latents() == pytest.approx(written, abs=1e-12)


@every_seed
def test_equations_3_to_6_add_up_to_the_entropy_of_the_images_and_the_three_terms(seed: int) -> None:
    joints = Discrete(seed)
    log_q = float(np.sum(joints.q_x * np.log(joints.q_x)))
    assert log_q + sum(joints.terms().values()) == pytest.approx(kl(joints.q, joints.p), abs=1e-12)


@every_seed
def test_equation_7_the_latent_divergence_is_the_mean_over_labels(seed: int) -> None:
    joints = Discrete(seed)
    ratios = np.log(joints.q_z_x[:, :, None]) - np.log(joints.p_z_y.T[None])
    assert joints.terms()["latent"] == pytest.approx(float(np.sum(joints.q * ratios)), abs=1e-12)


def test_without_vades_assumption_the_three_terms_miss_what_z_says_of_y() -> None:
    joints, random = Discrete(0), np.random.default_rng(9)
    q_y_xz = conditional(random, 4, 3, 2)
    q = np.einsum("x,xz,xzy->xzy", joints.q_x, joints.q_z_x, q_y_xz)
    joints.q_y_x = q.sum(1) / joints.q_x[:, None]
    log_q = float(np.sum(joints.q_x * np.log(joints.q_x)))
    assert abs(kl(q, joints.p) - log_q - sum(joints.terms().values())) > 1e-3


# A linear-Gaussian model with one latent: p(x|z) = N(A z + b, s^2 I), q(z|x) = N(B x + c, t^2).

X, ROWS = 3, 4


class LinearHeads(nn.Module):
    """B x + c, and log t^2 for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.log_variance = nn.Linear(X, 1), nn.Parameter(torch.tensor(-0.4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.loc(x.flatten(1))
        return loc, self.log_variance.expand_as(loc)


class LinearImages(nn.Module):
    """A z + b as an image of X values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, X)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.linear(z).view(-1, 1, 1, X)


class Linear:
    """The product's model with linear networks, and its exact quantities in numpy."""

    def __init__(self, clusters: int, seed: int) -> None:
        torch.manual_seed(seed)
        prior = GaussianMixture(clusters, 1, GaussianMixtureOptions(scale_floor=0.3))
        with torch.no_grad():
            prior.loc.normal_(std=1.5)
            prior.raw_scale.uniform_(-2, 0)
            prior.phi.copy_(torch.softmax(torch.randn(clusters), 0))
        networks = Networks(LinearImages(), nn.Identity(), LinearHeads())
        parts = (prior, *networks.by_name().values(), likelihood := GaussianLikelihood(scale=0.6))
        for part in parts:
            part.double()
        self.model = Model.assemble(prior, networks, CPU, likelihood=likelihood)
        self.x = torch.randn(ROWS, 1, 1, X, dtype=torch.float64)
        self.phi, self.mu = prior.phi.numpy(), prior.loc.detach().numpy()[:, 0]
        self.s = prior.scales().detach().numpy()[:, 0]
        self.A, self.b = (value.detach().numpy() for value in networks.generator.parameters())
        loc, raw = networks.encoder(self.x)
        self.loc, self.t = loc.detach().numpy()[:, 0], float((raw / 2).exp()[0, 0])
        self.noise = 0.6

    def log_p(self) -> np.ndarray:
        """log p(x) of each image, a mixture of Gaussians in closed form."""
        x = self.x.flatten(1).numpy()
        of_components = [
            stats.multivariate_normal.logpdf(
                x,
                self.A[:, 0] * self.mu[k] + self.b,
                np.outer(self.A, self.A) * self.s[k] ** 2 + self.noise**2 * np.eye(X),
            )
            for k in range(len(self.mu))
        ]
        return logsumexp(np.stack(of_components, 1) + np.log(self.phi), axis=1)

    def bound(self) -> np.ndarray:
        """E_q(z|x) of the bound with gamma = q(y|z) of the same z, by the trapezium rule."""
        x, found = self.x.flatten(1).numpy(), []
        for row in range(ROWS):
            z = np.linspace(self.loc[row] - 9 * self.t, self.loc[row] + 9 * self.t, 20_001)
            q = stats.norm.pdf(z, self.loc[row], self.t)
            fit = stats.norm.logpdf(x[row], z[:, None] * self.A[:, 0] + self.b, self.noise).sum(1)
            joint = stats.norm.logpdf(z[:, None], self.mu, self.s) + np.log(self.phi)
            log_gamma = joint - logsumexp(joint, axis=1, keepdims=True)
            divergence = np.log(self.s / self.t) + (self.t**2 + (self.loc[row] - self.mu) ** 2) / (2 * self.s**2) - 0.5
            cost = (np.exp(log_gamma) * (divergence + log_gamma - np.log(self.phi))).sum(1)
            found.append(np.sum(q * (fit - cost)) * (z[1] - z[0]))
        return np.array(found)


@pytest.mark.parametrize(("clusters", "seed"), [(1, 0), (2, 1), (4, 2)])
def test_the_loss_is_on_average_minus_the_bound_of_a_linear_gaussian_joint(clusters: int, seed: int) -> None:
    joint, draws = Linear(clusters, seed), 2000
    with torch.no_grad():
        losses = [float(vade_loss(joint.model, Batch(ROWS, joint.x), TermWeights()).total) for _ in range(draws)]
    exact = -joint.bound().mean() / X
    assert abs(np.mean(losses) - exact) < 5 * np.std(losses, ddof=1) / math.sqrt(draws)
    assert np.std(losses) / math.sqrt(draws) < 0.01 * abs(exact)


@pytest.mark.parametrize(("clusters", "seed"), [(1, 0), (2, 1), (4, 2)])
def test_the_bound_is_below_the_exact_log_density(clusters: int, seed: int) -> None:
    joint = Linear(clusters, seed)
    assert np.all(joint.bound() < joint.log_p())


def test_the_gap_is_the_divergence_of_the_two_posteriors() -> None:
    """log p(x) - L(x) = KL(q(z|x) q(y|x) || p(z, y|x)), with a gamma that does not depend on z, as eq. 3 to 6 say."""
    joint, row = Linear(2, 1), 0
    gamma, x = np.array([0.3, 0.7]), joint.x.flatten(1).numpy()[row]
    z = np.linspace(joint.loc[row] - 9 * joint.t, joint.loc[row] + 9 * joint.t, 20_001)
    q, step = stats.norm.pdf(z, joint.loc[row], joint.t), z[1] - z[0]
    fit = stats.norm.logpdf(x, z[:, None] * joint.A[:, 0] + joint.b, joint.noise).sum(1)
    prior = joint.model.prior
    with torch.no_grad():
        loc, raw_scale = joint.model.networks.encoder(joint.x[row : row + 1])
        log_gamma = torch.from_numpy(np.log(gamma))[None]
        cost = bound_terms.latent_divergence(log_gamma, prior.divergences(loc, raw_scale))
        cost = cost + bound_terms.label_divergence(log_gamma, prior.log_weights())
    bound = np.sum(q * fit) * step - float(cost)
    log_posterior = stats.norm.logpdf(z[:, None], joint.mu, joint.s) + np.log(joint.phi) + fit[:, None]
    log_posterior -= joint.log_p()[row]
    gap = np.sum(q[:, None] * gamma * (np.log(q)[:, None] + np.log(gamma) - log_posterior)) * step
    assert joint.log_p()[row] - bound == pytest.approx(gap, abs=1e-8)
    assert gap > 0.01


# A trained model without closed forms: log p(x) by importance sampling from q(z|x).


class Layers:
    """An architecture of small networks without batch statistics, so that p(x|z) is a function of z alone."""

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        networks = Networks(TwoLayers(), nn.Identity(), TwoHeads())
        for network in networks.by_name().values():
            network.double()
        return networks


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh())

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        images: Tensor = self.layers(z).view(-1, 1, 4, 4)
        return images


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        loc, raw_scale = self.layers(x).chunk(2, 1)
        return loc, raw_scale


def test_vades_bound_is_below_log_p_of_x_by_importance_sampling() -> None:
    torch.manual_seed(0)
    objective, prior = (
        VariationalDeepEmbedding(VariationalOptions()),
        GaussianMixture(3, 2, GaussianMixtureOptions()).double(),
    )
    networks = objective.networks(Layers(), 3, 2, 1)  # type: ignore[arg-type]
    model = Model.assemble(prior, networks, CPU, likelihood=objective.likelihood().double())
    rows = torch.rand(3, 1, 4, 4).repeat(20, 1, 1, 1) + 0.1 * torch.randn(60, 1, 4, 4)
    images = (rows.clamp(0, 1) * 255).to(torch.uint8)
    schedule = Schedule(20, d_steps=1, e_steps=2, lr=5e-3, prior_lr=5e-3, ema_decay=0.9, ema_start=0)
    trainer = Trainer(
        model, ImageStream(images, 20, seed=0), schedule, TermWeights(), PlainEngine(), phases_of(objective)
    )
    losses = [sum(float(value) for value in trainer.iterate().values()) for _ in range(150)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 5
    x, draws = images[:6].double() / 127.5 - 1, 20_000
    likelihood, bounds, estimates = model.likelihood, [], []
    with torch.no_grad():
        for image in x:
            batch = Batch(draws, image.expand(draws, -1, -1, -1))
            bounds.append(-float(vade_loss(model, batch, TermWeights()).total) * 16)
            loc, raw_scale = model.networks.encoder(image[None])
            # Wider than q(z|x), so that no weight is much larger than all others.
            proposal = torch.distributions.StudentT(5.0, loc, 1.5 * (raw_scale / 2).exp())
            z = proposal.sample((draws,))[:, 0]
            log_p = torch.logsumexp(prior.log_weights() + prior.log_density(z), 1)
            fit = likelihood.log_prob(batch.real, model.generate(z, torch.zeros(draws, dtype=torch.int64)))
            ratios = log_p + fit - proposal.log_prob(z).sum(1)
            shares = torch.softmax(ratios, 0)
            assert 1 / float(shares.square().sum()) > 300  # the effective number of draws
            estimates.append(float(torch.logsumexp(ratios, 0)) - math.log(draws))
    gaps = np.array(estimates) - np.array(bounds)
    assert np.all(gaps > 0)
    assert gaps.mean() < 5  # it is a bound that has been trained, not any number below


# Likelihoods.


def pairs(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    images = torch.randint(256, (5, 2, 3, 3)).double() / 127.5 - 1
    return images, torch.tanh(torch.randn(5, 2, 3, 3, dtype=torch.float64))


def test_the_gaussian_likelihood_is_scipys() -> None:
    images, mean = pairs()
    found = GaussianLikelihood(scale=0.37).double().log_prob(images, mean)
    expected = stats.norm.logpdf(images.numpy(), mean.numpy(), np.float32(0.37)).sum((1, 2, 3))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6)


def test_the_bernoulli_likelihood_of_black_and_white_is_scipys_and_sums_to_one() -> None:
    images, mean = pairs()
    white = images > 0
    found = BernoulliLikelihood().log_prob(torch.where(white, 1.0, -1.0).double(), mean)
    chance = 1e-4 + (1 - 2e-4) * (mean.numpy() + 1) / 2
    expected = stats.bernoulli.logpmf(white.numpy().astype(int), chance).sum((1, 2, 3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    both = torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1)
    total = BernoulliLikelihood().log_prob(both, torch.full_like(both, 0.3)).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


def test_the_bernoulli_likelihood_of_grey_is_the_mean_over_random_black_and_white() -> None:
    images, mean = pairs()
    white = torch.rand(20_000, *images.shape[1:], dtype=torch.float64) < (images[:1] + 1) / 2
    drawn = BernoulliLikelihood().log_prob(torch.where(white, 1.0, -1.0).double(), mean[:1])
    found = float(BernoulliLikelihood().log_prob(images[:1], mean[:1]))
    assert abs(float(drawn.mean()) - found) < 5 * float(drawn.std()) / 20_000**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("middle", [-1.0, -0.3, 0.0, 0.999])
def test_the_discretised_logistic_sums_to_one_over_the_grey_levels(
    scale: float, middle: float, dtype: torch.dtype
) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).to(dtype) / 127.5 - 1
    likelihood = LogisticLikelihood(scale=scale).to(dtype)
    log_p = likelihood.log_prob(levels, torch.full_like(levels, middle)).detach()
    assert bool(torch.isfinite(log_p).all())
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-4)
    if dtype == torch.float64 and scale >= 0.05:
        width = np.float64(likelihood.log_scale.exp().item())
        edges = stats.logistic.cdf(np.r_[-np.inf, (levels.numpy().ravel()[:-1] + 1 / 255), np.inf], middle, width)
        np.testing.assert_allclose(log_p.exp().numpy(), np.diff(edges), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("likelihood", [GaussianLikelihood, BernoulliLikelihood, LogisticLikelihood])
def test_likelihoods_have_finite_gradients_at_the_ends_of_the_range(likelihood: type[nn.Module]) -> None:
    ends = torch.tensor([-1.0, 1.0])
    mean = ends.view(1, 1, 1, 2).clone().requires_grad_()
    images = ends.flip(0).view(1, 1, 1, 2)
    made = likelihood()
    made.log_prob(images, mean).sum().backward()  # type: ignore[operator]
    assert mean.grad is not None
    assert bool(torch.isfinite(mean.grad).all())
    assert bool((mean.grad.sign() == torch.tensor([1.0, -1.0])).all())
