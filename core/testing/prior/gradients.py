"""Laws on the gradients of a prior: all that should be there, finite, and right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.prior.cases import PriorCase, component_density, largest, line, standard_errors, trained
from mpcc.core.testing.report import Law, law, require

__all__ = ["GRADIENTS"]

# Central differences of fourth order in float64. Of several steps the best counts: a peak such as that of Laplace's
# density may lie within the longer ones.
STEPS = (1e-3, 1e-4, 1e-5)
DIFFERENCE = 1e-5
# So many elements of each tensor are tried one by one.
ELEMENTS = 24
STANDARD_ERRORS = 6.0

Scalars = Callable[[], Mapping[str, Tensor]]


def gradients(value: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a scalar, zeros where there are none."""
    if not value.requires_grad:
        return [torch.zeros_like(one) for one in inputs]
    found = torch.autograd.grad(value, list(inputs), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(inputs, found, strict=True)]


def weighted_sums(prior: Prior, z: Tensor) -> Mapping[str, Tensor]:
    """Return one scalar for each quantity: its sum with fixed uneven weights, for plain sums may be constant.

    Of log densities the asinh is summed: one that is huge would drown the others in rounding.
    """
    found = {"asinh(log_density)": torch.asinh(prior.log_density(z))}
    found["asinh(log_responsibilities)"] = torch.asinh(prior.log_responsibilities(z))
    found["log_weights"] = prior.log_weights()
    if prior.entropy_kind != "none":
        found["entropies"] = prior.entropies()
    return {name: (value * uneven(value)).sum() for name, value in found.items()}


def uneven(value: Tensor) -> Tensor:
    """Return fixed numbers between -1.5 and 1.5 in the shape of a tensor."""
    return 1.5 * torch.sin(1 + 2.3 * torch.arange(value.numel(), dtype=value.dtype)).reshape(value.shape)


@torch.no_grad()
def differentiate(function: Scalars, tensor: Tensor, index: int, step: float) -> dict[str, float]:
    """Return the derivatives of scalars in one element of a tensor by central differences."""
    flat, kept = tensor.detach().view(-1), float(tensor.detach().reshape(-1)[index])
    total: dict[str, float] = {}
    for offset, factor in ((2, -1 / 12), (1, 8 / 12), (-1, -8 / 12), (-2, 1 / 12)):
        flat[index] = kept + offset * step
        for name, value in function().items():
            total[name] = total.get(name, 0.0) + factor * float(value) / step
    flat[index] = kept
    return total


def compare(function: Scalars, inputs: Mapping[str, Tensor]) -> tuple[float, int]:
    """Compare gradients with differences; return the largest difference and the number of derivatives."""
    worst, count = 0.0, 0
    values = function()
    found = {name: gradients(value, list(inputs.values())) for name, value in values.items()}
    for position, (key, tensor) in enumerate(inputs.items()):
        stride = max(1, tensor.numel() // ELEMENTS)
        for index in range(0, tensor.numel(), stride):
            off = dict.fromkeys(found, float("inf"))
            for step in STEPS:
                expected = differentiate(function, tensor, index, step)
                for name, grads in found.items():
                    slope = float(grads[position].reshape(-1)[index])
                    off[name] = min(off[name], abs(slope - expected[name]) / (1 + abs(expected[name])))
                if max(off.values()) < DIFFERENCE:
                    break
            for name, grads in found.items():
                slope = float(grads[position].reshape(-1)[index])
                require(
                    off[name] < DIFFERENCE,
                    f"{name} in {key}[{index}]: autograd {slope:.6g}, differences {expected[name]:.6g}",
                )
                count += 1
            worst = max(worst, *off.values())
    return worst, count


@law("density or weights react to every parameter, with finite gradients")
def reached_by_density(case: PriorCase) -> str:
    prior = case.build(3, 2)
    parameters = trained(prior)
    z = prior.sample(40)[0].detach()
    sums = weighted_sums(prior, z)
    reached = dict.fromkeys(parameters, 0.0)
    for name, value in sums.items():
        for key, gradient in zip(parameters, gradients(value, list(parameters.values())), strict=True):
            require(bool(torch.isfinite(gradient).all()), f"the gradient of {name} in {key} is not finite")
            if name in ("asinh(log_density)", "log_weights"):
                reached[key] = max(reached[key], largest(gradient))
    for key, size in reached.items():
        require(size > 0, f"neither log_density nor log_weights has a gradient in {key}: it is never trained")
    return f"{len(parameters)} parameters"


@law("samples carry a gradient to every parameter of p(z|y)")
def reached_by_samples(case: PriorCase) -> str:
    prior = case.build(3, 2)
    parameters = trained(prior)
    z, _ = prior.sample(40)
    points = z.detach()
    found = gradients((z * uneven(z)).sum(), list(parameters.values()))
    needed = []
    for (key, parameter), gradient in zip(parameters.items(), found, strict=True):
        require(bool(torch.isfinite(gradient).all()), f"the gradient of the samples in {key} is not finite")
        if reacts(prior, parameter, points):
            needed.append(key)
            require(
                largest(gradient) > 0,
                f"p(z|y) depends on {key}, but samples have no gradient in it: draw with rsample and detach nothing",
            )
    return ", ".join(needed) or "no parameters"


@torch.no_grad()
def reacts(prior: Prior, parameter: Tensor, z: Tensor) -> bool:
    """Tell whether log p(z|k) changes with a parameter, whatever autograd says."""
    before, kept = prior.log_density(z), parameter.detach().clone()
    parameter.add_(1e-3 * uneven(parameter))
    change = largest(prior.log_density(z) - before)
    parameter.copy_(kept)
    return change > 1e-10


@law("gradients equal finite differences")
def finite_differences(case: PriorCase) -> str:
    prior = case.build(3, 2)
    z = prior.sample(5)[0].detach().requires_grad_()
    worst, count = compare(lambda: weighted_sums(prior, z), {**trained(prior), "z": z})
    return f"float64, {count} derivatives: largest difference {worst:.1g}, allowed {DIFFERENCE:g}"


@law("gradients of samples are those of the expectation")
def of_expectation(case: PriorCase) -> str:
    if not trained(case.build(1, 1)):
        return "no parameters"
    return f"{by_quadrature(case)}; {by_score(case)}"


def by_quadrature(case: PriorCase) -> str:
    """Compare d/dtheta E[f(z)], f smooth and bounded, J = 1: by an integral of f(z) p(z|theta), and through samples."""
    prior = case.build(1, 1)
    parameters = trained(prior)
    # At a peak of the density its derivative jumps, which costs an integral one step, not its square.
    points = line(prior, 0, reach=20.0, count=120_001)
    tolerance = 4e-4 * max(1.0, 1 / points.width)

    def curves(z: Tensor) -> tuple[Tensor, Tensor]:
        standard = (z - points.centre) / points.width
        return torch.tanh(standard - 0.3), torch.exp(-((standard - 0.5) ** 2) / 2)

    def flat(value: Tensor) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in gradients(value, list(parameters.values()))])

    density = component_density(prior, 0, points.points).exp() * points.cells
    exact = torch.stack([flat((curve.squeeze(1) * density).sum()) for curve in curves(points.points)])
    batches = []
    for _ in range(50):
        z, _ = prior.sample(1000)
        batches.append(torch.stack([flat(curve.mean()) for curve in curves(z)]))
    mean, error = standard_errors(torch.stack(batches))
    off = ((mean - exact).abs() - tolerance).clamp(min=0) / error.clamp(min=1e-9)
    at = int(off.flatten().argmax())
    names = [name for name, parameter in parameters.items() for _ in range(parameter.numel())]
    values = (
        f"{float(mean.flatten()[at]):.5f} +- {float(error.flatten()[at]):.5f}, exact {float(exact.flatten()[at]):.5f}"
    )
    require(
        bool(torch.isfinite(mean).all()) and float(off.max()) < STANDARD_ERRORS,
        f"J = 1, {names[at % len(names)]}: through 50000 samples {values}",
    )
    return f"J = 1, {names[at % len(names)]}: through 50000 samples {values}"


