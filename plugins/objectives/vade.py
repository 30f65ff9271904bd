"""VaDE and the VAE: forward KL between the joints, with a decoder that has a likelihood (supplement, A.1 and B.1)."""

from __future__ import annotations

import attrs
import torch
from torch import nn

from mpcc.core.contracts import Architecture, Networks, Objective, Prior
from mpcc.core.errors import InvalidInput
from mpcc.core.method.bound import autoencoder_loss, vade_loss
from mpcc.core.method.decoder import (
    BernoulliLikelihood,
    BlindGenerator,
    GaussianLikelihood,
    Likelihood,
    LogisticLikelihood,
)
from mpcc.core.method.phases import MPCC, EndOfIteration, Phase
from mpcc.plugins.objectives.options import VariationalOptions

__all__ = ["LIKELIHOODS", "VariationalDeepEmbedding"]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "logistic": LogisticLikelihood,
}
# The last row of every system: the average of the generator.
AVERAGE = MPCC[-1]


def check_closed_form(prior: Prior) -> None:
    """Refuse a prior without a closed form of KL(q(z|x) || p(z|y)).

    Raises:
        InvalidInput: With the reason, and what to choose instead.
    """
    zeros = torch.zeros(1, prior.latent_dim, dtype=prior.weights().dtype)
    try:
        with torch.no_grad():
            prior.divergences(zeros, zeros)
    except NotImplementedError as error:
        raise InvalidInput(
            f"{type(prior).__name__} has no closed form of KL(q(z|x) || p(z|y)), which a forward KL needs "
            "(supplement, B.2): expected a prior of Normal, Laplace or Cauchy components (nearest valid choice: "
            "--prior gmm, or --objective mpcc, which needs entropies only)"
        ) from error


def decoder_parts(likelihood: Likelihood) -> tuple[str, ...]:
    """Return the parts of a decoder that are trained: the generator, and the likelihood if it has parameters."""
    return ("generator", "likelihood") if any(True for _ in likelihood.parameters()) else ("generator",)


class VariationalDeepEmbedding(Objective):
    r"""VaDE: :math:`KL(q(x, z, y) \| p(x, z, y))` with q(y|x, z) = q(y|x) and p(x|z, y) = p(x|z).

    One kind of update trains encoder, decoder and prior by minus the bound on log p(x). With ``--prior-fit``, encoder
    and decoder are trained as an autoencoder until the prior is fitted to the latents.

    Arguments:
        options: Likelihood of the pixels.

    Example:
        >>> [row.name for row in VariationalDeepEmbedding(VariationalOptions()).phases()]
        ['autoencoder', 'bound', 'average']
    """

    def __init__(self, options: VariationalOptions) -> None:
        self.options = options

    def check(self, prior: Prior) -> None:
        """Refuse a prior without a closed form of the divergence (supplement, B.2)."""
        check_closed_form(prior)

    def networks(self, architecture: Architecture, clusters: int, latent_dim: int, channels: int) -> Networks:
        """Build networks for one cluster, with a generator that takes every label for that one."""
        networks = architecture.build(1, latent_dim, channels)
        return attrs.evolve(networks, generator=BlindGenerator(networks.generator))

    def likelihood(self) -> nn.Module:
        """Return the likelihood of the options, with the start of its scale if it has one."""
        return LIKELIHOODS[self.options.likelihood]()

    def phases(self) -> tuple[Phase | EndOfIteration, ...]:
        """Return the rows: the pretraining, the bound, the average."""
        decoder = decoder_parts(LIKELIHOODS[self.options.likelihood]())
        autoencoder = Phase(
            name="autoencoder",
            trains=("encoder", *decoder),
            updates=lambda schedule: schedule.e_steps,
            loss=autoencoder_loss,
            real=0,
            advances=("encoder", "generator"),
            fitted=False,
        )
        bound = Phase(
            name="bound",
            trains=("encoder", *decoder, "prior"),
            updates=lambda schedule: schedule.e_steps,
            loss=vade_loss,
            real=0,
            advances=("encoder", "generator"),
            fitted=True,
        )
        return (autoencoder, bound, AVERAGE)
