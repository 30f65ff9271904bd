"""The priors that the contract kit builds, with their parameters off their start, and the points it integrates over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.cases import Case, SizeRefused
from mpcc.core.testing.module_state import trained
from mpcc.core.testing.report import require

__all__ = [
    "LARGER",
    "SIZES",
    "Line",
    "PriorCase",
    "component_density",
    "component_spread",
    "formulas",
    "line",
    "shifted",
    "spread",
]

# K and J: the smallest, more clusters than dimensions, fewer.
SIZES = ((1, 1), (3, 2), (4, 5))
# K and J of the laws that look for what small sizes hide.
LARGER = (7, 3)
# How far the parameters are moved off their start; a symmetric start would hide faults.
NOISE = 0.5


class PriorCase(Case[Prior]):
    """A prior's class and options, from which the laws build priors."""

    def try_out(self) -> None:
        """Build a small prior."""
        self.start(3, 2)

    def start(self, clusters: int, latent_dim: int, seed: int = 0) -> Prior:
        """Build a prior as a run does; ``seed`` is added to the kit's.

        Raises:
            SizeRefused: If the prior refuses K or J by an InvalidInput.
        """
        torch.manual_seed(self.seed + seed)
        try:
            return self.cls(clusters, latent_dim, self.options)
        except InvalidInput as error:
            raise SizeRefused(f"K={clusters}, J={latent_dim}", error) from error

    def accepted(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return those K and J that the prior does not refuse; all of them if it refuses all."""

        def fits(size: tuple[int, int]) -> bool:
            try:
                self.start(*size)
            except SizeRefused:
                return False
            return True

        return list(filter(fits, sizes)) or list(sizes)

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


def formulas(prior: Prior, z: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return what training computes from a prior and points z, by name; entropies only if the prior declares them."""
    named: dict[str, Callable[[], Tensor]] = {
        "weights": prior.weights,
        "log_weights": prior.log_weights,
        "log_density": partial(prior.log_density, z),
        "log_responsibilities": partial(prior.log_responsibilities, z),
    }
    return named if prior.entropy_kind == "none" else {**named, "entropies": prior.entropies}


@torch.no_grad()
def shifted(prior: Prior, amounts: tuple[float, ...], in_turn: bool = False) -> Iterator[tuple[str, Prior]]:
    """Yield a description and the prior, with one parameter shifted at a time; restore it afterwards.

    Arguments:
        prior: Changed in place.
        amounts: Numbers to add to all elements of the parameter.
        in_turn: Whether each amount is also added and subtracted in turn.
    """
    for name, parameter in trained(prior).items():
        start = parameter.detach().clone()
        signs = ((-1.0) ** torch.arange(start.numel())).reshape(start.shape).to(start)
        for amount in amounts:
            parameter.copy_(start + amount)
            yield f"{name} {amount:+g}", prior
            if in_turn:
                parameter.copy_(start + amount * signs)
                yield f"{name} {amount:+g} and {-amount:+g} in turn", prior
        parameter.copy_(start)


@torch.no_grad()
def spread(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median and half the interquartile range of samples, (N, J) -> two of (J,), float64."""
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, middle, high = torch.quantile(drawn.double(), quartiles, dim=0)
    width = (high - low) / 2
    usable = torch.isfinite(middle) & torch.isfinite(width) & (width > 0)
    return torch.where(usable, middle, 0.0), torch.where(usable, width, 1.0)


def component_spread(prior: Prior, k: int) -> tuple[Tensor, Tensor]:
    """Return the `spread` of a component."""
    return spread(prior.component(torch.full((2001,), k)).rsample())


@attrs.frozen(eq=False)
class Line:
    """Points on the whole real line, dense near a component, with their weights in an integral.

    Attributes:
        points: z, shape (N, 1).
        cells: dz, shape (N,).
        centre: The median of the component.
        width: Half its interquartile range.
    """

    points: Tensor
    cells: Tensor
    centre: float
    width: float


def line(prior: Prior, k: int, reach: float = 30.0, count: int = 12_001) -> Line:
    """Return points z = centre + width sinh(t), t in -reach..reach: far enough for tails without any moment."""
    centre, width = (float(value) for value in component_spread(prior, k))
    t = torch.linspace(-reach, reach, count, dtype=torch.float64)
    step = 2 * reach / (count - 1)
    return Line((centre + width * torch.sinh(t)).unsqueeze(1), width * torch.cosh(t) * step, centre, width)


def component_density(prior: Prior, k: int, points: Tensor) -> Tensor:
    """Return log p(z|k), shape (N,), for points of shape (N, J).

    Raises:
        LawBroken: If the prior's shapes are wrong, before they are broadcast into something huge.
    """
    densities, expected = prior.log_density(points), (len(points), prior.clusters)
    shape = tuple(densities.shape)
    require(shape == expected, f"log_density(z): expected shape {expected}, got {shape}")
    return densities[:, k]
