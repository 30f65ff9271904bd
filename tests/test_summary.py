"""The summary of a run: parameters against the modules, operations against a count of our own in real iterations."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mpcc.core.contracts import Architecture, Networks, Prior
from mpcc.core.images.stream import ImageStream
from mpcc.core.layers.spectral_norm import SpectralConv2d, SpectralLinear
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.core.reporting.summary import Summary, summarise
from mpcc.plugins.architectures.biggan import BigGAN8, BigGAN32
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

REGISTRY = load_registry()
K, J, BATCH = 3, 8, 6
SCHEDULE = Schedule(BATCH, d_steps=2, e_steps=3, lr=1e-3, prior_lr=1e-3, ema_decay=0.9, ema_start=0)
PAPER = attrs.evolve(SCHEDULE, batch=50, d_steps=4, e_steps=4)


def gmm(clusters: int = K, latent_dim: int = J) -> GaussianMixture:
    return GaussianMixture(clusters, latent_dim, GaussianMixtureOptions())


def small(**options: Any) -> BigGAN8:
    return BigGAN8(BigGANOptions(width=2, **options))


def summary(architecture: Architecture, prior: Prior | None = None, **changes: Any) -> Summary:
    return summarise(architecture, prior or gmm(), channels=1, schedule=attrs.evolve(SCHEDULE, **changes))


def size(*parts: nn.Module) -> int:
    """Distinct parameters."""
    distinct = {id(parameter): parameter.numel() for part in parts for parameter in part.parameters()}
    return sum(distinct.values())


VARIANTS: list[dict[str, Any]] = [
    {},
    {"conditioning": "split", "shared_blocks": 0},
    {"conditioning": "shared", "projection": "posterior"},
    {"power_iterations": "forward", "encoder_blocks": "paper", "shared_blocks": 1},
    {"edges": True},
]
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))


# Parameters and layers


@every_variant
def test_the_parameters_are_those_of_the_networks_and_shared_ones_count_once(variant: dict[str, Any]) -> None:
    found = summary(small(**variant))
    networks, prior = small(**variant).build(K, J, 1), gmm()
    G, D, E = networks.generator, networks.discriminator, networks.encoder
    generator, discriminator, encoder = found.networks
    assert [part.name for part in found.networks] == ["generator", "discriminator", "encoder"]
    assert (generator.parameters, discriminator.parameters, encoder.parameters) == (size(G), size(D), size(E))
    assert encoder.own_parameters == size(D, E) - size(D)
    assert generator.own_parameters == generator.parameters
    assert found.prior_parameters == size(prior) == 2 * K * J
    assert found.parameters == size(G, D, E, prior)


def test_the_layers_are_the_modules_with_parameters_and_the_shapes_are_those_of_one_image() -> None:
    generator, discriminator, encoder = summary(small()).networks
    expected = [
        ("entry", "SpectralLinear", (128,), 9 * 128),
        ("blocks.0.norm1.gain", "Embedding", (8,), 24),
        ("blocks.0.norm1.bias", "Embedding", (8,), 24),
        ("blocks.0.conv1", "SpectralConv2d", (8, 8, 8), 584),
        ("blocks.0.norm2.gain", "Embedding", (8,), 24),
        ("blocks.0.norm2.bias", "Embedding", (8,), 24),
        ("blocks.0.conv2", "SpectralConv2d", (8, 8, 8), 584),
        ("blocks.0.shortcut", "SpectralConv2d", (8, 4, 4), 72),
        ("norm", "GroupedBatchNorm2d", (8, 8, 8), 16),
        ("output", "SpectralConv2d", (1, 8, 8), 73),
    ]
    found = [(layer.name, layer.kind, layer.output_shape, layer.parameters) for layer in generator.layers]
    assert found == expected
    assert {layer.name for layer in encoder.layers if layer.shared} == {
        layer.name for layer in discriminator.layers if layer.name.startswith("trunk.")
    }
    assert not any(layer.shared for layer in (*generator.layers, *discriminator.layers))
    assert [layer.output_shape for layer in encoder.layers][-1] == (J,)


# Operations


class Counter:
    """A count of our own: each convolution and linear layer knows what its passes cost, whether or not they happen.

    A multiplication and an addition for each weight and place; as much again for the gradient of the input, and for
    that of the weight, where they are taken.
    """

    def __init__(self, model: Model) -> None:
        self.total = 0
        networks = model.networks
        # A set, since the trunk belongs to two networks.
        parts = (networks.generator, networks.discriminator, networks.encoder)
        for module in {module for part in parts for module in part.modules()}:
            if isinstance(module, (SpectralConv2d, SpectralLinear)):
                module.register_forward_hook(self.count)

    def count(self, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        places = output.numel() // output.shape[1]
        gradients = torch.is_grad_enabled() * (inputs[0].requires_grad + module.weight.requires_grad)
        self.total += 2 * places * module.weight.numel() * (1 + gradients)


def trainer(architecture: Architecture, prior: Prior) -> Trainer:
    networks = architecture.build(prior.clusters, prior.latent_dim, 1)
    model = Model.assemble(copy.deepcopy(prior), networks, torch.device("cpu"))
    stream = ImageStream(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8), BATCH, seed=0)
    return Trainer(model, stream, SCHEDULE, TermWeights())


@every_variant
def test_the_operations_are_those_of_a_real_iteration_counted_layer_by_layer(variant: dict[str, Any]) -> None:
    made = trainer(small(**variant), gmm())
    counter = Counter(made.model)
    made.iterate()
    assert summary(small(**variant)).operations_per_iteration == counter.total


@pytest.mark.parametrize("name", REGISTRY.names("prior"))
def test_with_every_prior_they_are_what_torch_counts_in_a_real_iteration(name: str) -> None:
    entry = REGISTRY.entry("prior", name)
    options = entry.options_class()
    prior = entry.load()(K, J, options(**entry.defaults) if options else None)
    with FlopCounterMode(display=False) as counter:
        trainer(small(), prior).iterate()
    found = summary(small(), prior)
    assert found.operations_per_iteration == counter.get_total_flops()
    assert found.counted == "from shapes alone"
    assert found.prior == type(prior).__name__


def test_an_iteration_is_made_of_its_updates_and_a_batch_twice_as_large_costs_twice_as_much() -> None:
    one, two = summary(small()), summary(small(), batch=2 * BATCH, d_steps=5, e_steps=1)
    discriminator, generator, first, later = (phase.operations for phase in one.phases)
    assert one.operations_per_iteration == 2 * discriminator + generator + first + 2 * later
    assert two.operations_per_iteration == 2 * (5 * discriminator + generator + first)


@pytest.mark.parametrize(
    ("conditioning", "C", "latent_dim", "clusters", "channels", "tera"),
    [
        ("embedding", 12, 24, 10, 1, 0.2097),
        ("embedding", 16, 24, 100, 1, 0.3721),
        ("shared", 24, 16, 10, 1, 0.8354),
        ("split", 96, 128, 10, 3, 13.35),
    ],
)
def test_the_papers_presets_are_counted_without_computing_them(
    conditioning: Any, C: int, latent_dim: int, clusters: int, channels: int, tera: float
) -> None:
    architecture = BigGAN32(BigGANOptions(width=C, conditioning=conditioning))
    found = summarise(architecture, gmm(clusters, latent_dim), channels=channels, schedule=PAPER)
    assert found.counted == "from shapes alone"
    assert found.operations_per_iteration / 1e12 == pytest.approx(tera, rel=1e-3)


# Whatever the plugin


def test_torchs_random_state_and_the_prior_stay_as_they_were() -> None:
    prior = gmm()
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.no_grad():
        summary(small(), prior)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[name], value) for name, value in prior.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in prior.parameters())
    assert prior.training


class Looking(nn.Module):
    """A network that looks at its values, which have none on the meta device."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x.clamp(max=x.max().item()))


