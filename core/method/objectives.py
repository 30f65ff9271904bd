"""Which terms of the joint divergence make the loss of each phase of MPCC (method: supplement, A.2; order: training).

Each function returns the objective to be minimised and the raw terms for the log, and neither takes gradients nor
steps. Losses are computed in single precision at least, whatever the networks compute in.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from mpcc.core.method import terms
from mpcc.core.method.model import Model
from mpcc.core.method.terms import TermWeights

__all__ = ["Generated", "Loss", "discriminator_loss", "draw", "encoder_loss", "generate", "generator_loss"]


@attrs.frozen(eq=False)
class Generated:
    """A batch of the generation joint, (z, y) ~ p(z, y) and x~ = G(z, y).

    Attributes:
        z: Latents, shape (N, J); they may carry gradients to the prior.
        y: Labels, int64, shape (N,).
        images: In [-1, 1], shape (N, D, R, R), without gradients.
    """

    z: Tensor
    y: Tensor
    images: Tensor


@torch.no_grad()
def generate(model: Model, z: Tensor, y: Tensor) -> Tensor:
    """Return x~ = G(z, y), (N, D, R, R), without gradients, for z, (N, J), and y, (N,)."""
    return single(model.generate(z.detach(), y))


def draw(model: Model, count: int, train_prior: bool) -> Generated:
    """Draw (z, y) ~ p and generate images.

    Arguments:
        model: Prior and generator.
        count: N.
        train_prior: Whether z carries gradients to the prior.
    """
    with torch.set_grad_enabled(train_prior):
        z, y = model.prior.sample(count)
    return Generated(z, y, generate(model, z, y))


def single(values: Tensor) -> Tensor:
    """Return values in single precision if they are in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@attrs.frozen(eq=False)
class Loss:
    """The loss of one phase.

    Attributes:
        objective: What is minimised, a scalar.
        terms: The raw, unweighted terms in it, by name, detached scalars.
    """

    objective: Tensor
    terms: dict[str, Tensor]


@torch.no_grad()
def inferred_labels(model: Model, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return argmax_y q(y|z) at the encoder's location of z, int64, shape (N,), without gradients.

    Arguments:
        model: Encoder and prior.
        images: In [-1, 1], shape (N, D, R, R).
        dtype: Of the prior's arithmetic.
    """
    loc, _ = model.networks.encoder(images)
    return model.prior.log_responsibilities(loc.to(dtype)).argmax(dim=1)


def discriminator_loss(model: Model, real: Tensor, generated: Generated, weights: TermWeights) -> Loss:
    """Data term, the discriminator's side. Generator and prior are held fixed.

    A conditional discriminator gets the labels that generated images were made with, and the inferred ones of real
    images: none of the data set's.

    Arguments:
        model: Prior and networks.
        real: Real images in [-1, 1], shape (N, D, R, R).
        generated: As many.
        weights: Of the terms.
    """
    networks, z, y = model.networks, generated.z, generated.y
    real = real.to(generated.images.dtype)
    labels = (torch.cat([inferred_labels(model, real, z.dtype), y]),) if networks.conditional else ()
    # One call for both: the discriminator has no batch statistics, so that its scores don't depend on the company.
    scores = single(networks.discriminator(torch.cat([real, generated.images]), *labels))
    real_scores, fake_scores = torch.split(scores, len(real))
    data = terms.data_discriminator(real_scores, fake_scores)
    return Loss(weights.data * data, {"data_discriminator": data.detach()})


def generator_loss(model: Model, batch: int, weights: TermWeights) -> Loss:
    """Data term, the side of the generator and, through z, of the prior. The discriminator is held fixed.

    Arguments:
        model: Prior and networks.
        batch: How many (z, y) to draw.
        weights: Of the terms.
    """
    z, y = model.prior.sample(batch)
    networks = model.networks
    scores = single(networks.discriminator(model.generate(z, y), *((y,) if networks.conditional else ())))
    data = terms.data_generator(scores, model.prior.label_ratio(y))
    return Loss(weights.data * data, {"data_generator": data.detach()})


def encoder_loss(model: Model, generated: Generated, weights: TermWeights, train_prior: bool) -> Loss:
    """Latent term; and, where the prior takes part, the membership, entropy and label terms.

    The generator is held fixed: no gradient enters it through the generated images. z is not detached, so that the
    latent term reaches the prior.

    Arguments:
        model: Prior and networks.
        generated: With a z that carries gradients if the prior takes part.
        weights: Of the terms.
        train_prior: Whether the prior's terms and gradients are wanted.
    """
    prior, z, y = model.prior, generated.z, generated.y
    ratio = prior.label_ratio(y)
    loc, raw_scale = model.networks.encoder(generated.images)
    with prior.full_precision():
        q = prior.encoder_distribution(loc.to(z.dtype), raw_scale.to(z.dtype))
        latent = terms.latent(q, z, ratio)
    objective = weights.latent * latent
    raw = {"latent": latent.detach()}
    if train_prior:
        phi = prior.weights()
        membership = terms.membership(prior.log_responsibilities(z), y, ratio)
        entropy = terms.entropy(phi, model.entropy.entropies(prior))
        label = terms.label(phi)
        objective = objective + weights.membership * membership + weights.entropy * entropy + weights.label * label
        raw |= {"membership": membership.detach(), "entropy": entropy.detach(), "label": label.detach()}
    return Loss(objective, raw)
