"""Equations 1 and 2 of the supplement, exact by enumeration; and eq. 2 as the sum of the five terms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from mpcc.core.contracts import Prior
from mpcc.core.method import terms
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

SEEDS = range(5)
every_seed = pytest.mark.parametrize("seed", SEEDS)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """The divergence of two tables that sum to 1, in nats."""
    return float(np.sum(p * np.log(p / q)))


def conditional(random: np.random.Generator, *shape: int) -> np.ndarray:
    """A random positive table that sums to 1 over its last axis."""
    table = random.uniform(0.1, 1.0, size=shape)
    return table / table.sum(axis=-1, keepdims=True)


# Discrete joints, axes in the order (x, z, y); every sum is written out, none is shared with the code under test.


def inference_joint(random: np.random.Generator, X: int, Z: int, Y: int) -> tuple[np.ndarray, ...]:
    """Return q(x), q(z|x), q(y|z) and their product, the joint q(x, z, y) with q(y|x, z) = q(y|z)."""
    q_x, q_z_x, q_y_z = conditional(random, X), conditional(random, X, Z), conditional(random, Z, Y)
    return q_x, q_z_x, q_y_z, np.einsum("x,xz,zy->xzy", q_x, q_z_x, q_y_z)


@every_seed
def test_forward_kl_of_two_variables_is_the_conditionals_plus_the_marginals(seed: int) -> None:
    random = np.random.default_rng(seed)
    X, Z = 4, 3
    p = np.einsum("z,zx->xz", conditional(random, Z), conditional(random, Z, X))
    q = np.einsum("x,xz->xz", conditional(random, X), conditional(random, X, Z))
    marginals = kl(q.sum(1), p.sum(1))
    conditionals = sum(q[x].sum() * kl(q[x] / q[x].sum(), p[x] / p[x].sum()) for x in range(X))
    assert kl(q, p) == pytest.approx(conditionals + marginals, abs=1e-12)


@every_seed
def test_reverse_kl_of_two_variables_exchanges_x_with_z_and_p_with_q(seed: int) -> None:
    random = np.random.default_rng(seed)
    X, Z = 3, 5
    p_z, p_x_z = conditional(random, Z), conditional(random, Z, X)
    p = np.einsum("z,zx->xz", p_z, p_x_z)
    q = np.einsum("x,xz->xz", conditional(random, X), conditional(random, X, Z))
    marginals = kl(p_z, q.sum(0))
    conditionals = sum(p_z[z] * kl(p_x_z[z], q[:, z] / q[:, z].sum()) for z in range(Z))
    assert kl(p, q) == pytest.approx(conditionals + marginals, abs=1e-12)


@every_seed
def test_reverse_kl_of_three_variables_is_x_given_z_y_plus_z_given_y_plus_y(seed: int) -> None:
    random = np.random.default_rng(seed)
    X, Z, Y = 3, 4, 2
    p_y, p_z_y, p_x_zy = conditional(random, Y), conditional(random, Y, Z), conditional(random, Z, Y, X)
    p = np.einsum("y,yz,zyx->xzy", p_y, p_z_y, p_x_zy)
    *_, q = inference_joint(random, X, Z, Y)
    q_zy = q.sum(0)
    over_x = sum(
        p_y[y] * p_z_y[y, z] * kl(p_x_zy[z, y], q[:, z, y] / q_zy[z, y])
        for z, y in itertools.product(range(Z), range(Y))
    )
    over_z = sum(p_y[y] * kl(p_z_y[y], q_zy[:, y] / q_zy[:, y].sum()) for y in range(Y))
    assert kl(p, q) == pytest.approx(over_x + over_z + kl(p_y, q_zy.sum(0)), abs=1e-12)


def population(random: np.random.Generator, X: int, Z: int, Y: int) -> np.ndarray:
    """Whole numbers of members for every (x, z, y): a sample whose frequencies are the joint itself."""
    return random.integers(1, 9, size=(X, Z, Y))


def five_terms(counts: np.ndarray, q_x: np.ndarray, q_z_x: np.ndarray, q_y_z: np.ndarray) -> float:
    """The five terms at unit weights, over a population in which nothing is random."""
    p = counts / counts.sum()
    p_zy, p_y = p.sum(0), p.sum((0, 1))
    x, z, y = (torch.from_numpy(np.repeat(index.ravel(), counts.ravel())) for index in np.indices(counts.shape))
    p_z_y = p_zy / p_y
    entropies = torch.tensor([stats.entropy(p_z_y[:, k]) for k in range(len(p_y))])
    data = float(np.sum(p * np.log((p / p_zy) / q_x[:, None, None])))
    encoder = torch.distributions.Categorical(probs=torch.from_numpy(q_z_x)[x])
    values = [
        terms.latent(encoder, z),
        terms.membership(torch.from_numpy(q_y_z).log()[z], y),
        terms.entropy(torch.from_numpy(p_y), entropies),
        terms.label(torch.from_numpy(p_y)),
    ]
    return data + sum(float(value) for value in values)


@every_seed
def test_the_five_terms_are_the_kl_of_discrete_joints(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = population(random, 3, 4, 2)
    q_x, q_z_x, q_y_z, q = inference_joint(random, 3, 4, 2)
    assert five_terms(counts, q_x, q_z_x, q_y_z) == pytest.approx(kl(counts / counts.sum(), q), abs=1e-12)


@every_seed
def test_without_the_assumption_the_five_terms_miss_what_x_says_of_y(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = population(random, 3, 4, 2)
    p = counts / counts.sum()
    q_x, q_z_x, q_y_xz = conditional(random, 3), conditional(random, 3, 4), conditional(random, 3, 4, 2)
    q = np.einsum("x,xz,xzy->xzy", q_x, q_z_x, q_y_xz)
    q_y_z = q.sum(0) / q.sum((0, 2))[:, None]
    missed = float(np.sum(p * np.log(q_y_xz / q_y_z)))
    assert abs(missed) > 1e-3
    assert five_terms(counts, q_x, q_z_x, q_y_z) - missed == pytest.approx(kl(p, q), abs=1e-12)


@every_seed
def test_any_other_membership_than_the_responsibilities_costs_its_divergence_from_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    counts = population(random, 3, 4, 2)
    q_x, q_z_x, other, _ = inference_joint(random, 3, 4, 2)
    p_zy = counts.sum(0) / counts.sum()
    p_z = p_zy.sum(1)
    responsibilities = p_zy / p_z[:, None]
    gap = five_terms(counts, q_x, q_z_x, other) - five_terms(counts, q_x, q_z_x, responsibilities)
    assert gap == pytest.approx(sum(p_z[z] * kl(responsibilities[z], other[z]) for z in range(4)), abs=1e-12)
    assert gap > 1e-3


# A linear-Gaussian model: p(x|z,y) = N(A z + b_y, s^2 I), q(x) = N(m, C), q(z|x) = N(B x + c, diag(t^2)).

BATCHES, BATCH = 200, 2000


class LinearGaussian:
    """A random model with the Gaussian mixture prior of the package, and its exact quantities in numpy."""

    def __init__(self, K: int, J: int, X: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.K, self.J, self.X = K, J, X
        self.prior = GaussianMixture(K, J, GaussianMixtureOptions(scale_floor=0.3)).double()
        self.phi = conditional(random, K)
        self.mu = random.normal(scale=1.5, size=(K, J))
        raw = random.uniform(-2, 1, size=(K, J))
        self.scale = 0.3 + np.exp(raw / 2)
        with torch.no_grad():
            self.prior.phi.copy_(torch.from_numpy(self.phi))
            self.prior.loc.copy_(torch.from_numpy(self.mu))
            self.prior.raw_scale.copy_(torch.from_numpy(raw))
        self.A, self.b = random.normal(size=(X, J)), random.normal(size=(K, X))
        self.s = 0.7
        self.m = random.normal(scale=0.3, size=X)
        root = random.normal(scale=0.4, size=(X, X))
        self.C = root @ root.T + 2 * np.eye(X)
        self.B, self.c = random.normal(scale=0.5, size=(J, X)), random.normal(scale=0.3, size=J)
        self.log_variance = random.uniform(-0.5, 1.0, size=J)

    def log_mixture(self, z: np.ndarray) -> np.ndarray:
        """log phi_k + log p(z|k) by scipy, (N, K), for z of (N, J)."""
        density = stats.norm.logpdf(z[:, None, :], self.mu, self.scale).sum(-1)
        return np.log(self.phi) + density

    def data_term(self) -> float:
        """E_p[log p(x|z,y) - log q(x)], exact."""
        negative_entropy = -self.X / 2 * np.log(2 * np.pi * np.e * self.s**2)
        cross = self.X / 2 * np.log(2 * np.pi) + np.linalg.slogdet(self.C)[1] / 2
        for k in range(self.K):
            mean = self.A @ self.mu[k] + self.b[k] - self.m
            covariance = self.A @ np.diag(self.scale[k] ** 2) @ self.A.T + self.s**2 * np.eye(self.X)
            inverse = np.linalg.inv(self.C)
            cross += self.phi[k] * (mean @ inverse @ mean + np.trace(inverse @ covariance)) / 2
        return float(negative_entropy + cross)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Draw (x, z, y) ~ p from the real prior and the noisy decoder."""
        A, b = torch.from_numpy(self.A), torch.from_numpy(self.b)
        for _ in range(BATCHES):
            z, y = self.prior.sample(BATCH)
            yield z @ A.T + b[y] + self.s * torch.randn(BATCH, self.X, dtype=z.dtype), z, y

    @torch.no_grad()
    def five_terms(self) -> tuple[float, float]:
        """The sum of the five terms, latent and membership by Monte Carlo, and its standard error."""
        B, c = torch.from_numpy(self.B), torch.from_numpy(self.c)
        means = []
        for x, z, y in self.batches():
            raw = torch.from_numpy(self.log_variance).expand_as(z)
            latent = terms.latent(self.prior.encoder_distribution(x @ B.T + c, raw), z)
            means.append(float(latent + terms.membership(self.prior.log_responsibilities(z), y)))
        phi = self.prior.weights()
        exact = float(terms.entropy(phi, self.prior.entropies()) + terms.label(phi))
        error = float(np.std(means, ddof=1)) / BATCHES**0.5
        return self.data_term() + float(np.mean(means)) + exact, error

    def joint_kl(self) -> float:
        """KL(p || q): the Gaussian joints of (x, z) in closed form for every y, log q(y|z) on a grid of z."""
        A, B, J, X = self.A, self.B, self.J, self.X
        # q(x, z), x ~ N(m, C), z = B x + c + t * noise
        q_mean = np.concatenate([self.m, B @ self.m + self.c])
        q_covariance = np.block([[self.C, self.C @ B.T], [B @ self.C, B @ self.C @ B.T]])
        q_covariance[X:, X:] += np.diag(np.exp(self.log_variance))
        inverse = np.linalg.inv(q_covariance)
        axes = [np.linspace(-14, 14, 6001 if J == 1 else 701)] * J
        grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], axis=1)
        cell = (axes[0][1] - axes[0][0]) ** J
        mixture = self.log_mixture(grid)
        log_q_y = mixture - logsumexp(mixture, axis=1, keepdims=True)
        total = 0.0
        for k in range(self.K):
            S = np.diag(self.scale[k] ** 2)
            mean = np.concatenate([A @ self.mu[k] + self.b[k], self.mu[k]]) - q_mean
            covariance = np.block([[A @ S @ A.T + self.s**2 * np.eye(X), A @ S], [S @ A.T, S]])
            determinants = np.linalg.slogdet(q_covariance)[1] - np.linalg.slogdet(covariance)[1]
            gaussian = (np.trace(inverse @ covariance) + mean @ inverse @ mean - (X + J) + determinants) / 2
            total += self.phi[k] * (np.log(self.phi[k]) + gaussian)
            total -= cell * np.sum(np.exp(mixture[:, k]) * log_q_y[:, k])
        return float(total)

    def joint_kl_by_integration(self) -> float:
        """KL(p || q) for one-dimensional x and z by the trapezium rule on both, nothing else."""
        z, x = np.linspace(-12, 12, 901), np.linspace(-40, 40, 2001)
        mixture = self.log_mixture(z[:, None])
        log_q_y = mixture - logsumexp(mixture, axis=1, keepdims=True)
        z_given_x = stats.norm.logpdf(z, x[:, None] * self.B[0, 0] + self.c[0], np.exp(self.log_variance[0] / 2))
        log_q_xz = stats.norm.logpdf(x, self.m[0], self.C[0, 0] ** 0.5)[:, None] + z_given_x
        total = 0.0
        for k in range(self.K):
            log_p = mixture[:, k] + stats.norm.logpdf(x[:, None], z * self.A[0, 0] + self.b[k, 0], self.s)
            total += np.sum(np.exp(log_p) * (log_p - log_q_xz - log_q_y[:, k]))
        return float(total * (z[1] - z[0]) * (x[1] - x[0]))