class LookingArchitecture(BigGAN8):
    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        made = super().build(clusters, latent_dim, channels)
        return Networks(made.generator, Looking(made.discriminator), made.encoder, made.conditional)


@pytest.mark.parametrize("batch", [2, 6, 50])
def test_networks_that_need_values_are_counted_on_small_batches_and_the_summary_says_so(batch: int) -> None:
    found = summary(LookingArchitecture(BigGANOptions(width=2)), batch=batch)
    expected = summary(small(), batch=batch)
    assert found.phases == expected.phases
    assert found.counted == "computed on batches of 2 and 4, and extrapolated"
    assert found.lines()[-1].endswith("computed on batches of 2 and 4, and extrapolated)")
    assert [layer.output_shape for layer in found.networks[1].layers] == [
        layer.output_shape for layer in expected.networks[1].layers
    ]
    assert found.networks[1].layers[0].name == "inner.trunk.0.conv1"


class Failing(nn.Module):
    """A network with a mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("features: expected 8, got 9")


class Broken(BigGAN8):
    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        made = super().build(clusters, latent_dim, channels)
        return Networks(made.generator, Failing(), made.encoder)


def test_a_broken_network_fails_as_it_would_in_a_run() -> None:
    with pytest.raises(RuntimeError, match="features: expected 8, got 9"):
        summary(Broken(BigGANOptions(width=2)))


class Parts(nn.Module):
    """A network of a third party: a parameter beside children, one layer tied to another, one used without a call."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.first = nn.Linear(size, size)
        self.tied = nn.Linear(size, size)
        self.tied.weight = self.first.weight
        self.direct = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tied(torch.relu(self.first(self.scale * x.flatten(1))))
        return nn.functional.linear(h, self.direct.weight, self.direct.bias).squeeze(1)


