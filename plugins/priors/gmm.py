"""The Gaussian mixture with diagonal covariances, the method's default prior."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from mpcc.core.mixture import LocationScaleMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

__all__ = ["GaussianMixture", "ReferenceNormal"]


class ReferenceNormal(Normal):
    r"""The authors' inconsistent component: one scale for samples, another for the density, a third for the entropy.

    With floor f and raw scale r, elementwise:

    .. math::
        z = \mu + (f + e^{r/2}) \epsilon, \qquad \log p(z) = \log N(z; \mu, f^2 + e^r), \qquad
        H = \tfrac12 (1 + \log 2 \pi e^r)

    Arguments:
        loc: mu.
        raw_scale: r, same shape.
        floor: f, 0.5 in the authors' code.

    Source:
        Method, section 4. The contract kit rightly rejects it. It is here to reproduce published numbers.

    Example:
        >>> component = ReferenceNormal(torch.zeros(1), torch.zeros(1), floor=0.5)
        >>> component.stddev, component.log_prob(torch.zeros(1)).exp() ** -2 / (2 * torch.pi)
        (tensor([1.5000]), tensor([1.2500]))
    """

    def __init__(self, loc: Tensor, raw_scale: Tensor, floor: float) -> None:
        spread = torch.exp(raw_scale / 2)
        super().__init__(loc, floor + spread, validate_args=False)
        self._density = Normal(loc, torch.sqrt(floor**2 + spread**2), validate_args=False)
        self._unfloored = Normal(loc, spread, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the density of variance f^2 + exp(r)."""
        density: Tensor = self._density.log_prob(value)  # type: ignore[no-untyped-call]
        return density

    def entropy(self) -> Tensor:
        """Return the entropy for the scale exp(r / 2)."""
        entropy: Tensor = self._unfloored.entropy()  # type: ignore[no-untyped-call]
        return entropy


class GaussianMixture(LocationScaleMixture):
    r"""A mixture of K diagonal Gaussians (supplement, A.2 and C).

    .. math:: p(z|y) = N(z; \mu_y, \mathrm{diag}(s_y^2)), \qquad H = \tfrac12 \sum_j (1 + \log 2 \pi s_{yj}^2)

    Locations start as rows or columns of an orthogonal matrix, raw scales at 1 (authors' code). With the option
    ``variances = "reference"`` a component is a `ReferenceNormal`.

    Example:
        >>> import torch
        >>> from mpcc.plugins.priors.options import GaussianMixtureOptions
        >>> _ = torch.manual_seed(0)
        >>> prior = GaussianMixture(clusters=3, latent_dim=2, options=GaussianMixtureOptions())
        >>> z, y = prior.sample(5)
        >>> z.shape, y.shape, prior.log_responsibilities(z).exp().sum(1)
        (torch.Size([5, 2]), torch.Size([5]), tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], grad_fn=<SumBackward1>))
    """

    options: GaussianMixtureOptions

    def component(self, y: Tensor) -> Distribution:
        """Return p(z|y), with the batch shape of ``y``."""
        if self.options.variances == "reference":
            component = ReferenceNormal(self.loc[y], self.raw_scale[y], self.options.scale_floor)
            return Independent(component, 1, validate_args=False)
        return super().component(y)

    def divergences(self, loc: Tensor, raw_scale: Tensor) -> Tensor:
        """Return KL(q(z|x) || p(z|k)), shape (N, K); samples and density of a `ReferenceNormal` have no common one."""
        if self.options.variances == "reference":
            raise NotImplementedError("a component of reference variances is no distribution")
        return super().divergences(loc, raw_scale)

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return Normal(loc, scale); q(z|x) is Normal too, its raw scale a log-variance."""
        normal: Distribution = dist.Normal(loc, scale, validate_args=False)
        return normal
