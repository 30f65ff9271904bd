"""Laws on the probabilities of a prior: weights, densities, samples, entropies and responsibilities must agree.

Integrals are over the whole line (J = 1) or plane (J = 2). Their points are dense near a component and reach as far as
tails without any moment need. Monte Carlo comes with its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.comparison import finite, require_close
from mpcc.core.testing.module_state import trained
from mpcc.core.testing.prior.cases import SIZES, PriorCase, component_density, component_spread, line
from mpcc.core.testing.prior.gradients import flat_gradient, require_mean_gradient
from mpcc.core.testing.prior.rows import company
from mpcc.core.testing.prior.state import own_dtype
from mpcc.core.testing.report import Laws, require

__all__ = ["PROBABILITY", "check_entropies", "component_densities", "mean_surprise", "rounded"]

PROBABILITY = Laws[PriorCase]()
# Allowed difference of two formulas in float64.
EXACT = 1e-8
# Allowed error of an integral over the line: a peak or an edge of the density costs the square of the step.
LINE = 1e-4
# The same for an integral over the plane.
PLANE = 1e-2
# Smallest p-value of a statistical test. Each law makes a few such tests.
SIGNIFICANCE = 1e-6
STANDARD_ERRORS = 5.0


@PROBABILITY.add("weights are positive and sum to 1, log weights are their logarithm")
@torch.no_grad()
def weights(case: PriorCase) -> str:
    for dtype in (torch.float32, torch.float64):
        for clusters in (1, 4):
            prior = case.build(clusters, 2, dtype)
            phi = prior.weights().double()
            require(bool((phi > 0).all()), f"the smallest of {clusters} is {float(phi.min()):.3g}")
            require(abs(float(phi.sum()) - 1) < 1e-6, f"they sum to {float(phi.sum()):.8g}, allowed 1 +- 1e-6")
            require_close(
                "log_weights() from the logarithm of weights()", prior.log_weights().double(), phi.log(), 1e-5
            )
    return f"smallest of 4 {float(phi.min()):.3g}, sum off by {abs(float(phi.sum()) - 1):.1g}"


@PROBABILITY.add("labels are as frequent as their weights")
@torch.no_grad()
def frequencies(case: PriorCase) -> str:
    prior, count = case.build(5, 2), 50_000
    phi = prior.weights().double() / prior.weights().double().sum()
    drawn = torch.bincount(prior.sample(count)[1], minlength=5)
    chance = float(stats.chisquare(drawn.numpy(), count * phi.numpy()).pvalue)
    require(
        chance > SIGNIFICANCE,
        f"shares {rounded(drawn / count)}, expected the weights {rounded(phi)}: chi-square test p = {chance:.1g}, "
        f"allowed {SIGNIFICANCE:g}",
    )
    if type(prior).sample_labels is Prior.sample_labels and abs(float(prior.weights().sum()) - 1) < 1e-4:
        # With systematic draws, a cluster has its share of a batch, rounded up or down.
        prior.label_draws, few = "systematic", 37
        off = float((torch.bincount(prior.sample(few)[1], minlength=5) - few * phi).abs().max())
        require(off < 1, f"systematic draws: of {few} labels, a cluster has {off:.2f} more or less than its share")
    return f"{count} draws, chi-square test p = {chance:.2g}, allowed {SIGNIFICANCE:g}"


@PROBABILITY.add("the density integrates to 1")
@torch.no_grad()
def normalised(case: PriorCase) -> str:
    prior = case.build(3, 1)
    worst = 0.0
    for k in range(3):
        points = line(prior, k)
        total = float((points.cells * component_density(prior, k, points.points).exp()).sum())
        require(abs(total - 1) < LINE, f"J = 1: component {k} integrates to {total:.6g}, allowed 1 +- {LINE:g}")
        worst = max(worst, abs(total - 1))
    total = plane_integral(case.build(2, 2), 1)
    require(abs(total - 1) < PLANE, f"J = 2: component 1 integrates to {total:.4g}, allowed 1 +- {PLANE:g}")
    return f"J = 1 off by {worst:.1g}, allowed {LINE:g}; J = 2 off by {abs(total - 1):.1g}, allowed {PLANE:g}"


def plane_integral(prior: Prior, k: int) -> float:
    """Integrate p(z|k) of a prior with J = 2 over the plane, around its median."""
    middle, width = component_spread(prior, k)
    step = 0.08
    t = torch.arange(-14, 14 + step / 2, step, dtype=torch.float64)
    x, y = (middle[axis] + width[axis] * torch.sinh(t) for axis in (0, 1))
    cells = (width[0] * width[1] * step**2) * torch.outer(torch.cosh(t), torch.cosh(t))
    grid = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1)
    return float((prior.component(torch.tensor(k)).log_prob(grid).exp() * cells).sum())


def cumulative(prior: Prior, k: int) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the distribution function of a component with J = 1, from its integrated density."""
    points = line(prior, k)
    mass = points.cells * component_density(prior, k, points.points).exp()
    below = mass.cumsum(0)
    # At the centre of a cell, half of the cell's own mass lies below; between two centres it is interpolated.
    shares, z = ((below - mass / 2) / below[-1]).numpy(), points.points.squeeze(1).numpy()
    return lambda values: np.interp(values, z, shares)


