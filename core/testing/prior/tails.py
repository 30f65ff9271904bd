"""Laws on the encoder's family q(z|x): its location, its gradients, and tails that make the latent term finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.comparison import finite, gradients, require_gradients, uneven
from mpcc.core.testing.prior.cases import LARGER, PriorCase, component_density, component_spread, shifted
from mpcc.core.testing.prior.rows import company
from mpcc.core.testing.report import Laws, broken, require

__all__ = ["ENCODER"]

ENCODER = Laws[PriorCase]()
RAW_SCALES = (-4.0, 0.0, 4.0)
# The decades of |z| whose contributions are compared, counted from the width of the component.
FIRST_DECADE, LAST_DECADE = 1, 14
# Contributions of far decades must shrink by a constant factor at least: 10^SLOWEST a decade.
SLOWEST = -0.004
# log10 of a contribution that is too small to count.
NOTHING = -200.0
POINTS = 48
# A gradient of log q in a head that is as good as none.
FLAT = 1e-6


@ENCODER.add("log q(z|x) is finite, with true gradients in loc, raw_scale and z")
def encoder_gradients(case: PriorCase) -> str:
    prior = case.build(2, 3)
    loc, raw = torch.randn(6, 3).double(), 2 * torch.randn(6, 3).double()
    z = loc + torch.randn(6, 3).double()
    for extreme in (-20.0, 20.0):
        with torch.no_grad():
            log_q = prior.encoder_distribution(loc, torch.full_like(raw, extreme)).log_prob(z)
        require(finite(log_q), f"raw_scale {extreme:g}: log q is {log_q.tolist()}")
    inputs = {"loc": loc.requires_grad_(), "raw_scale": raw.requires_grad_(), "z": z.requires_grad_()}

    def squeezed() -> Tensor:
        # asinh: one huge log q would drown the others in rounding.
        return torch.asinh(prior.encoder_distribution(loc, raw).log_prob(z))

    values = squeezed()
    require(finite(values), "log q is not finite at raw scales around 0")
    for key, gradient in gradients((values * uneven(values)).sum(), inputs).items():
        require(finite(gradient), f"the gradient of log q in {key} is not finite")
        require(bool((gradient.abs().amax(0) > 0).all()), f"log q has no gradient in {key}, or not in every dimension")
    return require_gradients({"asinh(log q)": squeezed}, inputs)


@ENCODER.add("loc is the mode or the median of q(z|x)", after=[company.name])
@torch.no_grad()
def location(case: PriorCase) -> str:
    # Images are clustered at loc, so loc must be a centre of q(z|x).
    prior = case.build(2, 2)
    require_order(prior)
    loc = torch.tensor([[0.7, -1.3], [30.0, -20.0]]).double()
    away = torch.cat([-torch.logspace(-4, 3, 60), torch.logspace(-4, 3, 60)]).double()
    # Steps along each axis, shape (2, S, 1, 2).
    steps = torch.einsum("s,ab->asb", away, torch.eye(2).double()).unsqueeze(2)
    count, kinds = 4000, set()
    for raw in RAW_SCALES:
        q = prior.encoder_distribution(loc, torch.full_like(loc, raw))
        higher = max(float((q.log_prob(loc + along) - q.log_prob(loc)).max()) for along in steps)
        if higher <= 1e-9:
            kinds.add("mode")
            continue
        below = (prior.encoder_distribution(loc, torch.full_like(loc, raw)).sample((count,)) < loc).double().mean(0)
        share = float(below.flatten()[int((below - 0.5).abs().argmax())])
        require(
            abs(share - 0.5) < 5 * 0.5 / count**0.5,
            f"raw_scale {raw:g}: log q is higher by {higher:.3g} away from loc, and "
            f"{100 * share:.0f} % of its samples lie below loc, expected 50 %",
        )
        kinds.add("median")
    return f"{' and '.join(sorted(kinds))}, raw scales {', '.join(f'{raw:g}' for raw in RAW_SCALES)}"


def require_order(prior: Prior) -> None:
    """Check that the first of the two heads is the location."""
    first, second = torch.full((1001, 2), 9.0).double(), torch.full((1001, 2), -6.0).double()
    centre = float(prior.encoder_distribution(first, second).sample().median())
    require(
        abs(centre - 9) <= abs(centre + 6),
        f"with loc 9 and raw_scale -6, the median of q(z|x) is {centre:.3g}: are the two heads swapped?",
    )


@ENCODER.add("each element of both heads has a gradient in log q, from -8 to 8", after=[encoder_gradients.name])
def heads(case: PriorCase) -> str:
    # Beyond 8, which is a scale of exp(4), a clamp is allowed. A head inside a clamp could never leave it.
    prior = case.build(2, 3)
    grid, offsets = torch.linspace(-8, 8, 33).double(), torch.tensor([0.01, 0.3, 3.0, -30.0]).double()
    values = grid.view(-1, 1, 1).expand(-1, len(offsets), 3).reshape(-1, 3)
    zeros = torch.zeros_like(values)
    steps = offsets.view(1, -1, 1).expand(len(grid), -1, 3).reshape(-1, 3)
    for name, loc, raw_scale in (("loc", values, zeros), ("raw_scale", zeros, values)):
        inputs = {"loc": loc.clone().requires_grad_(), "raw_scale": raw_scale.clone().requires_grad_()}
        log_q = prior.encoder_distribution(inputs["loc"], inputs["raw_scale"]).log_prob(loc + steps)
        sizes = gradients(log_q.sum(), inputs)[name].abs().reshape(len(grid), len(offsets), 3).amax(1)
        at, axis = divmod(int(sizes.argmin()), 3)
        require(
            float(sizes[at, axis]) > FLAT,
            f"at {name} = {float(grid[at]):g}, log q has a gradient of {float(sizes[at, axis]):.2g} in {name}[{axis}]: "
            f"expected one above {FLAT:g} everywhere from -8 to 8; a clamp may begin outside of it",
        )
    return f"{len(grid)} values of loc and raw_scale"


def tails(prior: Prior, description: str) -> Iterator[tuple[float, str]]:
    """Measure what far points contribute to E_p |log q|, on both sides of every component, for several encoder scales.

    Yields log10 of the factor from one decade to the next, below 0 for a finite expectation, and where it was measured.
    J = 1, and the encoder's location is 0.
    """
    decades = LAST_DECADE - FIRST_DECADE
    exponents = torch.linspace(FIRST_DECADE, LAST_DECADE, decades * POINTS + 1, dtype=torch.float64)[:-1]
    for k in range(prior.clusters):
        centre, width = component_spread(prior, k)
        for side in (-1.0, 1.0):
            far = side * width * 10**exponents
            z = (centre + far).unsqueeze(1)
            log_p = component_density(prior, k, z)
            for raw in RAW_SCALES:
                log_q = prior.encoder_distribution(torch.zeros_like(z), torch.full_like(z, raw)).log_prob(z)
                where = f"{description}, component {k}, z to {side * math.inf:g}, raw_scale {raw:g}"
                yield slope(log_p, log_q, far, where), where


def slope(log_p: Tensor, log_q: Tensor, far: Tensor, where: str) -> float:
    """Return the growth of log10 of a contribution from one decade to the next, over the last two or eight decades."""
    if bool(torch.isnan(log_p).any() | torch.isnan(log_q).any()):
        broken(f"{where}: log p or log q is NaN far out")
    # In logarithms, because p |log q| dz spans hundreds of decades. A p of exactly 0 contributes nothing.
    log_terms = torch.where(log_p == -math.inf, -math.inf, log_p + log_q.abs().log() + far.abs().log())
    decades = torch.logsumexp(log_terms.reshape(-1, POINTS), dim=1) / math.log(10)
    last = float(decades[-1])
    if last < NOTHING:
        return -math.inf
    if not math.isfinite(last):
        return math.inf
    return max((last - float(decades[-1 - back])) / back for back in (2, 8))


@ENCODER.add("E_p |log q(z|x)| is finite: the tails of q are heavy enough")
@torch.no_grad()
def finite_latent(case: PriorCase) -> str:
    prior = case.build(2, 1)
    measured = list(tails(prior, "moved parameters"))
    # A family that only a later cluster has.
    measured += tails(case.build(LARGER[0], 1), f"K = {LARGER[0]}, moved parameters")
    for description, changed in shifted(prior, (-8.0, 8.0)):
        measured.extend(tails(changed, description))
    slowest, where = max(measured)
    factor = 10.0**slowest
    require(
        slowest < SLOWEST,
        f"it diverges: {where}: a decade of |z| contributes {factor:.3g} times as much as the one before; "
        "choose a family for q(z|x) with tails as heavy as the prior's",
    )
    if slowest == -math.inf:
        return f"nothing is left beyond 1e{LAST_DECADE} widths"
    return f"a decade of |z| contributes at most {factor:.2g} times as much as the one before"
