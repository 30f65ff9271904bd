"""The losses of MPCC: the terms of the joint divergence that each kind of update minimises (supplement, A.2).

A loss is a function of the model, a batch and the weights of the terms. It computes no gradients and takes no steps;
the order of the updates is in `mpcc.core.method.phases`. Losses are computed in single precision at least, whatever
the precision of the networks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.method import terms
from mpcc.core.method.model import Model
from mpcc.core.method.terms import TermWeights
from mpcc.core.system import ranks

__all__ = [
    "Batch",
    "Generated",
    "Loss",
    "discriminator_loss",
    "draw",
    "encoder_and_prior_loss",
    "encoder_loss",
    "generate",
    "generator_loss",
    "inference_terms",
    "inferred_labels",
    "inferred_latents",
    "sampled",
    "single",
]

T = TypeVar("T")


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


def sampled(prior: Prior, count: int) -> tuple[Tensor, Tensor]:
    """Draw (z, y) ~ p for all ranks and return those of this rank: all draw the same, so that none is drawn twice.

    Arguments:
        prior: The distribution.
        count: N, of all ranks together.

    Returns:
        z and y, shapes (N / ranks, J) and (N / ranks,).
    """
    together = ranks.current()
    z, y = prior.sample(count)
    return (z, y) if together.alone else (z[together.part(count)], y[together.part(count)])


def inferred_latents(prior: Prior, loc: Tensor, raw_scale: Tensor) -> Tensor:
    """Draw z ~ q(z|x), with gradients, for each image of this rank, from draws for the images of all ranks.

    Arguments:
        prior: Names the family of q(z|x).
        loc: The encoder's location of this rank's images, shape (N, J).
        raw_scale: Its raw scale of them, shape (N, J).
    """
    together = ranks.current()
    if together.alone:
        z: Tensor = prior.encoder_distribution(loc, raw_scale).rsample()
        return z
    total = len(loc) * together.size
    own = together.part(total)
    # Draws depend on the number of rows alone, so the rows of other ranks may hold anything.
    heads = (F.pad(head, (0, 0, own.start, total - own.stop)) for head in (loc, raw_scale))
    z = prior.encoder_distribution(*heads).rsample()[own]
    return z


def draw(model: Model, count: int, train_prior: bool) -> Generated:
    """Draw (z, y) ~ p and generate images.

    Arguments:
        model: Prior and generator.
        count: N, of all ranks together; each generates its part.
        train_prior: Whether z carries gradients to the prior.
    """
    with torch.set_grad_enabled(train_prior):
        z, y = sampled(model.prior, count)
    return Generated(z, y, generate(model, z, y))


def single(values: Tensor) -> Tensor:
    """Return values in single precision if they are in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@attrs.frozen(eq=False)
class Batch:
    """The input of one update.

    Attributes:
        size: N, the number of samples, of all ranks together; all other attributes hold this rank's part.
        real: Real images in [-1, 1], shape (N, D, R, R), or None if the phase takes none.
        generated: N generated images with their latents, or None if the phase draws none.
        transformed: The real images after random changes that leave their clusters as they are, same shape, or None.
        rise: Factor on the terms on real images, from 0 to 1 in the first iterations; a scalar on the device.
        density_factor: Factor on the density of real latents, 0 until the prior has been fitted to them; likewise.
    """

    size: int
    real: Tensor | None = None
    generated: Generated | None = None
    transformed: Tensor | None = None
    rise: Tensor | float = 1.0
    density_factor: Tensor | float = 1.0


@attrs.frozen(eq=False)
class Loss:
    """The loss of one update.

    Attributes:
        total: The quantity to be minimised, a scalar.
        terms: Its raw, unweighted terms, by name, detached scalars.
        weights: The weight of each term in the total, by the same names.
        latents: The z, (N, J), that the loss itself has drawn, if it has, to tell what was not finite.
    """

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float]
    latents: Tensor | None = None

    @classmethod
    def of(cls, **terms: tuple[float, Tensor]) -> Loss:
        """Return the weighted sum of terms, each given as its weight and its value, a scalar.

        Example:
            >>> loss = Loss.of(latent=(0.5, torch.tensor(4.0)), label=(1.0, torch.tensor(-1.0)))
            >>> loss.total, loss.terms
            (tensor(1.), {'latent': tensor(4.), 'label': tensor(-1.)})
        """
        weighted = [weight * value for weight, value in terms.values()]
        return cls(
            functools.reduce(torch.add, weighted),
            {name: value.detach() for name, (_, value) in terms.items()},
            {name: weight for name, (weight, _) in terms.items()},
        )

    def over_ranks(self, phase: str, gradients: Sequence[Tensor], latents: Tensor | None) -> tuple[Loss, Tensor | None]:
        """Return the loss of the whole batch, and replace gradients by those of it, in one reduction for all.

        The loss and the size of latents go with the gradients, so that all ranks see a value that is not finite in the
        same update.

        Arguments:
            phase: The name under which bytes are counted.
            gradients: Of this rank's part of the batch.
            latents: The z that the loss was computed from, if there are any.

        Returns:
            The loss; and for latents their mean size over the ranks, a scalar, which is finite if all of them are.
        """
        together = ranks.current()
        if together.alone:
            return self, latents
        values = [value.detach().clone() for value in (self.total, *self.terms.values())]
        size = None if latents is None else torch.linalg.vector_norm(latents.detach(), ord=torch.inf)
        together.average([*gradients, *values, *([] if size is None else [size])], phase)
        return attrs.evolve(self, total=values[0], terms=dict(zip(self.terms, values[1:], strict=True))), size

    def __add__(self, other: Loss) -> Loss:
        """Return the loss with the terms of both."""
        latents = other.latents if self.latents is None else self.latents
        return Loss(self.total + other.total, self.terms | other.terms, self.weights | other.weights, latents)


