"""The state that most priors share: a location and a floored scale for each cluster and dimension, weights, input map.

A prior on top of it needs one method, `LocationScaleMixture.family`. Letters in shapes: N images, K clusters, J latent
dimensions.
"""

from __future__ import annotations

import abc

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from mpcc.core.contracts import Prior
from mpcc.core.mixture_options import MixtureOptions
from mpcc.core.system.available_memory import require_memory

__all__ = ["LocationScaleMixture"]


class LocationScaleMixture(Prior):
    r"""A mixture whose components are products of one location-scale family over the J dimensions.

    .. math:: p(z|y) = \prod_j f(z_j; \mu_{yj}, s_{yj}), \qquad s = \mathrm{floor} + \exp(r / 2)

    Sampling, density and entropy use the same scale s. Only the prior has a floor: q(z|x) is the same family with the
    encoder's location and scale exp(raw / 2). Its tails are as heavy as the prior's, so the latent term stays finite.
    (The authors' code samples with the s above, but scores with variance floor^2 + exp(r) and takes the entropy of
    exp(r / 2) alone.)

    Arguments:
        clusters: K.
        latent_dim: J.
        options: Start of locations, scales and weights; floor; input map.

    Raises:
        InvalidInput: If K x J numbers don't fit into memory.
    """

    phi: Tensor

    def __init__(self, clusters: int, latent_dim: int, options: MixtureOptions) -> None:
        super().__init__()
        # 12 bytes each: two float32 parameters, and the float32 that orthogonal locations are made from.
        require_memory(12 * clusters * latent_dim, f"--clusters x --latent-dim {clusters} x {latent_dim}", "lower them")
        self.clusters = clusters
        self.latent_dim = latent_dim
        self.options = options
        loc = torch.empty(clusters, latent_dim)
        if options.locations == "orthogonal":
            nn.init.orthogonal_(loc)
        elif options.locations == "normal":
            nn.init.normal_(loc)
        else:
            nn.init.uniform_(loc, -1, 1)
        self.loc = nn.Parameter(loc * options.location_scale)
        self.raw_scale = nn.Parameter(torch.full((clusters, latent_dim), float(options.initial_raw_scale)))
        self.register_parameter("logits", None)
        if options.weights == "trainable":
            self.logits = nn.Parameter(torch.zeros(clusters))
        else:
            self.register_buffer("phi", torch.full((clusters,), 1 / clusters))

    @abc.abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return the univariate distribution for a location and a scale of equal shapes, elementwise.

        It needs ``rsample``, ``log_prob`` and ``entropy``. Pass ``validate_args=False``, because checks of arguments at
        every step would make the host wait for the device.
        """

    def encoder_family(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return the univariate family of q(z|x), by default the components' own."""
        return self.family(loc, scale)

    def scales(self) -> Tensor:
        """Return the scales s, shape (K, J)."""
        scales: Tensor = self.options.scale_floor + torch.exp(self.raw_scale / 2)
        return scales

    def weights(self) -> Tensor:
        """Return phi, shape (K,): uniform, or the softmax of trained logits."""
        return self.phi if self.logits is None else torch.softmax(self.logits, 0)

    def log_weights(self) -> Tensor:
        """Return log phi, shape (K,), finite wherever the logits are."""
        return self.phi.log() if self.logits is None else torch.log_softmax(self.logits, 0)

    def component(self, y: Tensor) -> Distribution:
        """Return the product of `family` over the dimensions, with the batch shape of ``y``."""
        # Gradients of an embedding take one call; those of an index are sorted first.
        loc, scale = F.embedding(y, self.loc), F.embedding(y, self.scales())
        return Independent(self.family(loc, scale), 1, validate_args=False)

    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        """Return q(z|x): `encoder_family` at the encoder's location and scale exp(raw / 2), without a floor."""
        return Independent(self.encoder_family(loc, torch.exp(raw_scale / 2)), 1, validate_args=False)

    def input_map(self, z: Tensor) -> Tensor:
        """Return z or asinh(z), which is z near 0 and a logarithm far out."""
        return torch.asinh(z) if self.options.input_map == "asinh" else z
