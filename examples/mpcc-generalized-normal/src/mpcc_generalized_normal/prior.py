"""The prior: a mixture of products of generalized normal distributions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mpcc.core.mixture import LocationScaleMixture
from torch import Tensor, nn
from torch.distributions import Distribution

from mpcc_generalized_normal.distribution import GeneralizedNormal
from mpcc_generalized_normal.options import LARGEST_SHAPE, GeneralizedNormalOptions

__all__ = ["GeneralizedNormalMixture"]


class GeneralizedNormalMixture(LocationScaleMixture):
    r"""A mixture of K products of J generalized normal distributions, with one beta for the whole prior.

    .. math:: H = \sum_j \left( \tfrac1\beta + \log \frac{2 s_j \Gamma(1/\beta)}{\beta} \right)

    A learned beta is floor + (ceiling - floor) sigmoid(raw). q(z|x) has the same family and the same beta, so its tails
    are exactly as heavy as the prior's. Its own loss has no gradient in beta.

    Arguments:
        clusters: K.
        latent_dim: J.
        options: Options of all mixtures, and the shape.

    Example:
        >>> prior = GeneralizedNormalMixture(3, 2, GeneralizedNormalOptions(shape=2.0))
        >>> prior.shape(), prior.sample(5)[0].shape
        (tensor(2.), torch.Size([5, 2]))
    """

    fixed_shape: Tensor

    def __init__(self, clusters: int, latent_dim: int, options: GeneralizedNormalOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        self.shape_floor = options.shape_floor
        self.register_parameter("raw_shape", None)
        if options.learn_shape:
            share = (options.shape - options.shape_floor) / (LARGEST_SHAPE - options.shape_floor)
            self.raw_shape = nn.Parameter(torch.logit(torch.tensor(share)))
        else:
            self.register_buffer("fixed_shape", torch.tensor(float(options.shape)))

    def shape(self) -> Tensor:
        """Return beta, a scalar."""
        if self.raw_shape is None:
            return self.fixed_shape
        return self.shape_floor + (LARGEST_SHAPE - self.shape_floor) * torch.sigmoid(self.raw_shape)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return GeneralizedNormal(loc, scale, beta)."""
        return GeneralizedNormal(loc, scale, self.shape(), validate_args=False)

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return GeneralizedNormal(loc, scale, beta) with beta detached."""
        return GeneralizedNormal(loc, scale, self.shape().detach(), validate_args=False)

    def quantities(self) -> Mapping[str, Tensor]:
        """Return beta for the log."""
        return {"shape": self.shape()}
