r"""The five terms of the joint divergence KL(p || q), each a pure function that returns a scalar.

With the factorisations p(x, z, y) = p(y) p(z|y) p(x|z, y) and q(x, z, y) = q(x) q(z|x) q(y|z), and one assumption,
q(y|x, z) = q(y|z) (supplement, A.2, eq. 2):

.. math::
    KL(p \| q) = E_p \left[ \log \frac{p(x|z,y)}{q(x)} - \log q(z|x) - \log q(y|z) + \log p(z|y) + \log p(y) \right]

===========  =======================  ====================================================
term         expectation under p      computed here as
===========  =======================  ====================================================
data         log p(x|z,y) - log q(x)  hinge surrogate, one loss for each player
latent       -log q(z|x)              mean negative log density of the encoder at z
membership   -log q(y|z)              cross-entropy of y under the prior's responsibilities
entropy      log p(z|y)               minus the weighted mean of the components' entropies
label        log p(y)                 minus the entropy of phi
===========  =======================  ====================================================

The hinge losses drive the data term to zero but do not estimate it: the sum of their values and the other terms is
not a divergence.

If phi is trained, y ~ phi has no reparameterised gradient. Terms that are means over samples then take a ``ratio``
phi_y / stopgrad(phi_y) (`mpcc.core.contracts.Prior.label_ratio`). Its value is 1, and its gradient is the missing one.
Entropy and label terms are exact sums over y.

Letters: N samples, K clusters, J latent dimensions, D image channels, R image size.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.distributions import Distribution

from mpcc.core.system import ranks

__all__ = [
    "TermWeights",
    "balance",
    "consistency",
    "data_discriminator",
    "data_generator",
    "density",
    "entropy",
    "label",
    "latent",
    "membership",
]


def data_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    r"""Return the discriminator's hinge loss, E relu(1 - D(x)) + E relu(1 + D(x~)).

    Arguments:
        real_scores: D(x) on images x ~ q(x), shape (N,).
        fake_scores: D(x~) on generated images, shape (M,).

    Example:
        >>> data_discriminator(torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0]))
        tensor(1.5000)
    """
    return torch.relu(1 - real_scores).mean() + torch.relu(1 + fake_scores).mean()


def mean(values: Tensor, ratio: Tensor | None) -> Tensor:
    """Return the mean over the samples, weighted by the ratio if phi is trained."""
    return values.mean() if ratio is None else (ratio * values).mean()


def data_generator(fake_scores: Tensor, ratio: Tensor | None = None) -> Tensor:
    r"""Return the generator's loss, -E D(x~).

    Arguments:
        fake_scores: D(x~), shape (N,).
        ratio: phi_y / stopgrad(phi_y) of the labels that made x~, shape (N,), if phi is trained.

    Example:
        >>> data_generator(torch.tensor([-3.0, 1.0]))
        tensor(1.)
    """
    return -mean(fake_scores, ratio)


def latent(encoder_distribution: Distribution, z: Tensor, ratio: Tensor | None = None) -> Tensor:
    r"""Return E[-log q(z|x~)] in nats: summed over the J dimensions, averaged over the samples.

    Arguments:
        encoder_distribution: q(z|x~), batch shape (N,), event shape (J,).
        z: The latents that generated x~, shape (N, J).
        ratio: phi_y / stopgrad(phi_y) of the labels that generated z, shape (N,), if phi is trained.
    """
    log_q: Tensor = encoder_distribution.log_prob(z)
    return -mean(log_q, ratio)


def membership(log_responsibilities: Tensor, y: Tensor, ratio: Tensor | None = None) -> Tensor:
    r"""Return E[-log q(y|z)] in nats, the cross-entropy of the sampled labels.

    Arguments:
        log_responsibilities: log q(k|z) for every cluster, shape (N, K).
        y: Labels that generated z, shape (N,), int64.
        ratio: phi_y / stopgrad(phi_y), shape (N,), if phi is trained.

    Example:
        >>> membership(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))
        tensor(0.2877)
    """
    return -mean(log_responsibilities.gather(1, y.unsqueeze(1)).squeeze(1), ratio)


def entropy(weights: Tensor, entropies: Tensor) -> Tensor:
    r"""Return E[log p(z|y)] = -sum_k phi_k H_k in nats, exact in phi.

    Arguments:
        weights: phi, shape (K,).
        entropies: H_k of each component, closed form or a lower bound (the result then bounds the term from above,
            supplement B.2), shape (K,).

    Example:
        >>> entropy(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 3.0]))
        tensor(-2.)
    """
    return -(weights * entropies).sum()


def label(weights: Tensor) -> Tensor:
    r"""Return E[log p(y)] = sum_k phi_k log phi_k in nats, for phi of shape (K,).

    Example:
        >>> label(torch.tensor([0.5, 0.5]))
        tensor(-0.6931)
    """
    negative_entropy: Tensor = torch.special.xlogy(weights, weights).sum()
    return negative_entropy


def log_of_mean(log_values: Tensor) -> Tensor:
    """Return log of the mean of exp over the rows of all ranks, shape (K,), for this rank's rows, shape (N, K)."""
    together = ranks.current()
    log_sum, count = log_values.logsumexp(0), len(log_values)
    if together.alone:
        return log_sum - math.log(count)
    # A sum of exp, without the largest power taken out, would be 0 for an empty cluster.
    return together.stacked(log_sum, "mean responsibilities").logsumexp(0) - math.log(together.size * count)


