"""The Cauchy mixture: tails so heavy that no component has a mean."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture

__all__ = ["CauchyMixture"]


class CauchyMixture(LocationScaleMixture):
    r"""A mixture of products of Cauchy distributions.

    .. math:: H = \sum_j \log (4 \pi s_j)

    q(z|x) is Cauchy, because under a Normal q the latent term would be infinite. The default input map is asinh,
    because raw outliers would dominate the generator's batch statistics.

    Example:
        >>> import torch
        >>> from mpcc.plugins.priors.options import CauchyOptions
        >>> _ = torch.manual_seed(0)
        >>> prior = CauchyMixture(clusters=3, latent_dim=2, options=CauchyOptions())
        >>> prior.input_map(torch.tensor([1.0, 1e6]))
        tensor([ 0.8814, 14.5087])
    """

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Cauchy(loc, scale)."""
        cauchy: Distribution = dist.Cauchy(loc, scale, validate_args=False)
        return cauchy
