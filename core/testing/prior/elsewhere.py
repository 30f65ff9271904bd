"""Laws on a prior away from the usual: parameters far off their start, more clusters, large sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.comparison import finite, gradients, require_close
from mpcc.core.testing.module_state import trained
from mpcc.core.testing.prior.cases import LARGER, PriorCase, component_spread, formulas, shifted
from mpcc.core.testing.prior.numerics import NUMERICS
from mpcc.core.testing.prior.probability import (
    PROBABILITY,
    check_entropies,
    component_densities,
    mean_surprise,
    rounded,
)
from mpcc.core.testing.prior.rows import ROWS
from mpcc.core.testing.report import Laws, require

__all__ = ["ELSEWHERE"]

ELSEWHERE = Laws[PriorCase]()
MOVES = (4.0, -4.0)
# Allowed difference of two formulas in float64, relative to 1 + the value.
EXACT = 1e-8
STANDARD_ERRORS = 6.0
# Points of a mean over samples, and of the integral that it is compared with.
POINTS = 20_000
# Spread of the points of an integral in asinh of their distance from the middle: tails heavier than a Cauchy's.
REACH = 1.2
LARGEST = (100, 256)


@ELSEWHERE.add(
    "weights, densities and entropies agree at K = 7, J = 3, also with each parameter moved by 4",
    after=[law.name for law in PROBABILITY],
)
@torch.no_grad()
def moved(case: PriorCase) -> str:
    prior = case.build(*LARGER)
    require_agreement(prior, "K=7, J=3")
    count = 1
    for when, changed in shifted(prior, MOVES):
        require_agreement(changed, f"K=7, J=3, {when}")
        count += 1
    return f"{count} cases"


def require_agreement(prior: Prior, when: str) -> None:
    """Check weights, densities, responsibilities and entropies of a prior against each other."""
    phi, log_phi = prior.weights(), prior.log_weights()
    require(
        bool((phi > 0).all()) and abs(float(phi.sum()) - 1) < 1e-6,
        f"{when}: weights() are {rounded(phi)} with the sum {float(phi.sum()):.8g}, expected positive ones of sum 1",
    )
    require_close(f"{when}: log_weights() from the logarithm of weights()", log_phi, phi.log(), EXACT, relative=True)
    z, _ = prior.sample(50)
    densities = component_densities(prior, z)
    what = f"{when}: log_density(z), compared with each component's,"
    require_close(what, prior.log_density(z), densities, EXACT, relative=True)
    expected = torch.softmax(phi.log() + densities, dim=1)
    require_close(f"{when}: q(y|z), compared with Bayes' rule,", prior.log_responsibilities(z).exp(), expected, EXACT)
    check_entropies(prior, f"{when}, Monte Carlo", lambda k: mean_surprise(prior, k, POINTS // 2))


@ELSEWHERE.add(
    "samples follow the density on every axis and in every pair of dimensions, at K = 7, J = 3",
    after=[law.name for law in (*ROWS, *PROBABILITY)],
)
@torch.no_grad()
def axes(case: PriorCase) -> str:
    prior, worst = case.build(*LARGER), 0.0
    for k in range(prior.clusters):
        component = prior.component(torch.full((POINTS,), k))
        middle, width = component_spread(prior, k)
        names, of_samples = curves((component.rsample() - middle) / width)
        points, log_cells = spread_points(middle, width)
        ratios = torch.exp(component.log_prob(points) - log_cells).unsqueeze(1)
        under_density = curves((points - middle) / width)[1] * ratios
        error = ((of_samples.var(0) + under_density.var(0)) / POINTS).sqrt()
        off = (of_samples.mean(0) - under_density.mean(0)).abs() / (STANDARD_ERRORS * error + 1e-4)
        at = int(off.argmax())
        require(
            float(off[at]) < 1,
            f"cluster {k}: the mean of {names[at]} is {float(of_samples.mean(0)[at]):.4f} in {POINTS} samples and "
            f"{float(under_density.mean(0)[at]):.4f} under the density, allowed difference "
            f"{float(STANDARD_ERRORS * error[at]):.2g}",
        )
        worst = max(worst, float(off[at]))
    return f"{len(names)} means for each of {prior.clusters} clusters, at most {worst:.0%} of the allowed difference"


def spread_points(middle: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Return points around a component, (N, J), with tails heavier than a Cauchy's, and their log-density, (N,)."""
    t = torch.rand(POINTS, len(middle), dtype=torch.float64).logit(eps=1e-12)
    log_t = torch.nn.functional.logsigmoid(t) + torch.nn.functional.logsigmoid(-t) - math.log(REACH)
    # z = middle + width sinh(REACH t), so dz = width cosh(REACH t) d(REACH t).
    z = middle + width * torch.sinh(REACH * t)
    return z, (log_t - torch.log(width * torch.cosh(REACH * t))).sum(1)


def curves(standard: Tensor) -> tuple[list[str], Tensor]:
    """Return bounded functions of standardised points, (N, J) -> names and (N, F): of each axis and of each pair."""
    names, columns = ["1"], [torch.ones(len(standard), dtype=standard.dtype)]
    squashed = torch.tanh(standard)
    for a in range(standard.shape[1]):
        names += [f"tanh of dimension {a}", f"a bump in dimension {a}"]
        columns += [squashed[:, a], torch.exp(-standard[:, a].square() / 2)]
        for b in range(a):
            names.append(f"the product of dimensions {b} and {a}, each through tanh,")
            columns.append(squashed[:, a] * squashed[:, b])
    return names, torch.stack(columns, dim=1)


@ELSEWHERE.add(
    "K = 100 and J = 256 stay finite in float32, with finite gradients", after=[law.name for law in NUMERICS]
)
def large(case: PriorCase) -> str:
    for when, prior in large_priors(case):
        z, y = prior.sample(4)
        zeros = torch.zeros_like(z)
        q = prior.encoder_distribution(zeros, zeros)
        values = {name: formula() for name, formula in formulas(prior, z).items()}
        values |= {"z": z, "log p(z|y)": prior.component(y).log_prob(z), "log q(z|x)": q.log_prob(z)}
        for name, value in values.items():
            bad = int((~torch.isfinite(value)).sum())
            require(
                bad == 0,
                f"K={LARGEST[0]}, J={LARGEST[1]}, {when}: {bad} of {value.numel()} numbers in {name} are not finite; "
                "add logarithms instead of multiplying",
            )
            for key, gradient in gradients(value.sum(), trained(prior)).items():
                require(finite(gradient), f"J={LARGEST[1]}, {when}: the gradient of {name} in {key} is not finite")
    return "at the start and moved"


def large_priors(case: PriorCase) -> Iterator[tuple[str, Prior]]:
    """Yield a prior of the largest size at its start, and one that was moved."""
    yield "at the start", case.start(*LARGEST)
    yield "moved", case.build(*LARGEST, torch.float32)
