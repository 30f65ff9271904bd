"""The fast engine: the draws and the mathematics of the plain one, with less work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mpcc.core.engines.cuda_graph import CannotRecord, GraphedIteration, record, warmed_up
from mpcc.core.layers.batch_norm import batch_groups
from mpcc.core.layers.fusion import fuse
from mpcc.core.layers.spectral_norm import SpectralLayer, layers_by_shape, power_iterations
from mpcc.core.method.engine import Engine, Iteration, Precision
from mpcc.core.method.model import Model
from mpcc.core.method.objectives import Generated, draw, generate
from mpcc.core.system import allocator
from mpcc.core.system.kernel_settings import kernel_settings

__all__ = ["WARM_UP", "FastEngine"]


# Iterations before one is recorded as a CUDA graph: libraries choose kernels, optimizers make their moments.
WARM_UP = 3


class FastEngine(Engine):
    """The same with less work.

    Networks compute with channels innermost and with fused layers; images for several updates between which the
    generator stays as it is are generated in one call, with batch moments of each batch; power iterations of layers of
    one shape are one product; the C library keeps freed memory. On CUDA the whole iteration is one graph.

    Arguments:
        precision: Of the networks' forward and backward passes: ``float32``; ``tf32``, on CUDA, whose products are
            rounded inside; or ``bf16`` by autocast, with parameters, prior and losses in float32.
    """

    name = "fast"

    def __init__(self, precision: Precision = "float32") -> None:
        super().__init__()
        self.precision_name = precision
        self._grouped = False
        self._device = torch.device("cpu")
        self._graph: GraphedIteration | None = None
        self._warm_up = WARM_UP
        self._layers: dict[nn.Module, list[list[SpectralLayer]]] = {}

    def prepare(self, model: Model) -> None:
        """Switch fused layers on and see what the generator allows."""
        self._device = model.device
        self.capturable = self._device.type == "cuda"
        self._layers = {}
        for part in model.parts().values():
            fuse(part)
        generator = model.networks.generator
        in_forward = any(isinstance(layer, SpectralLayer) and layer.in_forward for layer in generator.modules())
        self._grouped = model.networks.grouped and not in_forward
        if in_forward:
            self.notes.append("images are generated batch by batch: spectral norms advance in every forward pass")
        elif not self._grouped:
            self.notes.append("images are generated batch by batch: the architecture does not declare grouped batches")

    def generated(self, model: Model, batch: int, count: int, train_prior: bool = False) -> Iterator[Generated]:
        """Draw all batches, in order, generate their images in one call, and yield them one by one.

        Where a call stands for one batch only, a batch is drawn and generated when it is asked for, as in the plain
        engine: such a generator may draw numbers of its own.
        """
        if count <= 1 or not self._grouped:
            for _ in range(count):
                with self.precision():
                    made = draw(model, batch, train_prior)
                yield made
            return
        with torch.set_grad_enabled(train_prior):
            drawn = [model.prior.sample(batch) for _ in range(count)]
        z, y = (torch.cat(each) for each in zip(*drawn, strict=True))
        with self.precision(), batch_groups(model.networks.generator, count):
            images = torch.split(generate(model, z, y), batch)
        yield from (Generated(z, y, each) for (z, y), each in zip(drawn, images, strict=True))

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return an autocast context in bf16, or one that changes nothing."""
        if self.precision_name == "bf16":
            # A weight is normalised anew for every forward pass: there is nothing that a cache could give back.
            return torch.autocast(self._device.type, dtype=torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

    def advance(self, network: nn.Module) -> None:
        """Advance all layers of one shape at once."""
        if network not in self._layers:
            self._layers[network] = layers_by_shape(network)
        power_iterations(self._layers[network])

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the C library keeps freed memory, or CUDA's libraries are set up for speed."""
        if self._device.type == "cuda":
            return kernel_settings(tf32=self.precision_name != "float32")
        return allocator.kept_memory()

    def run(self, iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
        """Execute an iteration; on CUDA, replay it, or record it first if enough have been executed one by one."""
        if not self.capturable:
            return iteration(real)
        if self._graph is None:
            if self._warm_up > 0:
                self._warm_up -= 1
                return warmed_up(iteration, real)
            try:
                self._graph = record(iteration, real, self._device)
            except CannotRecord as error:
                # Nothing has been executed, so that the iteration can still be. The optimizers go on as they are.
                self.capturable = False
                self.notes.append(f"no CUDA graph: {error}")
                return iteration(real)
        return self._graph.replay(real)

    def reset(self) -> None:
        """Forget the recorded iteration: it works on the memory of a state that is no longer the trainer's."""
        self._graph, self._warm_up = None, WARM_UP
