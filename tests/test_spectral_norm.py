"""Spectral normalisation against numpy's singular values, the textbook's step and finite differences."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation.evaluation import evaluate
from mpcc.core.images.stream import ImageStream
from mpcc.core.layers.spectral_norm import (
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLayer,
    SpectralLinear,
    iterate_in_forward,
    power_iteration,
)
from mpcc.core.method.model import Model, standing_generator
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

LAYERS = {
    "linear": (lambda: SpectralLinear(7, 5), (3, 7)),
    "wide linear": (lambda: SpectralLinear(3, 11), (3, 3)),
    "linear without bias": (lambda: SpectralLinear(6, 4, bias=False), (3, 6)),
    "row": (lambda: SpectralLinear(9, 1), (3, 9)),
    "3x3 convolution": (lambda: SpectralConv2d(3, 5, 3), (2, 3, 6, 6)),
    "1x1 convolution": (lambda: SpectralConv2d(4, 2, 1), (2, 4, 6, 6)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def layer(name: str, seed: int = 0) -> SpectralLayer:
    """A layer in float64 whose weight is far from its start, so that u and v lag behind."""
    torch.manual_seed(seed)
    made = LAYERS[name][0]().double()
    with torch.no_grad():
        made.weight.copy_(torch.randn_like(made.weight))
    return made


def image(name: str) -> Tensor:
    return torch.randn(LAYERS[name][1], dtype=torch.float64)


def matrix(made: SpectralLayer) -> np.ndarray:
    weight = made.weight.detach().numpy()
    return weight.reshape(len(weight), -1)


def test_the_matrix_of_a_kernel_has_a_row_for_each_output_channel() -> None:
    made = layer("3x3 convolution")
    assert (made.u.shape, made.v.shape) == ((5,), (27,))


@every_layer
def test_sigma_settles_at_the_largest_singular_value(name: str) -> None:
    made = layer(name)
    power_iteration(made, 2000)
    assert made.spectral_norm().item() == pytest.approx(np.linalg.svd(matrix(made), compute_uv=False)[0], rel=1e-10)


@every_layer
def test_the_settled_weight_has_norm_one(name: str) -> None:
    made = layer(name)
    power_iteration(made, 2000)
    normalised = made.normalised_weight().detach()
    assert normalised.shape == made.weight.shape
    assert np.linalg.norm(normalised.flatten(1).numpy(), ord=2) == pytest.approx(1, rel=1e-10)


@every_layer
def test_a_fresh_layer_is_nearly_settled_and_never_above_the_true_norm(name: str) -> None:
    torch.manual_seed(1)
    made = LAYERS[name][0]()
    largest = np.linalg.svd(matrix(made), compute_uv=False)[0]
    assert 0.95 * largest < made.spectral_norm().item() <= largest * (1 + 1e-6)


@every_layer
def test_one_step_is_that_of_the_textbook(name: str) -> None:
    made = layer(name)
    W, u = matrix(made), made.u.numpy().copy()
    v = W.T @ u / np.linalg.norm(W.T @ u)
    u = W @ v / np.linalg.norm(W @ v)
    made.power_iteration()
    np.testing.assert_allclose(made.v.numpy(), v, atol=1e-13)
    np.testing.assert_allclose(made.u.numpy(), u, atol=1e-13)
    assert made.spectral_norm().item() == pytest.approx(u @ W @ v, rel=1e-13)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_forward_is_a_pure_function(name: str, training: bool) -> None:
    made, x = layer(name).train(training), image(name)
    before = copy.deepcopy(made.state_dict())
    outputs = [made(x) for _ in range(3)]
    assert all(torch.equal(outputs[0], output) for output in outputs)
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
    assert torch.equal(made.eval()(x), made.train()(x))


@every_layer
def test_forward_uses_the_weight_over_sigma_and_the_bias_as_it_is(name: str) -> None:
    made, x = layer(name), image(name)
    W = made.weight.detach().numpy() / (made.u.numpy() @ matrix(made) @ made.v.numpy())
    if W.ndim == 2:
        expected = x.numpy() @ W.T
    else:
        pad = W.shape[-1] // 2
        padded = np.pad(x.numpy(), [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, W.shape[2:], axis=(2, 3))
        expected = np.einsum("nchwij,ocij->nohw", windows, W)
    if made.bias is not None:
        expected = expected + made.bias.detach().numpy().reshape(1, -1, *[1] * (expected.ndim - 2))
    np.testing.assert_allclose(made(x).detach().numpy(), expected, atol=1e-12)


def test_power_iteration_advances_every_layer_of_a_network_by_the_steps_asked_for() -> None:
    torch.manual_seed(2)
    network = nn.Sequential(SpectralLinear(4, 6), nn.Sequential(nn.ReLU(), SpectralLinear(6, 3)), nn.Linear(3, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    alone = copy.deepcopy(network)
    weights = [parameter.clone() for parameter in network.parameters()]
    power_iteration(network, steps=3)
    for made in alone.modules():
        if isinstance(made, SpectralLayer):
            for _ in range(3):
                made.power_iteration()
    for moved, expected in zip(network.buffers(), alone.buffers(), strict=True):
        assert torch.equal(moved, expected)
    assert all(torch.equal(old, new) for old, new in zip(weights, network.parameters(), strict=True))


@every_layer
def test_gradients_are_those_of_finite_differences_with_both_vectors_constant(name: str) -> None:
    made, x = layer(name), image(name)
    weight = made.weight.detach().requires_grad_()
    assert gradcheck(lambda W, x: functional_call(made, {"weight": W}, (x,)), (weight, x.requires_grad_()))


def test_the_gradient_at_a_settled_weight_is_that_of_the_spectral_norm() -> None:
    made = layer("linear")
    power_iteration(made, 2000)
    made.spectral_norm().backward()
    U, _, V = np.linalg.svd(matrix(made))
    assert made.weight.grad is not None
    np.testing.assert_allclose(made.weight.grad.numpy(), np.outer(U[:, 0], V[0]), atol=1e-8)


def test_scaling_the_weight_does_not_change_what_the_layer_does() -> None:
    made, x = layer("3x3 convolution"), image("3x3 convolution")
    scaled = copy.deepcopy(made)
    with torch.no_grad():
        scaled.weight.mul_(37)
    torch.testing.assert_close(scaled(x), made(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: SpectralLinear(50, 4000), lambda: nn.Linear(50, 4000)),
        (lambda: SpectralConv2d(3, 4000, 3), lambda: nn.Conv2d(3, 4000, 3)),
    ],
)
def test_biases_start_in_the_range_that_torch_uses(ours: type[SpectralLayer], theirs: type[nn.Linear]) -> None:
    torch.manual_seed(3)
    bias, reference = ours().bias, theirs().bias
    assert bias is not None
    fan_in = ours().weight[0].numel()
    assert bias.abs().max().item() <= fan_in**-0.5
    assert bias.abs().max().item() == pytest.approx(reference.abs().max().item(), rel=0.01)
    assert bias.std().item() == pytest.approx(reference.std().item(), rel=0.05)


def test_weights_start_with_standard_deviation_one_fiftieth() -> None:
    torch.manual_seed(4)
    weight = SpectralLinear(400, 300).weight.detach()
    assert weight.std().item() == pytest.approx(0.02, rel=5 / (2 * weight.numel()) ** 0.5)
    assert abs(weight.mean().item()) < 5 * 0.02 / weight.numel() ** 0.5


def test_both_vectors_are_saved_but_not_trained() -> None:
    made = layer("linear")
    assert set(made.state_dict()) == {"weight", "bias", "u", "v"}
    assert {name for name, _ in made.named_parameters()} == {"weight", "bias"}


# The embedding


def test_an_embedding_gives_the_rows_of_a_matrix_of_norm_one() -> None:
    torch.manual_seed(5)
    made = SpectralEmbedding(6, 4).double()
    assert dict(made.named_parameters()).keys() == {"weight"}
    assert (made.u.shape, made.v.shape) == ((6,), (4,))
    power_iteration(made, 2000)
    W, y = made.weight.detach().numpy(), torch.tensor([[3, 0], [5, 3]])
    expected = (W / np.linalg.svd(W, compute_uv=False)[0])[y]
    np.testing.assert_allclose(made(y).detach().numpy(), expected, atol=1e-10)
    gradients = torch.randn(2, 2, 4, dtype=torch.float64)
    weight = made.weight.detach().requires_grad_()
    assert gradcheck(lambda W: (functional_call(made, {"weight": W}, (y,)) * gradients).sum(), (weight,))


# One power iteration in each training forward, as the authors' code has it; the oracle is torch's parametrisation.


def matrices() -> tuple[SpectralLayer, nn.Module]:
    """A layer of ours and one of torch's with equal weights and vectors, in float64.

    torch advances u before v. On the transposed matrix (``dim=1``) its u is our v, and the order is the same.
    """
    torch.manual_seed(6)
    ours, theirs = SpectralLinear(7, 5).double(), nn.Linear(7, 5).double()
    with torch.no_grad():
        ours.weight.copy_(torch.randn_like(ours.weight))
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)
    theirs = spectral_norm(theirs, eps=1e-8, dim=1)
    inner = theirs.parametrizations.weight[0]
    inner._u.copy_(ours.v)
    inner._v.copy_(ours.u)
    iterate_in_forward(ours)
    return ours, theirs


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


def test_a_layer_that_advances_in_forwards_is_torchs_parametrisation() -> None:
    ours, theirs = matrices()
    inner = theirs.parametrizations.weight[0]
    raw = theirs.parametrizations.weight.original
    for step in range(3):
        for training in (True, False, True):
            for network in (ours, theirs):
                network.train(training)
                network.zero_grad()
            # Two forwards before the backward, as of real and generated images, and one without gradients.
            first, second = torch.randn(3, 7).double(), torch.randn(4, 7).double()
            losses = []
            for network in (ours, theirs):
                with torch.no_grad():
                    network(second)
                one, two = network(first), network(second)
                losses.append((one**2).sum() - two.exp().sum())
            same(losses[0], losses[1])
            losses[0].backward()
            losses[1].backward()
            same(ours.weight.grad, raw.grad)
            same(ours.u, inner._v)
            same(ours.v, inner._u)
        with torch.no_grad():
            for weight in (ours.weight, raw):
                weight.add_(torch.full_like(weight, 0.1 * step)).mul_(1.1)


@pytest.mark.parametrize("name", [*LAYERS, "embedding"])
def test_every_training_forward_advances_by_one_step_with_or_without_gradients(name: str) -> None:
    torch.manual_seed(7)
    made = SpectralEmbedding(6, 4) if name == "embedding" else layer(name)
    x = torch.tensor([1, 2]) if name == "embedding" else image(name)
    iterate_in_forward(made)
    twin = copy.deepcopy(made)
    for gradients in (True, False, True):
        with torch.set_grad_enabled(gradients):
            actual = made(x)
        twin.power_iteration()
        assert torch.equal(made.u, twin.u)
        assert torch.equal(made.v, twin.v)
        assert torch.equal(actual, twin.eval()(x))
    before = copy.deepcopy(made.state_dict())
    made.eval()(x)
    power_iteration(made.train(), steps=3)
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())


def test_advancing_in_forwards_is_a_property_of_every_layer_of_a_network_and_of_its_copies() -> None:
    network = nn.Sequential(SpectralLinear(4, 6), nn.Sequential(nn.ReLU(), SpectralLinear(6, 3)), nn.Linear(3, 2))
    other = SpectralLinear(4, 6)
    iterate_in_forward(network)
    layers = [module for module in copy.deepcopy(network).modules() if isinstance(module, SpectralLayer)]
    assert [each.in_forward for each in layers] == [True, True]
    assert not other.in_forward
    assert not any("in_forward" in key for key in network.state_dict())


def run_of(**options: Any) -> Trainer:
    """A tiny training whose networks advance in forwards and, in effect, never change their weights."""
    torch.manual_seed(8)
    networks = BigGAN8(BigGANOptions(width=1, power_iterations="forward", **options)).build(3, 4, 1)
    model = Model.assemble(GaussianMixture(3, 4, GaussianMixtureOptions()), networks, torch.device("cpu"))
    stream = ImageStream(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8), 5, seed=0)
    schedule = Schedule(batch=5, d_steps=2, e_steps=3, lr=1e-300, prior_lr=1e-300, ema_decay=0.9, ema_start=0)
    return Trainer(model, stream, schedule, TermWeights())


@pytest.mark.parametrize("projection", ["none", "posterior"])
def test_in_an_iteration_each_network_advances_as_often_as_it_is_called(projection: Any) -> None:
    trainer = run_of(projection=projection)
    networks = trainer.model.networks
    # The discriminator's steps infer the labels of real images with the encoder.
    inferring = 2 if projection == "posterior" else 0
    calls = {"G": 2 + 1 + 3, "D": 2 + 1, "E": 3 + inferring}
    calls["trunk"] = calls["D"] + calls["E"]
    parts = {"G": networks.generator, "D": networks.discriminator.blocks, "E": networks.encoder.blocks}
    parts["trunk"] = networks.discriminator.trunk

    def layers() -> dict[str, list[SpectralLayer]]:
        return {name: [m for m in part.modules() if isinstance(m, SpectralLayer)] for name, part in parts.items()}

    before = copy.deepcopy(layers())
    trainer.iterate()
    for name, found in layers().items():
        exactly, moved_by_the_last = [], []
        for layer, expected in zip(found, before[name], strict=True):
            expected.power_iteration(calls[name] - 1)
            one_fewer = expected.u.clone()
            expected.power_iteration()
            exactly.append(torch.equal(layer.u, expected.u) and torch.equal(layer.v, expected.v))
            moved_by_the_last.append(not torch.equal(one_fewer, expected.u))
        assert all(exactly), name
        assert any(moved_by_the_last), name  # the count can be told from its neighbours


def test_evaluation_leaves_the_vectors_of_layers_that_advance_in_forwards_as_they_were() -> None:
    model = run_of().model
    before = {name: copy.deepcopy(part.state_dict()) for name, part in model.parts().items()}
    data = ImageSet(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8))
    evaluate(model, data, torch.arange(6))
    standing = standing_generator(model.averaged, model.prior, passes=3, batch=5)
    for name, part in model.parts().items():
        assert all(torch.equal(before[name][key], value) for key, value in part.state_dict().items())
    # The copy that is evaluated advances in its passes, and is a pure function then.
    assert not torch.equal(standing.entry.u, model.averaged.entry.u)
    z, y = model.prior.sample(4)
    assert torch.equal(standing(z, y), standing(z, y))
