"""The generalized normal (exponential power) distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.special import gammainccinv, gammaincinv
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions.utils import broadcast_all

__all__ = ["GeneralizedNormal"]


class GeneralizedNormal(Distribution):
    r"""A symmetric distribution whose log-density falls with a power of the distance.

    .. math:: p(x) = \frac{\beta}{2 s \Gamma(1/\beta)} \exp\left(-\left(\frac{|x - \mu|}{s}\right)^\beta\right)

    Source:
        S. Nadarajah, A generalized normal distribution, Journal of Applied Statistics 32 (2005).

    Arguments:
        loc: mu.
        scale: s > 0.
        shape: beta > 0.
        validate_args: Whether torch checks them.

    Example:
        >>> GeneralizedNormal(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(1.0)).entropy()  # a Laplace: 1 + log 2
        tensor(1.6931)
    """

    arg_constraints = {  # noqa: RUF012 -- torch's own spelling
        "loc": constraints.real,
        "scale": constraints.positive,
        "shape": constraints.positive,
    }
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, shape: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale, self.shape = broadcast_all(loc, scale, shape)
        # In its own shape, often a scalar: quantiles are then computed once for all elements.
        self._beta = torch.as_tensor(shape)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GeneralizedNormal:
        """Return a copy with its parameters expanded to a batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return GeneralizedNormal(loc, scale, self._beta, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """mu."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """mu."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """s^2 Gamma(3 / beta) / Gamma(1 / beta)."""
        return self.scale**2 * torch.exp(torch.lgamma(3 / self.shape) - torch.lgamma(1 / self.shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw mu +- s G^(1 / beta) with G ~ Gamma(1 / beta, 1); gradients reach all three parameters."""
        size = self._extended_shape(sample_shape)
        inverse = (1 / self.shape).expand(size)
        # torch differentiates a Gamma sample by its concentration, implicitly. A sample of 0 has no logarithm.
        gamma = Gamma(inverse, torch.ones_like(inverse), validate_args=False).rsample()
        tiny = torch.finfo(gamma.dtype).tiny
        distance = torch.exp(gamma.clamp_min(tiny).log() * inverse)
        sign = torch.randint(2, size, device=distance.device) * 2 - 1
        return self.loc + self.scale * sign * distance

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``value``, elementwise."""
        distance = (value - self.loc).abs() / self.scale
        range_of_floats = torch.finfo(distance.dtype)
        # The power's gradient in beta is distance^beta log distance. At 0 it is 0, but autograd would give NaN.
        exponent = self.shape * distance.clamp_min(range_of_floats.tiny).log()
        # Far out, a power would leave the range of the floats; from exp(largest) on, it goes on with the same slope.
        largest = math.floor(math.log(range_of_floats.max) - 18)
        power = torch.exp(exponent.clamp(max=largest)) * (1 + (exponent - largest).clamp(min=0))
        return -power - self._log_normaliser()

    def entropy(self) -> Tensor:
        """Return 1 / beta + log(2 s Gamma(1 / beta) / beta)."""
        return 1 / self.shape + self._log_normaliser()

    def cdf(self, value: Tensor) -> Tensor:
        """Return the distribution function, by the regularised incomplete gamma function; it has no gradient in beta."""
        signed = (value - self.loc) / self.scale
        inside = torch.special.gammainc((1 / self.shape).expand_as(signed), signed.abs() ** self.shape)
        return (1 + signed.sign() * inside) / 2

    def icdf(self, value: Tensor) -> Tensor:
        r"""Return the quantiles at probabilities p in (0, 1), elementwise.

        .. math:: x = \mu + s \, \mathrm{sign}(p - \tfrac12) \, P^{-1}(1/\beta, |2p - 1|)^{1/\beta}

        P is the regularised lower incomplete gamma function. torch has no inverse of it, so scipy computes it in float64
        on the CPU. Gradients reach mu and s, not beta.
        """
        p, inverse = (tensor.detach().double().cpu().numpy() for tensor in (value, 1 / self._beta))
        # Far out, 1 - |2p - 1| has digits that |2p - 1| has lost.
        beyond = 2 * np.minimum(p, 1 - p)
        gamma = np.where(beyond < 0.5, gammainccinv(inverse, beyond), gammaincinv(inverse, np.abs(2 * p - 1)))
        standard = np.sign(p - 0.5) * gamma**inverse
        return self.loc + self.scale * torch.as_tensor(standard).to(self.loc)

    def _log_normaliser(self) -> Tensor:
        normaliser: Tensor = math.log(2) + self.scale.log() + torch.lgamma(1 / self.shape) - self.shape.log()
        return normaliser
