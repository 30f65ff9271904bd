"""Laws on the numerics of a prior: precision, extreme parameters, points far out, the input map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.comparison import finite, gradients, largest, require_close, require_same
from mpcc.core.testing.module_state import trained
from mpcc.core.testing.prior.cases import PriorCase, formulas, shifted
from mpcc.core.testing.prior.rows import company
from mpcc.core.testing.prior.structure import quantities
from mpcc.core.testing.report import Laws, broken, require

__all__ = ["NUMERICS"]

NUMERICS = Laws[PriorCase]()
# Largest difference of float32 from float64, relative to 1 + the value; half precision is off by 1e-3 and more.
SINGLE = 2e-4
# Gradients are checked where all values are below this size.
LARGE = 1e18


@NUMERICS.add("mixed precision changes nothing")
def mixed_precision(case: PriorCase) -> str:
    prior = case.build(3, 4, torch.float32)
    expected = quantities(prior, case.seed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = quantities(prior, case.seed)
    require_same(expected, actual, "under autocast to bfloat16")
    return "equal under autocast to bfloat16"


@NUMERICS.add("float32 agrees with float64")
@torch.no_grad()
def precision(case: PriorCase) -> str:
    single, double = case.build(3, 4, torch.float32), case.build(3, 4, torch.float64)
    z, _ = double.sample(200)
    worst = 0.0
    # Both get the same rounded points, since the prior is not to blame for the rounding of z.
    z = z.float().double()
    rounded = formulas(single, z.float())
    for name, exact in formulas(double, z).items():
        if name != "log_weights":
            worst = max(
                worst, require_close(f"{name}: float32", rounded[name]().double(), exact(), SINGLE, relative=True)
            )
    return f"largest difference {worst:.2g} of 1 + |value|, allowed {SINGLE:g}"


@NUMERICS.add("the input map is strictly monotone and elementwise, with a finite gradient", after=[company.name])
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
    require(finite(mapped), f"it is not finite somewhere between {-reach:.3g} and {reach:.3g}")
    steps = mapped.detach().squeeze(1).diff()
    steps = steps if float(steps.sum()) > 0 else -steps
    at = int(steps.argmin())
    between = f"between z = {float(grid[at]):.4g} and {float(grid[at + 1]):.4g}"
    require(float(steps[at]) > 0, f"it is not strictly monotone {between}")
    slope = gradients(mapped.sum(), {"z": z})["z"]
    require(finite(slope), "its gradient is not finite somewhere")
    require(largest(slope) > 0, "it passes no gradient on")
    require_monotone_axes(case.build(2, 3), grid)
    wide = case.build(2, 3)
    first, second = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    second[2, 1] = first[2, 1]
    change = largest(wide.input_map(first)[2, 1] - wide.input_map(second)[2, 1])
    require(change < 1e-12, f"it is not elementwise: an element changes by {change:.3g} when only others change")
    return f"between {-reach:.3g} and {reach:.3g}"


@torch.no_grad()
def require_monotone_axes(prior: Prior, grid: Tensor) -> None:
    """Check that the input map is strictly monotone along each dimension, with the others at random."""
    for axis in range(prior.latent_dim):
        z = torch.randn(1, prior.latent_dim, dtype=grid.dtype).expand(len(grid), -1).clone()
        z[:, axis] = grid
        steps = prior.input_map(z)[:, axis].diff()
        steps = steps if float(steps.sum()) > 0 else -steps
        at = int(steps.argmin())
        require(
            float(steps[at]) > 0,
            f"dimension {axis} of 0..{prior.latent_dim - 1}: it is not strictly monotone between "
            f"z = {float(grid[at]):.4g} and {float(grid[at + 1]):.4g}",
        )


@NUMERICS.add("log q(y|z) far from every component is finite and sums to 1")
@torch.no_grad()
def far_out(case: PriorCase) -> str:
    prior = case.build(3, 2, torch.float32)
    far = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e5, 1e5], [1e6, 1e6], [-1e6, -1e6], [0.0, 1e6]])
    log_q = prior.log_responsibilities(far)
    for z, row in zip(far.tolist(), log_q, strict=True):
        require(finite(row), f"z = {z}: log q(y|z) is {row.tolist()}")
    off = require_close("the sum", log_q.exp().sum(1), torch.ones(len(far)), 1e-5)
    return f"|z| from 1e4 to 1e6, float32; sums off by at most {off:.2g}"


def require_extreme(prior: Prior, when: str) -> None:
    """Check values and gradients of a prior with extreme parameters at its own samples."""
    with torch.no_grad():
        z, _ = prior.sample(20)
    require(not bool(torch.isnan(z).any()), f"{when}: a sample is NaN")
    with torch.enable_grad():
        for name, formula in formulas(prior, z).items():
            if name in ("weights", "log_weights"):
                continue
            value = formula()
            require(not bool(torch.isnan(value).any()), f"{when}: {name} is NaN")
            # A gradient need not be finite where a value is near the largest float, or where another is not finite.
            if bool((value.abs() < LARGE).all()):
                for key, gradient in gradients(value.sum(), trained(prior)).items():
                    require(finite(gradient), f"{when}: {name} is finite, its gradient in {key} is not")


@NUMERICS.add("extreme parameters give no NaN, and finite values finite gradients")
@torch.no_grad()
def extreme(case: PriorCase) -> str:
    count = 0
    for when, changed in shifted(case.build(3, 2, torch.float32), (20, -20, 60, -60), in_turn=True):
        require_extreme(changed, when)
        count += 1
    return f"float32; each parameter +-20 and +-60, all alike and in turn: {count} cases"
