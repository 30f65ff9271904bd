r"""Spectral normalisation: one power iteration per optimizer step or, as an option, per training forward.

Each layer divides its weight by an estimate of its largest singular value, :math:`\sigma = u^T W v` (Miyato et al.,
2018, eq. 7-9). Gradients flow through sigma to W, with u and v held constant. The vectors advance when the training
loop calls `power_iteration`, after an optimizer step of the network that owns the layer. Forward passes in between, in
evaluation too, are pure functions. torch's own parametrisation and the authors' code advance the vectors in every
training forward instead, so their results depend on how often a network is called. `iterate_in_forward` does the same.
"""

from __future__ import annotations

import contextlib
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.autograd.function import once_differentiable

from mpcc.core.layers.fusion import Fusable, convolution, pooled_convolution

__all__ = [
    "Prepared",
    "SpectralConv2d",
    "SpectralEmbedding",
    "SpectralLayer",
    "SpectralLinear",
    "full_precision",
    "iterate_in_forward",
    "power_iteration",
    "rounds_its_weight",
]

EPS = 1e-8
# Iterations at the start, enough for sigma to settle before the first training step.
WARM_UP = 15


@attrs.frozen(eq=False)
class Prepared:
    """A layer's W / sigma that was computed together with those of other layers (`mpcc.core.layers.network_weights`).

    Attributes:
        value: W / sigma, with its gradient, and perhaps rounded for mixed precision.
        weight: The parameter that it was computed from.
        version: How often the parameter had been changed, by anything but an optimizer.
        bias: The bias, rounded for mixed precision, if the layer has one and would round it itself.
    """

    value: Tensor
    weight: Tensor
    version: int
    bias: Tensor | None = None

    def holds(self, weight: Tensor) -> bool:
        """Return whether the value is that of a weight now, gradients included."""
        if self.weight is not weight or self.version != weight._version:
            return False
        return self.value.requires_grad or not (weight.requires_grad and torch.is_grad_enabled())


class SpectralLayer(Fusable):
    """A layer with a weight of shape (out, ...), divided by its spectral norm, and a bias of shape (out,).

    The weight starts from a normal with standard deviation 0.02 (supplement, C), the bias from torch's uniform.

    Arguments:
        shape: Shape of the weight; the matrix is (shape[0], product of the rest).
        bias: Whether there is a bias.

    Attributes:
        in_forward: Whether u and v advance in every training forward, and then only there; see `iterate_in_forward`.
        prepared: W / sigma that somebody else has computed for the forwards in between, or None.
    """

    in_forward: bool = False
    prepared: Prepared | None = None
    weight: nn.Parameter
    bias: nn.Parameter | None
    u: Tensor
    v: Tensor

    def __init__(self, shape: tuple[int, ...], bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(shape), std=0.02))
        fan_in = self.weight[0].numel()
        bound = fan_in**-0.5
        self.bias = nn.Parameter(torch.empty(shape[0]).uniform_(-bound, bound)) if bias else None
        self.register_buffer("u", F.normalize(torch.randn(shape[0]), dim=0, eps=EPS))
        self.register_buffer("v", F.normalize(torch.randn(fan_in), dim=0, eps=EPS))
        if not self.weight.is_meta:  # there are no values there, and each step is slow
            self.power_iteration(WARM_UP)

    @torch.no_grad()
    def power_iteration(self, steps: int = 1) -> None:
        """Advance u and v towards the leading singular vectors of the weight."""
        matrix = self.weight.flatten(1)
        for _ in range(steps):
            # In place, and without the copies of F.normalize, because this runs a hundred times an iteration.
            torch.mv(matrix.t(), self.u, out=self.v)
            self.v.div_(torch.linalg.vector_norm(self.v).clamp_min_(EPS))
            torch.mv(matrix, self.v, out=self.u)
            self.u.div_(torch.linalg.vector_norm(self.u).clamp_min_(EPS))

    def spectral_norm(self) -> Tensor:
        """Return sigma = u^T W v, a scalar, in the precision of the weight, under mixed precision too."""
        u, v = self._vectors()
        with full_precision(self.weight.device):
            return torch.dot(u, torch.mv(self.weight.flatten(1), v))

    def normalised_weight(self) -> Tensor:
        """Return W / sigma, in the shape of the weight."""
        weight, prepared = self.weight, self.prepared
        if prepared is not None and prepared.value.dtype == weight.dtype and prepared.holds(weight):
            return prepared.value
        if self.fused:
            normalised: Tensor = NormalisedWeight.apply(weight, *self._vectors())
            return normalised
        return weight / self.spectral_norm()

    def bias_in_forward(self) -> Tensor | None:
        """Return the bias for a forward pass; under mixed precision it may be rounded already."""
        prepared, bias = self.prepared, self.bias
        if bias is None or prepared is None or prepared.bias is None or not prepared.holds(self.weight):
            return bias
        return prepared.bias

    def _vectors(self) -> tuple[Tensor, Tensor]:
        # In forward mode the graph gets copies, because another forward may change both vectors before the backward.
        # Otherwise the vectors stay the same until the update that follows the backward.
        return (self.u.clone(), self.v.clone()) if self.in_forward else (self.u, self.v)

    def weight_in_forward(self) -> Tensor:
        """Return W / sigma for a forward pass, after a power iteration if this layer advances in training forwards.

        Under mixed precision it may be rounded already.
        """
        if self.in_forward and self.training:
            self.power_iteration()
        prepared = self.prepared
        if prepared is not None and prepared.holds(self.weight):
            return prepared.value
        return self.normalised_weight()


