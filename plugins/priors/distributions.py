"""Distributions of the priors whose versions in torch or Pyro leave float32 or make the host wait for a device.

Each samples within the range of its noise, also where the noise takes its smallest and its largest value, has a
log-density with a right gradient at any distance, and neither copies a number to the device nor asks it for one.
`StableStudentT.icdf`, which no training calls, does both.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor
from torch.distributions import Distribution, Gamma, Independent, Normal, constraints, register_kl
from torch.distributions.utils import broadcast_all

__all__ = ["BoundedGumbel", "BoundedLogistic", "LowRankNormal", "StableStudentT"]

# A Gamma variable of nu / 2 is smaller with a probability below 2^-24, for every nu that `StudentTOptions` takes. On
# CUDA, torch's sampler then returns the smallest float, which would make z 1e19.
SMALLEST_GAMMA = 1e-30


def half_step(dtype: torch.dtype) -> float:
    """Return the smallest positive uniform number that a CPU draws, 2^-24 or 2^-53; the largest is 1 minus it."""
    return torch.finfo(dtype).eps / 2


def largest_exponent(dtype: torch.dtype) -> float:
    """Return 70 for float32, 691 for float64: a sum of ten million terms exp(t) of that size is still finite."""
    return math.floor(math.log(torch.finfo(dtype).max) - 18)


class BoundedLogistic(dist.Logistic):
    """Pyro's logistic, whose samples are finite: a uniform number of 0 counts as the smallest positive one.

    Example:
        >>> BoundedLogistic(torch.tensor(0.0), torch.tensor(1.0)).log_prob(torch.tensor(0.0))  # log 1/4
        tensor(-1.3863)
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw loc + scale log(u / (1 - u)); gradients reach loc and scale."""
        uniform = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        sample: Tensor = self.loc + self.scale * torch.logit(uniform, eps=half_step(uniform.dtype))
        return sample


class BoundedGumbel(dist.Gumbel):  # type: ignore[misc]
    r"""torch's Gumbel, whose log-density stays finite and strictly monotone on the thin side, at any distance.

    With t = (loc - x) / scale, log p = t - exp(t) - log scale. Beyond T = 70 (in float64, 691), the exponential goes on
    as exp(T) (1 + log(1 + t - T)), which has the same value and slope at T. It is smaller than exp(t), which leaves the
    range of the floats, and still so large that of two components the nearer one takes all responsibility.

    Example:
        >>> BoundedGumbel(torch.tensor(0.0), torch.tensor(1.0)).log_prob(torch.tensor([0.0, -50.0, -1e6]))
        tensor([-1.0000e+00, -5.1847e+21, -3.7267e+31])
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw loc - scale log(-log u); a u of 0 counts as the smallest positive one."""
        uniform = self.base_dist.rsample(sample_shape)
        noise = torch.log(-torch.log(uniform.clamp(min=half_step(uniform.dtype))))
        sample: Tensor = self.loc - self.scale * noise
        return sample

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``value``, elementwise."""
        t: Tensor = (self.loc - value) / self.scale
        largest = largest_exponent(t.dtype)
        beyond = torch.log1p((t - largest).clamp(min=0))
        return t - torch.exp(t.clamp(max=largest)) * (1 + beyond) - torch.log(self.scale)


