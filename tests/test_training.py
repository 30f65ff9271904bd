"""The training loop: what each phase changes, and whole iterations against one written out from the method."""

from __future__ import annotations

import copy
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mpcc.core.images.stream import ImageStream
from mpcc.core.layers.fusion import fuse
from mpcc.core.layers.spectral_norm import SpectralLayer
from mpcc.core.method import losses
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.losses import Batch
from mpcc.core.method.model import Model, standing_generator, trainable
from mpcc.core.method.phases import MPCC, EndOfIteration, Phase
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.system.randomness import own_randomness
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

K, J, BATCH = 3, 4, 6
CPU = torch.device("cpu")
SCHEDULE = {"batch": BATCH, "d_steps": 2, "e_steps": 3, "lr": 1e-3, "prior_lr": 5e-3, "ema_decay": 0.9, "ema_start": 2}
PUBLISHED = TermWeights.published(channels=1, image_size=8, latent_dim=J)


def trainer(
    dtype: torch.dtype = torch.float32,
    weights: TermWeights = PUBLISHED,
    engine: Engine | None = None,
    phases: Sequence[Phase | EndOfIteration] = MPCC,
    **schedule: Any,
) -> Trainer:
    """A tiny trainer, the same every time."""
    torch.manual_seed(0)
    prior = GaussianMixture(K, J, GaussianMixtureOptions(scale_floor=0.2)).to(dtype)
    prior.phi.fill_(1 / K)  # not rounded to single precision
    networks = BigGAN8(BigGANOptions(width=1)).build(K, J, channels=1)
    for network in (networks.generator, networks.discriminator, networks.encoder):
        network.to(dtype)
    images = torch.randint(256, (31, 1, 8, 8), dtype=torch.uint8)
    model = Model.assemble(prior, networks, CPU)
    return Trainer(model, ImageStream(images, BATCH, seed=1), Schedule(**SCHEDULE | schedule), weights, engine, phases)


def groups(model: Model) -> dict[str, list[nn.Parameter]]:
    """The parameters by who owns them."""
    networks = model.networks
    trunk = list(networks.discriminator.trunk.parameters())
    shared = {id(parameter) for parameter in trunk}
    return {
        "prior": list(model.prior.parameters()),
        "generator": list(networks.generator.parameters()),
        "trunk": trunk,
        "discriminator": [p for p in networks.discriminator.parameters() if id(p) not in shared],
        "encoder": [p for p in networks.encoder.parameters() if id(p) not in shared],
        "averaged": list(model.averaged.parameters()),
    }


def fakes(t: Trainer, train_prior: bool = False) -> Batch:
    with trainable(*([t.model.prior] if train_prior else [])):
        (made,) = t.engine.generated(t.model, BATCH, 1, train_prior)
    return Batch(BATCH, generated=made)


# Whose parameters each phase of the paper's system changes.
CHANGES = {
    "discriminator": {"discriminator", "trunk"},
    "generator and prior": {"generator", "prior"},
    "encoder and prior": {"encoder", "trunk", "prior"},
    "encoder": {"encoder", "trunk"},
}
ROWS = {row.name: row for row in MPCC if isinstance(row, Phase)}
every_phase = pytest.mark.parametrize("phase", CHANGES)


def test_the_phases_are_those_of_the_paper() -> None:
    assert list(ROWS) == list(CHANGES)


def one_update(phase: str, **changes: Any) -> Trainer:
    """A tiny trainer whose iterations are one update of a phase."""
    return trainer(phases=(attrs.evolve(ROWS[phase], updates=lambda schedule: 1),), **changes)


@every_phase
def test_a_phase_changes_what_the_schedule_says_and_nothing_else(phase: str) -> None:
    expected, made = CHANGES[phase], one_update(phase)
    before = {name: [p.detach().clone() for p in owned] for name, owned in groups(made.model).items()}
    made.iterate()
    after = {name: owned for name, owned in groups(made.model).items() if name != "averaged"}
    changed = {name: [not torch.equal(*pair) for pair in zip(before[name], after[name], strict=True)] for name in after}
    assert {name for name, flags in changed.items() if any(flags)} == expected
    for name in expected - {"generator"}:  # a bias in front of a batch norm has no gradient
        assert all(changed[name]), name


