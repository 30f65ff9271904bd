"""The logistic mixture: near a Gaussian in the middle, with exponential tails."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture
from mpcc.plugins.priors.distributions import BoundedLogistic

__all__ = ["LogisticMixture"]


class LogisticMixture(LocationScaleMixture):
    r"""A mixture of products of logistic distributions; q(z|x) is logistic.

    .. math:: H = \sum_j (2 + \log s_j)

    Example:
        >>> import torch
        >>> from mpcc.plugins.priors.options import LogisticOptions
        >>> options = LogisticOptions(scale_floor=0, initial_raw_scale=0)
        >>> prior = LogisticMixture(clusters=3, latent_dim=2, options=options)
        >>> prior.entropies()
        tensor([4., 4., 4.], grad_fn=<SumBackward1>)
    """

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Logistic(loc, scale)."""
        return BoundedLogistic(loc, scale, validate_args=False)  # type: ignore[no-untyped-call]
