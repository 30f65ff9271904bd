"""Laws on the probabilities of a prior: weights, densities, samples, entropies and responsibilities are one model's.

Integrals are over the whole line (J = 1) or plane (J = 2), on points that are dense near a component and reach as far
as tails without any moment need; Monte Carlo comes with its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from scipy.special import kolmogorov
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.prior.cases import Line, PriorCase, component_density, largest, line, standard_errors, trained
from mpcc.core.testing.report import Law, law, require

__all__ = ["PROBABILITY"]

# The laws that compare two formulas in float64.
EXACT = 1e-8
# Of an integral over the line: a peak or an edge of the density costs the square of the step.
LINE = 1e-4
PLANE = 1e-2
# Below it, samples are said not to follow the density; each law makes a few such tests.
SIGNIFICANCE = 1e-6
STANDARD_ERRORS = 5.0


@law("weights are positive and sum to 1, log weights are their logarithm")
@torch.no_grad()
def weights(case: PriorCase) -> str:
    for dtype in (torch.float32, torch.float64):
        for clusters in (1, 4):
            prior = case.build(clusters, 2, dtype)
            phi = prior.weights().double()
            require(bool((phi > 0).all()), f"the smallest of {clusters} is {float(phi.min()):.3g}")
            require(abs(float(phi.sum()) - 1) < 1e-6, f"they sum to {float(phi.sum()):.8g}, allowed 1 +- 1e-6")
            off = largest(prior.log_weights().double() - phi.log())
            require(off < 1e-5, f"log_weights() differs from the logarithm of weights() by {off:.3g}, allowed 1e-5")
    return f"smallest of 4 {float(phi.min()):.3g}, sum off by {abs(float(phi.sum()) - 1):.1g}"


@law("labels are as frequent as their weights")
@torch.no_grad()
def frequencies(case: PriorCase) -> str:
    prior, count = case.build(5, 2), 50_000
    phi = prior.weights().double() / prior.weights().double().sum()
    shares = torch.bincount(prior.sample(count)[1], minlength=5).double() / count
    worst = largest((shares - phi) / (phi * (1 - phi) / count).sqrt())
    require(worst < STANDARD_ERRORS, f"shares {rounded(shares)}, weights {rounded(phi)}: {worst:.1f} standard errors")
    return f"{count} draws, at most {worst:.1f} standard errors off, allowed {STANDARD_ERRORS:g}"


@law("the density integrates to 1")
@torch.no_grad()
def normalised(case: PriorCase) -> str:
    prior = case.build(3, 1)
    worst = 0.0
    for k in range(3):
        points = line(prior, k)
        total = float((points.cells * component_density(prior, k, points.points).exp()).sum())
        require(abs(total - 1) < LINE, f"J = 1: component {k} integrates to {total:.6g}, allowed 1 +- {LINE:g}")
        worst = max(worst, abs(total - 1))
    flat = case.build(2, 2)
    total = plane_integral(flat, 1)
    require(abs(total - 1) < PLANE, f"J = 2: component 1 integrates to {total:.4g}, allowed 1 +- {PLANE:g}")
    return f"J = 1 off by {worst:.1g}, allowed {LINE:g}; J = 2 off by {abs(total - 1):.1g}, allowed {PLANE:g}"


def plane_integral(prior: Prior, k: int) -> float:
    """Integrate p(z|k) of a prior with J = 2 over the plane, around its median."""
    drawn = prior.component(torch.full((2001,), k)).rsample()
    quartiles = torch.quantile(drawn, torch.tensor([0.25, 0.5, 0.75]).to(drawn), dim=0)
    width = (quartiles[2] - quartiles[0]) / 2
    step = 0.08
    t = torch.arange(-14, 14 + step / 2, step, dtype=drawn.dtype)
    x, y = (quartiles[1, axis] + width[axis] * torch.sinh(t) for axis in (0, 1))
    cells = (width[0] * width[1] * step**2) * torch.outer(torch.cosh(t), torch.cosh(t))
    grid = torch.stack(torch.meshgrid(x, y, indexing="ij"), dim=-1)
    return float((prior.component(torch.tensor(k)).log_prob(grid).exp() * cells).sum())


def distance(prior: Prior, k: int, points: Line, drawn: Tensor) -> tuple[float, float]:
    """Return the Kolmogorov-Smirnov distance of samples, shape (N,), from a component's density, and its p-value."""
    mass = points.cells * component_density(prior, k, points.points).exp()
    below = mass.cumsum(0)
    # Where a sample lies in its cell: by linear interpolation of the cumulative mass between cell centres.
    z = points.points.squeeze(1)
    right = torch.searchsorted(z, drawn).clamp(1, len(z) - 1)
    share = ((drawn - z[right - 1]) / (z[right] - z[right - 1])).clamp(0, 1)
    centre = below - mass / 2
    ranks = torch.sort((centre[right - 1] + share * (centre[right] - centre[right - 1])) / below[-1]).values
    count = len(ranks)
    steps = torch.arange(count, dtype=ranks.dtype)
    found = max(float((ranks - steps / count).max()), float(((steps + 1) / count - ranks).max()))
    return found, float(kolmogorov(found * count**0.5))