@pytest.mark.parametrize(("K", "seed"), [(2, 0), (3, 1), (3, 2)])
def test_the_two_ways_to_compute_the_exact_kl_agree(K: int, seed: int) -> None:
    model = LinearGaussian(K, J=1, X=1, seed=seed)
    assert model.joint_kl() == pytest.approx(model.joint_kl_by_integration(), abs=1e-8)


@pytest.mark.parametrize(("K", "J", "X", "seed"), [(2, 1, 1, 0), (3, 1, 1, 1), (2, 2, 1, 2), (3, 2, 3, 3)])
def test_the_five_terms_are_the_kl_of_linear_gaussian_joints(K: int, J: int, X: int, seed: int) -> None:
    model = LinearGaussian(K, J, X, seed)
    exact = model.joint_kl()
    estimate, error = model.five_terms()
    assert exact > 0.5
    assert error < 0.005 * exact
    assert abs(estimate - exact) < 5 * error


def test_a_wrong_membership_shows_as_a_gap_in_the_linear_gaussian_sum() -> None:
    class Tempered(GaussianMixture):
        def log_responsibilities(self, z: torch.Tensor) -> torch.Tensor:
            return torch.log_softmax(0.3 * super().log_responsibilities(z), dim=-1)

    model = LinearGaussian(3, J=1, X=1, seed=1)
    model.prior.__class__ = Tempered
    estimate, error = model.five_terms()
    assert estimate - model.joint_kl() > 20 * error


def prior_terms(prior: Prior, z: torch.Tensor, y: torch.Tensor) -> float:
    """Membership + entropy + label."""
    phi = prior.weights()
    membership = terms.membership(prior.log_responsibilities(z), y)
    return float(membership + terms.entropy(phi, prior.entropies()) + terms.label(phi))


@pytest.mark.parametrize(("K", "seed"), [(1, 5), (2, 0), (4, 3)])
@torch.no_grad()
def test_membership_entropy_and_label_add_up_to_the_log_density_of_z(K: int, seed: int) -> None:
    model = LinearGaussian(K, J=1, X=1, seed=seed)
    grid = np.linspace(-14, 14, 6001)
    log_p = logsumexp(model.log_mixture(grid[:, None]), axis=1)
    exact = float(np.sum(np.exp(log_p) * log_p) * (grid[1] - grid[0]))
    means = [prior_terms(model.prior, z, y) for _, z, y in model.batches()]
    error = float(np.std(means, ddof=1)) / BATCHES**0.5
    assert error < 0.005
    assert abs(np.mean(means) - exact) < 5 * error + 1e-9
