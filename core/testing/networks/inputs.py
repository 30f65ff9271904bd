"""Laws on what goes into networks and what comes out: every latent dimension, pixel and cluster counts, both signs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mpcc.core.contracts import Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.testing.architectures import (
    REACTION,
    ArchitectureCase,
    described,
    outputs,
    random_sum,
    reacts,
    with_labels,
)
from mpcc.core.testing.comparison import gradients
from mpcc.core.testing.report import Laws, Warned, broken, require

__all__ = ["INPUT_LAWS"]

INPUT_LAWS = Laws[ArchitectureCase]()
# K and J of networks with a gradient in each of their inputs.
SIZES = ((3, 8), (7, 5), (4, 60))
# Numbers of clusters that are told apart.
CLUSTERS = (7, 101)
# Noise on parameters: a start may have zeros that training fills.
NOISE = 0.1
# Where a result has one sign, parameters are moved by this much to see the other one.
FAR = 10.0
# How many places a message lists.
SHOWN = 5


@torch.no_grad()
def stir(networks: Networks) -> Networks:
    """Add noise to all parameters."""
    for part in networks.by_name().values():
        for parameter in part.parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
    return networks


def attempts(case: ArchitectureCase, size: tuple[int, int, int]) -> Iterator[Networks]:
    """Yield networks in evaluation mode: as built, and twice with noise on their parameters.

    Narrow networks may have dead rectifiers, so a law asks for one attempt that fulfils it.
    """
    for seed in range(3):
        networks = case.build(*size, seed)
        for part in networks.by_name().values():
            part.eval()
        yield stir(networks) if seed else networks


def sizes(case: ArchitectureCase) -> Iterator[tuple[int, int, int]]:
    """Yield K, J and D of networks that the architecture builds, at least one."""
    channels, found = case.size()[2], False
    for clusters, latent_dim in SIZES:
        try:
            case.build(clusters, latent_dim, channels)
        except InvalidInput:
            continue
        found = True
        yield clusters, latent_dim, channels
    if not found:
        yield case.size()


def idle(networks: Networks, inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """Return masks of what has no effect in a batch: dimensions of z, pixels, and elements of the location."""
    z, y, images = inputs
    z, images = z.clone().requires_grad_(), images.clone().requires_grad_()
    generated = networks.generator(z, y)
    scores = networks.discriminator(*with_labels(networks, images, y))
    loc, raw_scale = networks.encoder(images)
    sources = {"z": z, "images": images}
    of_generator = gradients(random_sum(generated), sources)["z"]
    of_scores = gradients(random_sum(scores), sources)["images"]
    of_encodings = gradients(random_sum(loc) + random_sum(raw_scale), sources)["images"]
    return {
        "the generated images have no gradient in z": (of_generator == 0).all(0),
        "the generated images are the same for all latents": (generated == generated[:1]).all(0),
        "the scores have no gradient in the images": (of_scores == 0).all(0),
        "the encodings have no gradient in the images": (of_encodings == 0).all(0),
        "the encoder's location is the same for all images": (loc == loc[:1]).all(0),
    }


@INPUT_LAWS.add("every dimension of the latent and every pixel counts")
def every_input(case: ArchitectureCase) -> str:
    tried = []
    for size in sizes(case):
        always: dict[str, Tensor] = {}
        for networks in attempts(case, size):
            masks = idle(networks, case.inputs(2 * max(3, size[0]), size))
            always = {fault: mask & always.get(fault, mask) for fault, mask in masks.items()}
            if not any(bool(mask.any()) for mask in always.values()):
                break
        for fault, mask in always.items():
            require(not bool(mask.any()), f"{described(size)}: {fault}, at {places(mask)}")
        tried.append(described(size))
    return "; ".join(tried)


def places(mask: Tensor) -> str:
    """Return where a mask is true: the dimensions of a latent, or the first pixels as (channel, row, column)."""
    found = mask.nonzero().tolist()
    words = [str(place[0] if len(place) == 1 else tuple(place)) for place in found[:SHOWN]]
    what = "dimensions" if mask.ndim == 1 else "pixels"
    return f"{len(found)} of {mask.numel()} {what}, such as {', '.join(words)}"


@INPUT_LAWS.add("the generator tells all clusters apart", of_choices=False, after=[reacts.name])
@torch.no_grad()
def every_cluster(case: ArchitectureCase) -> str:
    _, latent_dim, channels = case.size()
    told = []
    for clusters in CLUSTERS:
        size = clusters, latent_dim, channels
        try:
            case.build(*size)
        except InvalidInput as error:
            told.append(f"K={clusters} is refused ({error})")
            continue
        closest, alike = 0.0, (0, 1)
        for networks in attempts(case, size):
            z = torch.randn(1, latent_dim).expand(clusters, -1)
            images = networks.generator(z, torch.arange(clusters)).flatten(1)
            apart = torch.cdist(images, images, p=torch.inf).fill_diagonal_(torch.inf)
            closest, alike = float(apart.min()), divmod(int(apart.argmin()), clusters)
            if closest > REACTION:
                break
        require(
            closest > REACTION,
            f"K={clusters}: for one z, the images of clusters {alike[0]} and {alike[1]} differ by at most "
            f"{closest:.2g}, expected more than {REACTION:g}",
        )
        told.append(f"K={clusters}: {closest:.2g} or more apart")
    return "; ".join(told)


@INPUT_LAWS.add("images and encodings take both signs, and so do scores", of_choices=False)
@torch.no_grad()
def both_signs(case: ArchitectureCase) -> str:
    size = case.size()
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}

    def add(networks: Networks) -> list[str]:
        z, y, images = case.inputs(4 * max(3, size[0]), size)
        for name, value in outputs(networks, 3 * z, y, images).items():
            lowest[name] = min(lowest.get(name, torch.inf), float(value.min()))
            highest[name] = max(highest.get(name, -torch.inf), float(value.max()))
        return [name for name in lowest if not lowest[name] < 0 < highest[name]]

    missing = next((none for networks in attempts(case, size) if not (none := add(networks))), ["some"])
    if missing:
        # A bias that starts far from 0 is no fault: it moves.
        networks = next(attempts(case, size))
        for part in networks.by_name().values():
            for parameter in part.parameters():
                start = parameter.clone()
                for amount in (FAR, -FAR):
                    parameter.copy_(start + amount)
                    missing = add(networks)
                parameter.copy_(start)
    for name in missing:
        reach = f"{lowest[name]:.3g}..{highest[name]:.3g}"
        found = f"{name}: all values lie in {reach}, whatever the parameters: expected both signs"
        if name == "scores":
            return Warned(f"{found}; a discriminator gives logits, without a sigmoid at its end")
        broken(f"{found}; {REMEDIES[name]}")
    return ", ".join(f"{name} {lowest[name]:.2g}..{highest[name]:.2g}" for name in lowest)


REMEDIES = {
    "images": "real images are scaled to [-1, 1], so end the generator with a tanh",
    "loc": "a latent may be any number, so end the encoder with a linear layer",
    "raw_scale": "the prior maps it to a positive scale, so end the encoder with a linear layer",
}
