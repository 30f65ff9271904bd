"""The Gaussian mixture with diagonal covariances, the method's default prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mpcc.core.contracts import Prior
from mpcc.plugins.priors.options import GaussianMixtureOptions

__all__ = ["GaussianMixture"]


class GaussianMixture(Prior):
    r"""A mixture of K diagonal Gaussians with uniform weights.

    .. math:: p(z|y) = N(z; \mu_y, \mathrm{diag}(s_y^2)), \qquad s = \mathrm{floor} + \exp(r / 2)

    The scale s is the same in sampling, density and entropy. (The authors' code samples with this s, but scores with
    variance floor^2 + exp(r) and takes the entropy of exp(r / 2) alone.) Locations start as rows or columns of an
    orthogonal matrix, raw scales r at 1 (supplement, C; authors' code).

    Arguments:
        clusters: K.
        latent_dim: J.
        options: Floor and start of the scales.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> prior = GaussianMixture(clusters=3, latent_dim=2, options=GaussianMixtureOptions())
        >>> z, y = prior.sample(5)
        >>> z.shape, y.shape, prior.log_responsibilities(z).exp().sum(1)
        (torch.Size([5, 2]), torch.Size([5]), tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<SumBackward1>))
    """

    phi: Tensor

    def __init__(self, clusters: int, latent_dim: int, options: GaussianMixtureOptions) -> None:
        super().__init__()
        self.clusters = clusters
        self.latent_dim = latent_dim
        self.scale_floor = options.scale_floor
        self.loc = nn.Parameter(nn.init.orthogonal_(torch.empty(clusters, latent_dim)))
        self.raw_scale = nn.Parameter(torch.full((clusters, latent_dim), float(options.initial_raw_scale)))
        self.register_buffer("phi", torch.full((clusters,), 1 / clusters))

    def scales(self) -> Tensor:
        """Return the standard deviations s, shape (K, J)."""
        scales: Tensor = self.scale_floor + torch.exp(self.raw_scale / 2)
        return scales

    def weights(self) -> Tensor:
        """Return the uniform phi, shape (K,)."""
        return self.phi

    def component(self, y: Tensor) -> Distribution:
        """Return N(mu_y, diag(s_y^2)) with the batch shape of ``y``."""
        normal: Distribution = dist.Normal(self.loc[y], self.scales()[y], validate_args=False).to_event(1)
        return normal

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        """Return q(z|x) = N(loc, diag(exp(raw_scale))): the raw scale is a log-variance, without a floor."""
        normal: Distribution = dist.Normal(loc, torch.exp(raw_scale / 2), validate_args=False).to_event(1)
        return normal