@every_phase
def test_only_what_a_phase_changes_gets_a_gradient(phase: str) -> None:
    expected, made = CHANGES[phase], one_update(phase)
    made.iterate()
    received = {name for name, owned in groups(made.model).items() if any(p.grad is not None for p in owned)}
    assert received == expected


@every_phase
def test_the_power_iteration_advances_in_the_updated_network_alone(phase: str) -> None:
    expected, made = CHANGES[phase], one_update(phase)
    parts = made.model.trained_parts()

    def vectors() -> dict[str, list[Tensor]]:
        layers = {name: [m for m in part.modules() if isinstance(m, SpectralLayer)] for name, part in parts.items()}
        return {name: [vector for m in found for vector in (m.u, m.v)] for name, found in layers.items()}

    before = copy.deepcopy(vectors())
    made.iterate()
    moved = {name for name, found in vectors().items() if any(map(lambda a, b: not a.equal(b), before[name], found))}
    # The trunk's vectors belong to both networks that share it.
    shared = {"discriminator", "encoder"} if "trunk" in expected else set()
    assert moved == (expected | shared) - {"trunk", "prior"}


def test_the_optimizers_step_in_the_order_of_the_schedule_and_the_prior_exactly_twice() -> None:
    made = trainer(d_steps=4, e_steps=4)
    order: list[str] = []
    frozen_outside: list[bool] = []
    for name, optimizer in made.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: order.append(name))
    for _ in range(2):
        order.clear()
        made.iterate()
        assert order == ["discriminator"] * 4 + ["generator", "prior", "encoder", "prior"] + ["encoder"] * 3
        assert Counter(order)["prior"] == 2
        frozen_outside += [not p.requires_grad for owned in groups(made.model).values() for p in owned]
    assert all(frozen_outside)


def test_the_trunk_has_adam_moments_of_its_own_in_both_networks() -> None:
    made = trainer()
    made.iterate()
    for parameter in groups(made.model)["trunk"]:
        states = [made.optimizers[name].state[parameter] for name in ("discriminator", "encoder")]
        assert [int(state["step"]) for state in states] == [2, 3]
        assert not torch.equal(states[0]["exp_avg_sq"], states[1]["exp_avg_sq"])


def test_adam_is_that_of_the_paper() -> None:
    made = trainer()
    assert set(made.optimizers) == {"discriminator", "generator", "encoder", "prior"}
    for name, optimizer in made.optimizers.items():
        (group,) = optimizer.param_groups
        assert group["lr"] == (5e-3 if name == "prior" else 1e-3)
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.0, 0.999), 1e-8, 0)
        assert (group["amsgrad"], group["maximize"]) == (False, False)


def test_an_iteration_takes_a_fresh_batch_of_real_images_for_each_discriminator_step() -> None:
    made, twin = trainer(d_steps=3), trainer(d_steps=3)
    made.iterate()
    for _ in range(3):
        twin.stream.next()
    assert torch.equal(made.stream.next(), twin.stream.next())


def test_an_iteration_returns_the_raw_terms_as_detached_scalars() -> None:
    terms = trainer().iterate()
    assert set(terms) == {"data_discriminator", "data_generator", "latent", "membership", "entropy", "label"}
    assert all(term.shape == () and not term.requires_grad and term.isfinite() for term in terms.values())
    assert terms["label"].item() == pytest.approx(-math.log(K), rel=1e-6)


def test_each_objective_is_the_weighted_sum_of_its_terms() -> None:
    weights = TermWeights(data=2, latent=3, membership=5, entropy=7, label=11)
    made = trainer(torch.float64)
    real = torch.rand(BATCH, 1, 8, 8, dtype=torch.float64)
    computed = [
        losses.discriminator_loss(made.model, attrs.evolve(fakes(made), real=real), weights),
        losses.generator_loss(made.model, Batch(BATCH), weights),
        losses.encoder_and_prior_loss(made.model, fakes(made, True), weights),
        losses.encoder_loss(made.model, fakes(made), weights),
    ]
    factors = {"data_discriminator": 2, "data_generator": 2, "latent": 3, "membership": 5, "entropy": 7, "label": 11}
    for loss in computed:
        expected = sum(factors[name] * term for name, term in loss.terms.items())
        torch.testing.assert_close(loss.total, expected, atol=1e-12, rtol=1e-12)
        assert loss.weights == {name: factors[name] for name in loss.terms}
    assert [len(loss.terms) for loss in computed] == [1, 1, 4, 1]


