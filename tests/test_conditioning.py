"""Ways to feed (z, y) to the generator, and the paper's networks: counts and shapes by hand, each part written out."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpcc.core.commands import entry
from mpcc.core.contracts import Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.images.stream import ImageStream
from mpcc.core.layers.spectral_norm import SpectralLinear
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.testing import check_architecture
from mpcc.plugins.architectures.biggan import BigGAN8, BigGAN16, BigGAN32, BigGAN64, Generator
from mpcc.plugins.architectures.blocks import ConditionalBatchNorm, DownBlock, PlainBlock, UpBlock
from mpcc.plugins.architectures.conditioning import SharedConditioning, SplitConditioning
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

CONDITIONINGS = ("embedding", "shared", "split")
every_conditioning = pytest.mark.parametrize("conditioning", CONDITIONINGS)

# The presets of the paper: conditioning, C, J, K, D (supplement, C).
PAPER = {
    "mnist": ("embedding", 12, 24, 10, 1),
    "omniglot": ("embedding", 16, 24, 100, 1),
    "fashion-mnist": ("shared", 24, 16, 10, 1),
    "cifar10": ("split", 96, 128, 10, 3),
    "cifar20": ("split", 96, 128, 20, 3),
}
every_preset = pytest.mark.parametrize("preset", PAPER)


@functools.cache
def networks(preset: str, **options: Any) -> Networks:
    """The networks of a preset, without values; no test changes them."""
    conditioning, C, J, K, D = PAPER[preset]
    with torch.device("meta"):
        return BigGAN32(BigGANOptions(width=C, conditioning=conditioning, **options)).build(K, J, D)  # type: ignore[arg-type]


def size(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


# Parameters by hand, from Tables 1-3 and Fig. 1


@every_preset
def test_the_generator_has_the_parameters_of_table_1(preset: str) -> None:
    conditioning, C, J, K, D = PAPER[preset]
    W = 4 * C
    kernels = 2 * (9 * W * W + W) + (W * W + W)  # two 3x3 and one 1x1 convolution
    # What one of the four maps of a block has, what the entry sees, what is there once.
    maps, entry, once = {
        "embedding": (K * W, J, 0),
        "shared": ((J + J) * W, J, K * J),
        "split": ((J + J // 4) * W, J // 4, K * J),
    }[conditioning]
    start = (entry + 1) * 16 * W
    output = 2 * W + (9 * W * D + D)
    assert size(networks(preset).generator) == start + 3 * (kernels + 4 * maps) + output + once


def test_the_linear_maps_of_cifar_and_fashion_mnist_have_160_and_32_inputs() -> None:
    for preset, expected in (("cifar10", 160), ("fashion-mnist", 32)):
        found = {
            module.weight.shape[1]
            for norm in networks(preset).generator.modules()
            if isinstance(norm, ConditionalBatchNorm)
            for module in (norm.gain, norm.bias)
        }
        assert found == {expected}


@every_preset
@pytest.mark.parametrize("projection", ["none", "posterior"])
def test_the_discriminator_has_the_parameters_of_table_2(preset: str, projection: str) -> None:
    _, C, _, K, D = PAPER[preset]
    W = 4 * C
    first = (9 * D * W + W) + (9 * W * W + W) + (D * W + W)
    down, plain = 2 * (9 * W * W + W) + (W * W + W), 2 * (9 * W * W + W)
    expected = first + down + 2 * plain + (W + 1) + (K * W if projection == "posterior" else 0)
    assert size(networks(preset, projection=projection).discriminator) == expected


@every_preset
@pytest.mark.parametrize("blocks", ["paper", "reference"])
def test_the_encoder_has_the_parameters_of_table_3_or_those_of_one_more_plain_block(preset: str, blocks: str) -> None:
    _, C, J, _, D = PAPER[preset]
    W = 4 * C
    first = (9 * D * W + W) + (9 * W * W + W) + (D * W + W)
    down, plain = 2 * (9 * W * W + W) + (W * W + W), 2 * (9 * W * W + W)
    flat = 2 * 2 * W
    heads = 2 * ((flat + 1) * (flat // 2) + (flat // 2 + 1) * J)
    expected = first + down + plain + 2 * down + heads + (plain if blocks == "reference" else 0)
    assert size(networks(preset, encoder_blocks=blocks).encoder) == expected


# Shapes of the tables, block by block


def block_shapes(part: nn.Module, *inputs: Tensor) -> list[tuple[int, ...]]:
    """Channels and sizes of what each residual block gives, in order of the calls."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
        for module in part.modules()
        if isinstance(module, (UpBlock, DownBlock, PlainBlock))
    ]
    part(*inputs)
    for hook in hooks:
        hook.remove()
    return shapes


