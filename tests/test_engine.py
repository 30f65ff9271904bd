"""The two engines: the same draws, the same mathematics, gradients that agree; and what the fast one can't do."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from mpcc.core.config import RunSettings
from mpcc.core.contracts import Networks
from mpcc.core.engines import choice as choice_of_engine
from mpcc.core.engines.choice import choose_engine
from mpcc.core.engines.fast import FastEngine
from mpcc.core.errors import InvalidInput
from mpcc.core.images.stream import ImageStream
from mpcc.core.layers.spectral_norm import SpectralLayer
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.method.losses import (
    Batch,
    discriminator_loss,
    encoder_and_prior_loss,
    encoder_loss,
    generator_loss,
)
from mpcc.core.method.model import Model, trainable
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry
from mpcc.core.run.assembly import choose_device
from mpcc.core.system.kernel_settings import full_precision, kernel_settings
from mpcc.plugins.architectures.biggan import BigGAN8, BigGAN16, BigGAN32
from mpcc.plugins.architectures.options import BigGANOptions

K, J, BATCH = 3, 8, 6
CPU = torch.device("cpu")
SCHEDULE = Schedule(batch=BATCH, d_steps=3, e_steps=4, lr=1e-3, prior_lr=5e-3, ema_decay=0.9, ema_start=2)
REGISTRY = load_registry()
SIZES = {8: BigGAN8, 16: BigGAN16, 32: BigGAN32}
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "embedding": (8, {}),
    "shared, nearest": (8, {"conditioning": "shared", "upsampling": "nearest"}),
    "split": (8, {"conditioning": "split"}),
    "projection": (8, {"projection": "posterior"}),
    "nothing shared": (8, {"shared_blocks": 0, "encoder_blocks": "paper"}),
    "edges": (8, {"edges": True}),
    "forward": (8, {"power_iterations": "forward"}),
    "16 pixels": (16, {}),
    "32 pixels": (32, {}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def trainer(
    engine: Engine,
    variant: str = "embedding",
    prior: str = "gmm",
    dtype: torch.dtype = torch.float64,
    entropy: EntropyPolicy | None = None,
    **prior_options: Any,
) -> Trainer:
    """The same small trainer every time, but for its engine."""
    torch.manual_seed(0)
    size, options = VARIANTS[variant]
    entry = REGISTRY.entry("prior", prior)
    cls = entry.options_class()
    assert cls is not None
    made = entry.load()(K, J, cls(**{**entry.defaults, **prior_options})).to(dtype)
    networks = SIZES[size](BigGANOptions(width=2, **options)).build(K, J, channels=1)
    for network in (networks.generator, networks.discriminator, networks.encoder):
        network.to(dtype)
    images = torch.randint(256, (31, 1, size, size), dtype=torch.uint8)
    weights = TermWeights.published(channels=1, image_size=size, latent_dim=J)
    model = Model.assemble(made, networks, CPU, entropy)
    return Trainer(model, ImageStream(images, BATCH, seed=1), SCHEDULE, weights, engine)


def compare(plain: Trainer, fast: Trainer, iterations: int) -> float:
    """Train both from the same seed; return the largest relative difference of a term."""
    worst = 0.0
    for iteration in range(iterations):
        found, states = [], []
        for each in (plain, fast):
            torch.manual_seed(iteration)
            found.append(each.iterate())
            states.append(torch.get_rng_state())
        assert torch.equal(*states), "the engines drew different numbers"
        assert found[0].keys() == found[1].keys()
        for name, expected in found[0].items():
            worst = max(worst, float((found[1][name] - expected).abs() / expected.abs().clamp_min(1e-12)))
    return worst


def test_fifty_iterations_of_both_engines_agree_in_double_precision() -> None:
    plain, fast = trainer(PlainEngine()), trainer(FastEngine())
    assert compare(plain, fast, 50) < 1e-8
    assert not fast.engine.notes
    for name, part in plain.model.parts().items():
        expected = part.state_dict()
        for key, value in fast.model.parts()[name].state_dict().items():
            torch.testing.assert_close(value, expected[key], atol=1e-7, rtol=1e-7, msg=f"{name}.{key}")


@every_variant
def test_every_variant_of_the_networks_agrees(variant: str) -> None:
    assert compare(trainer(PlainEngine(), variant), trainer(FastEngine(), variant), 3) < 1e-8


# The fixed one has no options, and belongs to other objectives (test_written_out.py).
@pytest.mark.parametrize(
    "name", [name for name in REGISTRY.names("prior") if REGISTRY.entry("prior", name).options_class()]
)
def test_every_prior_agrees(name: str) -> None:
    assert compare(trainer(PlainEngine(), prior=name), trainer(FastEngine(), prior=name), 3) < 1e-8


def test_draws_agree_where_the_entropies_draw_too_and_weights_are_trained() -> None:
    options: dict[str, Any] = {"entropy": EntropyPolicy("monte-carlo", 5), "weights": "trainable"}
    assert compare(trainer(PlainEngine(), **options), trainer(FastEngine(), **options), 3) < 1e-8


def losses(made: Trainer) -> dict[str, tuple[tuple[nn.Module, ...], Callable[[], Tensor]]]:
    """Return the objective of each phase, and what has gradients in it."""
    model, networks, weights, engine = made.model, made.model.networks, made.weights, made.engine
    real = torch.rand(2, BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def discriminator() -> Tensor:
        # The second of two batches: in the fast engine it is the second group of one call.
        *_, fakes = engine.generated(model, BATCH, 2)
        return discriminator_loss(model, Batch(BATCH, real[1], fakes), weights).total

    def encoder(train_prior: bool) -> Tensor:
        *_, fakes = engine.generated(model, BATCH, 1 if train_prior else 3, train_prior)
        loss = encoder_and_prior_loss if train_prior else encoder_loss
        return loss(model, Batch(BATCH, generated=fakes), weights).total

    return {
        "discriminator": ((networks.discriminator,), discriminator),
        "generator": (
            (networks.generator, model.prior),
            lambda: generator_loss(model, Batch(BATCH), weights).total,
        ),
        "first encoder": ((networks.encoder, model.prior), lambda: encoder(True)),
        "later encoder": ((networks.encoder,), lambda: encoder(False)),
    }


def gradients(made: Trainer, phase: str) -> Tensor:
    """Return all gradients of a phase in one vector."""
    modules, objective = losses(made)[phase]
    torch.manual_seed(3)
    with trainable(*modules):
        parameters = [parameter for module in modules for parameter in module.parameters()]
        with made.engine.precision():
            value = objective()
        found = torch.autograd.grad(value, parameters)
    return torch.cat([gradient.flatten() for gradient in found])


PHASES = ["discriminator", "generator", "first encoder", "later encoder"]


@pytest.mark.parametrize("phase", PHASES)
def test_gradients_of_a_phase_from_the_same_state_agree_in_single_precision(phase: str) -> None:
    plain, fast = trainer(PlainEngine(), dtype=torch.float32), trainer(FastEngine(), dtype=torch.float32)
    expected, found = gradients(plain, phase), gradients(fast, phase)
    assert float(expected.norm()) > 0
    assert float((found - expected).norm() / expected.norm()) < 1e-4


needs_bf16 = pytest.mark.skipif(not choice_of_engine.computes_bf16(CPU), reason="this processor has no bf16 arithmetic")


@needs_bf16
@pytest.mark.parametrize("phase", PHASES)
def test_in_bf16_gradients_point_the_same_way_and_parameters_stay_in_single_precision(phase: str) -> None:
    plain, fast = trainer(PlainEngine(), dtype=torch.float32), trainer(FastEngine("bf16"), dtype=torch.float32)
    expected, found = gradients(plain, phase), gradients(fast, phase)
    assert found.dtype == torch.float32
    assert float(torch.dot(expected, found) / expected.norm() / found.norm()) > 0.95
    terms = fast.iterate()
    assert {term.dtype for term in terms.values()} == {torch.float32}
    for part in fast.model.parts().values():
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}


@needs_bf16
def test_in_bf16_the_latents_and_labels_are_those_of_single_precision() -> None:
    drawn = []
    for engine in (PlainEngine(), FastEngine("bf16")):
        made = trainer(engine, dtype=torch.float32)
        torch.manual_seed(4)
        drawn.append([(each.z, each.y, each.images.dtype) for each in engine.generated(made.model, BATCH, 3)])
    for (z, y, _), (other_z, other_y, dtype) in zip(*drawn, strict=True):
        assert torch.equal(z, other_z)
        assert torch.equal(y, other_y)
        assert dtype == torch.float32


def test_power_iterations_leave_the_same_vectors_in_both_engines() -> None:
    plain, fast = trainer(PlainEngine()), trainer(FastEngine())
    for made in (plain, fast):
        made.engine.advance(made.model.networks.discriminator)
    pairs = zip(plain.model.networks.discriminator.modules(), fast.model.networks.discriminator.modules(), strict=True)
    layers = [(one, other) for one, other in pairs if isinstance(one, SpectralLayer)]
    assert len(layers) > 5
    for one, other in layers:
        assert isinstance(other, SpectralLayer)
        torch.testing.assert_close(other.u, one.u)
        torch.testing.assert_close(other.v, one.v)


def test_images_for_several_updates_are_generated_in_one_call_where_that_gives_the_same() -> None:
    def calls(made: Trainer) -> list[int]:
        counted: list[int] = []
        hook = made.model.networks.generator.register_forward_pre_hook(lambda _, args: counted.append(len(args[0])))
        made.iterate()
        hook.remove()
        return counted

    assert calls(trainer(PlainEngine())) == [BATCH] * 8
    # Discriminator steps, the generator's own, the first encoder step, the others.
    assert calls(trainer(FastEngine())) == [3 * BATCH, BATCH, BATCH, 3 * BATCH]
    advancing = trainer(FastEngine(), "forward")
    assert calls(advancing) == [BATCH] * 8
    assert advancing.engine.notes == [
        "images are generated batch by batch: spectral norms advance in every forward pass"
    ]


def test_an_architecture_that_does_not_declare_grouped_batches_is_called_batch_by_batch() -> None:
    made = trainer(PlainEngine())
    networks = made.model.networks
    undeclared = Networks(networks.generator, networks.discriminator, networks.encoder)
    engine = FastEngine()
    model = attrs.evolve(made.model, networks=undeclared)
    again = Trainer(model, made.stream, SCHEDULE, made.weights, engine)
    assert engine.notes == ["images are generated batch by batch: the architecture does not declare grouped batches"]
    assert engine.record() == {"name": "fast", "precision": "float32", "notes": engine.notes}
    again.iterate()


class Noisy(nn.Module):
    """A generator that draws numbers of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return (self.network(z, y) + 0.1 * torch.randn(len(z), 1, 1, 1, dtype=z.dtype)).clamp(-1, 1)


