"""The Gumbel mixture: skewed components, an exponential tail on one side."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture
from mpcc.plugins.priors.options import GumbelOptions

__all__ = ["GumbelMixture"]

# exp overflows float32 beyond 88. A density below exp(-exp(80)) is 0; with this bound its gradient stays finite.
LARGEST_EXPONENT = 80.0


class BoundedGumbel(dist.Gumbel):  # type: ignore[misc]
    """torch's Gumbel, with log-densities that stay finite at any distance on the thin side."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``value``, elementwise."""
        standard: Tensor = (self.loc - value) / self.scale
        return standard - torch.exp(standard.clamp(max=LARGEST_EXPONENT)) - torch.log(self.scale)


class GumbelMixture(LocationScaleMixture):
    r"""A mixture of products of Gumbel (maximum) distributions.

    .. math:: H = \sum_j (\log s_j + \gamma + 1), \qquad \gamma = 0.5772\ldots

    A Gumbel q(z|x) would be doubly exponential on its thin side, and E[-log q] would be finite only for matching
    scales. So q(z|x) is Laplace, or logistic by option.

    Example:
        >>> options = GumbelOptions(scale_floor=0, initial_raw_scale=0)
        >>> GumbelMixture(clusters=3, latent_dim=1, options=options).entropies()
        tensor([1.5772, 1.5772, 1.5772], grad_fn=<SumBackward1>)
    """

    def __init__(self, clusters: int, latent_dim: int, options: GumbelOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        self.symmetric = {"laplace": dist.Laplace, "logistic": dist.Logistic}[options.encoder]

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Gumbel(loc, scale); the location is the mode."""
        return BoundedGumbel(loc, scale, validate_args=False)

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Laplace(loc, scale) or Logistic(loc, scale)."""
        symmetric: Distribution = self.symmetric(loc, scale, validate_args=False)
        return symmetric