def balance(
    log_responsibilities: Tensor,
    log_weights: Tensor,
    direction: Literal["images", "prior"] = "images",
    tolerance: float = 0.0,
) -> Tensor:
    r"""Return the divergence of phi and the mean responsibilities r(x) of real images, in nats.

    The second form of the joint divergence contains KL(p(y) || q(y)) with q(y) = E_x r(x), the marginals over real
    images (supplement, A.2, eq. 2). That direction, ``prior``, pulls an empty cluster k with the force phi_k towards
    the image whose r_k is the largest. The other one, KL(q(y) || p(y)), is bounded by -log min phi, and its pull on a
    cluster is proportional to r_k.

    If phi is trained, it receives gradients, too, and moves towards the mean; both are exact in phi.

    Arguments:
        log_responsibilities: log r_k(x), shape (N, K).
        log_weights: log phi, shape (K,).
        direction: ``images`` for KL(q(y) || p(y)), ``prior`` for KL(p(y) || q(y)).
        tolerance: Nats without a loss. The mean over N images is off by about (K - 1) / (2 N) nats even if the clusters
            are exactly balanced.

    Example:
        >>> balance(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([0.5, 0.5]).log())
        tensor(0.0823)
    """
    log_mean = log_of_mean(log_responsibilities)
    sign, log_of = (1, log_mean) if direction == "images" else (-1, log_weights)
    divergence = sign * (log_of.exp() * (log_mean - log_weights)).sum()
    return torch.relu(divergence - tolerance) if tolerance else divergence


def consistency(log_responsibilities: Tensor, log_transformed: Tensor) -> Tensor:
    r"""Return E KL(stopgrad r(x) || r(Tx)) in nats, for a transform T that leaves the cluster of x as it is.

    Arguments:
        log_responsibilities: log r_k(x), shape (N, K); it receives no gradient.
        log_transformed: log r_k(Tx), shape (N, K).

    Example:
        >>> log_r = torch.tensor([[0.5, 0.5]]).log()
        >>> consistency(log_r, torch.tensor([[0.25, 0.75]]).log())
        tensor(0.1438)
    """
    target = log_responsibilities.detach()
    return (target.exp() * (target - log_transformed)).sum(1).mean()


def density(log_density: Tensor, log_weights: Tensor) -> Tensor:
    r"""Return E_x[-log p(z(x))] in nats, the prior's surprise at the latents of real images.

    The joints agree only if the prior p(z) is the marginal of real images, q(z) = E_x q(z|x); the second form of the
    joint divergence contains a divergence of the two (supplement, A.2, eq. 2). This term is the part of
    KL(q(z) || p(z)) that depends on the prior, with z at the encoder's location.

    Arguments:
        log_density: log p(z|k), shape (N, K).
        log_weights: log phi, shape (K,).

    Example:
        >>> density(torch.tensor([[0.2, 0.4]]).log(), torch.tensor([0.5, 0.5]).log())
        tensor(1.2040)
    """
    return -(log_weights + log_density).logsumexp(1).mean()


@attrs.frozen
class TermWeights:
    """Weights of the terms; with all weights 1 and an exact data term, the weighted sum would be the KL divergence.

    Attributes:
        data: Weight of the data term, 1.
        latent: Weight of the latent term, 1 / (D R^2) in the authors' code.
        membership: Weight of the membership term, 1.
        entropy: Weight of the entropy term, 0.01 / J in the authors' code.
        label: Weight of the label term, 1.
        balance: Weight of the balance of the clusters on real images; 0, none, in the paper.
        consistency: Weight of the consistency of the clusters on real images; 0, none, in the paper.
        density: Weight of the prior's density at draws from q(z|x) of real images; 0, none, in the paper.
        generator_latent: Weight of the latent term in the generator's update; 0, none, in the paper.
        generator_membership: Weight of the membership term at the encoder's location in the generator's update; 0,
            none, in the paper.
        balance_direction: The direction of the divergence in `balance`.
        balance_tolerance: Its tolerance, in nats.
    """

    data: float = 1.0
    latent: float = 1.0
    membership: float = 1.0
    entropy: float = 1.0
    label: float = 1.0
    balance: float = 0.0
    consistency: float = 0.0
    density: float = 0.0
    generator_latent: float = 0.0
    generator_membership: float = 0.0
    balance_direction: Literal["images", "prior"] = "images"
    balance_tolerance: float = 0.0

    @classmethod
    def published(cls, channels: int, image_size: int, latent_dim: int) -> TermWeights:
        """Return the weights of the authors' code for D channels, R pixels and J latent dimensions.

        Example:
            >>> weights = TermWeights.published(channels=1, image_size=32, latent_dim=10)
            >>> weights.data, weights.latent, weights.membership, weights.entropy, weights.label
            (1.0, 0.0009765625, 1.0, 0.001, 1.0)
        """
        return cls(latent=1 / (channels * image_size**2), entropy=0.01 / latent_dim)
