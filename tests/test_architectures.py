"""Architectures: laws over all that are registered; then the BigGAN family against the paper, written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from mpcc.core.config.options import convert, fields
from mpcc.core.contracts import Architecture, Networks
from mpcc.core.errors import InvalidInput
from mpcc.core.layers.batch_norm import GroupedBatchNorm2d
from mpcc.core.layers.spectral_norm import SpectralConv2d, SpectralLayer, SpectralLinear
from mpcc.core.registry import load_registry
from mpcc.plugins.architectures.biggan import BigGAN8, BigGAN16, BigGAN32, BigGAN64
from mpcc.plugins.architectures.blocks import ConditionalBatchNorm, DownBlock, EdgeInput, PlainBlock, UpBlock
from mpcc.plugins.architectures.conditioning import EmbeddingConditioning
from mpcc.plugins.architectures.options import BigGANOptions

REGISTRY = load_registry()
K, J = 3, 5

every_architecture = pytest.mark.parametrize("name", REGISTRY.names("architecture"))
every_depth = pytest.mark.parametrize("channels", [1, 3])


def architecture(name: str) -> Architecture:
    """A registered architecture with default options."""
    entry = REGISTRY.entry("architecture", name)
    options = entry.options_class()
    made: Architecture = entry.load()(options(**entry.defaults) if options else None)
    return made


def build(name: str, channels: int = 1, seed: int = 0) -> tuple[Networks, int]:
    """Networks and their image size; skips a depth that the architecture does not take."""
    made = architecture(name)
    if made.channels is not None and channels not in made.channels:
        pytest.skip(f"{name} is not for {channels} channels")
    torch.manual_seed(seed)
    return made.build(K, J, channels), made.image_size


def parts(networks: Networks) -> dict[str, nn.Module]:
    return {"G": networks.generator, "D": networks.discriminator, "E": networks.encoder}


def latents() -> tuple[Tensor, Tensor]:
    """Two latents for every cluster."""
    return torch.randn(2 * K, J), torch.arange(K).repeat(2)


# Laws over all architectures


@every_architecture
@every_depth
@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_shapes_follow_the_contract_and_images_lie_between_minus_one_and_one(
    name: str, channels: int, training: bool
) -> None:
    networks, R = build(name, channels)
    for part in parts(networks).values():
        part.train(training)
    z, y = latents()
    x = networks.generator(100 * z, y)
    loc, raw_scale = networks.encoder(x)
    assert x.shape == (2 * K, channels, R, R)
    assert networks.discriminator(x).shape == (2 * K,)
    assert loc.shape == raw_scale.shape == (2 * K, J)
    assert x.abs().max() <= 1
    assert x.std() > 0


@every_architecture
@every_depth
def test_every_parameter_gets_a_gradient(name: str, channels: int) -> None:
    networks, _ = build(name, channels)
    for part in parts(networks).values():
        part.eval()  # in training mode a bias in front of a batch norm has the gradient 0
    z, y = latents()
    x = networks.generator(z, y)
    loc, raw_scale = networks.encoder(x)
    outputs = [networks.discriminator(x), loc, raw_scale, x]
    sum((value * torch.randn_like(value)).sum() for value in outputs).backward()  # type: ignore[union-attr]
    for part in parts(networks).values():
        for key, parameter in part.named_parameters():
            assert parameter.grad is not None, key
            assert bool(torch.isfinite(parameter.grad).all()), key
            assert parameter.grad.abs().max() > 0, key


@every_architecture
@torch.no_grad()
def test_scores_and_encodings_of_an_image_do_not_depend_on_its_company(name: str) -> None:
    networks, R = build(name)
    networks.discriminator.double().train()
    networks.encoder.double().train()
    x = torch.rand(4, 1, R, R, dtype=torch.float64) * 2 - 1
    scores, (loc, raw_scale) = networks.discriminator(x), networks.encoder(x)
    for i in range(4):
        alone = x[i : i + 1]
        torch.testing.assert_close(networks.discriminator(alone), scores[i : i + 1], atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(networks.encoder(alone)[0], loc[i : i + 1], atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(networks.encoder(alone)[1], raw_scale[i : i + 1], atol=1e-10, rtol=1e-10)


@every_architecture
@torch.no_grad()
def test_both_the_latent_and_the_cluster_change_the_image(name: str) -> None:
    networks, _ = build(name)
    generator = networks.generator.eval()
    z = torch.randn(1, J).expand(K, J)
    images = generator(z, torch.arange(K))
    for first in range(K):
        for second in range(first):
            assert (images[first] - images[second]).abs().max() > 1e-5
    assert (generator(torch.randn(1, J), torch.tensor([0])) - images[0]).abs().max() > 1e-5


@every_architecture
def test_the_seed_fixes_the_networks(name: str) -> None:
    first, second, other = (parts(build(name, seed=seed)[0]) for seed in (0, 0, 1))
    for key, part in first.items():
        same, different = second[key].state_dict(), other[key].state_dict()
        assert all(torch.equal(value, same[at]) for at, value in part.state_dict().items())
        assert any(not torch.equal(value, different[at]) for at, value in part.state_dict().items())


@every_architecture
def test_the_generator_shares_no_parameter_with_the_other_networks(name: str) -> None:
    found = {key: {id(value) for value in part.parameters()} for key, part in parts(build(name)[0]).items()}
    assert found["G"].isdisjoint(found["D"] | found["E"])


# The BigGAN family against Tables 1-3

FAMILY = {"biggan8": BigGAN8, "biggan16": BigGAN16, "biggan32": BigGAN32, "biggan64": BigGAN64}
# Blocks in the order of the tables: up-blocks; D; E; shared. "a" goes down, "o" is plain.
TABLES = {
    "biggan8": (1, "aoo", "aooa", 2),
    "biggan16": (2, "aoo", "aooaa", 2),
    "biggan32": (3, "aaoo", "aaooaa", 3),
    "biggan64": (4, "aaaoo", "aaaooaa", 3),
}

every_member = pytest.mark.parametrize("name", FAMILY)


def member(name: str, width: int = 1, channels: int = 1, clusters: int = K, latent_dim: int = J) -> Networks:
    torch.manual_seed(0)
    return FAMILY[name](BigGANOptions(width=width)).build(clusters, latent_dim, channels)


def embedding() -> EmbeddingConditioning:
    """Conditioning of one block by embeddings of y."""
    return EmbeddingConditioning(K, J, 1)


def size(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def letters(part: nn.Module) -> tuple[str, list[nn.Module]]:
    """The blocks of a discriminator or encoder: "a" for each that goes down, "o" for each plain one."""
    found = [module for module in part.modules() if isinstance(module, (DownBlock, PlainBlock))]
    return "".join("a" if isinstance(module, DownBlock) else "o" for module in found), found


@every_member
def test_blocks_stand_as_in_the_tables_and_the_trunk_is_all_that_is_shared(name: str) -> None:
    networks = member(name)
    ups, d, e, shared = TABLES[name]
    assert sum(isinstance(module, UpBlock) for module in networks.generator.modules()) == ups

    (found_d, of_d), (found_e, of_e) = letters(networks.discriminator), letters(networks.encoder)
    assert (found_d, found_e) == (d, e)
    assert [one is two for one, two in zip(of_d, of_e, strict=False)] == [i < shared for i in range(len(d))]
    both = {id(p) for p in networks.discriminator.parameters()} & {id(p) for p in networks.encoder.parameters()}
    assert both == {id(p) for block in of_d[:shared] for p in block.parameters()}
    downs = [module.first for module in of_e if isinstance(module, DownBlock)]
    assert downs == [True] + [False] * (len(downs) - 1)


@every_member
@pytest.mark.parametrize(("C", "D", "clusters", "latent_dim"), [(12, 1, 10, 24), (2, 3, 4, 7)])
def test_the_number_of_parameters_is_that_of_the_tables(
    name: str, C: int, D: int, clusters: int, latent_dim: int
) -> None:
    networks = member(name, C, D, clusters, latent_dim)
    W = 4 * C
    ups, d, e, _ = TABLES[name]

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return outputs * inputs * kernel**2 + outputs

    def linear(inputs: int, outputs: int) -> int:
        return (inputs + 1) * outputs

    embeddings = 4 * clusters * W  # gain and bias of both conditional batch norms
    up = 2 * conv(W, W, 3) + conv(W, W, 1) + embeddings
    first = conv(D, W, 3) + conv(W, W, 3) + conv(D, W, 1)
    block = {"a": 2 * conv(W, W, 3) + conv(W, W, 1), "o": 2 * conv(W, W, 3)}
    generator = linear(latent_dim, 4 * 4 * W) + ups * up + 2 * W + conv(W, D, 3)
    heads = 2 * (linear(16 * C, 8 * C) + linear(8 * C, latent_dim))
    assert size(networks.generator) == generator
    assert size(networks.discriminator) == first + sum(block[kind] for kind in d[1:]) + linear(W, 1)
    assert size(networks.encoder) == first + sum(block[kind] for kind in e[1:]) + heads


def test_the_mnist_networks_have_as_many_parameters_as_by_hand() -> None:
    networks = member("biggan32", 12, 1, 10, 24)
    # W = 48: 25*768; three times 2*20784 + 2352 + 1920; 96; 433
    assert size(networks.generator) == 19_200 + 3 * 45_840 + 96 + 433
    # 480 + 20784 + 96; one down of 43920, two plain of 41568; 49
    assert size(networks.discriminator) == 21_360 + 43_920 + 2 * 41_568 + 49
    # three downs, two plain; two heads of 193*96 + 97*24
    assert size(networks.encoder) == 21_360 + 3 * 43_920 + 2 * 41_568 + 2 * (18_528 + 2_328)


@every_member
def test_every_convolution_and_linear_layer_is_spectral_and_nothing_else_is(name: str) -> None:
    for part in parts(member(name)).values():
        leaves = [module for module in part.modules() if not list(module.children())]
        weighted = [leaf for leaf in leaves if list(leaf.parameters())]
        assert {type(leaf) for leaf in weighted} <= {SpectralConv2d, SpectralLinear, nn.Embedding, GroupedBatchNorm2d}
        assert not any(isinstance(leaf, nn.Dropout) for leaf in leaves)


@every_member
def test_a_seed_draws_the_weights_in_the_order_of_the_method_and_nothing_else(name: str) -> None:
    # With the default options: a change would change every seeded run.
    C, W = 2, 8
    drawn: list[Tensor] = []

    def spectral(*shape: int) -> None:
        fan_in = int(np.prod(shape[1:]))
        drawn.extend(
            [torch.empty(shape).normal_(std=0.02), torch.empty(shape[0]).uniform_(-(fan_in**-0.5), fan_in**-0.5)]
        )
        for vector in (shape[0], fan_in):
            torch.randn(vector)

    def conditional_norm() -> None:
        for _ in range(2):
            torch.randn(K, W)  # torch's own start of an embedding, which ours replaces
        drawn.extend(torch.empty(K, W).normal_(std=0.02) for _ in range(2))

    def block(kind: str, inputs: int) -> None:
        spectral(W, inputs, 3, 3)
        spectral(W, W, 3, 3)
        if kind == "a":
            spectral(W, inputs, 1, 1)

    torch.manual_seed(0)
    ups, d, e, shared = TABLES[name]
    spectral(16 * W, J)
    for _ in range(ups):
        for _ in range(2):
            conditional_norm()
            spectral(W, W, 3, 3)
        spectral(W, W, 1, 1)
    drawn.extend([torch.ones(W), torch.zeros(W)])
    spectral(1, W, 3, 3)
    for at, kind in enumerate(d):
        block(kind, W if at else 1)
    spectral(1, W)
    for kind in e[shared:]:
        block(kind, W)
    for _ in range(2):
        spectral(8 * C, 16 * C)
        spectral(J, 8 * C)
    after = torch.rand(1)

    ours = member(name, width=2)
    assert torch.equal(torch.rand(1), after)
    trunk = {id(parameter) for parameter in ours.discriminator.parameters()}
    made = [*ours.generator.parameters(), *ours.discriminator.parameters()]
    made += [parameter for parameter in ours.encoder.parameters() if id(parameter) not in trunk]
    assert len(made) == len(drawn)
    assert all(torch.equal(*pair) for pair in zip(made, drawn, strict=True))


@every_member
def test_weights_and_embeddings_start_normal_with_standard_deviation_one_fiftieth(name: str) -> None:
    for part in parts(member(name, width=4, clusters=10)).values():
        for module in part.modules():
            if isinstance(module, (SpectralLayer, nn.Embedding)):
                weight = module.weight.detach()
                assert weight.std().item() == pytest.approx(0.02, rel=5 / (2 * weight.numel()) ** 0.5)
                assert abs(weight.mean().item()) < 5 * 0.02 / weight.numel() ** 0.5
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert (module.eps, module.momentum) == (1e-5, 0.1)
    output = member(name).generator.norm
    assert output.weight.eq(1).all()
    assert output.bias.eq(0).all()


# Blocks in the paper's order, in float64


def randomised(module: nn.Module) -> nn.Module:
    """The module in float64 with larger random parameters, so that no part of it is negligible."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def conv(layer: SpectralConv2d, x: Tensor) -> Tensor:
    """The convolution itself, its weight divided by u^T W v."""
    matrix = layer.weight.flatten(1)
    return F.conv2d(x, layer.weight / (layer.u @ matrix @ layer.v), layer.bias, padding=layer.weight.shape[-1] // 2)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_conditional_batch_norm_normalises_scales_by_one_plus_gain_shifts_and_takes_the_relu() -> None:
    torch.manual_seed(0)
    norm = randomised(ConditionalBatchNorm(4, embedding()))
    x, y = torch.randn(6, 4, 5, 5, dtype=torch.float64) * 3 + 1, torch.tensor([0, 1, 2, 2, 0, 0])
    values = x.numpy()
    mean, variance = values.mean((0, 2, 3), keepdims=True), values.var((0, 2, 3), keepdims=True)
    gain, bias = norm.gain.weight.numpy()[y], norm.bias.weight.numpy()[y]
    shape = (6, 4, 1, 1)
    expected = (1 + gain.reshape(shape)) * (values - mean) / np.sqrt(variance + 1e-5) + bias.reshape(shape)
    np.testing.assert_allclose(norm.train()(x, y).numpy(), expected.clip(0), atol=1e-10)
    # One batch moves the running statistics a tenth of the way from (0, 1); the kept variance is the unbiased one.
    running = 0.9 + 0.1 * values.var((0, 2, 3), keepdims=True, ddof=1)
    expected = (1 + gain.reshape(shape)) * (values - 0.1 * mean) / np.sqrt(running + 1e-5) + bias.reshape(shape)
    np.testing.assert_allclose(norm.eval()(x, y).numpy(), expected.clip(0), atol=1e-10)


# The second is the authors': each pixel four times.
UPSAMPLING = {
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    "nearest": lambda h: h.repeat_interleave(2, 2).repeat_interleave(2, 3),
}


@pytest.mark.parametrize("upsampling", UPSAMPLING)
@torch.no_grad()
def test_the_up_block_is_that_of_the_paper_which_upsamples_before_the_1x1_convolution(upsampling: Any) -> None:
    torch.manual_seed(1)
    block = randomised(UpBlock(4, embedding(), upsampling))
    x, y = torch.randn(6, 4, 4, 4, dtype=torch.float64), torch.arange(6) % K
    upsample = UPSAMPLING[upsampling]

    h = conv(block.conv1, upsample(block.norm1(x, y).clamp_min(0)))
    h = conv(block.conv2, block.norm2(h, y).clamp_min(0))
    close(block(x, y), h + conv(block.shortcut, upsample(x)))


@pytest.mark.parametrize("first", [True, False])
@torch.no_grad()
def test_the_down_block_is_that_of_the_paper_in_either_order_of_the_shortcut(first: bool) -> None:
    torch.manual_seed(2)
    block = randomised(DownBlock(3, 4, first))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    h = conv(block.conv1, x if first else x.clamp_min(0)).clamp_min(0)
    h = nn.AvgPool2d(2)(conv(block.conv2, h))
    close(block(x), h + nn.AvgPool2d(2)(conv(block.shortcut, x)))
    close(block(x), h + conv(block.shortcut, nn.AvgPool2d(2)(x)))
    other = conv(block.conv1, x.clamp_min(0) if first else x).clamp_min(0)
    assert not torch.allclose(h, nn.AvgPool2d(2)(conv(block.conv2, other)), atol=1e-3)


@torch.no_grad()
def test_the_plain_block_keeps_its_input_beside_two_convolutions() -> None:
    torch.manual_seed(3)
    block = randomised(PlainBlock(4))
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    close(block(x), x + conv(block.conv2, conv(block.conv1, x.clamp_min(0)).clamp_min(0)))


@torch.no_grad()
def test_a_3x3_convolution_and_pooling_are_one_4x4_convolution_with_an_averaged_kernel() -> None:
    torch.manual_seed(4)
    block = randomised(DownBlock(4, 4))
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    kernel = block.conv2.normalised_weight()
    merged = sum(F.pad(kernel, (left, 1 - left, top, 1 - top)) for left in (0, 1) for top in (0, 1)) / 4
    h = F.conv2d(torch.relu(block.conv1(torch.relu(x))), merged, block.conv2.bias, stride=2, padding=1)
    close(block(x), h + block.shortcut(F.avg_pool2d(x, 2)))


# Ends of the networks


@every_member
@torch.no_grad()
def test_the_generator_starts_at_4x4_and_ends_in_norm_relu_convolution_and_tanh(name: str) -> None:
    generator = randomised(member(name).generator)
    z, y = torch.randn(6, J, dtype=torch.float64), torch.arange(6) % K
    entry = generator.entry
    h = F.linear(z, entry.weight / (entry.u @ entry.weight @ entry.v), entry.bias).reshape(6, 4, 4, 4)
    for block in generator.blocks:
        h = block(h, y)
    mean, variance = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), keepdim=True, correction=0)
    gain, bias = (value[None, :, None, None] for value in (generator.norm.weight, generator.norm.bias))
    h = (gain * (h - mean) / (variance + 1e-5).sqrt() + bias).clamp_min(0)
    close(generator(z, y), torch.tanh(conv(generator.output, h)))