def test_a_generator_that_draws_draws_the_same_in_both_engines() -> None:
    made = []
    for engine in (PlainEngine(), FastEngine()):
        original = trainer(engine)
        networks = original.model.networks
        noisy = Networks(Noisy(networks.generator), networks.discriminator, networks.encoder)
        model = Model.assemble(original.model.prior.requires_grad_(True), trainable_again(noisy), CPU)
        made.append(Trainer(model, original.stream, SCHEDULE, original.weights, engine))
    assert compare(*made, 2) < 1e-8


def trainable_again(networks: Networks) -> Networks:
    for part in (networks.generator, networks.discriminator, networks.encoder):
        part.requires_grad_(True)
    return networks


def test_a_fused_weight_refuses_second_derivatives_instead_of_getting_them_wrong() -> None:
    made = trainer(FastEngine())
    discriminator = made.model.networks.discriminator.requires_grad_(True)
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        discriminator(images).sum(), [next(iter(discriminator.parameters()))], create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_a_state_moves_from_one_engine_to_the_other() -> None:
    plain, fast, straight = trainer(PlainEngine()), trainer(FastEngine()), trainer(PlainEngine())
    torch.manual_seed(5)
    plain.iterate()
    random = torch.get_rng_state()
    fast.restore(copy.deepcopy(plain.state()))
    torch.set_rng_state(random)
    found = fast.iterate()
    torch.manual_seed(5)
    straight.iterate()
    expected = straight.iterate()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def choice(**settings: Any) -> Engine:
    return choose_engine(attrs.evolve(RunSettings(), **settings), CPU)