class ThirdParty(BigGAN8):
    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        made = super().build(clusters, latent_dim, channels)
        return Networks(made.generator, Parts(64 * channels), made.encoder)


def test_parameters_beside_children_tied_ones_and_layers_without_a_call_are_in_the_table_once() -> None:
    discriminator = summary(ThirdParty(BigGANOptions(width=2))).networks[1]
    found = [(layer.name, layer.kind, layer.output_shape, layer.parameters) for layer in discriminator.layers]
    assert found == [
        ("Parts", "Parts", (), 64),
        ("first", "Linear", (64,), 64 * 64 + 64),
        ("tied", "Linear", (64,), 64),
        ("direct", "Linear", None, 65),
    ]


class WithoutEntropy(GaussianMixture):
    entropy_kind = "none"


def test_a_prior_without_entropies_is_described_too() -> None:
    prior = WithoutEntropy(K, J, GaussianMixtureOptions())
    assert summary(small(), prior).phases == summary(small()).phases


# As text


def test_the_text_has_the_layers_the_parameters_and_the_operations() -> None:
    prior = gmm(10, 24)
    lines = summarise(BigGAN32(BigGANOptions(width=12)), prior, channels=1, schedule=PAPER).lines()
    text = "\n".join(lines)
    assert "generator: 157,249 parameters" in lines
    assert "discriminator: 148,465 parameters" in lines
    assert "encoder: 277,968 parameters, 106,848 of them shared with the discriminator (*)" in lines
    assert "  trunk.0.conv1 *     SpectralConv2d  48x32x32         480" in lines
    assert "prior GaussianMixture: 480 parameters" in lines
    assert "total: 477,314 trained parameters, including the encoder's own 171,120" in lines
    assert "one iteration at batch 50: 209.7 GFLOP" in lines
    assert "  4        discriminator        28.26 GFLOP" in lines
    assert "from shapes alone" in text
    assert max(map(len, lines)) <= 120