@every_preset
@pytest.mark.parametrize("blocks", ["paper", "reference"])
def test_every_block_gives_the_shape_of_the_tables(preset: str, blocks: str) -> None:
    _, C, J, _, D = PAPER[preset]
    made = networks(preset, encoder_blocks=blocks)
    z, y, x = (torch.empty(2, J, device="meta"), torch.empty(2, dtype=torch.int64, device="meta"), None)
    x = torch.empty(2, D, 32, 32, device="meta")
    W = 4 * C
    assert made.generator.entry.weight.shape[0] == 4 * 4 * W
    assert block_shapes(made.generator, z, y) == [(W, 8, 8), (W, 16, 16), (W, 32, 32)]
    assert made.generator(z, y).shape == (2, D, 32, 32)
    assert block_shapes(made.discriminator, x) == [(W, 16, 16), (W, 8, 8), (W, 8, 8), (W, 8, 8)]
    plain = [(W, 8, 8)] if blocks == "reference" else []
    expected = [(W, 16, 16), (W, 8, 8), (W, 8, 8), *plain, (W, 4, 4), (W, 2, 2)]
    assert block_shapes(made.encoder, x) == expected
    assert [value.shape for value in made.encoder(x)] == [(2, J), (2, J)]


@pytest.mark.parametrize("cls", [BigGAN8, BigGAN16, BigGAN32, BigGAN64])
def test_at_every_size_the_generator_doubles_4_pixels_and_the_encoder_flattens_2_by_2(cls: type[BigGAN32]) -> None:
    with torch.device("meta"):
        made = cls(BigGANOptions(width=1)).build(3, 5, 1)
        z, y, x = torch.empty(2, 5), torch.empty(2, dtype=torch.int64), torch.empty(2, 1, *[cls.image_size] * 2)
    ups = block_shapes(made.generator, z, y)
    assert ups == [(4, 8 << at, 8 << at) for at in range(len(ups))]
    assert ups[-1][1] == cls.image_size
    assert block_shapes(made.encoder, x)[-1] == (4, 2, 2)
    assert block_shapes(made.discriminator, x)[-1][1] == min(8, cls.image_size // 2)


# Where z and y go

K, J = 3, 8


def generator(conditioning: str, cls: type[BigGAN32] = BigGAN32, **options: Any) -> Generator:
    """A narrow generator in float64, large random weights so that no part of it is negligible."""
    torch.manual_seed(0)
    made = cls(BigGANOptions(width=1, conditioning=conditioning, **options)).build(K, J, 1).generator.double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    assert isinstance(made, Generator)
    return made


def inside(made: Generator, z: Tensor, y: Tensor) -> list[Tensor]:
    """What the entry, each block and the whole generator give."""
    found: list[Tensor] = []
    hooks = [
        part.register_forward_hook(lambda _, __, output: found.append(output)) for part in (made.entry, *made.blocks)
    ]
    with torch.no_grad():
        image = made(z, y)
    for hook in hooks:
        hook.remove()
    return [*found, image]


def changed(before: list[Tensor], after: list[Tensor]) -> list[bool]:
    return [not torch.equal(*pair) for pair in zip(before, after, strict=True)]


@every_conditioning
def test_the_cluster_reaches_every_block_and_not_the_entry(conditioning: str) -> None:
    made, z = generator(conditioning), torch.randn(1, J).double()
    first, second = (inside(made, z, torch.tensor([label])) for label in (0, 1))
    assert changed(first, second) == [False, True, True, True, True]
    conditions = [made.conditioning(z, torch.tensor([label]))[1] for label in (0, 1)]
    assert all(not torch.equal(*pair) for pair in zip(*conditions, strict=True))


@pytest.mark.parametrize("chunk", range(4))
def test_a_chunk_of_a_split_latent_reaches_its_block_alone_and_what_follows(chunk: int) -> None:
    made, y = generator("split"), torch.tensor([1])
    z = torch.randn(1, J).double()
    other = z.clone()
    other[:, 2 * chunk : 2 * chunk + 2] += 1
    # The first chunk is the entry's, the others belong to blocks 1, 2 and 3.
    assert changed(inside(made, z, y), inside(made, other, y)) == [at >= chunk for at in range(5)]
    (entry, conditions), (entry_after, conditions_after) = made.conditioning(z, y), made.conditioning(other, y)
    seen = changed([entry, *conditions], [entry_after, *conditions_after])
    assert seen == [at == chunk for at in range(4)]


@every_conditioning
@pytest.mark.parametrize("dimension", range(J))
def test_every_dimension_of_z_reaches_the_parts_that_the_method_says(conditioning: str, dimension: int) -> None:
    made, y = generator(conditioning), torch.tensor([1])
    z = torch.randn(1, J).double()
    other = z.clone()
    other[:, dimension] += 1
    (entry, conditions), (entry_after, conditions_after) = made.conditioning(z, y), made.conditioning(other, y)
    seen = changed([entry, *conditions], [entry_after, *conditions_after])
    expected = {
        "embedding": [True, False, False, False],
        "shared": [True, True, True, True],
        "split": [at == dimension // 2 for at in range(4)],
    }
    assert seen == expected[conditioning]


def test_a_hierarchical_generator_has_one_embedding_of_y_that_is_not_normalised() -> None:
    for conditioning in ("shared", "split"):
        made = generator(conditioning)
        (label,) = [module for module in made.modules() if isinstance(module, nn.Embedding)]
        assert label.weight.shape == (K, J)
        maps = [module for name, module in made.named_modules() if name.endswith((".gain", ".bias"))]
        assert len(maps) == len({id(module.weight) for module in maps}) == 3 * 2 * 2
        assert all(isinstance(module, SpectralLinear) and module.bias is None for module in maps)


@pytest.mark.parametrize("cls", [SharedConditioning, SplitConditioning])
def test_embed_of_y_starts_with_standard_deviation_one_fiftieth(cls: type[SplitConditioning]) -> None:
    torch.manual_seed(1)
    weight = cls(100, 64, 3).label.weight.detach()
    assert weight.std().item() == pytest.approx(0.02, rel=5 / (2 * weight.numel()) ** 0.5)


# The whole generator, written out from the method with numpy's batch norm


def spectral(state: dict[str, Tensor], name: str) -> np.ndarray:
    weight, u, v = (state[f"{name}.{key}"].numpy() for key in ("weight", "u", "v"))
    return np.asarray(weight / (u @ weight.reshape(len(weight), -1) @ v))


def convolution(state: dict[str, Tensor], name: str, x: np.ndarray) -> np.ndarray:
    kernel = torch.from_numpy(spectral(state, name))
    return F.conv2d(torch.from_numpy(x), kernel, state[f"{name}.bias"], padding=kernel.shape[-1] // 2).numpy()


def doubled(x: np.ndarray, upsampling: str) -> np.ndarray:
    """Both interpolations as a matrix on each axis; bilinear: weights 3/4 and 1/4 of the two nearest pixels."""
    n = x.shape[-1]
    matrix = np.zeros((2 * n, n))
    for i in range(2 * n):
        near, far = i // 2, i // 2 + (1 if i % 2 else -1)
        share = 0.75 if upsampling == "bilinear" else 1.0
        matrix[i, near] += share
        matrix[i, min(max(far, 0), n - 1)] += 1 - share
    return np.einsum("ih,jw,nchw->ncij", matrix, matrix, x)


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)


@every_conditioning
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_the_generator_is_that_of_the_method(conditioning: str, upsampling: str) -> None:
    made = generator(conditioning, upsampling=upsampling).train()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    z, y = torch.randn(6, J).double(), torch.arange(6) % K
    latent, labels = z.numpy(), y.numpy()

    def maps(block: int, norm: str) -> tuple[np.ndarray, np.ndarray]:
        path = f"blocks.{block}.{norm}"
        if conditioning == "embedding":
            gain, bias = (state[f"{path}.{kind}.weight"].numpy()[labels] for kind in ("gain", "bias"))
        else:
            piece = latent if conditioning == "shared" else latent[:, 2 * (block + 1) : 2 * (block + 2)]
            condition = np.concatenate([state["conditioning.label.weight"].numpy()[labels], piece], axis=1)
            gain, bias = (condition @ spectral(state, f"{path}.{kind}").T for kind in ("gain", "bias"))
        return gain[:, :, None, None], bias[:, :, None, None]

    first = latent[:, :2] if conditioning == "split" else latent
    x = (first @ spectral(state, "entry").T + state["entry.bias"].numpy()).reshape(6, 4, 4, 4)
    for block in range(3):
        path = f"blocks.{block}"
        gain, bias = maps(block, "norm1")
        h = np.maximum((1 + gain) * normalised(x) + bias, 0)
        h = convolution(state, f"{path}.conv1", doubled(h, upsampling))
        gain, bias = maps(block, "norm2")
        h = convolution(state, f"{path}.conv2", np.maximum((1 + gain) * normalised(h) + bias, 0))
        x = h + convolution(state, f"{path}.shortcut", doubled(x, upsampling))
    gain, bias = (state[f"norm.{key}"].numpy()[None, :, None, None] for key in ("weight", "bias"))
    image = np.tanh(convolution(state, "output", np.maximum(gain * normalised(x) + bias, 0)))
    np.testing.assert_allclose(made(z, y).detach().numpy(), image, atol=1e-9)


# The contract, training, and what is refused

VARIANTS: list[dict[str, Any]] = [
    {"conditioning": "shared"},
    {"conditioning": "split"},
    {"conditioning": "split", "upsampling": "nearest", "encoder_blocks": "paper"},
    {"shared_blocks": 0, "power_iterations": "forward"},
    {"conditioning": "shared", "projection": "posterior", "power_iterations": "forward"},
    {"projection": "posterior", "shared_blocks": 1},
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))


@every_variant
def test_every_option_fulfils_the_contract(variant: dict[str, Any]) -> None:
    check_architecture(BigGAN8, BigGANOptions(width=3, **variant))


@pytest.mark.parametrize("cls", [BigGAN16, BigGAN32, BigGAN64])
def test_split_and_projection_fulfil_the_contract_at_every_size(cls: type[BigGAN32]) -> None:
    check_architecture(cls, BigGANOptions(width=2, conditioning="split", projection="posterior"))


@every_variant
def test_every_option_trains_all_its_parameters(variant: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = BigGAN8(BigGANOptions(width=2, **variant)).build(K, J, 1)
    prior = GaussianMixture(K, J, GaussianMixtureOptions())
    model = Model.assemble(prior, made, torch.device("cpu"))
    stream = ImageStream(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8), 10, seed=0)
    schedule = Schedule(batch=10, d_steps=2, e_steps=2, lr=1e-3, prior_lr=1e-3, ema_decay=0.9, ema_start=0)
    trainer = Trainer(model, stream, schedule, TermWeights.published(1, 8, J))
    before = {name: [p.clone() for p in part.parameters()] for name, part in model.parts().items()}
    for _ in range(3):
        assert all(bool(torch.isfinite(term)) for term in trainer.iterate().values())
    for name, part in model.parts().items():
        for (key, now), old in zip(part.named_parameters(), before[name], strict=True):
            assert not torch.equal(now, old), f"{name}.{key}"


@every_conditioning
def test_at_the_sizes_of_mnist_gradients_reach_every_parameter_and_every_dimension_of_z(conditioning: Any) -> None:
    torch.manual_seed(0)
    made = BigGAN32(BigGANOptions(width=2, conditioning=conditioning)).build(10, 24, 1).generator.eval()
    z, y = torch.randn(20, 24, requires_grad=True), torch.arange(20) % 10
    images = made(z, y)
    (images * torch.randn_like(images)).sum().backward()
    assert z.grad is not None
    assert (z.grad.abs().amax(0) > 0).all()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("cls", "given", "chunks", "nearest"),
    [
        (BigGAN8, 13, 2, 14),
        (BigGAN16, 10, 3, 9),
        (BigGAN16, 1, 3, 3),
        (BigGAN32, 25, 4, 24),
        (BigGAN32, 127, 4, 128),
        (BigGAN64, 24, 5, 25),
    ],
)
def test_a_latent_that_cannot_be_split_is_refused_with_the_nearest_that_can(
    cls: type[BigGAN32], given: int, chunks: int, nearest: int
) -> None:
    made = cls(BigGANOptions(width=1, conditioning="split"))
    expected = rf"--latent-dim {given} cannot be split into {chunks} equal.*valid choice: --latent-dim {nearest}\)$"
    with pytest.raises(InvalidInput, match=expected):
        made.build(K, given, 1)
    assert made.build(K, nearest, 1).encoder is not None


def test_the_command_refuses_it_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--arch.conditioning", "split", "--latent-dim", "13", "--out", "run"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search("latent-dim 13 .* 2 equal chunks.*--latent-dim 14", line)
    assert list(tmp_path.iterdir()) == []
