"""Laws on the gradients of a prior: every gradient that training needs exists, is finite, and is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.testing.comparison import finite, gradients, largest, require_close, require_gradients, uneven
from mpcc.core.testing.module_state import trained
from mpcc.core.testing.prior.cases import LARGER, PriorCase, component_density, line, spread
from mpcc.core.testing.prior.rows import own_noise
from mpcc.core.testing.prior.state import follows, own_dtype
from mpcc.core.testing.report import Laws, require

__all__ = ["GRADIENTS", "require_mean_gradient"]

GRADIENTS = Laws[PriorCase]()
# More than 5, because there are many parameters, and their errors are themselves estimated.
STANDARD_ERRORS = 6.5


# What trains the parameters of most priors.
DENSITY = {"asinh(log_density)", "log_weights"}


def trained_functions(prior: Prior, z: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return what training differentiates; the asinh of log densities, because a huge one would drown the others."""
    functions = {
        "asinh(log_density)": lambda: torch.asinh(prior.log_density(z)),
        "asinh(log_responsibilities)": lambda: torch.asinh(prior.log_responsibilities(z)),
        "log_weights": prior.log_weights,
    }
    return functions if prior.entropy_kind == "none" else {**functions, "entropies": prior.entropies}


def require_mean_gradient(
    what: str,
    parameters: Mapping[str, Tensor],
    draw: Callable[[], Tensor],
    batches: int,
    expected: Tensor | float = 0.0,
    slack: float = 1e-9,
) -> str:
    """Check the mean of a random gradient, and return how far it is off.

    Arguments:
        what: For the message.
        parameters: The gradient is taken in these.
        draw: Returns the gradient of one batch as `flat_gradient` does; or of several scalars, one after the other.
        batches: The number of batches.
        expected: The expected mean.
        slack: How far the mean may be off in addition to its standard errors.
    """
    drawn = torch.stack([draw() for _ in range(batches)])
    mean, error = drawn.mean(0), drawn.std(0) / batches**0.5
    exact = torch.zeros_like(mean) + expected
    off = ((mean - exact).abs() - slack).clamp(min=0) / error.clamp(min=1e-12)
    at = int(off.argmax())
    names = [name for name, parameter in parameters.items() for _ in range(parameter.numel())]
    require(
        finite(mean) and float(off[at]) < STANDARD_ERRORS,
        f"{what}: the mean gradient in {names[at % len(names)]} is {float(mean[at]):.5g} +- {float(error[at]):.2g}, "
        f"expected {float(exact[at]):.5g}",
    )
    return f"{what}: at most {float(off[at]):.1f} standard errors off, allowed {STANDARD_ERRORS:g}"


