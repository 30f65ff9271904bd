"""How an iteration is executed: ``plain``, step by step as the method reads, or ``fast``, the same with less work.

Both draw the same random numbers in the same order and compute the same mathematics: in double precision their terms
agree to rounding. The plain engine is the oracle that the fast one is tested against.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mpcc.core.layers.fusion import fuse
from mpcc.core.layers.spectral_norm import power_iteration
from mpcc.core.method.model import Model
from mpcc.core.method.objectives import Generated, draw
from mpcc.core.system.kernel_settings import kernel_settings

__all__ = ["Engine", "Iteration", "PlainEngine"]

# From the real images of an iteration's discriminator steps, uint8, to the terms.
Iteration = Callable[[Tensor], dict[str, Tensor]]
Precision = Literal["float32", "tf32", "bf16"]


class Engine(abc.ABC):
    """What a trainer leaves to the engine; the order of updates is the trainer's own.

    Attributes:
        name: As users type it.
        precision_name: Of the networks.
        capturable: Whether optimizers must keep everything that they count on the device.
        notes: What the engine could not do for this model, and why, a line each.
    """

    name: str
    precision_name: Precision = "float32"
    capturable: bool = False

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abc.abstractmethod
    def prepare(self, model: Model) -> None:
        """Get the parts of a model ready, once, before the first iteration."""

    @abc.abstractmethod
    def generated(self, model: Model, batch: int, count: int, train_prior: bool = False) -> Iterator[Generated]:
        """Yield batches of generated images, without gradients into the generator.

        Arguments:
            model: Prior and generator; neither may change until the last batch has been taken.
            batch: Samples in each.
            count: How many batches.
            train_prior: Whether z carries gradients to the prior.
        """

    @abc.abstractmethod
    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context for forward passes of the networks."""

    @abc.abstractmethod
    def advance(self, network: nn.Module) -> None:
        """Advance the power iteration of a network, after a step of its optimizer."""

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context for everything that is executed, evaluations included."""
        return contextlib.nullcontext()

    def run(self, iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
        """Execute an iteration."""
        return iteration(real)

    def reset(self) -> None:  # noqa: B027 - most engines record nothing
        """Forget what was recorded of earlier iterations: the trainer's state has been replaced."""

    def record(self) -> dict[str, Any]:
        """Return what the engine is and did, plain values for ``results.json``."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {"name": self.name, "precision": self.precision_name, **notes}


class PlainEngine(Engine):
    """Each sub-step by itself, in the precision of the parameters."""

    name = "plain"
    _device = torch.device("cpu")

    def prepare(self, model: Model) -> None:
        """Switch fused layers off."""
        self._device = model.device
        for part in model.parts().values():
            fuse(part, on=False)

    def generated(self, model: Model, batch: int, count: int, train_prior: bool = False) -> Iterator[Generated]:
        """Draw and generate each batch when it is asked for."""
        for _ in range(count):
            yield draw(model, batch, train_prior)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that changes nothing."""
        return contextlib.nullcontext()

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which CUDA does not round float32 products to TF32, as it would by default."""
        return kernel_settings(tf32=False) if self._device.type == "cuda" else contextlib.nullcontext()

    def advance(self, network: nn.Module) -> None:
        """Advance layer by layer."""
        power_iteration(network)
