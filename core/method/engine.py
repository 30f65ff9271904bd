"""How an iteration is executed: ``plain``, step by step as the method reads, or ``fast``, the same with less work.

Both draw the same random numbers in the same order and compute the same mathematics: in double precision their terms
agree to rounding. The plain engine is the oracle that the fast one is tested against.
"""

from __future__ import annotations

import abc
import contextlib
import platform
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mpcc.core.config import RunSettings
from mpcc.core.engines.cuda_graph import CannotRecord, GraphedIteration, Iteration, kernel_settings, record, warmed_up
from mpcc.core.errors import InvalidInput
from mpcc.core.layers.batch_norm import batch_groups
from mpcc.core.layers.fusion import fuse
from mpcc.core.layers.spectral_norm import SpectralLayer, layers_by_shape, power_iteration, power_iterations
from mpcc.core.method.model import Model
from mpcc.core.method.objectives import Generated, draw, generate
from mpcc.core.system import allocator

__all__ = ["Engine", "FastEngine", "PlainEngine", "choose_engine"]

Precision = Literal["float32", "tf32", "bf16"]
# Iterations before one is recorded as a CUDA graph: libraries choose kernels, optimizers make their moments.
WARM_UP = 3


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


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device has arithmetic in bf16, rather than imitating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN takes bf16 from AVX-512 on and computes in float32 where the instructions are missing.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    known: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return known


def bf16_pays(device: torch.device) -> bool:
    """Return whether bf16 is faster than float32 there: where a matrix unit computes in it.

    An x86 processor that has bf16 as vector instructions only may be slower with it (docs/performance.md).
    """
    if device.type == "cpu" and platform.machine() in ("x86_64", "AMD64"):
        return bool(torch.cpu._is_amx_tile_supported())
    return computes_bf16(device)


def choose_engine(settings: RunSettings, device: torch.device) -> Engine:
    """Return the engine that a run asks for.

    Raises:
        InvalidInput: If the device does not have the precision, or the plain engine is to have another than float32.
    """
    precision = settings.precision
    if settings.engine == "plain":
        if precision not in ("float32", "auto"):
            raise InvalidInput(
                f"--precision {precision}: the plain engine computes in the precision of the parameters "
                "(nearest valid choice: --engine fast, or --precision float32)"
            )
        return PlainEngine()
    if precision == "tf32" and device.type != "cuda":
        raise InvalidInput("--precision tf32: only CUDA devices have it (nearest valid choice: --precision float32)")
    known = computes_bf16(device)
    if precision == "bf16" and not known:
        raise InvalidInput(
            f"--precision bf16: this {device.type} has no bf16 arithmetic (nearest valid choice: --precision float32)"
        )
    if precision == "auto":
        precision = "bf16" if bf16_pays(device) else "float32"
    return FastEngine(precision)
