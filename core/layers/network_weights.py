r"""All spectrally normalised weights of a network at once: power iterations, W / sigma, and the gradients of W.

Layer by layer, these small operations are a third of all calls of an iteration. Here, layers whose matrices have one
shape are one batch, and all batches lie one behind the other in memory. The mathematics is that of
`mpcc.core.layers.spectral_norm`. Letters in shapes: n layers of a batch, (out, in) a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mpcc.core.layers.spectral_norm import EPS, Prepared, SpectralLayer, full_precision, rounds_its_weight
from mpcc.core.layers.triton_kernels import WeightTable, normalise_weights
from mpcc.core.system.kernel_settings import exact_products

__all__ = ["NetworkWeights", "Workspace", "left_alone", "network_weights"]


class Rows:
    """The layers of a network whose matrices have one shape, as rows of the network's buffers.

    Arguments:
        shape: The shape of their weights. Kernels, (out, in, k, k), are normalised with the channels innermost.
        layers: At least one.
        first: The first of their rows in `NetworkWeights.u` and `NetworkWeights.v`.
        start: Where their weights begin in a flat buffer.
    """

    def __init__(self, shape: torch.Size, layers: Sequence[SpectralLayer], first: int, start: int) -> None:
        self.shape = shape
        self.layers = layers
        self.rows = slice(first, first + len(layers))
        self.out, self.inputs = shape[0], math.prod(shape[1:])
        self.part = slice(start, start + len(layers) * self.out * self.inputs)
        self.kernel = len(shape) == 4
        # With one channel or one pixel, both orders are the same in memory.
        self.turned = self.kernel and shape[1] > 1 and shape[2] * shape[3] > 1

    def matrices(self, flat: Tensor) -> Tensor:
        """Return this part of a flat buffer, (n, out, in)."""
        return flat[self.part].view(len(self.layers), self.out, self.inputs)

    def weights(self, flat: Tensor) -> Tensor:
        """Return this part of a flat buffer in the order of the parameters, (n, *shape)."""
        return flat[self.part].view(len(self.layers), *self.shape)

    def scalars(self, column: Tensor) -> Tensor:
        """Return this part of a column, (layers, 1), so that it multiplies or divides weights, (n, 1, ...)."""
        return column[self.rows].view(-1, *[1] * len(self.shape))

    def normalised(self, flat: Tensor) -> Tensor:
        """Return this part of a flat buffer in the order of the normalised weights, (n, *shape)."""
        if not self.kernel:
            return self.weights(flat)
        out, channels, height, width = self.shape
        return flat[self.part].view(len(self.layers), out, height, width, channels).permute(0, 1, 4, 2, 3)


class Part:
    """Views of the buffers that a backward uses for one batch of layers."""

    def __init__(self, made: NetworkWeights, batch: Rows) -> None:
        self.batch = batch
        self.arriving = made.arriving[batch.part]
        self.arriving_matrices = batch.matrices(made.arriving)
        self.arriving_normalised = batch.normalised(made.arriving)
        self.products = batch.matrices(made.products).flatten(1)
        self.along = made.along[batch.rows]
        self.u_along = made.u_along[batch.rows, : batch.out, None]
        self.sigma = batch.scalars(made.sigma)
        v = made.v[batch.rows, : batch.inputs]
        # The entries of v have the order of the parameters; here they get that of the normalised weights.
        self.v = made.v_in_order[batch.rows, None, : batch.inputs] if batch.turned else v[:, None]
        self.turned: tuple[Tensor, Tensor] | None = None
        if batch.turned:
            channels = batch.shape[1]
            of_layers = len(batch.layers)
            self.turned = self.v.view(of_layers, -1, channels), v.view(of_layers, channels, -1).mT


class Workspace:
    """Memory for intermediate results that the networks of a run use in turn."""

    def __init__(self) -> None:
        self._rows: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def rows(self, size: int, like: Tensor) -> Tensor:
        """Return three rows of numbers of the type and on the device of a tensor, (3, size), that others use, too."""
        key = like.dtype, like.device
        if key not in self._rows or self._rows[key].shape[1] < size:
            self._rows[key] = torch.zeros(3, size, dtype=like.dtype, device=like.device)
        return self._rows[key][:, :size]


class NetworkWeights:
    """The spectrally normalised layers of a network: their vectors, their weights and W / sigma, in buffers.

    The buffers are written in place. They are correct from `refresh` or `advance` until a weight or a vector changes.

    Arguments:
        layers: Layers of one type of numbers on one device, which do not advance in their forwards.
        workspace: Memory for what is not needed after a call.
        own_kernels: Whether one of our own kernels normalises all weights at once.

    Attributes:
        u: Rows of left singular vectors, padded with zeros, (layers, largest out).
        v: Rows of right singular vectors, padded with zeros, (layers, largest in).
        sigma: Their sigmas, (layers, 1).
        fresh: Whether nothing has changed since the buffers were written, as far as the caller has said.
    """

    def __init__(self, layers: Sequence[SpectralLayer], workspace: Workspace, own_kernels: bool = False) -> None:
        by_shape: dict[torch.Size, list[SpectralLayer]] = {}
        for layer in layers:
            by_shape.setdefault(layer.weight.shape, []).append(layer)
        self.batches: list[Rows] = []
        first = start = 0
        for shape, of_shape in by_shape.items():
            batch = Rows(shape, of_shape, first, start)
            self.batches.append(batch)
            first, start = batch.rows.stop, batch.part.stop
        self.layers = [layer for batch in self.batches for layer in batch.layers]
        weight = self.layers[0].weight
        self.fresh = False
        self._written: tuple[Any, ...] = ()
        self._addresses = self._current_addresses()

        def buffer(*size: int) -> Tensor:
            return torch.zeros(size, dtype=weight.dtype, device=weight.device)

        self.u = buffer(first, max(batch.out for batch in self.batches))
        self.v = buffer(first, max(batch.inputs for batch in self.batches))
        self.sigma = buffer(first, 1)
        self.flat = buffer(start)
        # The second and third are for a backward.
        self.raw, self.arriving, self.products = workspace.rows(start, self.flat).unbind()
        self._half: Tensor | None = None
        shapes = [layer.weight.shape for layer in self.layers]
        self._table = WeightTable.of(shapes, weight.device) if own_kernels else None
        self._is_prepared = False
        # Views and lists that every step needs; making them takes longer than using them.
        self._flat_weights = [layer.weight.detach().view(-1) for layer in self.layers]
        self._vectors = [vector for layer in self.layers for vector in (layer.u, layer.v)]
        self._rows = [
            row
            for layer, u, v in zip(self.layers, self.u, self.v, strict=True)
            for row in (u[: len(layer.u)], v[: len(layer.v)])
        ]
        self._steps = [
            (
                batch.matrices(self.raw),
                self.u[batch.rows, None, : batch.out],
                self.v[batch.rows, None, : batch.inputs],
                self.v[batch.rows, : batch.inputs, None],
                self.u[batch.rows, : batch.out, None],
            )
            for batch in self.batches
        ]
        self._quotients = [
            (batch.weights(self.raw), batch.scalars(self.sigma), batch.normalised(self.flat)) for batch in self.batches
        ]
        self._rounds = [rounds_its_weight(layer) for layer in self.layers]
        # What a backward needs, all of it written there.
        self.along, self.u_along, self.v_in_order = buffer(first, 1), torch.zeros_like(self.u), torch.zeros_like(self.v)
        self.parts = [Part(self, batch) for batch in self.batches]

    def _current_addresses(self) -> tuple[Any, ...]:
        weights, vectors = [layer.weight for layer in self.layers], [layer.u for layer in self.layers]
        return tuple((tensor.data_ptr(), tensor.dtype) for tensor in (*weights, *vectors))

    def _current_versions(self) -> tuple[int, ...]:
        return tuple(number for layer in self.layers for number in (layer.weight._version, layer.u._version))

    @property
    def moved(self) -> bool:
        """Whether the layers keep their weights or vectors elsewhere than when the buffers were made."""
        return self._addresses != self._current_addresses()

    @torch.no_grad()
    def advance(self) -> None:
        """Take one power iteration in all layers, and keep sigma = |W v|."""
        self._gather()
        with exact_products(self.flat.device):
            for matrices, u, v, _, _ in self._steps:
                torch.bmm(u, matrices, out=v)
            self.v.div_(torch.linalg.vector_norm(self.v, dim=1, keepdim=True).clamp_min_(EPS))
            for matrices, _, _, v, u in self._steps:
                torch.bmm(matrices, v, out=u)
        torch.linalg.vector_norm(self.u, dim=1, keepdim=True, out=self.sigma)
        self.u.div_(self.sigma.clamp_min(EPS))
        torch._foreach_copy_(self._vectors, self._rows)
        self._normalise()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute sigma = u^T W v and W / sigma anew if anything has changed."""
        if self.fresh and self._written == self._current_versions():
            return
        self._gather()
        products = torch.zeros_like(self.u)
        with exact_products(self.flat.device):
            for batch, (matrices, _, _, v, _) in zip(self.batches, self._steps, strict=True):
                torch.bmm(matrices, v, out=products[batch.rows, : batch.out, None])
        torch.sum(products.mul_(self.u), dim=1, keepdim=True, out=self.sigma)
        self._normalise()

    def _gather(self) -> None:
        """Copy weights and vectors of the layers into the buffers."""
        torch.cat(self._flat_weights, out=self.raw)
        torch._foreach_copy_(self._rows, self._vectors)

    def _normalise(self) -> None:
        if self._table is None:
            for weights, sigma, normalised in self._quotients:
                torch.div(weights, sigma, out=normalised)
            self._half = None
        else:
            # A kernel of our own does not tell autograd that it writes.
            written = self.flat if self._half is None else (self.flat, self._half)
            torch.autograd.graph.increment_version(written)
            normalise_weights(self._table, self.raw, self.sigma, self.flat, self._half)
        self.fresh, self._written = True, self._current_versions()

    def prepare(self) -> None:
        """Give every layer its W / sigma for the forwards that follow, with a gradient if it needs one now.

        Under mixed precision, layers that would round it themselves get it rounded.
        """
        weights = [layer.weight for layer in self.layers]
        gradients = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        device = self.flat.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.flat.dtype
        with full_precision(self.flat.device):
            values = NormalisedWeights.apply(self, low, *weights) if gradients else self.values(low)
            biases = self._biases(low) if low != self.flat.dtype else [None] * len(values)
        for layer, weight, value, bias in zip(self.layers, weights, values, biases, strict=True):
            give(layer, Prepared(value, weight, weight._version, bias))
        self._is_prepared = True

    def _biases(self, dtype: torch.dtype) -> list[Tensor | None]:
        """Return the biases of the layers that would round them themselves, rounded; None for the others."""
        given = [layer.bias if rounds else None for layer, rounds in zip(self.layers, self._rounds, strict=True)]
        biases = [bias for bias in given if bias is not None]
        rounded = iter(RoundedTogether.apply(dtype, *biases) if biases else ())
        return [None if bias is None else next(rounded) for bias in given]

    def values(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return W / sigma of every layer, rounded to ``dtype`` where the layer would do so itself."""
        values = [row for _, _, normalised in self._quotients for row in normalised.unbind()]
        if dtype == self.flat.dtype:
            return tuple(values)
        if self._half is None or self._half.dtype != dtype:
            self._half = self.flat.to(dtype)
        halves = [row for batch in self.batches for row in batch.normalised(self._half).unbind()]
        return tuple(half if rounds else full for full, half, rounds in zip(values, halves, self._rounds, strict=True))

    def release(self) -> None:
        """Let the layers normalise their weights themselves again."""
        if self._is_prepared:
            for layer in self.layers:
                give(layer, None)
        self._is_prepared = False


def give(layer: SpectralLayer, prepared: Prepared | None) -> None:
    """Set what is prepared for a layer, without the search for parameters that a module makes whenever it is set."""
    object.__setattr__(layer, "prepared", prepared)


class NormalisedWeights(torch.autograd.Function):
    """W / sigma of all layers, from a network's buffers, with the gradients of `spectral_norm.NormalisedWeight`."""

    @staticmethod
    def forward(ctx: Any, made: NetworkWeights, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        """Return W / sigma of every layer."""
        ctx.set_materialize_grads(False)
        ctx.made = made
        # Autograd refuses a backward after they have changed.
        ctx.save_for_backward(made.flat, made.sigma, made.u, made.v)
        return made.values(dtype)

    @staticmethod
    @once_differentiable  # sigma is a constant here: second derivatives would be wrong
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        """Return the gradient of every weight; None where none arrives. They cannot be differentiated again."""
        flat, _, u, _ = ctx.saved_tensors
        made: NetworkWeights = ctx.made
        for part in made.parts:
            together(part.batch, gradients[part.batch.rows], part.arriving)
        torch.mul(made.arriving, flat, out=made.products)
        for part in made.parts:
            torch.sum(part.products, dim=1, keepdim=True, out=part.along)
        torch.mul(u, made.along, out=made.u_along)
        leaving = torch.empty_like(flat)
        found: list[Tensor] = []
        for part in made.parts:
            if part.turned is not None:
                in_order, v = part.turned
                in_order.copy_(v)
            part.arriving_matrices.addcmul_(part.u_along, part.v, value=-1)
            weights = part.batch.weights(leaving)
            torch.div(part.arriving_normalised, part.sigma, out=weights)
            found += weights.unbind()
        wanted = zip(found, gradients, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(row if needed and given is not None else None for row, given, needed in wanted)


class RoundedTogether(torch.autograd.Function):
    """Vectors in another precision, all of them in one pass; so are their gradients."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *vectors: Tensor) -> tuple[Tensor, ...]:
        """Return the vectors, rounded."""
        ctx.set_materialize_grads(False)
        ctx.dtype, ctx.sizes = vectors[0].dtype, [len(vector) for vector in vectors]
        rounded: tuple[Tensor, ...] = torch.split(torch.cat(vectors).to(dtype), ctx.sizes)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return their gradients in the precision of the vectors."""
        given = [gradient for gradient in gradients if gradient is not None]
        if not given:
            return None, *gradients
        rows = iter(torch.split(torch.cat(given).to(ctx.dtype), [len(gradient) for gradient in given]))
        return None, *(None if gradient is None else next(rows) for gradient in gradients)


def together(batch: Rows, gradients: Sequence[Tensor | None], out: Tensor) -> None:
    """Write gradients of normalised weights one behind the other, zeros where there is none."""
    given = [gradient for gradient in gradients if gradient is not None]
    if len(given) < len(gradients):
        out.zero_()
        for row, gradient in zip(out.view(len(gradients), -1), gradients, strict=True):
            if gradient is not None:
                row.copy_(in_order(batch, gradient))
    elif all(gradient.dtype == out.dtype for gradient in given):
        torch.cat([in_order(batch, gradient) for gradient in given], out=out)
    else:
        out.copy_(torch.cat([in_order(batch, gradient) for gradient in given]))


def in_order(batch: Rows, gradient: Tensor) -> Tensor:
    """Return a gradient as a vector in the order of the normalised weights; no copy if it has this order."""
    return (gradient.permute(0, 2, 3, 1) if batch.kernel else gradient).reshape(-1)


def network_weights(
    network: nn.Module, workspace: Workspace | None = None, own_kernels: bool = False
) -> list[NetworkWeights]:
    """Return the layers of a network that advance after a step, those of one type of numbers on one device together.

    `left_alone` returns those that cannot be computed together with others.

    Arguments:
        network: Any module; layers of other kinds are left alone.
        workspace: Shared with other networks, of which only one computes at a time; None for one of its own.
        own_kernels: Whether they may use `mpcc.core.layers.triton_kernels`.
    """
    workspace = workspace or Workspace()
    alike: dict[tuple[torch.dtype, torch.device], list[SpectralLayer]] = {}
    for layer in advancing(network):
        if is_usual(layer):
            alike.setdefault((layer.weight.dtype, layer.weight.device), []).append(layer)
    return [NetworkWeights(layers, workspace, own_kernels) for layers in alike.values()]


def left_alone(network: nn.Module) -> list[SpectralLayer]:
    """Return the layers of a network that advance after a step, one by one."""
    return [layer for layer in advancing(network) if not is_usual(layer)]


def advancing(network: nn.Module) -> Iterator[SpectralLayer]:
    """Yield the layers of a network that advance after a step."""
    for layer in network.modules():
        if isinstance(layer, SpectralLayer) and not layer.in_forward:
            yield layer


def is_usual(layer: SpectralLayer) -> bool:
    """Return whether a layer computes its norm as `SpectralLayer` does, from a weight in torch's order in memory."""
    own = (type(layer).power_iteration, type(layer).spectral_norm, type(layer).normalised_weight)
    usual = (SpectralLayer.power_iteration, SpectralLayer.spectral_norm, SpectralLayer.normalised_weight)
    return own == usual and layer.weight.is_contiguous()