@law("samples follow the density")
@torch.no_grad()
def sampling(case: PriorCase) -> str:
    prior, count = case.build(3, 1), 50_000
    z, y = prior.sample(count)
    z = z.double().squeeze(1)
    require(bool(torch.isfinite(z).all()), "a sample is not finite")
    worst = 0.0
    for k in range(3):
        points = line(prior, k)
        of_component = prior.component(torch.full((count // 3,), k)).rsample().double().squeeze(1)
        for words, drawn in (("sample()", z[y == k]), ("component(y).rsample()", of_component)):
            if len(drawn) < 100:
                continue
            found, chance = distance(prior, k, points, drawn)
            require(
                chance > SIGNIFICANCE,
                f"{len(drawn)} samples of {words}, cluster {k}: Kolmogorov-Smirnov distance {found:.4f} from the "
                f"integrated density (p = {chance:.1g}, allowed {SIGNIFICANCE:g}); median {float(drawn.median()):.3g}",
            )
            worst = max(worst, found)
    return f"J = 1, {2 * count} samples: largest Kolmogorov-Smirnov distance {worst:.4f}"


@law("the score has mean 0 under the samples")
def score(case: PriorCase) -> str:
    # E[d log p / d theta] = 0 for every parameter and any J, if and only if what is drawn is what is scored, to first
    # order; a density that is not normalised breaks it too.
    prior = case.build(3, 4)
    parameters = trained(prior)
    if not parameters:
        return "no parameters"
    batches = []
    for _ in range(50):
        with torch.no_grad():
            z, y = prior.sample(1000)
        chosen = (prior.log_weights() + prior.log_density(z)).gather(1, y.unsqueeze(1))
        found = torch.autograd.grad(chosen.mean(), list(parameters.values()), allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), found, strict=True)]
        batches.append(torch.cat([gradient.flatten() for gradient in flat]))
    mean, error = standard_errors(torch.stack(batches))
    off = (mean.abs() - 1e-9).clamp(min=0) / error.clamp(min=1e-12)
    at = int(off.argmax())
    names = [name for name, parameter in parameters.items() for _ in range(parameter.numel())]
    allowed = STANDARD_ERRORS + 1.5  # so many parameters, estimated errors
    require(
        bool(torch.isfinite(mean).all()) and float(off[at]) < allowed,
        f"J = 4, {names[at]}: mean score {float(mean[at]):.3g} +- {float(error[at]):.2g} in 50000 samples, expected 0",
    )
    return f"J = 4, 50000 samples: at most {float(off[at]):.1f} standard errors off, allowed {allowed:g}"


@attrs.frozen
class Estimate:
    """An entropy as the prior declares it, and as it was found.

    Attributes:
        declared: By ``entropies()``.
        found: By an integral or by Monte Carlo.
        allowed: How far the two may be apart.
        words: How it was found.
    """

    declared: float
    found: float
    allowed: float
    words: str

    def off(self, kind: str) -> float:
        """Return how far the declared one is off, in units of what is allowed; a lower bound may be any way below."""
        difference = self.declared - self.found
        return (difference if kind == "lower-bound" else abs(difference)) / self.allowed


def judge(kind: str, estimates: Sequence[Estimate]) -> str:
    """Check declared entropies, or lower bounds on them, and return the figures of the worst."""
    for each in estimates:
        require(math.isfinite(each.declared), f"entropies() {each.declared}: expected a finite number; {each.words}")
        require(math.isfinite(each.found), f"-log p is not finite somewhere: {each.words}")
    worst = max(estimates, key=lambda each: each.off(kind))
    figures = f"{worst.words}, entropies() {worst.declared:.4f}, allowed difference {worst.allowed:.2g}"
    expected = "a lower bound must not exceed the entropy" if kind == "lower-bound" else "expected the same"
    require(worst.off(kind) <= 1, f"{figures}: {expected}")
    return f"{figures} ({kind})"


@law("entropies are the integral of -p log p")
@torch.no_grad()
def entropy_integral(case: PriorCase) -> str:
    prior = case.build(3, 1)
    if prior.entropy_kind == "none":
        return "not checked: it declares no entropy"
    estimates = []
    for k, declared in enumerate(prior.entropies().tolist()):
        points = line(prior, k)
        log_density = component_density(prior, k, points.points)
        surprise = torch.where(log_density == -math.inf, 0.0, -log_density * log_density.exp())
        found = float((points.cells * surprise).sum())
        words = f"J = 1, cluster {k}: integral {found:.4f}"
        estimates.append(Estimate(declared, found, 10 * LINE * (1 + abs(found)), words))
    return judge(prior.entropy_kind, estimates)


@law("entropies are the mean surprise of samples")
@torch.no_grad()
def entropy_monte_carlo(case: PriorCase) -> str:
    prior, count = case.build(3, 4), 40_000
    if prior.entropy_kind == "none":
        return "not checked: it declares no entropy"
    estimates = []
    for k, declared in enumerate(prior.entropies().tolist()):
        component = prior.component(torch.full((count,), k))
        found, error = (float(value) for value in standard_errors(-component.log_prob(component.rsample())))
        words = f"J = 4, cluster {k}: Monte Carlo {found:.4f} +- {error:.4f}"
        estimates.append(Estimate(declared, found, STANDARD_ERRORS * error + 1e-9, words))
    return judge(prior.entropy_kind, estimates)


@law("log p(z|k) for all k is that of each component")
@torch.no_grad()
def densities(case: PriorCase) -> str:
    worst = 0.0
    for clusters, latent_dim in ((1, 1), (3, 2), (4, 5)):
        prior = case.build(clusters, latent_dim)
        z, _ = prior.sample(50)
        one_by_one = [prior.component(torch.full((50,), k)).log_prob(z) for k in range(clusters)]
        worst = max(worst, largest(prior.log_density(z) - torch.stack(one_by_one, dim=1)))
        require(worst < EXACT, f"K={clusters}, J={latent_dim}: differs by {worst:.3g}, allowed {EXACT:g}")
    return f"largest difference {worst:.1g}, allowed {EXACT:g}"


@law("responsibilities equal Bayes' rule and sum to 1")
@torch.no_grad()
def responsibilities(case: PriorCase) -> str:
    worst = 0.0
    for clusters, latent_dim in ((1, 1), (3, 2), (4, 5)):
        prior = case.build(clusters, latent_dim)
        z, _ = prior.sample(50)
        found = prior.log_responsibilities(z)
        off = largest(found.exp().sum(1) - 1)
        require(off < EXACT, f"K={clusters}, J={latent_dim}: they sum to 1 only up to {off:.3g}, allowed {EXACT:g}")
        one_by_one = [prior.component(torch.full((50,), k)).log_prob(z) for k in range(clusters)]
        expected = torch.log_softmax(prior.weights().log() + torch.stack(one_by_one, dim=1), dim=1)
        worst = max(worst, largest(found.exp() - expected.exp()))
        weighted = rounded(prior.weights())
        require(worst < EXACT, f"with weights {weighted}: differ by {worst:.3g}, allowed {EXACT:g}")
    return f"largest difference {worst:.1g}, allowed {EXACT:g}; weights {weighted}"


def rounded(values: Tensor) -> str:
    """Return numbers with three digits, for messages."""
    return f"({', '.join(f'{value:.3g}' for value in values.tolist())})"


PROBABILITY: tuple[Law[PriorCase], ...] = (
    weights,
    frequencies,
    normalised,
    sampling,
    score,
    densities,
    responsibilities,
    entropy_integral,
    entropy_monte_carlo,
)
