r"""The terms of the bound that the forward KL minimises, each a pure function that returns a scalar (supplement, B.1).

With q(x, z, y) = q(x) q(z|x) q(y|x) and p(x, z, y) = p(y) p(z|y) p(x|z), equations 3 to 6 add up to

.. math::
    KL(q \| p) = E_{q(x)} [\log q(x) - L(x)], \qquad
    -L(x) = -E_{q(z|x)} \log p(x|z) + \sum_k \gamma_k KL(q(z|x) \| p(z|k)) + KL(\gamma \| \phi)

with gamma = q(y|x). The entropy of q(x) is a constant, and L(x) is a lower bound on log p(x).

=================  ====================================  =========================================
term               in the bound                          computed here as
=================  ====================================  =========================================
reconstruction     -log p(x|z)                           minus the mean log-likelihood at sampled z
latent_divergence  sum_k gamma_k KL(q(z|x) || p(z|k))    closed forms, weighted by gamma (eq. 7)
label_divergence   KL(gamma || phi)                      exact sum over the clusters
=================  ====================================  =========================================

Letters in shapes: N images, K clusters.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["label_divergence", "latent_divergence", "reconstruction"]


def reconstruction(log_likelihood: Tensor) -> Tensor:
    """Return -E log p(x|z) in nats.

    Arguments:
        log_likelihood: log p(x|z) at z ~ q(z|x), shape (N,).
    """
    return -log_likelihood.mean()


def latent_divergence(log_gamma: Tensor, divergences: Tensor) -> Tensor:
    r"""Return :math:`E \sum_k \gamma_k KL(q(z|x) \| p(z|k))` in nats (eq. 7).

    Arguments:
        log_gamma: log q(y|x), shape (N, K).
        divergences: KL(q(z|x) || p(z|k)), shape (N, K).

    Example:
        >>> import torch
        >>> latent_divergence(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 3.0]]))
        tensor(2.)
    """
    return (log_gamma.exp() * divergences).sum(1).mean()


def label_divergence(log_gamma: Tensor, log_weights: Tensor) -> Tensor:
    r"""Return :math:`E \, KL(\gamma \| \phi)` in nats.

    Arguments:
        log_gamma: log q(y|x), shape (N, K).
        log_weights: log phi, shape (K,).

    Example:
        >>> import torch
        >>> label_divergence(torch.tensor([[1.0, 1e-30]]).log(), torch.tensor([0.5, 0.5]).log())  # log 2
        tensor(0.6931)
    """
    return (log_gamma.exp() * (log_gamma - log_weights)).sum(1).mean()