@torch.no_grad()
def inferred_labels(model: Model, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return argmax_y q(y|z) at the encoder's location of z, int64, shape (N,), without gradients.

    Arguments:
        model: Encoder and prior.
        images: In [-1, 1], shape (N, D, R, R).
        dtype: The type in which the prior computes.
    """
    loc, _ = model.networks.encoder(images)
    return model.prior.log_responsibilities(loc.to(dtype)).argmax(dim=1)


def discriminator_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return the discriminator's loss for the data term. Generator and prior are held fixed.

    A conditional discriminator receives the labels that generated images were made with. For real images it receives
    the inferred labels, never those of the data set.

    Arguments:
        model: Prior and networks.
        batch: Real and generated images.
        weights: Weights of the terms.
    """
    generated = needed(batch.generated)
    networks, z, y = model.networks, generated.z, generated.y
    real = needed(batch.real).to(generated.images.dtype)
    labels = (torch.cat([inferred_labels(model, real, z.dtype), y]),) if networks.conditional else ()
    # One call for both: the discriminator has no batch statistics, so a score does not depend on the other images.
    scores = single(networks.discriminator(torch.cat([real, generated.images]), *labels))
    real_scores, fake_scores = torch.split(scores, len(real))
    return Loss.of(data_discriminator=(weights.data, terms.data_discriminator(real_scores, fake_scores)))


def generator_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return the loss of the generator and, through z, of the prior for the data term. The discriminator is held fixed.

    With weights for them, the terms of `inference_terms` are added.

    Arguments:
        model: Prior and networks.
        batch: Only its size is used, the number of (z, y) to draw.
        weights: Weights of the terms.
    """
    z, y = sampled(model.prior, batch.size)
    networks = model.networks
    images = model.generate(z, y)
    scores = single(networks.discriminator(images, *((y,) if networks.conditional else ())))
    loss = Loss.of(data_generator=(weights.data, terms.data_generator(scores, model.prior.label_ratio(y))))
    if weights.generator_latent or weights.generator_membership:
        loss = loss + inference_terms(model, images, z, y, weights)
    return attrs.evolve(loss, latents=z)


def inference_terms(model: Model, images: Tensor, z: Tensor, y: Tensor, weights: TermWeights) -> Loss:
    """Return how far z and y are from being inferred from generated images. Encoder and posterior are held fixed.

    The latent term contains x~ = G(z, y), so its gradient also reaches the generator. The published system leaves that
    gradient out; ``generator_latent`` is its weight. ``generator_membership`` weighs -log q(y|z') at the encoder's
    location z' of x~, the variational bound of the information between y and x~ (Chen et al., InfoGAN, 2016).

    Arguments:
        model: Prior and networks.
        images: x~ with gradients, shape (N, D, R, R).
        z: Latents that generated them, shape (N, J); as the target they receive no gradient.
        y: Labels that generated them, shape (N,).
        weights: Weights of the terms.
    """
    prior = model.prior
    loc, raw_scale = model.networks.encoder(images)
    with prior.full_precision():
        loc, raw_scale, ratio = loc.to(z.dtype), raw_scale.to(z.dtype), prior.label_ratio(y)
        q = prior.encoder_distribution(loc, raw_scale)
        found = {"generator_latent": (weights.generator_latent, terms.latent(q, z.detach(), ratio))}
        if weights.generator_membership:
            membership = terms.membership(prior.log_responsibilities(loc), y, ratio)
            found["generator_membership"] = (weights.generator_membership, membership)
    return Loss.of(**found)


def encoder_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return the latent term and the terms on real images. Generator and prior are held fixed.

    Arguments:
        model: Prior and networks.
        batch: Generated images; real images and their transformed copies, if these have terms with weight.
        weights: Weights of the terms.
    """
    (loc, raw_scale), of_real = encodings(model, batch)
    loss = Loss.of(latent=(weights.latent, latent_term(model, needed(batch.generated), loc, raw_scale)))
    return loss if of_real is None else loss + real_image_terms(model, batch, weights, of_real[0])


def encoder_and_prior_loss(model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return the latent, membership, entropy and label terms, and those on real images. The generator is held fixed.

    Arguments:
        model: Prior and networks.
        batch: Generated images; their z carries gradients, through which the latent term trains the prior. Real images
            and their transformed copies, if these have terms with weight.
        weights: Weights of the terms.
    """
    prior, generated = model.prior, needed(batch.generated)
    z, y = generated.z, generated.y
    (loc, raw_scale), of_real = encodings(model, batch)
    latent, phi = latent_term(model, generated, loc, raw_scale), prior.weights()
    loss = Loss.of(
        latent=(weights.latent, latent),
        membership=(weights.membership, terms.membership(prior.log_responsibilities(z), y, prior.label_ratio(y))),
        entropy=(weights.entropy, terms.entropy(phi, model.entropy.entropies(prior))),
        label=(weights.label, terms.label(phi)),
    )
    if of_real is None:
        return loss
    loss = loss + real_image_terms(model, batch, weights, of_real[0])
    if not weights.density:
        return loss
    count = len(needed(batch.real))
    return loss + density_term(model, batch, weights, of_real[0][:count], of_real[1][:count])


def encodings(model: Model, batch: Batch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """Return location and raw scale of the generated images, and those of the real and transformed ones, if any.

    One call encodes all of them: the encoder has no batch statistics, so an encoding does not depend on the other
    images. No gradient enters the generator through the images.
    """
    generated = needed(batch.generated).images
    if batch.transformed is None:
        return model.networks.encoder(generated), None
    real = torch.cat([needed(batch.real), batch.transformed]).to(generated.dtype)
    loc, raw_scale = model.networks.encoder(torch.cat([generated, real]))
    count = len(generated)
    return (loc[:count], raw_scale[:count]), (loc[count:], raw_scale[count:])


def real_image_terms(model: Model, batch: Batch, weights: TermWeights, loc: Tensor) -> Loss:
    """Return balance and consistency of r(x) = q(y|z) at the encoder's location of z, on real images.

    Gradients reach the encoder and, in the phase that trains it, the prior.

    Arguments:
        model: Encoder and prior.
        batch: Its real images and their transformed copies.
        weights: Weights of the terms.
        loc: The encoder's location of the real images, then of the transformed ones, shape (2N, J).
    """
    prior, real = model.prior, needed(batch.real)
    with prior.full_precision():
        log_r = prior.log_responsibilities(loc.to(prior.weights().dtype))
        balance = terms.balance(log_r, prior.log_weights(), weights.balance_direction, weights.balance_tolerance)
        consistency = terms.consistency(*torch.split(log_r, len(real)))
    return Loss(
        batch.rise * (weights.balance * balance + weights.consistency * consistency),
        {"balance": balance.detach(), "consistency": consistency.detach()},
        {"balance": weights.balance, "consistency": weights.consistency},
    )


def density_term(model: Model, batch: Batch, weights: TermWeights, loc: Tensor, raw_scale: Tensor) -> Loss:
    """Return the prior's surprise at a draw from q(z|x) for each real image; the encoder is held fixed.

    It is the part of KL(q(z) || p(z)) that the prior can change, where q(z) is the mean of q(z|x) over real images.

    Arguments:
        model: The prior receives the gradients.
        batch: The factor on the term.
        weights: Weights of the terms.
        loc: The encoder's location of the real images, shape (N, J).
        raw_scale: Its raw scale of them, shape (N, J).
    """
    prior = model.prior
    dtype = prior.weights().dtype
    with prior.full_precision():
        # `sample` would check the scales, for which the host waits; a loss that is not finite is left to the guard.
        z = inferred_latents(prior, loc.detach().to(dtype), raw_scale.detach().to(dtype)).detach()
        density = terms.density(prior.log_density(z), prior.log_weights())
    return Loss(
        batch.density_factor * weights.density * density,
        {"density": density.detach()},
        {"density": weights.density},
    )


def latent_term(model: Model, generated: Generated, loc: Tensor, raw_scale: Tensor) -> Tensor:
    """Return E[-log q(z|x~)] on generated images, for the encoder's location and raw scale of them."""
    prior, z = model.prior, generated.z
    with prior.full_precision():
        q = prior.encoder_distribution(loc.to(z.dtype), raw_scale.to(z.dtype))
        return terms.latent(q, z, prior.label_ratio(generated.y))


def needed(value: T | None) -> T:
    """Return a value that the phase of a loss must have provided."""
    assert value is not None, "the phase of this loss has to draw generated images and to take real ones"
    return value
