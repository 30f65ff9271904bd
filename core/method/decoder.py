"""A decoder p(x|z) on the networks of a generator: it does not see y, and its output is the centre of a density.

The forward KL needs log p(x|z) as a number. The generator's image, in [-1, 1], is the location of each pixel; a
likelihood says how densities fall off around it. Letters in shapes: N images, D channels, R image size.
"""

from __future__ import annotations

import abc
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BernoulliLikelihood", "BlindGenerator", "GaussianLikelihood", "Likelihood", "LogisticLikelihood"]

# How near a probability of the Bernoulli likelihood comes to 0 and 1: log p stays finite, and keeps a gradient.
EDGE = 1e-4
# Half of the distance of two neighbouring grey levels in [-1, 1].
HALF_LEVEL = 1 / 255


class BlindGenerator(nn.Module):
    """A generator whose images depend on z alone: p(x|z, y) = p(x|z), as in VaDE (supplement, B.1).

    Arguments:
        generator: Built for one cluster; every label that it is given is 0.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images in [-1, 1], (N, D, R, R), for z, (N, J), and any labels, (N,)."""
        images: Tensor = self.generator(z, torch.zeros_like(y))
        return images


class Likelihood(nn.Module, abc.ABC):
    """The density of an image given the decoder's output, a product over its D R^2 values."""

    @abc.abstractmethod
    def log_prob(self, images: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x|z) in nats, summed over the values of each image, shape (N,).

        Arguments:
            images: x in [-1, 1], shape (N, D, R, R).
            mean: The generator's images, in [-1, 1], same shape.
        """


class BernoulliLikelihood(Likelihood):
    r"""Black and white: a value is 1 with a probability p, 0 with 1 - p.

    .. math:: \log p(x|z) = \sum x \log p + (1 - x) \log (1 - p)

    x and p are image and output moved from [-1, 1] to [0, 1]; p stays off the ends by 0.0001. For grey values the sum
    is the mean of log p over images that are black and white at random, with x as the probability of white. It is then
    no density of grey images, and its value cannot be compared with that of the other likelihoods.

    Example:
        >>> white, grey = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        >>> BernoulliLikelihood().log_prob(white, grey)
        tensor([-0.6931])
    """

    def log_prob(self, images: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x|z) in nats, shape (N,)."""
        x, p = (1 + images) / 2, EDGE + (1 - 2 * EDGE) * (1 + mean) / 2
        return (torch.log(p) * x + torch.log1p(-p) * (1 - x)).flatten(1).sum(1)


class GaussianLikelihood(Likelihood):
    r"""A Normal around the output, with one scale s for all values, which is trained.

    .. math:: \log p(x|z) = -\tfrac12 \sum \left( (x - \hat x)^2 / s^2 + \log 2 \pi s^2 \right)

    Arguments:
        scale: The start of s, in units of the images, whose range is 2.

    Example:
        >>> image = torch.zeros(1, 1, 1, 2)
        >>> GaussianLikelihood(scale=1.0).log_prob(image, image).detach()  # -log 2 pi
        tensor([-1.8379])
    """

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def log_prob(self, images: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x|z) in nats, shape (N,)."""
        errors = (images - mean) * torch.exp(-self.log_scale)
        return -(errors.square() / 2 + self.log_scale + math.log(2 * math.pi) / 2).flatten(1).sum(1)


class LogisticLikelihood(Likelihood):
    r"""The probability of one of 256 grey levels, from a logistic distribution around the output (Kingma et al., 2016).

    .. math:: P(x|z) = \sigma\left( \frac{x - \hat x + h}{s} \right) - \sigma\left( \frac{x - \hat x - h}{s} \right)

    h is half the distance of two levels. Black takes everything below its level, white everything above, so the 256
    probabilities sum to 1. The scale s is one for all values and is trained. With a - b the distance of the two
    arguments, the difference is sigma(a) sigma(-b) (1 - exp(b - a)), which loses no digits.

    Arguments:
        scale: The start of s, in units of the images, whose range is 2.

    Example:
        >>> levels = torch.linspace(-1, 1, 256).view(256, 1, 1, 1)
        >>> round(LogisticLikelihood().log_prob(levels, torch.zeros_like(levels)).exp().sum().item(), 4)
        1.0
    """

    def __init__(self, scale: float = 0.1) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def log_prob(self, images: Tensor, mean: Tensor) -> Tensor:
        """Return log P(x|z) in nats, shape (N,)."""
        precision = torch.exp(-self.log_scale)
        below, above = (images - mean - HALF_LEVEL) * precision, (images - mean + HALF_LEVEL) * precision
        up_to, beyond = F.logsigmoid(above), F.logsigmoid(-below)
        between = up_to + beyond + torch.log(-torch.expm1(-2 * HALF_LEVEL * precision))
        inner = torch.where(images > 1 - HALF_LEVEL, beyond, between)
        return torch.where(images < HALF_LEVEL - 1, up_to, inner).flatten(1).sum(1)
