"""Laws on the images of a batch: what a network computes of one does not depend on the others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from mpcc.core.contracts import Networks
from mpcc.core.testing.architectures import ArchitectureCase, with_labels
from mpcc.core.testing.comparison import largest
from mpcc.core.testing.networks.silent_noise import SilentNoise
from mpcc.core.testing.networks.state import calls
from mpcc.core.testing.report import Laws, require

__all__ = ["COMPANY_LAWS"]

COMPANY_LAWS = Laws[ArchitectureCase]()
# Allowed difference between one image alone and in a batch; it is rounding only.
COMPANY = 1e-4
BATCH = 4

Computed = Callable[[Networks, list[int]], Tensor]


def difference(first: Tensor, second: Tensor) -> float:
    """Return how far two results are apart, relative to 1 + their size."""
    return largest(first - second) / (1 + largest(second))


def computed(networks: Networks, function: Computed, rows: list[int]) -> Tensor:
    """Compute some rows of a batch, with torch's noise silenced, from the same state each time: norms may advance."""
    with SilentNoise():  # type: ignore[no-untyped-call]
        return function(copy.deepcopy(networks), rows)


def of_images(case: ArchitectureCase) -> dict[str, Computed]:
    """Return what discriminator and encoder compute of the images in some rows of a batch."""
    _, y, images = case.inputs(BATCH)
    return {
        "discriminator": lambda networks, rows: networks.discriminator(
            *with_labels(networks, images[rows], y[rows])
        ).unsqueeze(1),
        "encoder": lambda networks, rows: torch.cat(networks.encoder(images[rows]), dim=1),
    }


@COMPANY_LAWS.add("scores and encodings of an image do not depend on the other images")
@torch.no_grad()
def scores_and_encodings(case: ArchitectureCase) -> str:
    worst, remarks = 0.0, ["training mode"]
    for name, function in of_images(case).items():
        networks = case.networks(training=True)
        every = list(range(BATCH))
        together = computed(networks, function, every)
        if difference(computed(networks, function, every), together) > COMPANY:
            # Two calls on one batch differ: that is noise which is not torch's, not statistics of the batch.
            remarks.append(f"{name} in evaluation mode, for it draws noise")
            networks = case.networks()
            together = computed(networks, function, every)
        for row in every:
            off = difference(computed(networks, function, [row]), together[row : row + 1])
            worst = max(worst, off)
            require(
                off < COMPANY,
                f"{name}: an image alone and in a batch of {BATCH} differ by {off:.3g}, allowed {COMPANY:g}: "
                "use no batch statistics there",
            )
    return f"{', '.join(remarks)}, largest difference {worst:.1g}, allowed {COMPANY:g}"


@COMPANY_LAWS.add(
    "a generated image is a function of its latent and its cluster, whatever its place in the batch",
    after=[calls.name],
)
@torch.no_grad()
def generated(case: ArchitectureCase) -> str:
    z, y, _ = case.inputs(BATCH)

    def images(networks: Networks, rows: list[int]) -> Tensor:
        made: Tensor = networks.generator(z[rows], y[rows])
        return made

    # In training, batch norm makes the images of a batch depend on each other, but not on their order.
    order = list(range(BATCH))[::-1]
    off = {"training mode, in reverse order": reordered(case.networks(training=True), images, order)}
    networks = case.networks()
    together = computed(networks, images, list(range(BATCH)))
    off["evaluation mode, alone"] = max(
        difference(computed(networks, images, [row]), together[row : row + 1]) for row in range(BATCH)
    )
    for when, each in off.items():
        require(
            each < COMPANY,
            f"{when}: an image differs by {each:.3g} from that in a batch of {BATCH}, allowed {COMPANY:g}: use no "
            "places in the batch, and no batch statistics in evaluation mode",
        )
    return f"training and evaluation mode, largest difference {max(off.values()):.1g}, allowed {COMPANY:g}"


def reordered(networks: Networks, images: Computed, order: list[int]) -> float:
    """Return by how much images change if a batch is in another order."""
    return difference(computed(networks, images, order), computed(networks, images, sorted(order))[order])
