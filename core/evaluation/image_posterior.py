r"""The posterior over clusters of an image, q(y|x), from the encoder's q(z|x) and the prior's q(y|z).

.. math:: q(y \mid x) = E_{q(z|x)} \, q(y \mid z)

The mean is taken over 16 points of q(z|x). They are quantiles at fixed scrambled Sobol points, so the same image has
the same posterior in any batch.

Compared with q(y|z) at the encoder's location, which leaves out how unsure the encoder is of z, this posterior is less
sure: on the digits, its expected calibration error is about half as large (docs/scores.md).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from mpcc.core.contracts import Prior
from mpcc.core.system.randomness import own_randomness

__all__ = ["POINTS", "bounded", "image_posterior", "points_of", "within"]

POINTS = 16
# Bounds of what the posterior is computed from: scales from 1e-13 to 1e13, and points up to 1e12. The prior is within a
# few units of 0, so that what is narrower is a point for it, and what is wider or farther has the posterior of its
# direction already. Without bounds, squares of distances would leave float32, and the posterior would not be a number.
WIDEST, FARTHEST = 60.0, 1e12
# The most dimensions of torch's Sobol points.
SOBOL_DIMENSIONS = torch.quasirandom.SobolEngine.MAXDIM


@functools.cache
def uniform_points(dimensions: int) -> Tensor:
    """Return fixed points in (0, 1), float32, shape (POINTS, dimensions)."""
    if dimensions <= SOBOL_DIMENSIONS:
        engine = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=0)  # type: ignore[no-untyped-call]
        points = engine.draw(POINTS)
    else:
        points = torch.rand(POINTS, dimensions, generator=torch.Generator().manual_seed(0))
    edge = torch.finfo(torch.float32).eps
    return points.float().clamp(edge, 1 - edge)


def bounded(raw_scale: Tensor) -> Tensor:
    """Return raw scales between two that are beyond any use; what is not finite becomes NaN, as it tells a breakdown.

    Example:
        >>> bounded(torch.tensor([-1e3, 0.5, 1e3, torch.inf]))
        tensor([-60.0000,   0.5000,  60.0000,      nan])
    """
    finite = raw_scale.abs() < torch.inf
    return torch.where(finite, raw_scale.clamp(-WIDEST, WIDEST), torch.full_like(raw_scale, torch.nan))


def within(points: Tensor, location: Tensor) -> Tensor:
    """Return points no farther than any use, and NaN where the location is not finite, which tells a breakdown.

    Arguments:
        points: Shape (P, n, J).
        location: Shape (n, J).

    Example:
        >>> within(torch.tensor([[[1e20, 0.5]]]), torch.tensor([[0.0, torch.inf]]))
        tensor([[[1.0000e+12,        nan]]])
    """
    bounded = points.clamp(-FARTHEST, FARTHEST)
    return torch.where(location.abs() < torch.inf, bounded, torch.full_like(bounded, torch.nan))


def points_of(prior: Prior, location: Tensor, raw_scale: Tensor) -> Tensor:
    """Return points of q(z|x) for n images, each with the same weight, shape (POINTS, n, J).

    A family without quantiles (``icdf``) gives draws instead, with the same seed for each image, which takes longer.
    Raw scales and points are bounded far out, so that finite heads have finite points, and a finite posterior.

    Arguments:
        prior: Gives q(z|x).
        location: The encoder's location, shape (n, J).
        raw_scale: The encoder's other head, shape (n, J).
    """
    raw_scale = bounded(raw_scale)
    q = prior.encoder_distribution(location, raw_scale)
    base: Distribution = q
    while isinstance(base, Independent):
        base = base.base_dist
    if not base.event_shape:
        try:
            return within(base.icdf(uniform_points(prior.latent_dim).to(location)[:, None, :]), location)
        except NotImplementedError:
            pass
    drawn = []
    with own_randomness(0, location.device):
        for own, raw in zip(torch.split(location, 1), torch.split(raw_scale, 1), strict=True):
            torch.manual_seed(0)
            drawn.append(prior.encoder_distribution(own, raw).sample(torch.Size((POINTS,))))
    return within(torch.cat(drawn, dim=1), location)


def image_posterior(prior: Prior, location: Tensor, raw_scale: Tensor) -> Tensor:
    """Return q(y|x) for n images, shape (n, K).

    Arguments:
        prior: Gives q(z|x) and q(y|z).
        location: The encoder's location, shape (n, J).
        raw_scale: The encoder's other head, shape (n, J).

    Example:
        >>> from mpcc.plugins.priors.gmm import GaussianMixture
        >>> from mpcc.plugins.priors.options import GaussianMixtureOptions
        >>> prior = GaussianMixture(3, 2, GaussianMixtureOptions())
        >>> image_posterior(prior, torch.zeros(4, 2), torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """
    with prior.full_precision():
        points = points_of(prior, location, raw_scale)
        # One point at a time: memory is that of one posterior.
        total = prior.log_responsibilities(points[0]).exp()
        for z in points[1:]:
            total += prior.log_responsibilities(z).exp()
    return total / len(points)
