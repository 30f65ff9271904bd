"""Fused layers and grouped batch moments against what they replace, in double precision."""

from __future__ import annotations

import copy
import ctypes
import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpcc.core.layers.batch_norm import GroupedBatchNorm2d, batch_groups
from mpcc.core.layers.fusion import (
    Blur,
    Fusable,
    SharedBlocks,
    channels_last,
    convolution,
    fuse,
    means_of_squares,
    narrow_convolution,
    pooled,
    pooled_convolution,
    shared_calls,
)
from mpcc.core.layers.spectral_norm import SpectralConv2d, SpectralLinear
from mpcc.core.system import allocator


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("size", [2, 4, 8, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pooled_convolution_is_the_pooling_of_a_convolution_with_its_gradients(size: int, channels: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, channels, size, size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64, requires_grad=True)
    expected = F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)
    found = pooled_convolution(x, weight, bias)
    close(found, expected)
    direction = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight, bias), direction),
        torch.autograd.grad(expected, (x, weight, bias), direction),
        strict=True,
    ):
        close(ours, theirs)


@pytest.mark.parametrize("size", [2, 8])
def test_pooling_has_the_gradients_of_pooling_to_second_order(size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, size, size, dtype=torch.float64, requires_grad=True)
    assert torch.equal(pooled(x), F.avg_pool2d(x, 2))
    assert torch.autograd.gradcheck(pooled, (x,))
    assert torch.autograd.gradgradcheck(pooled, (x,))
    weight = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: pooled_convolution(x, weight, None), (x,))