def flat_gradient(value: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the gradients of a scalar in one vector."""
    return torch.cat([gradient.flatten() for gradient in gradients(value, parameters).values()])


@GRADIENTS.add("weights() and log_weights() carry the same gradient")
def same_gradient(case: PriorCase) -> str:
    prior = case.build(4, 2)
    phi, from_logarithm = prior.weights(), prior.log_weights().exp()
    actual, expected = (gradients((each * uneven(each)).sum(), trained(prior)) for each in (phi, from_logarithm))
    for key, gradient in actual.items():
        what = f"the gradient of weights() in {key}, compared with that of exp(log_weights()),"
        require_close(what, gradient, expected[key], 1e-8)
    reached = [key for key, gradient in expected.items() if largest(gradient) > 0]
    return ", ".join(reached) or "no gradient: the weights are fixed"


@GRADIENTS.add("training reaches every parameter, with finite gradients", after=[same_gradient.name])
def reached(case: PriorCase) -> str:
    # The generator trains what is in the input map, and the latent term what is in q(z|x).
    prior = case.build(3, 2)
    parameters = trained(prior)
    z = prior.sample(40)[0].detach()
    heads = torch.zeros_like(z)
    functions: dict[str, Callable[[], Tensor]] = {
        **trained_functions(prior, z),
        "input_map": lambda: prior.input_map(z),
        "asinh(log q(z|x))": lambda: torch.asinh(prior.encoder_distribution(heads, heads).log_prob(z)),
    }
    by: dict[str, list[str]] = {key: [] for key in parameters}
    for name, function in functions.items():
        value = function()
        for key, gradient in gradients((value * uneven(value)).sum(), parameters).items():
            require(finite(gradient), f"the gradient of {name} in {key} is not finite")
            if largest(gradient) > 0 and name not in ("entropies", "asinh(log_responsibilities)"):
                by[key].append(name)
    for key, names in by.items():
        require(
            bool(names),
            f"no gradient in {key}, of log_density, log_weights, input_map or log q(z|x): it is never trained",
        )
    elsewhere = [f"{key} by {' and '.join(names)} only" for key, names in by.items() if not DENSITY & set(names)]
    return "; ".join([f"{len(parameters)} parameters", *elsewhere])


@GRADIENTS.add(
    "components differ, and each row of a parameter of shape (K, ...) has a gradient",
    after=[same_gradient.name, reached.name],
)
def each_row(case: PriorCase) -> str:
    prior = case.build(*LARGER)
    z = prior.sample(60)[0].detach()
    density = prior.log_density(z)
    of_density = gradients((torch.asinh(density) * uneven(density)).sum(), trained(prior))
    if not any(largest(gradient) > 0 for gradient in of_density.values()):
        return "the density has no parameters"
    for k in range(1, prior.clusters):
        require(
            largest(density[:, k] - density[:, 0]) > 0,
            f"the parameters are random, but components 0 and {k} have the same density: does component(y) use y?",
        )
    rows = [key for key, parameter in trained(prior).items() if parameter.shape[:1] == (prior.clusters,)]
    by_function = [of_density]
    for function in (prior.log_weights, *([prior.entropies] if prior.entropy_kind != "none" else [])):
        value = function()
        by_function.append(gradients((value * uneven(value)).sum(), trained(prior)))
    for key in rows:
        reached = torch.stack([each[key].reshape(len(each[key]), -1).abs().amax(1) for each in by_function]).amax(0)
        require(
            bool((reached > 0).all()),
            f"row {int(reached.argmin())} of {key} has no gradient: its cluster is never trained",
        )
    return f"K = {prior.clusters}; rows of {', '.join(rows) or 'no parameter'}"


@GRADIENTS.add("samples carry a gradient to every parameter of p(z|y)")
def reached_by_samples(case: PriorCase) -> str:
    prior = case.build(3, 2)
    z, _ = prior.sample(40)
    of_samples = gradients((z * uneven(z)).sum(), trained(prior))
    needed = []
    for key, parameter in trained(prior).items():
        require(finite(of_samples[key]), f"the gradient of the samples in {key} is not finite")
        if reacts(prior, parameter, z.detach()):
            needed.append(key)
            require(
                largest(of_samples[key]) > 0,
                f"p(z|y) depends on {key}, but samples have no gradient in it: draw with rsample and detach nothing",
            )
    return ", ".join(needed) or "no parameters"


@torch.no_grad()
def reacts(prior: Prior, parameter: Tensor, z: Tensor) -> bool:
    """Tell whether log p(z|k) changes with a parameter, without autograd."""
    before, start = prior.log_density(z), parameter.detach().clone()
    parameter.add_(1e-3 * uneven(parameter))
    change = largest(prior.log_density(z) - before)
    parameter.copy_(start)
    return change > 1e-10


@GRADIENTS.add("gradients equal finite differences", after=[same_gradient.name, follows.name, own_dtype.name])
def finite_differences(case: PriorCase) -> str:
    prior = case.build(3, 2)
    z = prior.sample(5)[0].detach().requires_grad_()
    return require_gradients(trained_functions(prior, z), {**trained(prior), "z": z})


@GRADIENTS.add("gradients of samples are those of the expectation", after=[own_noise.name])
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

    def gradient(z: Tensor, weights: Tensor) -> Tensor:
        standard = (z.squeeze(1) - points.centre) / points.width
        curves = torch.tanh(standard - 0.3), torch.exp(-((standard - 0.5) ** 2) / 2)
        return torch.cat([flat_gradient((curve * weights).sum(), parameters) for curve in curves])

    exact = gradient(points.points, component_density(prior, 0, points.points).exp() * points.cells)
    equal = torch.full((1000,), 1e-3, dtype=torch.float64)
    slack = 4e-4 * max(1.0, 1 / points.width)
    return require_mean_gradient(
        "J = 1, 50000 samples", parameters, lambda: gradient(prior.sample(1000)[0], equal), 50, exact, slack
    )


def by_score(case: PriorCase) -> str:
    """Compare the same for J = 3, where dimensions may depend on each other, with E[f(z) d/dtheta log p(z|theta)]."""
    prior = case.build(2, 3)
    parameters = trained(prior)
    with torch.no_grad():
        middle, width = spread(prior.sample(2001)[0])

    def difference() -> Tensor:
        # The difference has mean 0 however the labels fall, and less noise than either of its terms.
        z, y = prior.sample(500)
        value = torch.tanh(((z - middle) / (2 * width) * uneven(middle)).sum(1) - 0.3)
        scored = value.detach() * prior.log_density(z.detach()).gather(1, y.unsqueeze(1)).squeeze(1)
        return flat_gradient((value - scored).mean(), parameters)

    return require_mean_gradient("J = 3, 20000 samples minus their score", parameters, difference, 40)


@GRADIENTS.add("the label ratio is 1 and has the gradient of log phi")
def label_ratio(case: PriorCase) -> str:
    prior = case.build(4, 2)
    y = torch.tensor([0, 1, 1, 3, 2])
    ratio, log_weights = prior.label_ratio(y), prior.log_weights()
    if ratio is None:
        require(not log_weights.requires_grad, "label_ratio(y) is None, but the weights have a gradient")
        return "None: the weights are fixed"
    require_close("the ratio", ratio, torch.ones_like(ratio), 1e-12)
    actual = gradients((ratio * uneven(ratio)).sum(), trained(prior))
    expected = gradients((log_weights[y] * uneven(ratio)).sum(), trained(prior))
    for key, gradient in actual.items():
        require_close(f"its gradient in {key}", gradient, expected[key], 1e-8)
    return "trained weights"