@every_member
@torch.no_grad()
def test_the_score_is_linear_in_the_global_sum_of_rectified_features(name: str) -> None:
    discriminator = randomised(member(name).discriminator)
    R = FAMILY[name].image_size
    x = torch.rand(3, 1, R, R, dtype=torch.float64)
    h = discriminator.blocks(discriminator.trunk(x)).clamp_min(0).flatten(2).sum(-1)
    head = discriminator.score
    sigma = head.u @ head.weight @ head.v
    close(discriminator(x), h @ head.weight[0] / sigma + head.bias)


@every_member
@torch.no_grad()
def test_both_heads_of_the_encoder_see_the_flat_features_with_their_negative_values(name: str) -> None:
    encoder = randomised(member(name).encoder)
    R = FAMILY[name].image_size
    x = torch.rand(3, 1, R, R, dtype=torch.float64)
    seen: list[Tensor] = []
    for head in (encoder.loc, encoder.raw_scale):
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(x)
    h = encoder.blocks(encoder.trunk(x))
    assert h.shape == (3, 4, 2, 2)
    for flat in seen:
        close(flat, h.reshape(3, 16))
        assert flat.min() < 0
    assert [type(layer) for layer in encoder.loc] == [SpectralLinear, nn.ReLU, SpectralLinear]


