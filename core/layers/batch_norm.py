"""Batch normalisation with the moments of each group of a batch, so that several batches pass a network in one call.

Letters in shapes: N images, W channels, S image size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpcc.core.layers.fusion import Fusable, channels_last, fuse, upsampled
from mpcc.core.layers.triton_kernels import block_moments, scaled_relu
from mpcc.core.system import ranks

__all__ = ["GroupedBatchNorm2d", "averaged_statistics", "batch_groups", "norms_over_ranks"]


class GroupedBatchNorm2d(nn.BatchNorm2d, Fusable):
    """torch's batch normalisation of (N, W, S, S); inside `batch_groups`, each group is a batch of its own.

    Outputs, running statistics and the count of batches are those of one call for each group, in order.

    Attributes:
        groups: Into how many batches of equal size the input is divided, 1 outside of `batch_groups`. The number of
            images is a multiple of it.
        over_ranks: Whether moments in training mode are those of the batches of all ranks together, see
            `norms_over_ranks`.

    Example:
        >>> layer, x = GroupedBatchNorm2d(1), torch.arange(4.0).view(4, 1, 1, 1)
        >>> with batch_groups(layer, 2):
        ...     [round(value, 2) for value in layer(x).flatten().tolist()]
        [-1.0, 1.0, -1.0, 1.0]
    """

    groups: int = 1
    over_ranks: bool = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the input, group by group in training mode."""
        if self.over_ranks and self.training:
            return self._normalised_over_ranks(input)
        if self.groups == 1 or not (self.training or self.running_mean is None):
            return super().forward(input)
        return torch.cat([super(GroupedBatchNorm2d, self).forward(group) for group in input.chunk(self.groups)])

    @torch.no_grad()
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of each channel in each group, (groups, W); the running ones in evaluation.

        The running statistics are updated as in `forward`.
        """
        if not (self.training or self.running_mean is None or self.running_var is None):
            return self.running_mean[None], self.running_var[None]
        tracked = self.num_batches_tracked is not None
        if self.over_ranks:
            means, variances = moments_over_ranks(*group_moments(widened(x), self.groups), self.running_mean)
        elif not tracked:
            return group_moments(widened(x), self.groups)
        elif x.device.type == "cpu" and not self.own_kernels:
            # This takes one pass in either layout; var_mean takes ten times as long if channels are innermost.
            groups = x.chunk(self.groups)
            found = [
                torch.batch_norm_update_stats(group, self.running_mean, self.running_var, factor)
                for group, factor in zip(groups, self._factors(), strict=True)
            ]
            means, variances = found[0] if len(found) == 1 else map(torch.cat, zip(*found, strict=True))
            return means.view(self.groups, -1), variances.view(self.groups, -1)
        elif self.own_kernels and x.dtype != torch.float64:
            means, variances = block_moments(channels_last(x), self.groups)
        else:
            means, variances = group_moments(x.to(self.get_buffer("running_mean").dtype), self.groups)
        if tracked:
            self._track(means, variances, x.numel() // means.numel())
        return means, variances

    def _factors(self) -> list[float]:
        """Count one batch for each group, and return the weights of their moments in the running ones."""
        tracked = self.get_buffer("num_batches_tracked")
        if self.momentum is None:
            done = float(tracked)
            factors = [1 / (done + group) for group in range(1, self.groups + 1)]
        else:
            factors = [self.momentum] * self.groups
        tracked.add_(self.groups)
        return factors

    @torch.no_grad()
    def _track(self, means: Tensor, variances: Tensor, count: int) -> None:
        """Update the running statistics with the moments of ``count`` values of each channel and group."""
        count *= ranks.current().size if self.over_ranks else 1
        unbiased = variances * (count / (count - 1))
        running = [self.get_buffer("running_mean"), self.get_buffer("running_var")]
        for factor, *group in zip(self._factors(), means.unbind(), unbiased.unbind(), strict=True):
            torch._foreach_lerp_(running, [each.to(running[0].dtype) for each in group], factor)

    def _normalised_over_ranks(self, x: Tensor) -> Tensor:
        """Return the normalised input; gradients go through the moments, which all ranks share."""
        means, variances = moments_over_ranks(*group_moments(widened(x), self.groups), self.running_mean)
        if self.num_batches_tracked is not None:
            self._track(means.detach(), variances.detach(), x.numel() // means.numel())
        scale = torch.rsqrt(variances + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -means * scale if self.bias is None else torch.addcmul(self.bias, means, scale, value=-1)
        scale, shift = (
            each[:, None].expand(-1, len(x) // self.groups, -1).reshape(len(x), -1, 1, 1) for each in (scale, shift)
        )
        return torch.addcmul(shift, widened(x), scale).to(x.dtype)

    def normalised_relu(
        self,
        x: Tensor,
        gain: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        overwrite: bool = False,
        upsampling: str | None = None,
    ) -> Tensor:
        """Return relu(forward(x) * gain + bias), in two passes over x if fused and without gradients.

        With kernels of our own it is one pass, upsampling included.

        Arguments:
            x: Shape (N, W, S, S).
            gain: Shape (N, W, 1, 1), or None for 1.
            bias: Shape (N, W, 1, 1), or None for 0; given if the gain is.
            overwrite: Whether the result may take the place of x in memory.
            upsampling: ``bilinear`` or ``nearest`` if the result is wanted at twice the size.
        """
        if self.fused and not torch.is_grad_enabled():
            scale, shift = self._scale_and_shift(x, gain, bias)
            if self.own_kernels and x.dtype != torch.float64:
                return scaled_relu(channels_last(x), scale.float(), shift.float(), upsampling)
            # Under mixed precision both are rounded to the type of the features.
            scale, shift = scale.to(x.dtype), shift.to(x.dtype)
            h = torch.addcmul(shift, x, scale, out=x) if overwrite else torch.addcmul(shift, x, scale)
            h = h.relu_()
        else:
            h = self(x)
            if gain is not None and bias is not None:
                # Under mixed precision, gain and bias have a wider type than the features.
                h = torch.addcmul(bias.to(h.dtype), h, gain.to(h.dtype))
            h = F.relu(h, inplace=self.fused)
        return h if upsampling is None else upsampled(h, upsampling)

    def _scale_and_shift(self, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return scale and shift, each (N, W, 1, 1) or (1, W, 1, 1), so that x * scale + shift is the result."""
        means, variances = self.moments(x)
        scale = torch.rsqrt(variances + self.eps)
        groups = len(means)
        offset: Tensor = scale.new_zeros(()) if self.bias is None else self.bias
        if self.weight is not None:
            scale = scale * self.weight
        if gain is not None and bias is not None:
            gain, bias = (each.view(groups, -1, each.shape[1]) for each in (gain, bias))
            offset = bias if self.bias is None else torch.addcmul(bias, gain, self.bias)
            scale, means = scale[:, None] * gain, means[:, None]
        elif groups > 1:
            scale, means = (each[:, None].expand(-1, len(x) // groups, -1) for each in (scale, means))
        shift = torch.addcmul(offset, means, scale, value=-1)
        return scale.reshape(-1, x.shape[1], 1, 1), shift.reshape(-1, x.shape[1], 1, 1)


def widened(x: Tensor) -> Tensor:
    """Return values in single precision if they are in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def moments_over_ranks(means: Tensor, variances: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over all ranks, with gradients, from those of each rank's equal part.

    Arguments:
        means: Of this rank, shape (groups, W).
        variances: Of this rank, shape (groups, W).
        near: Values on all ranks that means are near to, shape (W,), so that little is lost in the difference of
            squares; 0 by default.
    """
    together = ranks.current()
    away = means if near is None else means - near
    summed = together.summed(torch.stack([away, torch.addcmul(variances, away, away)]), "moments")
    away, squares = (summed / together.size).unbind()
    variances = torch.addcmul(squares, away, away, value=-1).clamp_min(0)
    return (away if near is None else away + near), variances


def norms_over_ranks(network: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Let every `GroupedBatchNorm2d` of a network take the moments of all ranks, for the length of a ``with`` block.

    All ranks then have to call the network together, with parts of one size.
    """
    return norms_with(network, over_ranks=True)


def group_moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel in each group of images, (groups, W), for x, (N, W, S, S)."""
    variances, means = torch.var_mean(x.view(groups, -1, *x.shape[1:]), (1, 3, 4), correction=0)
    return means, variances


def batch_groups(network: nn.Module, groups: int) -> contextlib.AbstractContextManager[None]:
    """Let every `GroupedBatchNorm2d` of a network take its moments group by group, for the length of a ``with`` block.

    Arguments:
        network: The network that is called inside the block, with a batch that divides into groups of equal size.
        groups: The number of groups.
    """
    return norms_with(network, groups=groups)


@contextlib.contextmanager
def norms_with(network: nn.Module, **values: int | bool) -> Iterator[None]:
    """Set attributes of every `GroupedBatchNorm2d` of a network in a ``with`` block, then their defaults again."""
    layers = [module for module in network.modules() if isinstance(module, GroupedBatchNorm2d)]
    for layer in layers:
        for name, value in values.items():
            setattr(layer, name, value)
    try:
        yield
    finally:
        for layer in layers:
            for name in values:
                setattr(layer, name, getattr(GroupedBatchNorm2d, name))


@contextlib.contextmanager
def averaged_statistics(network: nn.Module) -> Iterator[None]:
    """Give every batch norm of a network the averages of the moments of the batches that pass it in a ``with`` block.

    The variances are the biased ones, by which training normalises; torch's running variances are unbiased, n / (n - 1)
    times larger for n values in a channel. After one batch, evaluation mode therefore repeats training mode. Inside the
    block the network is in training mode, without gradients, and its layers are not fused.

    Arguments:
        network: With batch norms of torch's classes, which keep running statistics; others are left alone.
    """
    layers = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
        seen[layer].append(torch.var_mean(x, (0, *range(2, x.dim())), correction=0))

    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    ways = [(module, module.fused, module.own_kernels) for module in network.modules() if isinstance(module, Fusable)]
    modes = [(module, module.training) for module in network.modules()]
    network.train()
    fuse(network, on=False)  # a fused layer computes without a call of its batch norm
    try:
        with torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, fused, own_kernels in ways:
            layer.fused, layer.own_kernels = fused, own_kernels
        for module, training in modes:
            module.training = training
    for norm, moments in seen.items():
        if moments:
            variances, means = (torch.stack(values).mean(0) for values in zip(*moments, strict=True))
            norm.get_buffer("running_mean").copy_(means)
            norm.get_buffer("running_var").copy_(variances)