@pytest.mark.parametrize("out", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_narrow_convolution_is_a_convolution_with_its_gradients(out: int, kernel: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(out, 5, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(out, dtype=torch.float64, requires_grad=True) if with_bias else None
    expected = F.conv2d(x, weight, bias, padding=kernel // 2)
    found = narrow_convolution(x, weight, bias)
    close(found, expected)
    inputs = [each for each in (x, weight, bias) if each is not None]
    direction = torch.randn_like(expected)
    pairs = (torch.autograd.grad(each, inputs, direction) for each in (found, expected))
    for ours, theirs in zip(*pairs, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("out", [1, 2, 3, 40])
@pytest.mark.parametrize("size", [8, 16])
def test_the_fused_convolution_is_one_whichever_way_it_takes(out: int, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 48, size, size, dtype=torch.float64)
    weight, bias = torch.randn(out, 48, 3, 3, dtype=torch.float64), torch.randn(out, dtype=torch.float64)
    close(convolution(x, weight, bias), F.conv2d(x, weight, bias, padding=1))


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_in_half_precision_it_is_the_same_up_to_the_rounding_of_half_precision(size: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 4, size, size), torch.randn(5, 4, 3, 3) / 6, torch.randn(5)
    expected = F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)
    found = pooled_convolution(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_fused_spectral_convolution_is_the_plain_one_with_its_gradients(kernel: int, pooled: bool) -> None:
    torch.manual_seed(0)
    plain = SpectralConv2d(3, 6, kernel).double()
    fused = copy.deepcopy(plain)
    fuse(fused)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    outputs, gradients = [], []
    for layer in (plain, fused):
        out = layer.pooled(x) if pooled else layer(x)
        outputs.append(out)
        gradients.append(torch.autograd.grad(out.square().sum(), list(layer.parameters())))
    close(outputs[1], outputs[0])
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        close(ours, theirs)


def test_the_gradient_of_a_normalised_weight_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    layer = SpectralLinear(4, 3).double()
    fuse(layer)

    def normalised(weight: Tensor) -> Tensor:
        layer.weight.data = weight
        return torch.func.functional_call(Normalised(layer), {"layer.weight": weight}, ())

    assert torch.autograd.gradcheck(normalised, (layer.weight.detach().clone().requires_grad_(),))


class Normalised(nn.Module):
    """Gives the normalised weight of a layer as its output."""

    def __init__(self, layer: SpectralLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.normalised_weight()


def test_channels_are_innermost_even_where_there_is_only_one() -> None:
    for channels in (1, 3):
        x = torch.randn(2, channels, 4, 4)
        found = channels_last(x)
        assert torch.equal(found, x)
        assert found.stride() == (16 * channels, 1, 4 * channels, channels)
        if channels > 1:
            assert channels_last(found).data_ptr() == found.data_ptr()


GROUPS, GROUP = 3, 5


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("fused", [False, True])
def test_groups_of_a_batch_are_normalised_like_batches(affine: bool, momentum: float | None, fused: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(4, affine=affine, momentum=momentum).double()
    ours = GroupedBatchNorm2d(4, affine=affine, momentum=momentum).double()
    if affine:
        nn.init.normal_(theirs.weight)
        nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    fuse(ours, fused)
    x = torch.randn(GROUPS * GROUP, 4, 6, 6, dtype=torch.float64) * 3 + 2
    gain, bias = (torch.randn(GROUPS * GROUP, 4, 1, 1, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        expected = torch.cat([theirs(group) for group in x.split(GROUP)])
        with batch_groups(ours, GROUPS):
            found = ours.normalised_relu(channels_last(x), gain, bias)
    close(found, torch.relu(expected * gain + bias))
    for key, value in theirs.state_dict().items():
        close(ours.state_dict()[key], value)
    # Outside of the block the whole input is one batch again; and in evaluation mode the running moments count.
    with torch.no_grad():
        close(ours.normalised_relu(x), torch.relu(theirs(x)))
        close(ours.eval().normalised_relu(x, gain, bias), torch.relu(theirs.eval()(x) * gain + bias))


@pytest.mark.parametrize("training", [False, True])
def test_a_layer_without_running_statistics_always_takes_those_of_the_batch(training: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(2, track_running_stats=False).double().train(training)
    ours = GroupedBatchNorm2d(2, track_running_stats=False).double().train(training)
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    for fused in (False, True):
        fuse(ours, fused)
        with torch.no_grad(), batch_groups(ours, 2):
            close(ours.normalised_relu(x), torch.cat([torch.relu(theirs(group)) for group in x.split(3)]))


def test_groups_have_gradients_like_batches() -> None:
    torch.manual_seed(0)
    theirs, ours = nn.BatchNorm2d(2).double(), GroupedBatchNorm2d(2).double()
    fuse(ours)
    x = torch.randn(6, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    expected = torch.cat([torch.relu(theirs(group)) for group in x.split(3)])
    with batch_groups(ours, 2):
        found = ours.normalised_relu(x)
    ours_gradients = torch.autograd.grad(found, (x, ours.weight, ours.bias), direction)
    their_gradients = torch.autograd.grad(expected, (x, theirs.weight, theirs.bias), direction)
    for one, other in zip(ours_gradients, their_gradients, strict=True):
        close(one, other)


def test_only_what_nobody_needs_any_more_is_overwritten() -> None:
    layer = GroupedBatchNorm2d(2)
    fuse(layer)
    x = torch.randn(6, 2, 3, 3)
    kept = x.clone()
    with torch.no_grad():
        expected = layer.normalised_relu(x)
        assert torch.equal(x, kept)
        found = layer.normalised_relu(x, overwrite=True)
    assert found.data_ptr() == x.data_ptr()
    torch.testing.assert_close(found, expected)


def test_the_groups_end_with_the_block_even_after_an_error() -> None:
    layer = GroupedBatchNorm2d(2)
    with pytest.raises(RuntimeError), batch_groups(layer, 2):
        layer(torch.zeros(4, 3, 2, 2))
    assert layer.groups == 1


def test_every_layer_that_can_be_fused_is_switched_on_and_off() -> None:
    network = nn.Sequential(SpectralConv2d(1, 2, 3), nn.Sequential(GroupedBatchNorm2d(2), nn.ReLU()))
    fuse(network)
    assert [module.fused for module in network.modules() if isinstance(module, Fusable)] == [True, True]
    fuse(network, on=False)
    assert not any(module.fused for module in network.modules() if isinstance(module, Fusable))


@pytest.mark.skipif(not allocator.adjustable(), reason="not glibc, or its allocator has been set from outside")
def test_the_c_library_takes_the_options() -> None:
    library = ctypes.CDLL(None)
    # KEPT first: what is set last stays.
    for options in (allocator.KEPT, allocator.SETTLED):
        assert [library.mallopt(name, value) for name, value in options.items()] == [1] * len(options)


def test_kept_memory_leaves_an_allocator_alone_that_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    for name in [each for each in os.environ if each.startswith("MALLOC_")] + ["GLIBC_TUNABLES"]:
        monkeypatch.delenv(name, raising=False)
    assert allocator.adjustable()
    monkeypatch.setenv("MALLOC_ARENA_MAX_", "1")
    assert not allocator.adjustable()
    monkeypatch.delenv("MALLOC_ARENA_MAX_")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert not allocator.adjustable()


class Library:
    """A C library that remembers the options of its allocator, and whether free memory was given back."""

    def __init__(self) -> None:
        self.options: dict[int, int] = {}
        self.trimmed = False

    def mallopt(self, name: int, value: int) -> int:
        self.options[name] = value
        return 1

    def malloc_trim(self, _: int) -> int:
        self.trimmed = True
        return 1


def test_memory_is_kept_inside_of_the_outermost_block_and_given_back_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    for name in [each for each in os.environ if each.startswith("MALLOC_")] + ["GLIBC_TUNABLES"]:
        monkeypatch.delenv(name, raising=False)
    with allocator.kept_memory(wanted=False):
        assert library.options == {}
    with allocator.kept_memory():
        with allocator.kept_memory():
            assert library.options == allocator.KEPT
        assert library.options == allocator.KEPT
        assert not library.trimmed
    assert library.options == {**allocator.KEPT, **allocator.SETTLED}
    assert library.trimmed
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    with allocator.kept_memory():
        assert library.options == {**allocator.KEPT, **allocator.SETTLED}


def test_shared_blocks_are_called_once_for_the_same_tensor_inside_a_block_and_nowhere_else() -> None:
    blocks, x = SharedBlocks(nn.Linear(2, 2)), torch.randn(3, 2)
    assert blocks(x) is not blocks(x)
    with shared_calls([blocks]):
        first = blocks(x)
        assert blocks(x) is first
        assert blocks(x.clone()) is not first
        with torch.no_grad():
            without = blocks(x)
            assert without is not first
            assert not without.requires_grad
        x.mul_(2)
        assert blocks(x) is not first
    assert blocks(x) is not blocks(x)


def test_gradients_of_two_networks_add_up_in_the_blocks_that_they_share() -> None:
    torch.manual_seed(0)
    blocks = SharedBlocks(nn.Linear(2, 4), nn.Tanh())
    heads = [nn.Sequential(blocks, nn.Linear(4, 1)) for _ in range(2)]
    x = torch.randn(3, 2)
    found = []
    for shared in ([], [blocks]):
        with shared_calls(shared):
            total = torch.stack([head(x).sin().sum() for head in heads]).sum()
        found.append(torch.autograd.grad(total, list(blocks.parameters())))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [2, 9, 33])
@pytest.mark.parametrize("padding", [0, 1])
def test_means_of_neighbours_are_those_of_a_pooling_in_single_precision(size: int, padding: int) -> None:
    torch.manual_seed(0)
    x = channels_last(torch.randn(3, 5, size, size))
    found = means_of_squares(x, padding)
    torch.testing.assert_close(found, F.avg_pool2d(x, 2, stride=1, padding=padding))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_kernel_merged_with_the_pooling_gives_the_same() -> None:
    torch.manual_seed(0)
    x = channels_last(torch.randn(2, 3, 8, 8, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = pooled_convolution(x, weight, None)
    found = F.conv2d(x, Blur.apply(weight), padding=1, stride=2)
    close(found, expected)
    direction = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight), direction),
        torch.autograd.grad(expected, (x, weight), direction),
        strict=True,
    ):
        close(ours, theirs)
