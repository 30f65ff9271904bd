"""Laws on the encoder's family q(z|x): its location, its gradients, and tails that make the latent term finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.prior.cases import PriorCase, component_density, largest, shifted, spread
from mpcc.core.testing.prior.gradients import compare, uneven
from mpcc.core.testing.report import Law, broken, law, require

__all__ = ["ENCODER"]

RAW_SCALES = (-4.0, 0.0, 4.0)
# The decades of |z| whose contributions are compared, counted from the width of the component.
FIRST_DECADE, LAST_DECADE = 1, 14
# Contributions of far decades must shrink by a constant factor at least: 10^SLOWEST a decade.
SLOWEST = -0.004
# log10 of a contribution that counts as none.
NOTHING = -200.0
POINTS = 48


@law("log q(z|x) is finite, with true gradients in loc, raw_scale and z")
def encoder_gradients(case: PriorCase) -> str:
    prior = case.build(2, 3)
    loc, raw = torch.randn(6, 3).double(), 2 * torch.randn(6, 3).double()
    z = loc + torch.randn(6, 3).double()
    for extreme in (-20.0, 20.0):
        with torch.no_grad():
            found = prior.encoder_distribution(loc, torch.full_like(raw, extreme)).log_prob(z)
        require(bool(torch.isfinite(found).all()), f"raw_scale {extreme:g}: log q is {found.tolist()}")
    inputs = {"loc": loc.requires_grad_(), "raw_scale": raw.requires_grad_(), "z": z.requires_grad_()}

    def values() -> dict[str, Tensor]:
        log_q = torch.asinh(prior.encoder_distribution(loc, raw).log_prob(z))
        return {"asinh(log q)": (log_q * uneven(log_q)).sum()}

    (value,) = values().values()
    require(bool(torch.isfinite(value)), "log q is not finite at raw scales around 0")
    require(value.requires_grad, "log q has no gradient in loc and raw_scale")
    for key, gradient in zip(inputs, torch.autograd.grad(value, list(inputs.values()), allow_unused=True), strict=True):
        if gradient is None:
            broken(f"log q has no gradient in {key}")
        require(bool(torch.isfinite(gradient).all()), f"the gradient of log q in {key} is not finite")
        require(bool((gradient.abs().amax(0) > 0).all()), f"log q does not react to every dimension of {key}")
    worst, count = compare(values, inputs)
    return f"{count} derivatives against finite differences: largest difference {worst:.1g}"


@law("loc is the mode or the median of q(z|x)")
@torch.no_grad()
def location(case: PriorCase) -> str:
    # Encodings are clustered at loc, so it has to be a location.
    prior = case.build(2, 2)
    loc = torch.tensor([[0.7, -1.3], [30.0, -20.0]]).double()
    kinds = set()
    for raw in RAW_SCALES:
        q = prior.encoder_distribution(loc, torch.full_like(loc, raw))
        top = q.log_prob(loc)
        away = torch.cat([-torch.logspace(-4, 3, 60), torch.logspace(-4, 3, 60)]).double()
        higher = -math.inf
        for axis in (0, 1):
            step = torch.zeros(len(away), 1, 2, dtype=torch.float64)
            step[:, 0, axis] = away
            higher = max(higher, float((q.log_prob(loc + step) - top).max()))
        if higher <= 1e-9:
            kinds.add("mode")
            continue
        count = 4000
        below = (prior.encoder_distribution(loc, torch.full_like(loc, raw)).sample((count,)) < loc).double().mean(0)
        off = largest(below - 0.5) / (0.5 / count**0.5)
        require(
            off < 5,
            f"raw_scale {raw:g}: log q is higher by {higher:.3g} away from loc, and "
            f"{100 * float(below.flatten()[int((below - 0.5).abs().argmax())]):.0f} % of its samples lie below loc",
        )
        kinds.add("median")
    return f"{' and '.join(sorted(kinds))}, raw scales {', '.join(f'{raw:g}' for raw in RAW_SCALES)}"


@attrs.frozen
class Tail:
    """How E_p |log q| gathers far out on one side: log10 of the factor from one decade to the next.

    Attributes:
        slope: Below 0 for a finite expectation; -inf where nothing is left.
        words: Which component, side and scale.
    """

    slope: float
    words: str


def tails(prior: Prior, words: str) -> Iterator[Tail]:
    """Measure both sides of every component for several encoder scales, J = 1, the encoder's location 0."""
    decades = LAST_DECADE - FIRST_DECADE
    exponents = torch.linspace(FIRST_DECADE, LAST_DECADE, decades * POINTS + 1, dtype=torch.float64)[:-1]
    for k in range(prior.clusters):
        centre, width = spread(prior, k)
        for side in (-1.0, 1.0):
            far = side * width * 10**exponents
            z = (centre + far).unsqueeze(1)
            log_p = component_density(prior, k, z)
            for raw in RAW_SCALES:
                q = prior.encoder_distribution(torch.zeros_like(z), torch.full_like(z, raw))
                log_q = q.log_prob(z)
                where = f"{words}, component {k}, z to {side * math.inf:g}, raw_scale {raw:g}"
                yield Tail(slope(log_p, log_q, far, where), where)


def slope(log_p: Tensor, log_q: Tensor, far: Tensor, where: str) -> float:
    """Return by how much log10 of the contribution of a decade grows, over the last eight or the last two."""
    if bool(torch.isnan(log_p).any() | torch.isnan(log_q).any()):
        broken(f"{where}: log p or log q is NaN far out")
    # In logarithms, for p |log q| dz spans hundreds of decades; a p of exactly 0 contributes nothing.
    each = torch.where(log_p == -math.inf, -math.inf, log_p + log_q.abs().log() + far.abs().log())
    decades = torch.logsumexp(each.reshape(-1, POINTS), dim=1) / math.log(10)
    last = float(decades[-1])
    if last < NOTHING:
        return -math.inf
    return max((last - float(decades[-1 - back])) / back for back in (2, 8))


@law("E_p |log q(z|x)| is finite: the tails of q are heavy enough")
@torch.no_grad()
def finite_latent(case: PriorCase) -> str:
    prior = case.build(2, 1)
    slowest = Tail(-math.inf, "")
    found = list(tails(prior, "moved parameters"))
    for words, changed in shifted(prior, (-8.0, 8.0)):
        found.extend(tails(changed, words))
    for tail in found:
        growth = 10.0**tail.slope
        require(
            tail.slope < SLOWEST,
            f"it diverges: {tail.words}: a decade of |z| contributes {growth:.3g} times what the one before did; "
            "choose a family for q(z|x) with tails as heavy as the prior's",
        )
        slowest = max(slowest, tail, key=lambda one: one.slope)
    if slowest.slope == -math.inf:
        return f"nothing is left beyond 1e{LAST_DECADE} widths"
    return f"a decade of |z| contributes at most {10.0**slowest.slope:.2g} times what the one before did"


ENCODER: tuple[Law[PriorCase], ...] = (encoder_gradients, location, finite_latent)
