"""The Gumbel mixture: skewed components, an exponential tail on one side."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture
from mpcc.plugins.priors.distributions import BoundedGumbel, BoundedLogistic
from mpcc.plugins.priors.options import GumbelOptions

__all__ = ["GumbelMixture"]


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
        self.symmetric = {"laplace": dist.Laplace, "logistic": BoundedLogistic}[options.encoder]

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Gumbel(loc, scale); the location is the mode."""
        return BoundedGumbel(loc, scale, validate_args=False)

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Laplace(loc, scale) or Logistic(loc, scale)."""
        symmetric: Distribution = self.symmetric(loc, scale, validate_args=False)
        return symmetric
