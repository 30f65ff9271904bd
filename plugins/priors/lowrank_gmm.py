"""The Gaussian mixture whose covariances are diagonal plus low rank."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture
from mpcc.plugins.priors.distributions import LowRankNormal
from mpcc.plugins.priors.options import LowRankOptions

__all__ = ["LowRankGaussianMixture"]


class LowRankGaussianMixture(LocationScaleMixture):
    r"""A mixture of K Gaussians with correlated dimensions.

    .. math::
        p(z|y) = N(z; \mu_y, \Sigma_y), \qquad \Sigma_y = W_y W_y^T + \mathrm{diag}(s_y^2), \qquad
        H = \tfrac12 (J + J \log 2 \pi + \log \det \Sigma_y)

    W_y has shape (J, rank) and starts from small normal numbers. q(z|x) is a diagonal Normal.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> prior = LowRankGaussianMixture(clusters=3, latent_dim=4, options=LowRankOptions(rank=2))
        >>> prior.factor.shape, prior.sample(5)[0].shape
        (torch.Size([3, 4, 2]), torch.Size([5, 4]))
    """

    def __init__(self, clusters: int, latent_dim: int, options: LowRankOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        # A factor of exactly 0 is a saddle point: density and entropy have no gradient in W there.
        self.factor = nn.Parameter(options.initial_factor * torch.randn(clusters, latent_dim, options.rank))

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Normal(loc, scale), the family of q(z|x)."""
        normal: Distribution = dist.Normal(loc, scale, validate_args=False)
        return normal

    def component(self, y: Tensor) -> Distribution:
        """Return N(mu_y, Sigma_y) with the batch shape of ``y``."""
        return LowRankNormal(self.loc[y], self.factor[y], self.scales()[y], validate_args=False)

    def scales(self) -> Tensor:
        """Return the diagonal part s of the scales, shape (K, J); the low-rank part comes on top of it."""
        return super().scales()
