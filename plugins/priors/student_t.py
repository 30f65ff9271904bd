"""The Student-t mixture: polynomial tails whose weight is an option or is learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from mpcc.core.mixture import LocationScaleMixture
from mpcc.plugins.priors.distributions import StableStudentT
from mpcc.plugins.priors.options import StudentTOptions

__all__ = ["StudentTMixture"]


class StudentTMixture(LocationScaleMixture):
    r"""A mixture of products of Student-t distributions with nu degrees of freedom, one nu for the whole prior.

    .. math::
        H_j = \tfrac{\nu+1}{2} \left[ \psi(\tfrac{\nu+1}{2}) - \psi(\tfrac{\nu}{2}) \right]
        + \log \left( \sqrt{\nu} B(\tfrac{\nu}{2}, \tfrac12) \right) + \log s_j

    A learned nu is floor + softplus(raw). The entropy grows as nu falls, so the entropy term pulls nu down to the
    floor. q(z|x) is Student-t with the same nu, but its own loss has no gradient in nu.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> prior = StudentTMixture(clusters=3, latent_dim=2, options=StudentTOptions(df=3.0))
        >>> prior.df(), prior.sample(5)[0].shape
        (tensor(3.), torch.Size([5, 2]))
    """

    fixed_df: Tensor

    def __init__(self, clusters: int, latent_dim: int, options: StudentTOptions) -> None:
        super().__init__(clusters, latent_dim, options)
        self.df_floor = options.df_floor
        self.register_parameter("raw_df", None)
        if options.learn_df:
            # The inverse of softplus, stable for a large df.
            above = torch.tensor(float(options.df - options.df_floor))
            self.raw_df = nn.Parameter(above + torch.log(-torch.expm1(-above)))
        else:
            self.register_buffer("fixed_df", torch.tensor(float(options.df)))

    def df(self) -> Tensor:
        """Return nu, a scalar."""
        return self.fixed_df if self.raw_df is None else self.df_floor + F.softplus(self.raw_df)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return StudentT(nu, loc, scale)."""
        return StableStudentT(self.df(), loc, scale, validate_args=False)

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return StudentT(nu, loc, scale) with nu detached."""
        return StableStudentT(self.df().detach(), loc, scale, validate_args=False)

    def quantities(self) -> Mapping[str, Tensor]:
        """Return nu for the log."""
        return {"df": self.df()}
