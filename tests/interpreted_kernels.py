"""What test_triton_kernels.py runs with TRITON_INTERPRET=1: kernels against torch; prints the names of what agrees."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch

from mpcc.core.engines.fast import FastEngine
from mpcc.core.images.stream import ImageStream
from mpcc.core.layers import batch_norm
from mpcc.core.layers import network_weights as weights_of_networks
from mpcc.core.layers.batch_norm import GroupedBatchNorm2d, averaged_statistics, batch_groups
from mpcc.core.layers.fusion import Fusable, channels_last, fuse, upsampled
from mpcc.core.layers.network_weights import network_weights
from mpcc.core.layers.triton_kernels import WeightTable, block_moments, normalise_weights, scaled_relu
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

TYPES = (torch.float32, torch.bfloat16)
# Shapes of features: sizes that fill no block, one channel, several blocks of channels and pixels.
FEATURES = ((6, 5, 4), (4, 40, 8), (6, 1, 2), (6, 3, 16))


def weights() -> None:
    """Weights of all kinds of layers, and several blocks, as one division each; both types in one pass."""
    shapes = [
        torch.Size(shape)
        for shape in ((7, 5, 3, 3), (7, 5, 3, 3), (48, 24, 1, 1), (3, 4), (1, 1300), (2, 1, 3, 3), (4, 3, 5))
    ]
    for dtype in (torch.float32, torch.float64):
        given = [torch.randn(shape, dtype=dtype) for shape in shapes]
        raw = torch.cat([each.flatten() for each in given])
        sigma = torch.rand(len(shapes), 1, dtype=dtype) + 0.5
        flat, half = torch.empty_like(raw), torch.empty_like(raw, dtype=torch.bfloat16)
        table = WeightTable.of(shapes, raw.device)
        normalise_weights(table, raw, sigma, flat, half)
        quotients = [each / divisor for each, divisor in zip(given, sigma, strict=True)]
        expected = torch.cat([(q.permute(0, 2, 3, 1) if q.dim() == 4 else q).flatten() for q in quotients])
        assert torch.equal(flat, expected)
        torch.testing.assert_close(half.to(dtype), expected, rtol=2**-7, atol=0)
        alone = torch.empty_like(flat)
        normalise_weights(table, raw, sigma, alone, None)
        assert torch.equal(alone, flat)


def moments() -> None:
    """Moments of groups against those in double precision, with a mean that is a hundred times the deviation."""
    for dtype, (images, channels, size), groups in product(TYPES, FEATURES, (1, 2)):
        x = channels_last((torch.randn(images, channels, size, size) + 100).to(dtype))
        mean, variance = block_moments(x, groups)
        expected = torch.var_mean(x.double().reshape(groups, -1, channels, size, size), (1, 3, 4), correction=0)
        torch.testing.assert_close(mean.double(), expected[1], rtol=1e-6, atol=0)
        torch.testing.assert_close(variance.double(), expected[0], rtol=1e-4, atol=1e-5)
    # The edge of a picture is unlike the rest, and a number that is none stays none.
    x = torch.randn(4, 2, 8, 8) + 100
    x[:, 0, 0] -= 60
    _, variance = block_moments(channels_last(x), 1)
    exact = x.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(variance[0].double(), exact, rtol=1e-5, atol=0)
    x[1, 1, 2, 3] = torch.nan
    assert block_moments(channels_last(x), 1)[1].isnan().tolist() == [[False, True]]


def relu() -> None:
    """Scale, shift, ReLU and upsampling against one after the other."""
    for dtype, (images, channels, size), shared, how in product(
        TYPES, FEATURES, (True, False), (None, "bilinear", "nearest")
    ):
        x = channels_last(torch.randn(images, channels, size, size).to(dtype))
        scale, shift = torch.randn(2, 1 if shared else images, channels, 1, 1)
        expected = torch.relu(x.float() * scale + shift)
        expected = expected if how is None else upsampled(expected, how)
        found = scaled_relu(x, scale, shift, how)
        assert found.dtype == dtype
        assert found.shape == expected.shape
        tolerance = 1e-5 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=1e-5)
    x = channels_last(torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0]).view(1, 1, 2, 2))
    found = scaled_relu(x, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)).flatten()
    assert bool(found[0].isnan())
    assert found[1:].tolist() == [torch.inf, 0.0, 1.0]


def network() -> None:
    """Layers and networks that use the kernels against those that do not: outputs, statistics, W / sigma, gradients."""
    for groups, affine in product((1, 2), (True, False)):
        layer = GroupedBatchNorm2d(5, affine=affine)
        other = copy.deepcopy(layer)
        fuse(layer)
        fuse(other, own_kernels=True)
        x, gain, bias = torch.randn(6, 5, 4, 4), torch.rand(6, 5, 1, 1), torch.randn(6, 5, 1, 1)
        for how in (None, "bilinear"):
            with torch.no_grad(), batch_groups(layer, groups), batch_groups(other, groups):
                pair = (each.normalised_relu(x, gain, bias, upsampling=how) for each in (layer, other))
            torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.state_dict(), other.state_dict(), rtol=1e-5, atol=1e-6)
    encoder = BigGAN8(BigGANOptions(width=2)).build(3, 4, channels=1).encoder
    x, found = torch.rand(2, 1, 8, 8), []
    for own_kernels in (False, True):
        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            made = network_weights(encoder, own_kernels=own_kernels)[0]
            made.refresh()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                made.prepare()
                total = sum(head.float().square().sum() for head in encoder(x))
            found += torch.autograd.grad(total, list(encoder.parameters()))
            made.release()
    count = len(found) // 2
    for one, two in zip(found[:count], found[count:], strict=True):
        torch.testing.assert_close(one, two, rtol=0.05, atol=0.02 * float(one.abs().max()) + 1e-8)
    # After they have changed, the kernel's own writes are known to autograd.
    made = network_weights(encoder, own_kernels=True)[0]
    made.refresh()
    made.prepare()
    total = sum(head.sum() for head in encoder(x))
    made.advance()
    with pytest.raises(RuntimeError, match="modified"):
        total.backward()


def iterations() -> None:
    """Iterations of the whole system against those without the kernels: Adam's first steps magnify roundings."""
    trained = []
    for own_kernels, precision in product((False, True), ("float32", "bf16")):
        torch.manual_seed(0)
        prior = GaussianMixture(3, 4, GaussianMixtureOptions())
        networks = BigGAN8(BigGANOptions(width=2)).build(3, 4, channels=1)
        images = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8)
        model = Model.assemble(prior, networks, torch.device("cpu"))
        engine = FastEngine(precision, own_kernels)
        weights = TermWeights.published(1, 8, 8)
        trainer = Trainer(model, ImageStream(images, 4, seed=1), Schedule(4, 2, 2, 1e-4, 1e-3, 0.9, 0), weights, engine)
        with counted() as calls:
            terms = [trainer.iterate() for _ in range(2)]
        assert set(calls) == ({"block_moments", "scaled_relu", "normalise_weights"} if own_kernels else set())
        generator = model.networks.generator
        with averaged_statistics(generator):
            pass
        assert {layer.own_kernels for layer in generator.modules() if isinstance(layer, Fusable)} == {own_kernels}
        trained.append([value for of_iteration in terms for value in of_iteration.values()])
    for one, two, tolerance in zip(trained[:2], trained[2:], (0.01, 0.05), strict=True):
        for without, using in zip(one, two, strict=True):
            torch.testing.assert_close(without, using, rtol=tolerance, atol=tolerance)


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count how often layers call each kernel in a ``with`` block."""
    calls: Counter[str] = Counter()

    def counting(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return kernel(*arguments)

        return call

    places = {"block_moments": batch_norm, "scaled_relu": batch_norm, "normalise_weights": weights_of_networks}
    kept = {name: getattr(place, name) for name, place in places.items()}
    for name, place in places.items():
        setattr(place, name, counting(name, kept[name]))
    try:
        yield calls
    finally:
        for name, place in places.items():
            setattr(place, name, kept[name])


if __name__ == "__main__":
    torch.manual_seed(0)
    for check in (weights, moments, relu, network, iterations):
        check()
        print(check.__name__)
