"""The priors that the contract kit builds, with their parameters off their start, and the points it integrates over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.contracts import Prior
from mpcc.core.testing.report import require

__all__ = [
    "Line",
    "PriorCase",
    "component_density",
    "largest",
    "line",
    "shifted",
    "spread",
    "standard_errors",
    "trained",
]

# How far the parameters are moved off their start; a symmetric start would hide faults.
NOISE = 0.5


@attrs.frozen
class PriorCase:
    """A prior's class and options: builds what the laws look at.

    Attributes:
        cls: The class under test.
        options: Its options.
        seed: Of everything random.
    """

    cls: Callable[[int, int, Any], Prior]
    options: Any
    seed: int

    def start(self, clusters: int, latent_dim: int, seed: int = 0) -> Prior:
        """Build a prior as a run does; ``seed`` is added to the kit's."""
        torch.manual_seed(self.seed + seed)
        return self.cls(clusters, latent_dim, self.options)

    @torch.no_grad()
    def build(self, clusters: int = 3, latent_dim: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Prior:
        """Build a prior and move it: noise on every parameter, and unequal weights if a buffer holds them."""
        prior = self.start(clusters, latent_dim, seed)
        generator = torch.Generator().manual_seed(self.seed + seed + 1)
        for parameter in prior.parameters():
            parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator).to(parameter))
        weights = prior.weights()
        for buffer in prior.buffers():
            alike = buffer.shape == weights.shape and buffer.dtype == weights.dtype
            if clusters > 1 and alike and torch.equal(buffer, weights):
                # In float64, so that they sum to 1 in every precision.
                uneven = torch.randn(clusters, generator=generator, dtype=torch.float64)
                buffer.copy_(torch.softmax(0.7 * uneven, 0).to(buffer) * weights.sum())
        return prior.to(dtype)


def trained(prior: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that ask for a gradient, by name."""
    return {name: parameter for name, parameter in prior.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def shifted(prior: Prior, amounts: tuple[float, ...]) -> Iterator[tuple[str, Prior]]:
    """Yield the prior with one parameter at a time shifted by each amount, said in words, and restore it afterwards."""
    for name, parameter in trained(prior).items():
        kept = parameter.detach().clone()
        for amount in amounts:
            parameter.copy_(kept + amount)
            yield f"{name} {amount:+g}", prior
        parameter.copy_(kept)


@torch.no_grad()
def spread(prior: Prior, k: int) -> tuple[float, float]:
    """Return the median and half the interquartile range of a component of J = 1, from samples."""
    drawn = prior.component(torch.full((2001,), k)).rsample().flatten().double()
    low, middle, high = torch.quantile(drawn, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    width = (high - low) / 2
    usable = abs(middle) < float("inf") and 0 < width < float("inf")
    return (middle, width) if usable else (0.0, 1.0)


@attrs.frozen(eq=False)
class Line:
    """Points on the whole real line, dense where a component lives, and what each weighs in an integral.

    Attributes:
        points: z, shape (N, 1).
        cells: dz, shape (N,).
        centre: Of the component.
        width: Of the component.
    """

    points: Tensor
    cells: Tensor
    centre: float
    width: float


def line(prior: Prior, k: int, reach: float = 30.0, count: int = 12_001) -> Line:
    """Return points z = centre + width sinh(t), t in -reach..reach: far enough for tails without any moment."""
    centre, width = spread(prior, k)
    t = torch.linspace(-reach, reach, count, dtype=torch.float64)
    step = 2 * reach / (count - 1)
    return Line((centre + width * torch.sinh(t)).unsqueeze(1), width * torch.cosh(t) * step, centre, width)


def component_density(prior: Prior, k: int, points: Tensor) -> Tensor:
    """Return log p(z|k), shape (N,), for points of shape (N, J).

    Raises:
        LawBroken: If the prior's shapes are wrong, before they are broadcast into something huge.
    """
    found, expected = prior.log_density(points), (len(points), prior.clusters)
    require(tuple(found.shape) == expected, f"log_density(z): expected shape {expected}, got {tuple(found.shape)}")
    return found[:, k]


def largest(values: Tensor) -> float:
    """Return the largest magnitude, 0 for none; NaN if there is one."""
    return float(values.detach().abs().max()) if values.numel() else 0.0


def standard_errors(batches: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the first dimension, and its standard error."""
    return batches.mean(0), batches.std(0) / len(batches) ** 0.5