def test_settings_choose_the_engine() -> None:
    assert isinstance(choice(), FastEngine)
    assert choice().precision_name == "float32"
    assert isinstance(choice(engine="plain"), PlainEngine)
    assert isinstance(choice(engine="plain", precision="auto"), PlainEngine)
    with pytest.raises(InvalidInput, match="--precision tf32: only CUDA devices"):
        choice(precision="tf32")
    with pytest.raises(InvalidInput, match="--precision bf16: the plain engine"):
        choice(engine="plain", precision="bf16")


@pytest.mark.parametrize("known", [False, True])
def test_bf16_is_refused_where_the_hardware_does_not_have_it(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    monkeypatch.setattr(choice_of_engine, "computes_bf16", lambda device: known)
    if known:
        assert choice(precision="bf16").precision_name == "bf16"
    else:
        with pytest.raises(InvalidInput, match=r"this cpu has no bf16 arithmetic .*--precision float32"):
            choice(precision="bf16")


@pytest.mark.parametrize("known", [False, True])
def test_tf32_is_refused_on_a_gpu_that_does_not_have_it(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: known)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    settings = attrs.evolve(RunSettings(), precision="tf32")
    if known:
        assert choose_engine(settings, torch.device("cuda", 0)).precision_name == "tf32"
    else:
        with pytest.raises(InvalidInput, match=r"tf32: this cuda has no tf32 arithmetic .*--precision float32"):
            choose_engine(settings, torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("machine", "known", "matrix_unit", "expected"),
    [
        ("x86_64", True, True, "bf16"),
        ("x86_64", True, False, "float32"),  # vector instructions only: slower than float32 on some processors
        ("x86_64", False, False, "float32"),
        ("aarch64", True, False, "bf16"),
        ("aarch64", False, False, "float32"),
    ],
)
def test_precision_auto_is_bf16_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, machine: str, known: bool, matrix_unit: bool, expected: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(choice_of_engine, "computes_bf16", lambda device: known)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: matrix_unit)
    assert choice(precision="auto").precision_name == expected


