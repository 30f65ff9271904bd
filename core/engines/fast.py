"""The fast engine: the draws and the mathematics of the plain one, with less work."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mpcc.core.engines.adam_steps import AdamSteps
from mpcc.core.engines.cuda_graph import CannotRecord, GraphedIteration, probed, record, warmed_up
from mpcc.core.layers.batch_norm import batch_groups
from mpcc.core.layers.fusion import SharedBlocks, fuse, shared_calls
from mpcc.core.layers.network_weights import NetworkWeights, Workspace, left_alone, network_weights
from mpcc.core.layers.spectral_norm import SpectralLayer
from mpcc.core.method.engine import Engine, Iteration, Precision
from mpcc.core.method.losses import Generated, draw, generate, sampled
from mpcc.core.method.model import Model
from mpcc.core.system import allocator, ranks
from mpcc.core.system.kernel_settings import kernel_settings

__all__ = ["WARM_UP", "FastEngine"]


# Iterations before a CUDA graph is recorded: libraries choose their kernels and optimizers create their moments.
WARM_UP = 3


class FastEngine(Engine):
    """Executes the same iteration as the plain engine with less work.

    Networks use fused layers and store channels innermost. One call generates the images of several updates if the
    generator does not change between them; each batch keeps its own batch moments. The spectral norms of a network are
    computed together and kept until its weights change. The C library keeps freed memory. On CUDA, the whole iteration
    is one graph, or several between the reductions of several processes.

    Arguments:
        precision: Precision of the networks' forward and backward passes: ``float32``; ``tf32``, which on CUDA rounds
            the factors of products; or ``bf16`` by autocast, with parameters, prior and losses in float32.
        own_kernels: Whether layers use `mpcc.core.layers.triton_kernels`.
        reductions: Where the reductions of several processes take place: ``between`` recorded graphs, or ``captured``
            in one graph, if that can be recorded.
    """

    name = "fast"

    def __init__(
        self,
        precision: Precision = "float32",
        own_kernels: bool = False,
        reductions: Literal["between", "captured"] = "between",
    ) -> None:
        super().__init__()
        self._reductions = reductions
        self.precision_name, self.own_kernels = precision, own_kernels
        self._grouped = False
        self._device = torch.device("cpu")
        self._graph: GraphedIteration | None = None
        self._warm_up = WARM_UP
        self._networks: dict[str, nn.Module] = {}
        self._weights: dict[nn.Module, list[NetworkWeights]] = {}
        self._left_alone: dict[nn.Module, list[SpectralLayer]] = {}
        self._shared: list[SharedBlocks] = []
        self._steps: dict[Optimizer, AdamSteps] = {}

    def prepare(self, model: Model) -> None:
        """Switch fused layers on and check whether batches can be generated together."""
        self._device = model.device
        self.capturable = self._device.type == "cuda"
        if self.capturable and not ranks.current().alone:
            # A graph with reductions must be gone before what carries them out.
            ranks.before_leaving(self.reset)
        self._networks, self._weights = model.networks.by_name(), {}
        for part in model.parts().values():
            fuse(part, own_kernels=self.own_kernels)
        generator = model.networks.generator
        in_forward = advances_in_forward(generator)
        modules = {module for network in self._networks.values() for module in network.modules()}
        self._shared = [
            module for module in modules if isinstance(module, SharedBlocks) and not advances_in_forward(module)
        ]
        self._grouped = model.networks.grouped and not in_forward
        if in_forward:
            self.notes.append("images are generated batch by batch: spectral norms advance in every forward pass")
        elif not self._grouped:
            self.notes.append("images are generated batch by batch: the architecture does not declare grouped batches")

    def generated(self, model: Model, batch: int, count: int, train_prior: bool = False) -> Iterator[Generated]:
        """Draw all batches in order, generate their images in one call, and yield them one by one.

        If batches cannot be generated together, each is drawn and generated when it is requested, as in the plain
        engine. This keeps the order of random numbers for a generator that draws some itself.
        """
        if count <= 1 or not self._grouped:
            for _ in range(count):
                with self.precision():
                    generated = draw(model, batch, train_prior)
                yield generated
            return
        with torch.set_grad_enabled(train_prior):
            samples = [sampled(model.prior, batch) for _ in range(count)]
        z, y = (torch.cat(tensors) for tensors in zip(*samples, strict=True))
        with self.precision(), batch_groups(model.networks.generator, count):
            batches = torch.split(generate(model, z, y), len(samples[0][1]))
        yield from (Generated(z, y, images) for (z, y), images in zip(samples, batches, strict=True))

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """In a ``with`` block, normalise a network's weights at once and call shared blocks once; autocast in bf16."""
        # Hooks that stay would be copied and pickled with the networks.
        hooks = [network.register_forward_pre_hook(self._prepare_weights) for network in self._networks.values()]
        try:
            with self._autocast(), shared_calls(self._shared):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision_name == "bf16":
            # Spectral norm recomputes the weights in every forward pass; a cache of casts would never be used.
            return torch.autocast(self._device.type, dtype=torch.bfloat16, cache_enabled=False)
        return contextlib.nullcontext()

    def _prepare_weights(self, network: nn.Module, inputs: tuple[Any, ...]) -> None:
        for weights in self._weights_of(network):
            weights.refresh()
            weights.prepare()

    def _weights_of(self, network: nn.Module) -> list[NetworkWeights]:
        known = self._weights.get(network)
        if known is None or any(not weights.fresh and weights.moved for weights in known):
            for weights in itertools.chain(*self._weights.values()):
                weights.release()
            # The largest first, which then has room for the others.
            workspace, networks = Workspace(), {network, *self._networks.values()}
            for each in sorted(networks, key=lambda each: -sum(weight.numel() for weight in each.parameters())):
                self._weights[each] = network_weights(each, workspace, self.own_kernels)
                self._left_alone[each] = left_alone(each)
            known = self._weights[network]
        return known

    def advance(self, network: nn.Module) -> None:
        """Advance all layers of a network at once, but for those that have a way of their own."""
        for weights in self._weights_of(network):
            weights.advance()
        for layer in self._left_alone[network]:
            layer.power_iteration()

    def step(self, optimizer: Optimizer) -> None:
        """Take the step of an optimizer with as few calls as possible."""
        if optimizer not in self._steps:
            self._steps[optimizer] = AdamSteps(optimizer)
        self._steps[optimizer].step()

    def changed(self, parts: Sequence[str]) -> None:
        """Forget what was computed from the weights of these parts, and of networks that share layers with them."""
        changed = {layer for name in parts if name in self._networks for layer in self._layers_of(self._networks[name])}
        for network in self._networks.values():
            for weights in self._weights.get(network, ()):
                weights.release()
                if not changed.isdisjoint(weights.layers):
                    weights.fresh = False

    def _layers_of(self, network: nn.Module) -> list[SpectralLayer]:
        return [layer for weights in self._weights.get(network, ()) for layer in weights.layers]

    def _from_scratch(self, iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
        """Execute an iteration that relies on nothing computed before it, because weights may have been replaced."""
        try:
            self.changed(tuple(self._networks))
            return iteration(real)
        finally:
            self.changed(())

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the C library keeps freed memory, or cuDNN tries its kernels on each shape."""
        if self._device.type == "cuda":
            return kernel_settings(tf32=self.precision_name != "float32")
        return allocator.kept_memory()

    def run(self, iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
        """Execute an iteration; on CUDA, record one after the warm-up and replay it from then on."""
        iteration = functools.partial(self._from_scratch, iteration)
        if not self.capturable:
            return iteration(real)
        if self._graph is None:
            if self._warm_up > 0:
                return self._warmed_up(iteration, real)
            self._graph = self._recorded(iteration, real)
        # A recording has executed nothing: the iteration is still due.
        return iteration(real) if self._graph is None else self._graph.replay(real)

    def _recorded(self, iteration: Iteration, real: Tensor) -> GraphedIteration | None:
        """Record an iteration, in all processes or in none; captured reductions may be left between graphs."""
        graph, reason = None, ""
        try:
            graph = record(iteration, real, self._device, self._reductions)
        except CannotRecord as error:
            reason = str(error)
        if not (reason := self._of_all(reason)):
            return graph
        if graph is not None:
            graph.release()
        if self._reductions == "captured" and not ranks.current().alone:
            self._reductions = "between"
            self.notes.append(f"reductions are between CUDA graphs, not part of one: {reason}")
            return self._recorded(iteration, real)
        self._give_up(reason)
        return None

    def _of_all(self, reason: str) -> str:
        """Return why an iteration cannot be recorded, in whichever process that is; an empty text if all can do it."""
        return next((each for each in ranks.current().gathered(reason) if each), "")

    def _warmed_up(self, iteration: Iteration, real: Tensor) -> dict[str, Tensor]:
        """Execute an iteration of the warm-up; the last one shows whether it can be recorded."""
        self._warm_up -= 1
        if self._warm_up > 0:
            return warmed_up(iteration, real, self._device)
        terms, reason = probed(iteration, real, self._device)
        if reason := self._of_all(reason):
            self._give_up(reason)
        return terms

    def _give_up(self, reason: str) -> None:
        """Execute all further iterations step by step; the optimizers keep their settings."""
        self.capturable = False
        self.notes.append(f"no CUDA graph: {reason}")

    def reset(self) -> None:
        """Forget the recorded iteration, because it works on the memory of the trainer's former state."""
        if self._graph is not None:
            self._graph.release()
        self._graph, self._warm_up = None, WARM_UP


def advances_in_forward(network: nn.Module) -> bool:
    """Return whether a forward pass of a network may change a spectral norm."""
    return any(isinstance(layer, SpectralLayer) and layer.in_forward for layer in network.modules())
