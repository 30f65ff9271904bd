"""The model of a run: a prior, three networks and the averaged generator, with their training and evaluation modes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor, nn

from mpcc.core.contracts import Networks, Prior
from mpcc.core.errors import PluginError
from mpcc.core.layers.batch_norm import averaged_statistics
from mpcc.core.layers.spectral_norm import power_iteration
from mpcc.core.method.entropy import EntropyPolicy

__all__ = ["Model", "standing_generator", "thawed", "to_pixels", "to_unit_range", "trainable"]

# The averaged weights have their own singular vectors; power iterations from those of the live weights converge soon.
SETTLING_STEPS = 10


@attrs.frozen(eq=False)
class Model:
    """All parts with parameters.

    Attributes:
        prior: p(y) p(z|y).
        networks: Generator, discriminator, encoder.
        averaged: The generator with exponentially averaged parameters, for pictures; never trained.
        entropy: How the entropies of the components are computed.
        likelihood: What turns generated images into densities p(x|z), in systems that need one.
    """

    prior: Prior
    networks: Networks
    averaged: nn.Module
    entropy: EntropyPolicy
    likelihood: nn.Module | None = None

    @classmethod
    def assemble(
        cls,
        prior: Prior,
        networks: Networks,
        device: torch.device,
        entropy: EntropyPolicy | None = None,
        likelihood: nn.Module | None = None,
    ) -> Model:
        """Move the parts to a device, freeze all of them (a phase thaws what it trains) and copy the generator.

        Raises:
            PluginError: If a part has a parameter without gradient, or the prior's weights are on another device.
        """
        parts = (prior, *networks.by_name().values(), *([] if likelihood is None else [likelihood]))
        # Discriminator and encoder share parameters: the check must end before the first part is frozen.
        for part in parts:
            for name, parameter in part.named_parameters():
                if not parameter.requires_grad:
                    raise PluginError(
                        f"{type(part).__name__}.{name} is a parameter with requires_grad=False, but every parameter "
                        "is trained; expected a buffer for a fixed value"
                    )
        for part in parts:
            part.to(device).train().requires_grad_(False)
        if prior.weights().device.type != device.type:
            raise PluginError(
                f"{type(prior).__name__}.weights() is on {prior.weights().device}, but the run is on {device}; "
                "expected weights computed from parameters or buffers, which move with the prior"
            )
        return cls(prior, networks, copy.deepcopy(networks.generator), entropy or EntropyPolicy.of(prior), likelihood)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.networks.generator.parameters()).device

    def generate(self, z: Tensor, y: Tensor) -> Tensor:
        """Return x~ = G(z, y), (N, D, R, R), for z, (N, J), and y, (N,); z goes through the prior's input map."""
        images: Tensor = self.networks.generator(self.prior.input_map(z), y)
        return images

    def trained_parts(self) -> dict[str, nn.Module]:
        """Return the modules that are trained, under the names that phases, optimizers and logs use."""
        density = {} if self.likelihood is None else {"likelihood": self.likelihood}
        return {**self.networks.by_name(), "prior": self.prior, **density}

    def parts(self) -> dict[str, nn.Module]:
        """Return all modules under the names that checkpoints use."""
        return {**self.trained_parts(), "averaged_generator": self.averaged}

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the averaged parameters towards the generator's: decay * average + (1 - decay) * generator.

        Buffers are copied. A decay of 0 copies the parameters, too.
        """
        averaged, live = self.averaged, self.networks.generator
        # On CUDA one kernel changes many tensors, but only of one type.
        for parameters in by_type(averaged.parameters(), live.parameters()):
            torch._foreach_lerp_(*parameters, 1 - decay)
        for buffers in by_type(averaged.buffers(), live.buffers()):
            torch._foreach_copy_(*buffers)


def by_type(first: Iterable[Tensor], second: Iterable[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield pairs of tensors as two lists for each type of the elements."""
    pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for one, other in zip(first, second, strict=True):
        of_type = pairs.setdefault(one.dtype, ([], []))
        of_type[0].append(one)
        of_type[1].append(other)
    yield from pairs.values()


@contextlib.contextmanager
def trainable(*modules: nn.Module) -> Iterator[None]:
    """Let the parameters of these modules receive gradients inside a ``with`` block."""
    with thawed([parameter for module in modules for parameter in module.parameters()]):
        yield


@contextlib.contextmanager
def thawed(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let these parameters receive gradients inside a ``with`` block."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


@torch.no_grad()
def standing_generator(generator: nn.Module, prior: Prior, passes: int, batch: int) -> nn.Module:
    """Return a copy of a generator in evaluation mode, with standing statistics in its batch norms (supplement, C).

    The copy first generates ``passes`` batches in training mode. Each batch norm then holds the averages of the batch
    means and of the batch variances, the biased ones by which training normalises. Draws from torch's global random
    state.

    Arguments:
        generator: The generator to be copied; it does not change.
        prior: The distribution of (z, y).
        passes: Number of batches, 16 in the paper.
        batch: Samples in each batch, 50 in the paper.
    """
    standing = copy.deepcopy(generator).train()
    power_iteration(standing, SETTLING_STEPS)
    with averaged_statistics(standing):
        for _ in range(passes):
            z, y = prior.sample(batch)
            standing(prior.input_map(z), y)
    return standing.eval()


def to_unit_range(images: Tensor, device: torch.device) -> Tensor:
    """Return uint8 images as float32 in [-1, 1] on a device: x / 127.5 - 1.

    Example:
        >>> to_unit_range(torch.tensor([0, 255], dtype=torch.uint8), torch.device("cpu"))
        tensor([-1.,  1.])
    """
    return images.to(device, non_blocking=True).float().div_(127.5).sub_(1)


def to_pixels(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8 on the CPU, the inverse of `to_unit_range`.

    Example:
        >>> to_pixels(torch.tensor([-1.0, 1.0]))
        tensor([  0, 255], dtype=torch.uint8)
    """
    return images.add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)
