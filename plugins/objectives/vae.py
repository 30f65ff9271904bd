"""The variational autoencoder: forward KL between the joints over image and latent (supplement, A.1)."""

from __future__ import annotations

from torch import nn

from mpcc.core.contracts import Objective, Prior
from mpcc.core.method.bound import vae_loss
from mpcc.core.method.phases import EndOfIteration, Phase
from mpcc.plugins.objectives.options import VariationalOptions
from mpcc.plugins.objectives.vade import AVERAGE, LIKELIHOODS, check_closed_form, decoder_parts

__all__ = ["VariationalAutoencoder"]


class VariationalAutoencoder(Objective):
    r"""VAE: :math:`KL(q(x, z) \| p(x, z))` with p(z) = N(0, I); VaDE with one cluster and a fixed prior.

    Arguments:
        options: Likelihood of the pixels.

    Example:
        >>> [row.name for row in VariationalAutoencoder(VariationalOptions()).phases()]
        ['bound', 'average']
    """

    def __init__(self, options: VariationalOptions) -> None:
        self.options = options

    def check(self, prior: Prior) -> None:
        """Refuse a prior without a closed form of the divergence."""
        check_closed_form(prior)

    def likelihood(self) -> nn.Module:
        """Return the likelihood of the options, with the start of its scale if it has one."""
        return LIKELIHOODS[self.options.likelihood]()

    def phases(self) -> tuple[Phase | EndOfIteration, ...]:
        """Return the two rows."""
        bound = Phase(
            name="bound",
            trains=("encoder", *decoder_parts(LIKELIHOODS[self.options.likelihood]())),
            updates=lambda schedule: schedule.e_steps,
            loss=vae_loss,
            real=0,
            advances=("encoder", "generator"),
        )
        return (bound, AVERAGE)