# Whole iterations, written out from the method


class Written:
    """The method in plain tensors: no `Prior`, objective, optimizer or power iteration of the package."""

    def __init__(self, original: Trainer, weights: TermWeights) -> None:
        networks, prior = original.model.networks, original.model.prior
        parts = copy.deepcopy((networks.generator, networks.discriminator, networks.encoder))
        self.G, self.D, self.E = (part.requires_grad_(True) for part in parts)
        self.mu, self.raw = (p.detach().clone().requires_grad_() for p in (prior.loc, prior.raw_scale))
        self.average = [parameter.detach().clone() for parameter in self.G.parameters()]
        self.stream, self.schedule, self.weights = copy.deepcopy(original.stream), original.schedule, weights
        self.squares: dict[str, list[Tensor]] = {}
        self.steps: Counter[str] = Counter()
        self.iteration = 0

    def draw(self) -> tuple[Tensor, Tensor]:
        y = torch.multinomial(torch.full((K,), 1 / K, dtype=self.mu.dtype), BATCH, replacement=True)
        return self.mu[y] + (0.2 + torch.exp(self.raw / 2))[y] * torch.randn(BATCH, J, dtype=self.mu.dtype), y

    def adam(self, name: str, parameters: list[Tensor], gradients: tuple[Tensor, ...], lr: float) -> None:
        squares = self.squares.setdefault(name, [torch.zeros_like(p) for p in parameters])
        self.steps[name] += 1
        for p, g, square in zip(parameters, gradients, squares, strict=True):
            square.copy_(0.999 * square + 0.001 * g**2)
            p.data -= self.factor() * lr * g / ((square / (1 - 0.999 ** self.steps[name])).sqrt() + 1e-8)

    def factor(self) -> float:
        end, decay = self.schedule.iterations, self.schedule.lr_decay
        return 1.0 if end is None else min(1.0, (end - self.iteration) / (decay * end))

    def advance(self, network: nn.Module) -> None:
        for layer in network.modules():
            if isinstance(layer, SpectralLayer):
                W = layer.weight.detach().flatten(1)
                layer.v = W.T @ layer.u / (W.T @ layer.u).norm()
                layer.u = W @ layer.v / (W @ layer.v).norm()

    def update(self, loss: Tensor, name: str, network: nn.Module, with_prior: bool) -> None:
        parameters, prior = list(network.parameters()), [self.mu, self.raw] if with_prior else []
        gradients = torch.autograd.grad(loss, [*parameters, *prior])
        step = self.schedule.lr * (self.schedule.generator_lr_factor if name == "generator" else 1)
        self.adam(name, parameters, gradients[: len(parameters)], step)
        if with_prior:
            self.adam("prior", prior, gradients[len(parameters) :], self.schedule.prior_lr)
        self.advance(network)

    def encoder_objective(self, z: Tensor, y: Tensor, with_prior: bool) -> Tensor:
        loc, log_variance = self.E(self.G(z, y).detach())
        squared = (z - loc) ** 2 / log_variance.exp()
        loss = self.weights.latent * 0.5 * (math.log(2 * math.pi) + log_variance + squared).sum(1).mean()
        if with_prior:
            scale = 0.2 + torch.exp(self.raw / 2)
            log_p = -(((z[:, None] - self.mu) / scale) ** 2 / 2 + scale.log() + 0.5 * math.log(2 * math.pi)).sum(2)
            loss = loss + self.weights.membership * (log_p.logsumexp(1) - log_p[torch.arange(BATCH), y]).mean()
            loss = loss - self.weights.entropy * (0.5 * (1 + (2 * math.pi * scale**2).log())).sum(1).mean()
        return loss

    def iterate(self) -> None:
        for _ in range(self.schedule.d_steps):
            real = (self.stream.next().float() / 127.5 - 1).to(self.mu.dtype)
            with torch.no_grad():
                fake = self.G(*self.draw())
            loss = F.relu(1 - self.D(real)).mean() + F.relu(1 + self.D(fake)).mean()
            self.update(loss, "discriminator", self.D, with_prior=False)
        self.update(-self.D(self.G(*self.draw())).mean(), "generator", self.G, with_prior=True)
        for step in range(self.schedule.e_steps):
            z, y = self.draw()
            z = z if step == 0 else z.detach()
            self.update(self.encoder_objective(z, y, step == 0), "encoder", self.E, with_prior=step == 0)
        self.iteration += 1
        decay = self.schedule.ema_decay if self.iteration >= self.schedule.ema_start else 0.0
        self.average = [
            decay * old + (1 - decay) * new.detach() for old, new in zip(self.average, self.G.parameters(), strict=True)
        ]