@PROBABILITY.add("samples follow the density")
@torch.no_grad()
def sampling(case: PriorCase) -> str:
    prior, count = case.build(3, 1), 50_000
    z, y = prior.sample(count)
    z = z.double().squeeze(1)
    require(finite(z), "a sample is not finite")
    worst = 0.0
    for k in range(3):
        distribution = cumulative(prior, k)
        of_component = prior.component(torch.full((count // 3,), k)).rsample().double().squeeze(1)
        for what, drawn in (("sample()", z[y == k]), ("component(y).rsample()", of_component)):
            if len(drawn) < 100:
                continue
            test = stats.kstest(drawn.numpy(), distribution, method="asymp")
            require(
                test.pvalue > SIGNIFICANCE,
                f"{len(drawn)} samples of {what}, cluster {k}: Kolmogorov-Smirnov distance {test.statistic:.4f} from "
                f"the integrated density, p = {test.pvalue:.1g}, allowed {SIGNIFICANCE:g}",
            )
            worst = max(worst, test.statistic)
    return f"J = 1, {2 * count} samples: largest Kolmogorov-Smirnov distance {worst:.4f}"


@PROBABILITY.add("the score has mean 0 under the samples")
def score(case: PriorCase) -> str:
    # E[d log p / d theta] = 0 for every parameter and any J, if and only if the samples follow the density to first
    # order; a density that is not normalised breaks it too.
    prior = case.build(3, 4)
    parameters = trained(prior)
    if not parameters:
        return "no parameters"

    def draw() -> Tensor:
        with torch.no_grad():
            z, y = prior.sample(1000)
        log_joint = (prior.log_weights() + prior.log_density(z)).gather(1, y.unsqueeze(1))
        return flat_gradient(log_joint.mean(), parameters)

    return require_mean_gradient("J = 4, score of 50000 samples", parameters, draw, 50)


def component_densities(prior: Prior, z: Tensor) -> Tensor:
    """Return log p(z|k) from each component by itself, (N, J) -> (N, K)."""
    of_each = [prior.component(torch.full((len(z),), k)).log_prob(z) for k in range(prior.clusters)]
    return torch.stack(of_each, dim=1)


@PROBABILITY.add("log p(z|k) for all k is that of each component", after=[own_dtype.name])
@torch.no_grad()
def densities(case: PriorCase) -> str:
    worst = 0.0
    for K, J in case.accepted(SIZES):
        prior = case.build(K, J)
        z, _ = prior.sample(50)
        off = require_close(f"K={K}, J={J}: log_density(z)", prior.log_density(z), component_densities(prior, z), EXACT)
        worst = max(worst, off)
    return f"largest difference {worst:.1g}, allowed {EXACT:g}"


@PROBABILITY.add("responsibilities equal Bayes' rule and sum to 1", after=[own_dtype.name])
@torch.no_grad()
def responsibilities(case: PriorCase) -> str:
    worst = 0.0
    for K, J in case.accepted(SIZES):
        prior = case.build(K, J)
        z, _ = prior.sample(50)
        actual = prior.log_responsibilities(z).exp()
        require_close(f"K={K}, J={J}: their sum", actual.sum(1), torch.ones(50), EXACT)
        expected = torch.softmax(prior.weights().log() + component_densities(prior, z), dim=1)
        phi = rounded(prior.weights())
        worst = max(worst, require_close(f"q(y|z) with weights {phi}", actual, expected, EXACT))
    return f"largest difference {worst:.1g}, allowed {EXACT:g}; weights {phi}"


def rounded(values: Tensor) -> str:
    """Return numbers with three digits, for messages."""
    return f"({', '.join(f'{value:.3g}' for value in values.tolist())})"


def check_entropies(prior: Prior, method: str, estimate: Callable[[int], tuple[float, float]]) -> str:
    """Check declared entropies, or lower bounds on them, and return the figures of the worst.

    Arguments:
        prior: Under test.
        method: How they are estimated, for the message.
        estimate: Returns the entropy of a component and how far the declared one may be off.
    """
    if prior.entropy_kind == "none":
        return "not checked: it declares no entropy"
    is_bound = prior.entropy_kind == "lower-bound"
    expected = "a lower bound must not exceed the entropy" if is_bound else "expected the same"
    tolerance = prior.entropy_tolerance if prior.entropy_kind == "numerical" else 0.0
    if tolerance:
        expected += f" within entropy_tolerance {tolerance:g}"
    worst, figures = -math.inf, ""
    for k, declared in enumerate(prior.entropies().tolist()):
        entropy, error = estimate(k)
        allowed = error + tolerance
        compared = (
            f"J = {prior.latent_dim}, cluster {k}: entropies() {declared:.4f}, {method} {entropy:.4f} +- {allowed:.2g}"
        )
        require(math.isfinite(declared) and math.isfinite(entropy), f"{compared}: expected finite numbers")
        off = (declared - entropy) / allowed if is_bound else abs(declared - entropy) / allowed
        require(off <= 1, f"{compared}: {expected}")
        worst, figures = max((worst, figures), (off, compared))
    return f"{figures} ({prior.entropy_kind}{f', tolerance {tolerance:g}' if tolerance else ''})"


@PROBABILITY.add("entropies are the integral of -p log p")
@torch.no_grad()
def entropy_integral(case: PriorCase) -> str:
    prior = case.build(3, 1)

    def integral(k: int) -> tuple[float, float]:
        points = line(prior, k)
        log_density = component_density(prior, k, points.points)
        surprise = torch.where(log_density == -math.inf, 0.0, -log_density * log_density.exp())
        entropy = float((points.cells * surprise).sum())
        return entropy, 10 * LINE * (1 + abs(entropy))

    return check_entropies(prior, "integral", integral)


@PROBABILITY.add("entropies are the mean surprise of samples")
@torch.no_grad()
def entropy_monte_carlo(case: PriorCase) -> str:
    prior = case.build(3, 4)
    return check_entropies(prior, "Monte Carlo", lambda k: mean_surprise(prior, k, 40_000))


def mean_surprise(prior: Prior, k: int, count: int) -> tuple[float, float]:
    """Return the mean of -log p(z|k) over samples of a component, and how far it may be off."""
    component = prior.component(torch.full((count,), k))
    surprise = -component.log_prob(component.rsample())
    return float(surprise.mean()), STANDARD_ERRORS * float(surprise.std()) / count**0.5 + 1e-9


@PROBABILITY.add(
    "divergences from q(z|x), if they have a closed form, are mean log ratios of samples", after=[company.name]
)
@torch.no_grad()
def divergences(case: PriorCase) -> str:
    prior, count, rows = case.build(3, 4), 40_000, 2
    loc, raw_scale = torch.randn(rows, 4).double(), torch.randn(rows, 4).double()
    try:
        declared = prior.divergences(loc, raw_scale)
    except NotImplementedError:
        return "there is none: systems of the forward KL cannot use it"
    require(
        tuple(declared.shape) == (rows, 3),
        f"divergences(loc, raw_scale): expected shape {(rows, 3)}, got {tuple(declared.shape)}",
    )
    worst, figures = -math.inf, ""
    for row in range(rows):
        q = prior.encoder_distribution(loc[row].expand(count, -1), raw_scale[row].expand(count, -1))
        z = q.rsample()
        for k in range(3):
            ratios = q.log_prob(z) - prior.component(torch.full((count,), k)).log_prob(z)
            mean, allowed = float(ratios.mean()), STANDARD_ERRORS * float(ratios.std()) / count**0.5 + 1e-9
            found = float(declared[row, k])
            compared = f"J = 4, cluster {k}: divergences() {found:.4f}, Monte Carlo {mean:.4f} +- {allowed:.2g}"
            require(abs(found - mean) <= allowed, f"{compared}: expected the same")
            worst, figures = max((worst, figures), (abs(found - mean) / allowed, compared))
    return figures
