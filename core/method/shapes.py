"""The shapes of what a prior and three networks return, checked once on a few images before a run trains.

Each method gets inputs of the right shapes here, so the plugin that is named is the one at fault. In training, the
result of one plugin is the input of another, and the exception would come from there.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mpcc.core.contracts import Networks, Prior
from mpcc.core.errors import PluginError
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.system.randomness import own_randomness

__all__ = ["check_networks", "check_prior_shapes"]

# A number of images that is seldom another size, so that a shape shows what it is made of.
ROWS = 3


@torch.no_grad()
def check_prior_shapes(prior: Prior, described: str, entropy: EntropyPolicy) -> None:
    """Check the shapes of everything that a run takes from a prior on the CPU.

    Arguments:
        prior: K clusters, J dimensions.
        described: Kind, name and origin, for errors.
        entropy: Whether the run asks the prior for its entropies.

    Raises:
        PluginError: With the method, the shape that it gave and the one that is expected.
    """
    clusters, latent_dim = prior.clusters, prior.latent_dim
    labels, heads = torch.arange(ROWS) % clusters, torch.zeros(ROWS, latent_dim)

    def expect(method: str, value: object, shape: tuple[int, ...], letters: str) -> None:
        require_shape(f"{described}: {method}", value, shape, letters)

    def expect_distribution(method: str, value: object) -> None:
        if not isinstance(value, Distribution):
            raise PluginError(f"{described}: {method}: expected a torch Distribution, got a {type(value).__qualname__}")
        batch, event = tuple(value.batch_shape), tuple(value.event_shape)
        if (batch, event) != ((ROWS,), (latent_dim,)):
            remedy = "; torch's Independent(..., 1) makes the last axis an event" if batch == (ROWS, latent_dim) else ""
            raise PluginError(
                f"{described}: {method}: expected batch shape {(ROWS,)} for {ROWS} rows and event shape "
                f"{(latent_dim,)}, (J,), got {batch} and {event}{remedy}"
            )
        expect(f"{method}.rsample()", value.rsample(), (ROWS, latent_dim), "(N, J)")

    with own_randomness(0, torch.device("cpu")):
        for method in ("weights", "log_weights"):
            expect(f"{method}()", getattr(prior, method)(), (clusters,), "(K,)")
        if (scales := prior.scales()) is not None:
            expect("scales()", scales, (clusters, latent_dim), "(K, J)")
        expect_distribution("component(y)", prior.component(labels))
        z, _ = prior.sample(ROWS)
        expect("sample(n)[0]", z, (ROWS, latent_dim), "(N, J)")
        expect("log_density(z)", prior.log_density(z), (ROWS, clusters), "(N, K)")
        expect("log_responsibilities(z)", prior.log_responsibilities(z), (ROWS, clusters), "(N, K)")
        if entropy.samples is None:
            expect("entropies()", entropy.entropies(prior), (clusters,), "(K,)")
        expect_distribution("encoder_distribution(loc, raw_scale)", prior.encoder_distribution(heads, heads))
        expect("input_map(z)", prior.input_map(z), (ROWS, latent_dim), "(N, J)")


@torch.no_grad()
def check_networks(networks: object, prior: Prior, described: str, channels: int, image_size: int) -> None:
    """Check that there are three networks, and the shapes of what they return on the CPU.

    Arguments:
        networks: What an architecture has built.
        prior: K clusters, J dimensions.
        described: Kind, name and origin of the architecture, for errors.
        channels: D.
        image_size: R.

    Raises:
        PluginError: With the network, the shape that it gave and the one that is expected.
    """
    if not isinstance(networks, Networks):
        raise PluginError(f"{described}: build(): expected Networks, got a {type(networks).__qualname__}")
    for name, network in networks.by_name().items():
        if not isinstance(network, nn.Module):
            raise PluginError(
                f"{described}: build().{name}: expected a torch.nn.Module, got a {type(network).__qualname__}"
            )
    # A call may change running averages. One copy of all three keeps what they share.
    networks = copy.deepcopy(networks)
    latent_dim, shape = prior.latent_dim, (ROWS, channels, image_size, image_size)
    with own_randomness(0, torch.device("cpu")):
        z, y = torch.randn(ROWS, latent_dim), torch.arange(ROWS) % prior.clusters
        images = torch.rand(shape) * 2 - 1
        require_shape(f"{described}: generator(z, y)", networks.generator(z, y), shape, "(N, D, R, R)")
        scores = networks.discriminator(images, y) if networks.conditional else networks.discriminator(images)
        call = "discriminator(images, y)" if networks.conditional else "discriminator(images)"
        require_shape(f"{described}: {call}", scores, (ROWS,), "(N,)")
        heads = networks.encoder(images)
        if not isinstance(heads, tuple | list) or len(heads) != 2:
            got = f"{len(heads)} values" if isinstance(heads, tuple | list) else f"a {type(heads).__qualname__}"
            raise PluginError(f"{described}: encoder(images): expected two tensors, loc and raw_scale, got {got}")
        for name, head in zip(("loc", "raw_scale"), heads, strict=True):
            require_shape(f"{described}: encoder(images), {name}", head, (ROWS, latent_dim), "(N, J)")


def require_shape(what: str, value: object, shape: tuple[int, ...], letters: str) -> None:
    """Check that a value is a tensor of real numbers with a shape.

    Raises:
        PluginError: With both shapes.
    """
    expected = f"expected shape {shape}, {letters},"
    if not isinstance(value, Tensor):
        raise PluginError(f"{what}: {expected} got a {type(value).__qualname__}")
    if tuple(value.shape) != shape:
        raise PluginError(f"{what}: {expected} got {tuple(value.shape)}")
    if not value.is_floating_point():
        raise PluginError(f"{what}: expected floating-point numbers, got {value.dtype}")
