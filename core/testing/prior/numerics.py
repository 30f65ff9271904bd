"""Laws on the numerics of a prior: precision, extreme parameters, points far out, the input map."""

from __future__ import annotations

import math

import torch

from mpcc.core.contracts import Prior
from mpcc.core.testing.module_state import require_same
from mpcc.core.testing.prior.cases import PriorCase, largest, trained
from mpcc.core.testing.prior.structure import quantities
from mpcc.core.testing.report import Law, broken, law, require

__all__ = ["NUMERICS"]

# Largest difference of float32 from float64, relative to 1 + the value; half precision is off by 1e-3 and more.
SINGLE = 2e-4
# Gradients are asked for where all values are below this size.
LARGE = 1e18


@law("mixed precision changes nothing")
def mixed_precision(case: PriorCase) -> str:
    prior = case.build(3, 4, torch.float32)
    expected = quantities(prior, case.seed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = quantities(prior, case.seed)
    for name, value in actual.items():
        require(value.dtype == expected[name].dtype, f"{name} is {value.dtype} under autocast to bfloat16")
    require_same(expected, actual, "under autocast to bfloat16")
    return "equal under autocast to bfloat16"


@law("float32 agrees with float64")
@torch.no_grad()
def precision(case: PriorCase) -> str:
    single, double = case.build(3, 4, torch.float32), case.build(3, 4, torch.float64)
    z, _ = double.sample(200)
    worst = 0.0
    names = ["weights", "entropies"] if double.entropy_kind != "none" else ["weights"]
    for name in (*names, "log_density", "log_responsibilities"):
        inputs = (z,) if name.startswith("log") else ()
        exact = getattr(double, name)(*inputs)
        # Single precision sees the same numbers: rounding z is no fault of the prior.
        rounded = getattr(single, name)(*(value.float() for value in inputs)).double()
        difference = largest((rounded - exact) / (1 + exact.abs()))
        require(difference <= SINGLE, f"{name}: float32 is off by {difference:.3g}, allowed {SINGLE:g} (relative)")
        worst = max(worst, difference)
    return f"largest difference {worst:.2g} of 1 + |value|, allowed {SINGLE:g}"


@law("the input map is strictly monotone and elementwise, with a finite gradient")
def input_map(case: PriorCase) -> str:
    prior = case.build(2, 1)
    with torch.no_grad():
        reach = max(10.0, largest(prior.sample(20_000)[0]))
    if not math.isfinite(reach):
        broken(f"a sample of z is {reach}")
    positive = torch.logspace(-3, math.log10(reach), 200, dtype=torch.float64)
    grid = torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])
    z = grid.unsqueeze(1).requires_grad_()
    mapped = prior.input_map(z)
    require(mapped.shape == z.shape, f"expected shape {tuple(z.shape)}, got {tuple(mapped.shape)}")
    require(bool(torch.isfinite(mapped).all()), f"not finite somewhere between {-reach:.3g} and {reach:.3g}")
    steps = mapped.detach().squeeze(1).diff()
    steps = steps if float(steps.sum()) > 0 else -steps
    at = int(steps.argmin())
    require(
        float(steps[at]) > 0,
        f"not strictly monotone between z = {float(grid[at]):.4g} and {float(grid[at + 1]):.4g}",
    )
    (slope,) = torch.autograd.grad(mapped.sum(), z) if mapped.requires_grad else (torch.zeros_like(z),)
    require(bool(torch.isfinite(slope).all()), "its gradient is not finite somewhere")
    require(largest(slope) > 0, "no gradient goes through it")
    wide = case.build(2, 3)
    first, second = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    second[2, 1] = first[2, 1]
    alone = float((wide.input_map(first)[2, 1] - wide.input_map(second)[2, 1]).detach().abs())
    require(alone < 1e-12, f"not elementwise: an element changes by {alone:.3g} when only others change")
    return f"between {-reach:.3g} and {reach:.3g}"


@law("log q(y|z) far from every component is finite and sums to 1")
@torch.no_grad()
def far_out(case: PriorCase) -> str:
    prior = case.build(3, 2, torch.float32)
    far = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e5, 1e5], [1e6, 1e6], [-1e6, -1e6], [0.0, 1e6]])
    found = prior.log_responsibilities(far)
    for z, row in zip(far.tolist(), found, strict=True):
        require(bool(torch.isfinite(row).all()), f"z = {z}: log q(y|z) is {row.tolist()}")
    off = largest(found.exp().sum(1) - 1)
    require(off < 1e-5, f"they sum to 1 only up to {off:.3g}")
    return f"|z| from 1e4 to 1e6, float32; sums off by at most {off:.2g}"


def require_extreme(prior: Prior, words: str) -> None:
    """Check values and gradients of a prior with extreme parameters at its own samples."""
    with torch.no_grad():
        z, _ = prior.sample(20)
    require(not bool(torch.isnan(z).any()), f"{words}: a sample is NaN")
    names = ["log_density", "log_responsibilities", *(["entropies"] if prior.entropy_kind != "none" else [])]
    with torch.enable_grad():
        for name in names:
            value = getattr(prior, name)(*(() if name == "entropies" else (z,)))
            require(not bool(torch.isnan(value).any()), f"{words}: {name} is NaN")
            # Near the largest float, and of one number among others that are not finite, a gradient can't be either.
            if not (value.requires_grad and bool((value.abs() < LARGE).all())):
                continue
            parameters = trained(prior)
            gradients = torch.autograd.grad(value.sum(), list(parameters.values()), allow_unused=True)
            for key, gradient in zip(parameters, gradients, strict=True):
                finite = gradient is None or bool(torch.isfinite(gradient).all())
                require(finite, f"{words}: {name} is finite, its gradient in {key} is not")


@law("extreme parameters give no NaN, and finite values finite gradients")
@torch.no_grad()
def extreme(case: PriorCase) -> str:
    prior = case.build(3, 2, torch.float32)
    count = 0
    for name, parameter in trained(prior).items():
        kept = parameter.detach().clone()
        sides = torch.ones(parameter.numel()).reshape(parameter.shape)
        alternating = sides.flatten().mul((-1.0) ** torch.arange(parameter.numel())).reshape(parameter.shape)
        for amount in (20, -20, 60, -60):
            for signs, words in ((sides, f"{amount:+d}"), (alternating, f"{amount:+d} and {-amount:+d} in turn")):
                parameter.copy_(kept + amount * signs)
                require_extreme(prior, f"{name} {words}")
                count += 1
        parameter.copy_(kept)
    return f"float32; each parameter +-20 and +-60, all alike and in turn: {count} cases"


NUMERICS: tuple[Law[PriorCase], ...] = (mixed_precision, precision, input_map, far_out, extreme)