# Settings of CUDA's libraries, which can be set without a GPU, too


def settings_now() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return (
        *(torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark),
        *(cudnn.enabled, cudnn.deterministic),
    )


def test_training_tries_kernels_and_an_evaluation_inside_it_neither_tries_nor_rounds() -> None:
    before = settings_now()
    with kernel_settings(tf32=True):
        assert settings_now()[:3] == (True, True, True)
        with full_precision(torch.device("cuda")), full_precision(CPU):
            assert settings_now()[:3] == (False, False, False)
        assert settings_now()[:3] == (True, True, True)
    with kernel_settings(tf32=False):
        assert settings_now()[:3] == (False, False, True)
    assert settings_now() == before


def test_what_a_caller_has_set_for_cudnn_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with kernel_settings(tf32=True):
        assert settings_now()[3:] == (False, True)


def test_a_test_without_the_mark_gpu_sees_no_gpu_and_no_command_of_its_does() -> None:
    assert choose_device("auto") == CPU
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], capture_output=True, text=True
    )
    assert done.stdout == "False\n"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_weights_in_another_order_in_memory_train_in_the_fast_engine_as_in_the_plain_one() -> None:
    plain, fast = trainer(PlainEngine()), trainer(FastEngine())
    for made in (plain, fast):
        made.model.networks.discriminator.to(memory_format=torch.channels_last)
    assert compare(plain, fast, 3) < 1e-8
    for one, other in zip(
        plain.model.networks.discriminator.buffers(), fast.model.networks.discriminator.buffers(), strict=True
    ):
        torch.testing.assert_close(one, other)
