"""The losses of the forward KL: the negative bound of VaDE and of the VAE, and the autoencoder that starts them.

Every term is in nats for an image. The loss divides their sum by the number of values of an image, D R^2, so that its
gradients are as large for small images as for large ones. At a weight of 1 / (D R^2) for all, it is the bound.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mpcc.core.method import bound_terms
from mpcc.core.method.decoder import Likelihood
from mpcc.core.method.losses import Batch, Loss, inferred_latents, needed, single
from mpcc.core.method.model import Model
from mpcc.core.method.terms import TermWeights

__all__ = ["autoencoder_loss", "vade_loss", "vae_loss"]


def encoded(model: Model, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """Return the real images, the encoder's two heads for them, and z ~ q(z|x), in the type of the prior."""
    dtype = model.prior.weights().dtype
    real = needed(batch.real).to(dtype)
    loc, raw_scale = (head.to(dtype) for head in model.networks.encoder(real))
    with model.prior.full_precision():
        z = inferred_latents(model.prior, loc, raw_scale)
    return real, (loc, raw_scale), z


def log_likelihood(model: Model, real: Tensor, z: Tensor) -> Tensor:
    """Return log p(x|z) in nats, shape (N,), for real images, (N, D, R, R), and latents, (N, J)."""
    likelihood = cast(Likelihood, needed(model.likelihood))
    labels = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    return likelihood.log_prob(real, single(model.generate(z, labels)))


def per_value(real: Tensor, **terms: Tensor) -> Loss:
    """Return the sum of terms in nats for an image, divided by the number of values of an image."""
    weight = 1 / real[0].numel()
    return Loss.of(**{name: (weight, value) for name, value in terms.items()})


def autoencoder_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return the reconstruction term alone, at z ~ q(z|x); the prior plays no part.

    Nothing but the noise of z keeps images apart. The scale of q(z|x) falls until images are told apart, and is small
    beside the distances of latents when the bound takes over.

    Arguments:
        model: Encoder, generator and likelihood; the prior names the family of q(z|x).
        batch: Real images.
        weights: Not used: a bound has no weights.
    """
    real, _, z = encoded(model, batch)
    return per_value(real, reconstruction=bound_terms.reconstruction(log_likelihood(model, real, z)))


def vade_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return minus the bound of VaDE, with q(y|x) = gamma estimated by the responsibilities at a sampled z.

    For any gamma the bound is below log p(x). Gradients go through gamma to the sampled z and to the prior.

    Arguments:
        model: Encoder, generator, prior and likelihood.
        batch: Real images.
        weights: Not used: a bound has no weights.
    """
    prior = model.prior
    real, heads, z = encoded(model, batch)
    log_gamma, divergences = prior.log_responsibilities(z), prior.divergences(*heads)
    return per_value(
        real,
        reconstruction=bound_terms.reconstruction(log_likelihood(model, real, z)),
        latent_divergence=bound_terms.latent_divergence(log_gamma, divergences),
        label_divergence=bound_terms.label_divergence(log_gamma, prior.log_weights()),
    )


def vae_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return minus the bound of the VAE: reconstruction and KL(q(z|x) || p(z)); there is one component.

    Arguments:
        model: Encoder, generator, likelihood, and a prior with K = 1.
        batch: Real images.
        weights: Not used: a bound has no weights.
    """
    real, heads, z = encoded(model, batch)
    return per_value(
        real,
        reconstruction=bound_terms.reconstruction(log_likelihood(model, real, z)),
        latent_divergence=model.prior.divergences(*heads)[:, 0].mean(),
    )
