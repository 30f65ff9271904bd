"""The Gaussian mixture with diagonal covariances, the method's default prior."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture

__all__ = ["GaussianMixture"]


class GaussianMixture(LocationScaleMixture):
    r"""A mixture of K diagonal Gaussians (supplement, A.2 and C).

    .. math:: p(z|y) = N(z; \mu_y, \mathrm{diag}(s_y^2)), \qquad H = \tfrac12 \sum_j (1 + \log 2 \pi s_{yj}^2)

    Locations start as rows or columns of an orthogonal matrix, raw scales at 1 (authors' code).

    Example:
        >>> import torch
        >>> from mpcc.plugins.priors.options import GaussianMixtureOptions
        >>> _ = torch.manual_seed(0)
        >>> prior = GaussianMixture(clusters=3, latent_dim=2, options=GaussianMixtureOptions())
        >>> z, y = prior.sample(5)
        >>> z.shape, y.shape, prior.log_responsibilities(z).exp().sum(1)
        (torch.Size([5, 2]), torch.Size([5]), tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<SumBackward1>))
    """

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Normal(loc, scale); q(z|x) is Normal too, its raw scale a log-variance."""
        normal: Distribution = dist.Normal(loc, scale, validate_args=False)
        return normal