# How many blocks are shared, and the encoder of the paper


# All that is allowed: the blocks that both have in common from the start, at most three.
MOST_SHARED = {
    "reference": dict.fromkeys(FAMILY, 3),
    "paper": {"biggan8": 2, "biggan16": 2, "biggan32": 3, "biggan64": 3},
}


@every_member
@pytest.mark.parametrize("blocks", MOST_SHARED)
@pytest.mark.parametrize("shared", range(4))
def test_as_many_first_blocks_are_shared_as_asked_for(name: str, blocks: Any, shared: int) -> None:
    options = BigGANOptions(width=1, encoder_blocks=blocks, shared_blocks=shared)
    most = MOST_SHARED[blocks][name]
    if shared > most:
        expected = rf"--arch.shared-blocks {shared}: .* {most} first blocks in common .*--arch.shared-blocks {most}\)$"
        with pytest.raises(InvalidInput, match=expected):
            FAMILY[name](options)
        return
    networks = FAMILY[name](options).build(K, J, 1)
    _, d, e, _ = TABLES[name]
    (found_d, of_d), (found_e, of_e) = letters(networks.discriminator), letters(networks.encoder)
    assert found_d == d
    assert found_e == (e if blocks == "reference" else e.replace("oo", "o"))
    assert [one is two for one, two in zip(of_d, of_e, strict=False)] == [at < shared for at in range(len(of_d))]
    both = {id(p) for p in networks.discriminator.parameters()} & {id(p) for p in networks.encoder.parameters()}
    assert both == {id(p) for block in of_d[:shared] for p in block.parameters()}
    # Either chain starts at the image, whether or not they share their first block.
    for chain in (of_d, of_e):
        assert [block.first for block in chain if isinstance(block, DownBlock)].index(True) == 0
        assert sum(block.first for block in chain if isinstance(block, DownBlock)) == 1