@pytest.mark.parametrize(
    "steps",
    [{}, {"iterations": 4, "lr_decay": 0.75}, {"generator_lr_factor": 0.2, "iterations": 4, "lr_decay": 0.75}],
    ids=["constant", "decay", "generator"],
)
def test_iterations_are_those_written_out_from_the_method(steps: dict[str, Any]) -> None:
    made = trainer(torch.float64, **steps)
    written = Written(made, PUBLISHED)
    torch.manual_seed(2)
    for _ in range(4):
        made.iterate()
    after = torch.get_rng_state()
    torch.manual_seed(2)
    for _ in range(4):
        written.iterate()
    assert torch.equal(torch.get_rng_state(), after)
    model = made.model
    pairs = [(model.networks.generator, written.G), (model.networks.discriminator, written.D)]
    for ours, theirs in [*pairs, (model.networks.encoder, written.E)]:
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[key], atol=1e-9, rtol=1e-9, msg=key)
    torch.testing.assert_close(model.prior.loc.data, written.mu.data, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(model.prior.raw_scale.data, written.raw.data, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close([*model.averaged.parameters()], written.average, atol=1e-9, rtol=1e-9)


def test_the_decay_of_the_step_sizes_belongs_to_the_iteration_not_to_the_process() -> None:
    schedule = {"iterations": 6, "lr_decay": 1.0}
    made, resumed = trainer(**schedule), trainer(**schedule)
    for _ in range(4):
        made.iterate()
    resumed.restore(copy.deepcopy(made.state()))
    for each in (made, resumed):
        torch.manual_seed(4)
        each.iterate()
    for name, part in made.model.parts().items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, resumed.model.parts()[name].state_dict()[key]), (name, key)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in resumed.optimizers.items()}
    assert rates == pytest.approx(
        {"discriminator": 1e-3 / 3, "generator": 1e-3 / 3, "encoder": 1e-3 / 3, "prior": 5e-3 / 3}
    )


def test_step_sizes_stay_above_zero_beyond_the_last_iteration() -> None:
    schedule = Schedule(**SCHEDULE, iterations=10, lr_decay=0.5)  # type: ignore[arg-type]
    assert [schedule.lr_factor(done) for done in (9, 10, 11)] == [0.2, 0.2, 0.2]
    assert Schedule(**SCHEDULE).lr_factor(10**9) == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lr_decay 0\.5: expected the number of iterations, too"):
        Schedule(**SCHEDULE, lr_decay=0.5)  # type: ignore[arg-type]


class Recordable(PlainEngine):
    """On a CPU, with optimizers as a CUDA graph needs them."""

    capturable = True