class StableStudentT(dist.StudentT):  # type: ignore[misc]
    r"""torch's Student-t for degrees of freedom from 0.5 to 1e9.

    .. math::
        \log p = c(\nu) - \log s - \tfrac{\nu+1}{2} \log(1 + t^2 / \nu), \qquad
        c(\nu) = \log \Gamma(\tfrac{\nu+1}{2}) - \log \Gamma(\tfrac{\nu}{2}) - \tfrac12 \log \pi \nu

    The two logarithms in c nearly cancel at a large nu, so c and its gradient are computed in float64.

    Arguments:
        df: nu, a tensor, which broadcasts to the shape of loc and scale.
        loc: The location.
        scale: s.
        validate_args: Whether torch checks them.

    Example:
        >>> wide = StableStudentT(torch.tensor(1e8), torch.tensor(0.0), torch.tensor(1.0))
        >>> wide.entropy()  # a Gaussian's, (1 + log 2 pi) / 2
        tensor(1.4189)
    """

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.df, self.loc, self.scale = broadcast_all(df, loc, scale)
        # In its own shape, often a scalar: functions of nu alone are then computed once, not for each element.
        self._nu = df
        # torch's Chi2 would check its argument on the host and copy the number 0.5 to the device.
        self._chi2 = Gamma(self.df / 2, torch.full_like(self.df, 0.5), validate_args=False)
        Distribution.__init__(self, self.df.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> StableStudentT:
        """Return a copy with its parameters expanded to a batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return StableStudentT(self._nu, loc, scale, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw loc + scale x / sqrt(g / (nu / 2)), x standard normal, g a Gamma variable; gradients reach nu, too."""
        normal = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        chi2 = self._chi2.rsample(sample_shape).clamp(min=2 * SMALLEST_GAMMA)
        sample: Tensor = self.loc + self.scale * (normal * torch.rsqrt(chi2 / self.df))
        return sample

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``value``, elementwise."""
        t = ((value - self.loc) / self.scale).abs() * torch.rsqrt(self._nu)
        # log(1 + t^2) without the square, which would leave float32.
        spread = F.softplus(2 * torch.log(t.clamp(min=torch.finfo(t.dtype).tiny)), threshold=40)
        density: Tensor = self._constant() - torch.log(self.scale) - (self._nu + 1) / 2 * spread
        return density

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantiles at probabilities in (0, 1), without gradients; scipy computes them on the CPU."""
        standard = stdtrit(self._nu.double().cpu().numpy(), value.double().cpu().numpy())
        quantiles: Tensor = self.loc + self.scale * torch.as_tensor(standard).to(self.loc)
        return quantiles

    def entropy(self) -> Tensor:
        """Return (nu + 1) / 2 (psi((nu + 1) / 2) - psi(nu / 2)) - c + log scale."""
        nu = self._nu.double()
        mean_spread = torch.digamma((nu + 1) / 2) - torch.digamma(nu / 2)
        entropy: Tensor = ((nu + 1) / 2 * mean_spread).to(self._nu.dtype) - self._constant() + torch.log(self.scale)
        return entropy

    def _constant(self) -> Tensor:
        """Return c in the shape of nu."""
        nu = self._nu.double()
        constant = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - torch.log(math.pi * nu) / 2
        return constant.to(self._nu.dtype)


class LowRankNormal(Distribution):
    r"""A Gaussian whose covariance is diagonal plus low rank, :math:`N(\mu, W W^T + \mathrm{diag}(s^2))`.

    With A = W / s and y = (z - mu) / s, the log-density needs the quadratic form of (I + A A^T)^-1 at y and the
    determinant of I + A A^T. The form is the smallest value of |y - A b|^2 + |b|^2 over b. A QR factorisation of A on
    top of I gives both: the residual of y on top of 0, and the diagonal of R. (The Woodbury identity subtracts two
    numbers of the size of |y|^2 instead, which loses everything if s is small.) The factorisation is modified
    Gram-Schmidt in float64, made of elementwise products and sums: no flag rounds them, and the host never has to ask
    whether it has succeeded.

    Arguments:
        loc: mu, shape (..., J).
        factor: W, shape (..., J, rank).
        scale: s, shape (..., J).
        validate_args: Whether torch checks them.

    Source:
        Å. Björck, Numerical Methods for Least Squares Problems (1996), section 2.4.

    Example:
        >>> LowRankNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2)).entropy()  # 1 + log 2 pi + log(3) / 2
        tensor(3.3872)
    """

    arg_constraints = {  # noqa: RUF012 -- torch's own spelling
        "loc": constraints.real_vector,
        "factor": constraints.independent(constraints.real, 2),  # type: ignore[no-untyped-call]
        "scale": constraints.independent(constraints.positive, 1),  # type: ignore[no-untyped-call]
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.factor, self.scale = loc, factor, scale
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LowRankNormal:
        """Return a copy with its parameters expanded to a batch shape."""
        loc, scale = (value.expand(*batch_shape, *self.event_shape) for value in (self.loc, self.scale))
        return LowRankNormal(loc, self.factor.expand(*batch_shape, *self.factor.shape[-2:]), scale, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """mu."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The diagonal of the covariance."""
        return self.factor.square().sum(-1) + self.scale.square()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw mu + W e + s d, with e and d standard normal."""
        shape, dtype, device = self._extended_shape(sample_shape), self.loc.dtype, self.loc.device
        along = torch.randn((*shape[:-1], self.factor.shape[-1]), dtype=dtype, device=device)
        across = torch.randn(shape, dtype=dtype, device=device)
        return self.loc + (self.factor * along.unsqueeze(-2)).sum(-1) + self.scale * across

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of ``value``, shape (..., J) -> (...)."""
        directions, half_log_det = self.factorised()
        y = (value.double() - self.loc.double()) / self.scale.double()
        residual = F.pad(y, (0, self.factor.shape[-1]))
        for direction in directions:
            residual = residual - (residual * direction).sum(-1, keepdim=True) * direction
        squares = residual.square().sum(-1) + y.shape[-1] * math.log(2 * math.pi)
        return (-half_log_det - squares / 2).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """Return J (1 + log 2 pi) / 2 plus half of log det of the covariance, shape (...)."""
        _, half_log_det = self.factorised()
        return (half_log_det + self.loc.shape[-1] * (1 + math.log(2 * math.pi)) / 2).to(self.loc.dtype)

    def factorised(self) -> tuple[list[Tensor], Tensor]:
        """Return an orthonormal basis of the columns of A on top of I, and half of log det of the covariance.

        Both are float64. A vector of the basis has the shape (..., J + rank), the determinant (...).
        """
        scale, rank = self.scale.double(), self.factor.shape[-1]
        top = self.factor.double() / scale.unsqueeze(-1)
        identity = torch.eye(rank, dtype=top.dtype, device=top.device).expand(*top.shape[:-2], rank, rank)
        rest = torch.cat([top, identity], dim=-2)
        directions, half_log_det = [], torch.log(scale).sum(-1)
        for _ in range(rank):
            length = torch.linalg.vector_norm(rest[..., 0], dim=-1, keepdim=True)
            direction, rest = rest[..., 0] / length, rest[..., 1:]
            directions.append(direction)
            half_log_det = half_log_det + torch.log(length.squeeze(-1))
            column = direction.unsqueeze(-1)
            rest = rest - (rest * column).sum(-2, keepdim=True) * column
        return directions, half_log_det


@register_kl(Independent, LowRankNormal)  # type: ignore[no-untyped-call,untyped-decorator]
def kl_of_diagonal_normal(q: Independent[Any], p: LowRankNormal) -> Tensor:
    r"""Return KL(q || p) of a diagonal Normal q(m, diag(v)) and a Normal with low-rank covariance, in nats.

    .. math::
        KL = \tfrac12 \left( \mathrm{tr}(\Sigma^{-1} \mathrm{diag}(v)) + (m - \mu)^T \Sigma^{-1} (m - \mu) - J
        + \log \det \Sigma - \sum_j \log v_j \right)

    With the basis Q of `LowRankNormal.factorised`, whose upper J rows are Q1, the inverse of I + A A^T is I - Q1 Q1^T.
    The density of p at m has the quadratic form and the determinant already.

    Arguments:
        q: Independent Normals, event shape (J,).
        p: Batch shape as that of q.

    Raises:
        NotImplementedError: If q is no vector of Normals.
    """
    if not isinstance(q.base_dist, Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError(f"no closed form of the KL divergence of {q} and a LowRankNormal")
    mean, variance = q.base_dist.mean, q.base_dist.variance
    directions, _ = p.factorised()
    size = mean.shape[-1]
    removed = sum((direction[..., :size].square() for direction in directions), torch.zeros_like(mean.double()))
    trace = (variance.double() / p.scale.double().square() * (1 - removed).clamp(min=0)).sum(-1)
    surprise = -p.log_prob(mean) - size * math.log(2 * math.pi) / 2
    return surprise + ((trace - size - variance.double().log().sum(-1)) / 2).to(surprise.dtype)
