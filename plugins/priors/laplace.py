"""The Laplace mixture: exponential tails and a peak at the location."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture

__all__ = ["LaplaceMixture"]


class LaplaceMixture(LocationScaleMixture):
    r"""A mixture of products of Laplace distributions; q(z|x) is Laplace.

    .. math:: H = \sum_j (1 + \log 2 s_j)

    Example:
        >>> import torch
        >>> from mpcc.plugins.priors.options import LaplaceOptions
        >>> options = LaplaceOptions(scale_floor=0.5, initial_raw_scale=0)
        >>> prior = LaplaceMixture(clusters=3, latent_dim=2, options=options)
        >>> prior.entropies()  # 2 (1 + log 3)
        tensor([4.1972, 4.1972, 4.1972], grad_fn=<SumBackward1>)
    """

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Laplace(loc, scale)."""
        laplace: Distribution = dist.Laplace(loc, scale, validate_args=False)
        return laplace