class NormalisedWeight(torch.autograd.Function):
    r"""W / sigma with sigma = u^T W v, its gradient in four operations instead of a dozen.

    .. math:: \frac{\partial L}{\partial W} = \frac1\sigma \left( G - \langle G, W / \sigma \rangle \, u v^T \right),
        \qquad G = \frac{\partial L}{\partial (W / \sigma)}
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Return W / sigma in the shape of the weight."""
        with full_precision(weight.device):
            sigma = torch.dot(u, torch.mv(weight.flatten(1), v))
        normalised = weight / sigma
        ctx.save_for_backward(normalised, sigma, u, v)
        return normalised

    @staticmethod
    @once_differentiable  # sigma is a constant here: second derivatives would be wrong
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the weight; u and v are constants. It cannot be differentiated again."""
        normalised, sigma, u, v = ctx.saved_tensors
        gradient = gradients[0].reshape(len(u), -1)
        along = torch.dot(gradient.flatten(), normalised.flatten())
        return torch.addr(gradient, u * along, v, alpha=-1).div_(sigma).view_as(normalised), None, None


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context that switches mixed precision off if it is on."""
    # The meta device, on which operations are counted, has no mixed precision.
    mixed = is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if mixed else contextlib.nullcontext()


class SpectralConv2d(SpectralLayer):
    """A convolution that keeps the image size, with a spectrally normalised kernel.

    Arguments:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: An odd number; the padding is half of it.

    Example:
        >>> SpectralConv2d(3, 8, kernel_size=3)(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__((out_channels, in_channels, kernel_size, kernel_size))
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, R, R) to (N, out, R, R)."""
        weight, bias = self.weight_in_forward(), self.bias_in_forward()
        if self.fused:
            return convolution(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=self.padding)

    def pooled(self, x: Tensor) -> Tensor:
        """Return the average of each 2x2 pixels of `forward`, (N, out, R/2, R/2)."""
        if not self.fused or self.padding != 1:
            return F.avg_pool2d(self(x), 2)
        return pooled_convolution(x, self.weight_in_forward(), self.bias_in_forward())


class SpectralLinear(SpectralLayer):
    """A linear layer with a spectrally normalised matrix, (N, in) to (N, out).

    Example:
        >>> layer = SpectralLinear(4, 3)
        >>> float(torch.linalg.matrix_norm(layer.normalised_weight(), ord=2).detach().round(decimals=2))
        1.0
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__((out_features, in_features), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in) to (N, out)."""
        return F.linear(x, self.weight_in_forward(), self.bias_in_forward())


class SpectralEmbedding(SpectralLayer):
    """A row of a spectrally normalised matrix for each label, (...) int64 to (..., size).

    Arguments:
        count: The number of labels.
        size: The length of a row.

    Example:
        >>> SpectralEmbedding(10, 8)(torch.tensor([3, 3, 7])).shape
        torch.Size([3, 8])
    """

    def __init__(self, count: int, size: int) -> None:
        super().__init__((count, size), bias=False)

    def forward(self, y: Tensor) -> Tensor:
        """Map labels to rows."""
        return F.embedding(y, self.weight_in_forward())


def power_iteration(network: nn.Module, steps: int = 1) -> None:
    """Advance every spectrally normalised layer of a network, except those that advance in their own forward.

    Arguments:
        network: Any module; layers of other kinds are left alone.
        steps: How many iterations.
    """
    for layer in network.modules():
        if isinstance(layer, SpectralLayer) and not layer.in_forward:
            layer.power_iteration(steps)


def rounds_its_weight(layer: SpectralLayer) -> bool:
    """Return whether a layer only multiplies by its weight, so that mixed precision rounds the weight in any case."""
    return type(layer).forward in (SpectralConv2d.forward, SpectralLinear.forward)


def iterate_in_forward(network: nn.Module) -> None:
    """Let every spectrally normalised layer of a network advance in each training forward, and nowhere else.

    A layer in training mode advances without gradients too.
    """
    for layer in network.modules():
        if isinstance(layer, SpectralLayer):
            layer.in_forward = True