@every_member
def test_shared_blocks_none_is_three_from_32_pixels_and_two_below(name: str) -> None:
    networks = member(name)
    assert len(networks.discriminator.trunk) == (3 if FAMILY[name].image_size >= 32 else 2) == TABLES[name][3]


def test_the_papers_encoder_at_32_pixels_goes_down_twice_after_the_shared_three() -> None:
    networks = BigGAN32(BigGANOptions(width=1, encoder_blocks="paper")).build(K, J, 1)
    assert letters(networks.encoder.trunk)[0] == "aao"
    assert letters(networks.encoder.blocks)[0] == "aa"


@pytest.mark.parametrize("given", [-1, 4])
def test_more_than_three_shared_blocks_or_fewer_than_none_are_refused(given: int) -> None:
    with pytest.raises(InvalidInput, match=r"--arch\.shared-blocks: the value must be"):
        convert(given, fields(BigGANOptions)["shared_blocks"], "--arch.shared-blocks")


@every_member
def test_a_separate_encoder_scores_and_encodes_like_a_shared_one_with_equal_weights(name: str) -> None:
    shared = member(name)
    separate = FAMILY[name](BigGANOptions(width=1, shared_blocks=0)).build(K, J, 1)
    # The same blocks under other names: what was trunk.0, ..., blocks.0, ... is blocks.0, ... throughout.
    for part, other in (
        (shared.discriminator, separate.discriminator),
        (shared.encoder, separate.encoder),
    ):
        state = dict(zip(other.state_dict(), part.state_dict().values(), strict=True))
        other.load_state_dict(state)
    x = torch.rand(3, 1, *[FAMILY[name].image_size] * 2)
    assert torch.equal(shared.discriminator(x), separate.discriminator(x))
    assert torch.equal(shared.encoder(x)[0], separate.encoder(x)[0])


