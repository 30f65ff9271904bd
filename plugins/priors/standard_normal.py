"""The standard Normal: the fixed prior of AIM and of the variational autoencoder."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture
from mpcc.core.mixture_options import MixtureOptions

__all__ = ["StandardNormal"]


class StandardNormal(LocationScaleMixture):
    r"""N(0, I), without parameters; q(z|x) is a diagonal Normal (supplement, A.1).

    .. math:: p(z|y) = N(z; 0, I), \qquad H = \tfrac{J}{2} (1 + \log 2 \pi)

    With more than one cluster all components are the same, and a latent says nothing of its cluster.

    Arguments:
        clusters: K.
        latent_dim: J.
        options: None; it has none.

    Example:
        >>> prior = StandardNormal(clusters=1, latent_dim=2)
        >>> list(prior.parameters()), prior.log_density(torch.zeros(1, 2))  # -log 2 pi
        ([], tensor([[-1.8379]]))
    """

    def __init__(self, clusters: int, latent_dim: int, options: Any = None) -> None:
        super().__init__(clusters, latent_dim, MixtureOptions(scale_floor=0.0, initial_raw_scale=0.0))
        # Every parameter is trained, so what is fixed has to be a buffer.
        for name in ("loc", "raw_scale"):
            delattr(self, name)
            self.register_buffer(name, torch.zeros(clusters, latent_dim))

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Normal(loc, scale)."""
        normal: Distribution = dist.Normal(loc, scale, validate_args=False)
        return normal