def by_score(case: PriorCase) -> str:
    """Compare the same for J = 3, where dimensions may depend on each other, with E[f(z) d/dtheta log p(z|theta)]."""
    prior = case.build(2, 3)
    parameters = trained(prior)
    with torch.no_grad():
        drawn, _ = prior.sample(2001)
        low, middle, high = torch.quantile(drawn, torch.tensor([0.25, 0.5, 0.75]).to(drawn), dim=0)
    batches = []
    for _ in range(40):
        z, y = prior.sample(500)
        value = torch.tanh(((z - middle) / (high - low) * uneven(middle)).sum(1) - 0.3)
        scored = value.detach() * prior.log_density(z.detach()).gather(1, y.unsqueeze(1)).squeeze(1)
        # Of the difference: its mean is 0 wherever labels fall, and much of the noise is common.
        found = gradients((value - scored).mean(), list(parameters.values()))
        batches.append(torch.cat([gradient.flatten() for gradient in found]))
    mean, error = standard_errors(torch.stack(batches))
    off = (mean.abs() - 1e-9).clamp(min=0) / error.clamp(min=1e-12)
    at = int(off.argmax())
    names = [name for name, parameter in parameters.items() for _ in range(parameter.numel())]
    require(
        bool(torch.isfinite(mean).all()) and float(off[at]) < STANDARD_ERRORS + 0.5,
        f"J = 3, {names[at]}: through 20000 samples and by their score, the difference is {float(mean[at]):.4g} +- "
        f"{float(error[at]):.2g}, expected 0",
    )
    return f"J = 3, 20000 samples, against the score: at most {float(off[at]):.1f} standard errors off"


@law("the label ratio is 1 and has the gradient of log phi")
def label_ratio(case: PriorCase) -> str:
    prior = case.build(4, 2)
    y = torch.tensor([0, 1, 1, 3, 2])
    ratio, log_weights = prior.label_ratio(y), prior.log_weights()
    if ratio is None:
        require(not log_weights.requires_grad, "label_ratio(y) is None, but the weights have a gradient")
        return "None: the weights are fixed"
    require(largest(ratio - 1) < 1e-12, f"it differs from 1 by {largest(ratio - 1):.3g}")
    parameters = trained(prior)
    actual = gradients((ratio * uneven(ratio)).sum(), list(parameters.values()))
    expected = gradients((log_weights[y] * uneven(ratio)).sum(), list(parameters.values()))
    for key, one, other in zip(parameters, actual, expected, strict=True):
        require(largest(one - other) < 1e-8, f"in {key}: its gradient is off by {largest(one - other):.3g}")
    return "trained weights"


GRADIENTS: tuple[Law[PriorCase], ...] = (
    reached_by_density,
    reached_by_samples,
    finite_differences,
    of_expectation,
    label_ratio,
)