def test_a_step_size_on_the_device_falls_like_one_on_the_host() -> None:
    schedule = {"iterations": 5, "lr_decay": 1.0}
    made, recorded = trainer(torch.float64, **schedule), trainer(torch.float64, engine=Recordable(), **schedule)
    sizes = {name: optimizer.param_groups[0]["lr"] for name, optimizer in recorded.optimizers.items()}
    assert all(isinstance(size, Tensor) for size in sizes.values())
    recorded.restore(copy.deepcopy(recorded.state()))
    for each in (made, recorded):
        torch.manual_seed(4)
        for _ in range(5):
            each.iterate()
    for name, optimizer in recorded.optimizers.items():
        # The same tensor, which a recorded iteration reads.
        assert optimizer.param_groups[0]["lr"] is sizes[name]
        assert float(sizes[name]) == pytest.approx(made.optimizers[name].param_groups[0]["lr"], rel=1e-6)
    for ours, theirs in zip(made.model.prior.parameters(), recorded.model.prior.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_the_prior_sees_the_written_out_terms_alone_in_the_encoder_phase() -> None:
    weights = TermWeights(latent=0.3, membership=0.7, entropy=0.2)
    made = one_update("encoder and prior", dtype=torch.float64, weights=weights)
    for parameter in made.model.prior.parameters():
        parameter.grad = torch.ones_like(parameter)  # an earlier gradient must not linger
    written = Written(made, weights)
    torch.manual_seed(3)
    objective = written.encoder_objective(*written.draw(), with_prior=True)
    expected = torch.autograd.grad(objective, [written.mu, written.raw])
    torch.manual_seed(3)
    made.iterate()
    prior = made.model.prior
    torch.testing.assert_close((prior.loc.grad, prior.raw_scale.grad), expected, atol=1e-12, rtol=1e-10)


# The averaged generator, standing statistics, modes and random states


def test_the_average_is_a_copy_before_its_start_and_then_follows_with_its_decay() -> None:
    made = trainer(ema_start=3, ema_decay=0.8)
    live, averaged = made.model.networks.generator, made.model.averaged
    expected: list[Tensor] = []
    for iteration in range(1, 6):
        made.iterate()
        fresh = [parameter.detach().clone() for parameter in live.parameters()]
        if iteration < 3:
            expected = fresh
            assert all(torch.equal(*pair) for pair in zip(averaged.parameters(), fresh, strict=True))
        else:
            expected = [0.8 * old + 0.2 * new for old, new in zip(expected, fresh, strict=True)]
            torch.testing.assert_close([*averaged.parameters()], expected, atol=1e-7, rtol=1e-5)
            assert not torch.equal(averaged.entry.weight, live.entry.weight)
        assert all(torch.equal(*pair) for pair in zip(averaged.buffers(), live.buffers(), strict=True))


class Calls(TorchDispatchMode):
    """Notes the operations with the types and strides of their tensors; on CUDA, each would be a kernel or more."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[str, set[torch.dtype], bool]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first, second = (*args, args)[:2]
        same = all(one.stride() == other.stride() for one, other in zip(first, second, strict=True))
        self.noted.append((function.__name__, {tensor.dtype for tensor in first}, same))
        return function(*args, **(kwargs or {}))


def test_the_average_of_all_tensors_takes_three_kernels() -> None:
    model = trainer().model
    with Calls() as calls:
        model.average(0.5)
    # Torch takes one kernel for a list of tensors if all have one type, and each pair has the same strides.
    assert calls.noted == [
        ("_foreach_lerp_.Scalar", {torch.float32}, True),
        ("_foreach_copy_.default", {torch.float32}, True),
        ("_foreach_copy_.default", {torch.int64}, True),
    ]


def test_a_generator_of_several_types_and_without_buffers_is_averaged() -> None:
    model = trainer().model
    for generator in (model.networks.generator, model.averaged):
        for module in generator.modules():
            module._buffers.clear()
        generator.register_parameter("extra", nn.Parameter(torch.zeros(2, dtype=torch.float64), requires_grad=False))
    model.networks.generator.extra.fill_(4.0)
    before = model.averaged.entry.weight.clone()
    model.networks.generator.entry.weight.add_(1.0)
    model.average(0.25)
    assert model.averaged.extra.tolist() == [3.0, 3.0]
    torch.testing.assert_close(model.averaged.entry.weight, before + 0.75)


def test_standing_statistics_are_the_averages_of_the_statistics_of_every_pass() -> None:
    made = trainer(torch.float64)
    made.iterate()
    generator = made.model.averaged
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            if module.training:
                x = inputs[0]
                seen.setdefault(name, []).append((x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))

        return hook

    norms = {n: m for n, m in generator.named_modules() if isinstance(m, nn.BatchNorm2d)}
    hooks = [module.register_forward_pre_hook(record(name)) for name, module in norms.items()]
    before = copy.deepcopy(generator.state_dict())
    standing = standing_generator(generator, made.model.prior, passes=5, batch=7)
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(norms)
    assert len(norms) == 3
    for name, passes in seen.items():
        module = standing.get_submodule(name)
        assert len(passes) == 5
        torch.testing.assert_close(module.running_mean, torch.stack([mean for mean, _ in passes]).mean(0))
        torch.testing.assert_close(module.running_var, torch.stack([variance for _, variance in passes]).mean(0))
    assert not any(module.training for module in standing.modules())
    assert all(module.training for module in generator.modules())
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    assert all(torch.equal(*pair) for pair in zip(standing.parameters(), generator.parameters(), strict=True))
    assert all(module.momentum == 0.1 for module in norms.values())


@pytest.mark.parametrize("power_iterations", ["step", "forward"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("batch", [2, 50])
def test_evaluation_repeats_the_images_that_trainings_normalisation_gives(
    batch: int, fused: bool, power_iterations: Literal["step", "forward"]
) -> None:
    torch.manual_seed(3)
    prior = GaussianMixture(K, J, GaussianMixtureOptions(scale_floor=0.2))
    generator = BigGAN8(BigGANOptions(width=2, power_iterations=power_iterations)).build(K, J, channels=1).generator
    fuse(generator, fused)
    made: list[Tensor] = []
    generator.register_forward_hook(lambda module, inputs, images: made.append(images))
    torch.manual_seed(4)
    standing = standing_generator(generator, prior, passes=1, batch=batch)
    torch.manual_seed(4)
    z, y = prior.sample(batch)
    with torch.no_grad():
        evaluated = standing(prior.input_map(z), y)
    trained = made[0]
    assert trained.std() > 0.01
    # torch's unbiased running variances would move the pixels of a batch of 2 by 0.01 to 0.1.
    assert (evaluated - trained).abs().max() < 1e-5


class OtherBatchNorms(nn.Module):
    """Batch norms of other kinds: without maps, without running statistics, and one that is called twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.free = nn.BatchNorm1d(J), nn.BatchNorm1d(J, track_running_stats=False)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        images: Tensor = self.free(self.flat(self.flat(z) * 3))
        return images


def test_batch_norms_of_every_kind_have_standing_statistics() -> None:
    prior, generator = GaussianMixture(K, J, GaussianMixtureOptions(scale_floor=0.2)), OtherBatchNorms()
    torch.manual_seed(4)
    standing = standing_generator(generator, prior, passes=2, batch=5)
    torch.manual_seed(4)
    moments = []
    for _ in range(2):
        z, _ = prior.sample(5)
        z = z.detach()
        moments += [z, 3 * (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()]
    expected = torch.stack([z.mean(0) for z in moments]).mean(0)
    torch.testing.assert_close(standing.get_buffer("flat.running_mean"), expected, atol=1e-5, rtol=1e-5)
    expected = torch.stack([z.var(0, correction=0) for z in moments]).mean(0)
    torch.testing.assert_close(standing.get_buffer("flat.running_var"), expected, atol=1e-5, rtol=1e-5)


def draw_and_fail() -> None:
    torch.randn(3)
    raise ArithmeticError


def test_a_block_of_code_with_its_own_randomness_leaves_the_global_state_alone() -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with own_randomness(5, CPU):
        first = torch.randn(3)
    assert torch.equal(torch.get_rng_state(), before)
    with own_randomness(5, CPU):
        assert torch.equal(torch.randn(3), first)
    with pytest.raises(ArithmeticError), own_randomness(5, CPU):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_are_switched_off_again_after_an_error() -> None:
    module = nn.Linear(2, 2).requires_grad_(False)
    with trainable(module):
        assert all(parameter.requires_grad for parameter in module.parameters())
    with pytest.raises(ArithmeticError), trainable(module):
        draw_and_fail()
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_restored_trainer_goes_on_bit_for_bit() -> None:
    straight = trainer()
    torch.manual_seed(6)
    for _ in range(4):
        straight.iterate()
    begun = trainer()
    torch.manual_seed(6)
    for _ in range(2):
        begun.iterate()
    file, random = io.BytesIO(), torch.get_rng_state()
    torch.save(begun.state(), file)
    file.seek(0)
    resumed = trainer()
    resumed.iterate()  # whatever it did before is forgotten
    resumed.restore(torch.load(file, weights_only=True))
    torch.set_rng_state(random)
    assert resumed.iteration == 2
    for _ in range(2):
        resumed.iterate()
    expected, actual = straight.state(), resumed.state()
    assert (actual["iteration"], actual["stream"]) == (4, expected["stream"])
    torch.testing.assert_close(actual["parts"], expected["parts"], atol=0, rtol=0)
    torch.testing.assert_close(
        {name: state["state"] for name, state in actual["optimizers"].items()},
        {name: state["state"] for name, state in expected["optimizers"].items()},
        atol=0,
        rtol=0,
    )
