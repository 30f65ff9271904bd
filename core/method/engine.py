"""Engines execute an iteration: ``plain`` step by step, ``fast`` the same iteration with less work.

Both engines draw the same random numbers in the same order. In double precision, their terms agree up to rounding.
The tests compare the fast engine with the plain one.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mpcc.core.layers.fusion import fuse
from mpcc.core.layers.spectral_norm import power_iteration
from mpcc.core.method.losses import Generated, draw
from mpcc.core.method.model import Model
from mpcc.core.system.kernel_settings import kernel_settings

__all__ = ["Engine", "Iteration", "PlainEngine"]

# Takes the real images of one iteration, uint8, and returns the terms.
Iteration = Callable[[Tensor], dict[str, Tensor]]
Precision = Literal["float32", "tf32", "bf16"]


class Engine(abc.ABC):
    """Executes what the trainer asks for; the trainer alone decides the order of the updates.

    Attributes:
        name: The name that a user types.
        precision_name: The precision that the networks compute in.
        own_kernels: Whether some kernels are our own, in Triton.
        capturable: Whether optimizers must keep their step counts on the device.
        notes: What the engine could not do for this model, and why; one line for each.
    """

    name: str
    precision_name: Precision = "float32"
    own_kernels: bool = False
    capturable: bool = False

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abc.abstractmethod
    def prepare(self, model: Model) -> None:
        """Prepare the parts of a model once, before the first iteration."""

    @abc.abstractmethod
    def generated(self, model: Model, batch: int, count: int, train_prior: bool = False) -> Iterator[Generated]:
        """Yield batches of generated images, without gradients into the generator.

        Arguments:
            model: Prior and generator; neither may change until the last batch has been taken.
            batch: Samples in each batch.
            count: Number of batches.
            train_prior: Whether z carries gradients to the prior.
        """

    @abc.abstractmethod
    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context for forward passes of the networks."""

    @abc.abstractmethod
    def advance(self, network: nn.Module) -> None:
        """Advance the power iterations of a network after a step of its optimizer."""

    def step(self, optimizer: Optimizer) -> None:
        """Take the step of an optimizer."""
        optimizer.step()

    def changed(self, parts: Sequence[str]) -> None:  # noqa: B027 - most engines keep nothing
        """Take note that optimizers have changed the parameters of these parts, given by name."""

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context for the whole training, evaluations included."""
        return contextlib.nullcontext()

    def run(self, iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
        """Execute an iteration."""
        return iteration(real)

    def reset(self) -> None:  # noqa: B027 - most engines record nothing
        """Forget recorded iterations, because the trainer's state has been replaced."""

    def record(self) -> dict[str, Any]:
        """Return name, precision, kernels that are our own, and notes as plain values for ``results.json``."""
        kernels = {"kernels": "triton"} if self.own_kernels else {}
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {"name": self.name, "precision": self.precision_name, **kernels, **notes}


class PlainEngine(Engine):
    """Executes each sub-step by itself, in the precision of the parameters."""

    name = "plain"
    _device = torch.device("cpu")

    def prepare(self, model: Model) -> None:
        """Switch fused layers off."""
        self._device = model.device
        for part in model.parts().values():
            fuse(part, on=False)

    def generated(self, model: Model, batch: int, count: int, train_prior: bool = False) -> Iterator[Generated]:
        """Draw and generate each batch when it is requested."""
        for _ in range(count):
            yield draw(model, batch, train_prior)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context that changes nothing."""
        return contextlib.nullcontext()

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which CUDA does not round float32 products to TF32, its default."""
        return kernel_settings(tf32=False) if self._device.type == "cuda" else contextlib.nullcontext()

    def advance(self, network: nn.Module) -> None:
        """Advance layer by layer."""
        power_iteration(network)
