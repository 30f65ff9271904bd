"""The weights of a network, normalised together, against the same layers one by one, in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mpcc.core.layers.fusion import fuse
from mpcc.core.layers.network_weights import NetworkWeights, Workspace, left_alone, network_weights
from mpcc.core.layers.spectral_norm import (
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLayer,
    SpectralLinear,
    iterate_in_forward,
    power_iteration,
)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


class Line(SpectralLayer):
    """A layer of a third party: a convolution over one dimension."""

    def __init__(self) -> None:
        super().__init__((4, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(x, self.weight_in_forward(), self.bias)


class Many(nn.Module):
    """Layers of many shapes: some alike, one that advances in its forward, one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(SpectralConv2d(2, 3, 3), SpectralConv2d(3, 3, 3), SpectralConv2d(3, 3, 3))
        self.narrow = SpectralConv2d(3, 2, 1)
        self.single = SpectralConv2d(1, 2, 3)
        self.line = Line()
        self.linear = nn.ModuleList([SpectralLinear(5, 3), SpectralLinear(5, 3), SpectralLinear(3, 7, bias=False)])
        self.embedding = SpectralEmbedding(6, 4)
        self.advancing = SpectralLinear(5, 3)
        self.unused = SpectralLinear(5, 3)
        iterate_in_forward(self.advancing)

    def forward(self, images: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        h = self.narrow(self.convolutions(images))
        parts = [
            *(h, self.single(images[:, :1]), self.line(images[:, :, 0]), self.embedding(labels)),
            *(self.linear[0](rows), self.linear[2](self.linear[1](rows)), self.advancing(rows)),
        ]
        return sum((part.sin().sum() for part in parts), torch.zeros(()))


def network(seed: int = 0) -> Many:
    """A network in double precision whose weights are far from their start, so that u and v lag behind."""
    torch.manual_seed(seed)
    made = Many().double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images, rows = (torch.randn(*size, generator=generator).double() for size in ((3, 2, 6, 6), (3, 5)))
    return images, rows, torch.tensor([0, 5, 5])


def together(made: nn.Module) -> NetworkWeights:
    (weights,) = network_weights(made)
    return weights


def spectral(made: nn.Module) -> dict[str, SpectralLayer]:
    return {name: module for name, module in made.named_modules() if isinstance(module, SpectralLayer)}


def gradients(made: nn.Module) -> dict[str, Tensor | None]:
    made(*inputs()).backward()
    return {name: parameter.grad for name, parameter in made.named_parameters()}


def check_gradients(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    for name, gradient in expected.items():
        other = found[name]
        if gradient is None or other is None:
            assert gradient is other, name
        else:
            torch.testing.assert_close(other, gradient, atol=1e-10 * float(gradient.abs().max()), rtol=1e-10)
            assert other.stride() == gradient.stride()


def test_power_iterations_of_all_layers_are_those_of_each() -> None:
    each, all_at_once = network(), network()
    weights = together(all_at_once)
    for _ in range(3):
        power_iteration(each)
        weights.advance()
    for name, layer in spectral(each).items():
        close(spectral(all_at_once)[name].u, layer.u)
        close(spectral(all_at_once)[name].v, layer.v)


def advanced(weights: NetworkWeights) -> None:
    weights.advance()


def refreshed(weights: NetworkWeights) -> None:
    weights.refresh()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [advanced, refreshed])
def test_values_and_gradients_are_those_of_each_layer(make: Callable[[NetworkWeights], None], fused: bool) -> None:
    made = network()
    fuse(made, fused)
    weights = together(made)
    make(weights)
    expected = {name: layer.normalised_weight().detach() for name, layer in spectral(made).items()}
    alone = copy.deepcopy(made)
    weights.prepare()
    for name, layer in spectral(made).items():
        close(layer.normalised_weight().detach(), expected[name])
    close(made(*inputs()).detach(), copy.deepcopy(alone)(*inputs()).detach())
    weights.release()
    made.advancing.load_state_dict(alone.advancing.state_dict())
    weights.prepare()
    check_gradients(gradients(made), gradients(alone))


def test_two_forwards_of_one_preparation_add_their_gradients() -> None:
    made = network()
    alone = copy.deepcopy(made)
    weights = together(made)
    weights.refresh()
    weights.prepare()
    for each in (made, alone):
        (each(*inputs()) + 2 * each(*inputs())).backward()
    found = [{name: parameter.grad for name, parameter in each.named_parameters()} for each in (made, alone)]
    check_gradients(*found)


def test_networks_that_share_memory_do_not_disturb_each_other() -> None:
    workspace = Workspace()
    networks = [network(seed) for seed in range(3)]
    alone = copy.deepcopy(networks)
    tables = [table for made in networks for table in network_weights(made, workspace)]
    for table in tables:
        table.advance()
    for made in alone:
        power_iteration(made)
    for table in tables:
        table.prepare()
    for each in (networks, alone):
        torch.stack([made(*inputs()) for made in each]).prod().backward()
    for made, other in zip(networks, alone, strict=True):
        found = [{name: parameter.grad for name, parameter in each.named_parameters()} for each in (made, other)]
        check_gradients(*found)


def test_frozen_layers_get_no_gradient_and_pass_it_on() -> None:
    made = network()
    made.convolutions[1].requires_grad_(False)
    alone = copy.deepcopy(made)
    weights = together(made)
    weights.refresh()
    weights.prepare()
    check_gradients(gradients(made), gradients(alone))


def test_kernels_have_the_channels_innermost() -> None:
    made = network()
    weights = together(made)
    weights.refresh()
    weights.prepare()
    for layer in (*made.convolutions, made.narrow, made.single):
        value = layer.normalised_weight()
        _, channels, height, width = value.shape
        assert value.stride() == (height * width * channels, 1, width * channels, channels)


def test_a_layer_takes_no_prepared_weight_that_is_not_its_own_now() -> None:
    made = network()
    layer, x = made.linear[0], inputs()[1]
    weights = together(made)
    weights.refresh()
    with torch.no_grad():
        weights.prepare()
        prepared = layer.normalised_weight()
        assert layer.normalised_weight() is prepared
    # It was made without gradients.
    assert layer.normalised_weight().requires_grad
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer.weight.mul_(2)
        assert layer.normalised_weight() is not prepared
        # Twice the weight has twice the sigma.
        close(layer.normalised_weight(), prepared)
    other = torch.randn_like(layer.weight)
    found = torch.func.functional_call(layer, {"weight": other}, (x,))
    close(found, nn.functional.linear(x, other / (layer.u @ other @ layer.v), layer.bias))


def test_what_changes_in_a_weight_or_a_vector_is_seen() -> None:
    made = network()
    weights = together(made)
    layer = made.linear[0]
    weights.refresh()
    with torch.no_grad():
        for change in (layer.weight, layer.u):
            change.mul_(3)
            weights.refresh()
            weights.prepare()
            prepared = layer.normalised_weight().clone()
            weights.release()
            close(prepared, layer.normalised_weight())
    assert not weights.moved
    made.float()
    assert weights.moved


class Doubled(SpectralLinear):
    """A layer of a third party with a norm of its own."""

    def spectral_norm(self) -> Tensor:
        return 2 * super().spectral_norm()


def test_layers_with_a_way_of_their_own_are_left_alone() -> None:
    torch.manual_seed(0)
    other_order = SpectralConv2d(3, 4, 3).to(memory_format=torch.channels_last)
    made = nn.ModuleList([SpectralLinear(3, 2), Doubled(3, 2), other_order])
    assert together(made).layers == [made[0]]
    assert left_alone(made) == [made[1], made[2]]


def test_second_derivatives_are_refused() -> None:
    made = network()
    weights = together(made)
    weights.refresh()
    weights.prepare()
    (gradient,) = torch.autograd.grad(made(*inputs()), [made.linear[0].weight], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_mixed_precision_rounds_only_what_it_would_round_in_any_case() -> None:
    made = network().float()
    weights = together(made)
    weights.refresh()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights.prepare()
        assert made.linear[0].weight_in_forward().dtype == torch.bfloat16
        assert made.embedding.weight_in_forward().dtype == torch.float32
        assert made.line.weight_in_forward().dtype == torch.float32
        found = made.linear[0].weight_in_forward()
        # What others ask for has the precision of the weight.
        full = made.linear[0].normalised_weight()
        assert full.dtype == torch.float32
        assert torch.equal(found, full.bfloat16())
        bias = made.linear[0].bias_in_forward()
        assert bias is not None
        assert torch.equal(bias, made.linear[0].bias.bfloat16())
        assert made.line.bias_in_forward() is made.line.bias
        assert made.linear[2].bias_in_forward() is None
        made.linear[0](inputs()[1].float()).float().square().sum().backward()
    weights.release()
    found_gradients = [parameter.grad for parameter in made.linear[0].parameters()]
    made.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        made.linear[0](inputs()[1].float()).float().square().sum().backward()
    for gradient, parameter in zip(found_gradients, made.linear[0].parameters(), strict=True):
        assert gradient is not None
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-4, rtol=1e-2)
    assert made.linear[1].bias.grad is None