def test_edges_are_those_of_scipy() -> None:
    images = torch.rand(3, 3, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = EdgeInput().double()(images)
    assert torch.equal(found[:, :3], images)
    grey = images.mean(1).numpy()
    for channel, axis in ((3, 2), (4, 1)):
        expected = np.stack([ndimage.sobel(each, axis=axis - 1, mode="nearest") for each in grey]) / 4
        assert np.allclose(found[:, channel].numpy(), expected)


@pytest.mark.parametrize("shared", [0, 2])
def test_discriminator_and_encoder_see_edges_and_the_generator_makes_none(shared: int) -> None:
    made = BigGAN8(BigGANOptions(width=2, edges=True, shared_blocks=shared)).build(4, 5, channels=3)
    seen = [network for network in (made.discriminator, made.encoder) if any_edges(network)]
    assert len(seen) == 2
    assert not any_edges(made.generator)
    z, y = torch.zeros(2, 5), torch.tensor([0, 1])
    images = made.generator(z, y)
    assert images.shape == (2, 3, 8, 8)
    assert made.discriminator(images).shape == (2,)
    assert made.encoder(images)[0].shape == (2, 5)


def any_edges(network: torch.nn.Module) -> bool:
    """Whether a network adds edges to its input."""
    return any(isinstance(module, EdgeInput) for module in network.modules())
