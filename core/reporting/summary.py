"""What a run would train and what an iteration costs: layers, parameters, floating-point operations.

Nothing is trained, and everything comes from the contracts: layers are the modules that own parameters, their output
shapes are seen by forward hooks, and operations are those of the phases of an iteration (`mpcc.core.method.phases`),
backward passes included, as `torch.utils.flop_counter.FlopCounterMode` counts them. The networks compute on the meta
device, which knows shapes only, so that large ones take no longer than small ones; the prior computes for real.

Letters in shapes: N images, D image channels, R image size.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mpcc.core.contracts import Architecture, Networks, Prior
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.method.model import Model, trainable
from mpcc.core.method.objectives import Batch, draw
from mpcc.core.method.phases import MPCC, Afterwards, Draws, Phase
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights

__all__ = ["LayerSummary", "NetworkSummary", "PhaseCost", "Summary", "summarise"]

# Where networks don't run on the meta device, operations are counted on two small batches: they are affine in its size.
SMALL_BATCHES = (2, 4)
FROM_SHAPES = "from shapes alone"
FROM_BATCHES = f"computed on batches of {SMALL_BATCHES[0]} and {SMALL_BATCHES[1]}, and extrapolated"


@attrs.frozen
class LayerSummary:
    """One module that owns parameters.

    Attributes:
        name: Its path in the network.
        kind: Its class.
        output_shape: Of what it gives for one image; None if its forward is never called.
        parameters: Numbers that are trained; those that a layer before it owns, too, are not counted again.
        shared: Whether it belongs to the discriminator as well.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...] | None
    parameters: int
    shared: bool = False


@attrs.frozen
class NetworkSummary:
    """One network.

    Attributes:
        name: ``generator``, ``discriminator`` or ``encoder``.
        layers: In the order in which they are registered.
    """

    name: str
    layers: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        """Numbers that are trained, those shared with the discriminator included."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def own_parameters(self) -> int:
        """Numbers that are trained and not the discriminator's."""
        return sum(layer.parameters for layer in self.layers if not layer.shared)

    def lines(self) -> list[str]:
        """Return a table of the layers."""
        common = self.parameters - self.own_parameters
        words = f", {common:,} of them shared with the discriminator (*)" if common else ""
        head = f"{self.name}: {self.parameters:,} parameters{words}"
        rows = [("layer", "kind", "output", "parameters")]
        for layer in self.layers:
            shape = "-" if layer.output_shape is None else "x".join(map(str, layer.output_shape)) or "1"
            rows.append((f"{layer.name}{' *' if layer.shared else ''}", layer.kind, shape, f"{layer.parameters:,}"))
        return [head, *aligned(rows)]


@attrs.frozen
class PhaseCost:
    """What the updates of one phase cost.

    Attributes:
        name: Of the phase.
        updates: In an iteration.
        operations: Floating-point operations of one update, backward pass included.
    """

    name: str
    updates: int
    operations: int


@attrs.frozen
class Summary:
    """The networks and the prior of a run, and what an iteration costs.

    Attributes:
        networks: Generator, discriminator, encoder.
        prior: Class of the prior.
        prior_parameters: Numbers that the prior trains.
        phases: What each phase costs, in their order.
        counted: How the operations were counted, in words.
        batch: Images in each update.
    """

    networks: tuple[NetworkSummary, NetworkSummary, NetworkSummary]
    prior: str
    prior_parameters: int
    phases: tuple[PhaseCost, ...]
    counted: str
    batch: int

    @property
    def parameters(self) -> int:
        """All numbers that are trained, shared ones once."""
        return sum(network.own_parameters for network in self.networks) + self.prior_parameters

    @property
    def operations_per_iteration(self) -> int:
        """Floating-point operations of one iteration."""
        return sum(phase.updates * phase.operations for phase in self.phases)

    def lines(self) -> list[str]:
        """Return everything as lines of text."""
        lines = [line for network in self.networks for line in [*network.lines(), ""]]
        _, _, encoder = self.networks
        lines += [
            f"prior {self.prior}: {self.prior_parameters:,} parameters",
            f"trained in all: {self.parameters:,} parameters, the encoder's own {encoder.own_parameters:,} among them",
            "",
            f"one iteration at batch {self.batch}: {spoken(self.operations_per_iteration)}",
        ]
        rows = [
            ("updates", "of", "each"),
            *((str(phase.updates), phase.name, spoken(phase.operations)) for phase in self.phases),
        ]
        note = (
            f"multiplications and additions in convolutions and matrix products, forward and backward, {self.counted}"
        )
        return [*lines, *aligned(rows), f"({note})"]


def spoken(operations: int) -> str:
    """Return a number of operations with a unit.

    Example:
        >>> spoken(213_700_000_000), spoken(18_000_000)
        ('213.7 GFLOP', '18.00 MFLOP')
    """
    unit, name = next(((unit, name) for unit, name in ((1e12, "T"), (1e9, "G")) if operations >= unit), (1e6, "M"))
    return f"{operations / unit:#.4g} {name}FLOP"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as indented lines, the last column flush right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = []
    for row in rows:
        *left, last = row
        cells = [cell.ljust(width) for cell, width in zip(left, widths[:-1], strict=True)]
        lines.append("  " + "  ".join([*cells, last.rjust(widths[-1])]))
    return lines


class Carry(torch.autograd.Function):
    """Zeros of the same shape on another device; gradients come back as zeros, and can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: str | torch.device) -> Tensor:
        """Return zeros in the shape of ``x`` on the device."""
        ctx.origin = x.device
        return torch.zeros_like(x, device=device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return zeros where ``x`` came from."""
        return carry(gradients[0], ctx.origin), None


def carry(value: Tensor, device: str | torch.device) -> Tensor:
    """Return zeros in the shape of a tensor on another device, in the same graph."""
    carried: Tensor = Carry.apply(value, device)
    return carried


class ShapesOnly(nn.Module):
    """A network on the meta device with inputs and outputs on the CPU: all it gives is zeros of the right shape.

    Arguments:
        network: Moved to the meta device.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to("meta")

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what the network gives, its values lost."""
        found = self.network(*(carry(value, "meta") for value in inputs))
        if isinstance(found, Tensor):
            return carry(found, "cpu")
        return tuple(carry(value, "cpu") for value in found)


def owned(network: nn.Module) -> Iterator[tuple[str, nn.Module, list[nn.Parameter]]]:
    """Yield the path of each module with parameters of its own, the module, and those parameters, each one once."""
    seen: set[int] = set()
    for name, module in network.named_modules():
        parameters = [each for each in module.parameters(recurse=False) if id(each) not in seen]
        seen.update(map(id, parameters))
        if parameters:
            yield name or type(module).__name__, module, parameters


def describe(networks: Networks) -> Callable[[], tuple[NetworkSummary, NetworkSummary, NetworkSummary]]:
    """Count parameters now and watch the output shapes of the forwards to come; what is returned tells both."""
    of_discriminator = {id(parameter) for parameter in networks.discriminator.parameters()}
    shapes: dict[int, tuple[int, ...]] = {}

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else next((one for one in output if isinstance(one, Tensor)), None)
        if first is not None:
            shapes.setdefault(id(module), tuple(first.shape[1:]))

    entries: dict[str, list[tuple[nn.Module, LayerSummary]]] = {}
    for part, network in networks.by_name().items():
        entries[part] = []
        for name, module, parameters in owned(network):
            shared = part == "encoder" and all(id(each) in of_discriminator for each in parameters)
            count = sum(each.numel() for each in parameters)
            entries[part].append((module, LayerSummary(name, type(module).__name__, None, count, shared)))
            module.register_forward_hook(watch)

    def told() -> tuple[NetworkSummary, NetworkSummary, NetworkSummary]:
        generator, discriminator, encoder = (
            NetworkSummary(
                part,
                tuple(attrs.evolve(layer, output_shape=shapes.get(id(module))) for module, layer in found),
            )
            for part, found in entries.items()
        )
        return generator, discriminator, encoder

    return told


class Untracked(contextlib.AbstractContextManager[None]):
    """In place of what tells modules apart: its hooks do not bear gradients inside a loss, and only totals count."""

    parents = frozenset({"Global"})

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


def operation_counter() -> FlopCounterMode:
    """Return torch's counter of floating-point operations, for losses that take gradients of their own too."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = Untracked()  # type: ignore[assignment]
    return counter


def count(
    model: Model, shape: tuple[int, int, int], schedule: Schedule, phases: Sequence[Phase | Afterwards]
) -> tuple[PhaseCost, ...]:
    """Count the operations of an update of each phase, with the gradients that the training loop takes.

    They are counted in the plain way: what the fast engine saves is not work.

    Arguments:
        model: On the CPU, frozen.
        shape: (D, R, R).
        schedule: Batch size and numbers of updates.
        phases: Those of an objective.
    """
    weights, size = TermWeights(), schedule.batch
    costs = []
    for phase in phases:
        if not isinstance(phase, Phase):
            continue
        real = None if phase.real is None else torch.zeros(size, *shape)
        with (
            trainable(*(model.trained_parts()[part] for part in phase.trains)),
            operation_counter() as flops,
        ):
            generated = None
            if phase.draws is not Draws.NOTHING:
                generated = draw(model, size, train_prior=phase.draws is Draws.WITH_PRIOR)
            phase.loss(model, Batch(size, real, generated), weights).objective.backward()  # type: ignore[no-untyped-call]
        costs.append(PhaseCost(phase.name, phase.updates(schedule), flops.get_total_flops()))
    return tuple(costs)


def summarise(
    architecture: Architecture,
    prior: Prior,
    *,
    channels: int,
    schedule: Schedule,
    phases: Sequence[Phase | Afterwards] = MPCC,
    entropy: EntropyPolicy | None = None,
) -> Summary:
    """Describe the networks that an architecture builds for a prior, and count what an iteration costs.

    torch's global random state is left as it was, and so is the prior.

    Arguments:
        architecture: Builds the networks, for the prior's K and J.
        prior: On the CPU.
        channels: D.
        schedule: Batch size and numbers of updates.
        phases: The updates of an iteration.
        entropy: Where the entropies of the components come from; what the prior declares if it is None.

    Raises:
        InvalidInput: If the architecture cannot be built for these numbers.

    Example:
        >>> from mpcc.plugins.architectures.biggan import BigGAN8
        >>> from mpcc.plugins.architectures.options import BigGANOptions
        >>> from mpcc.plugins.priors.gmm import GaussianMixture
        >>> from mpcc.plugins.priors.options import GaussianMixtureOptions
        >>> prior = GaussianMixture(10, 12, GaussianMixtureOptions())
        >>> schedule = Schedule(50, d_steps=4, e_steps=4, lr=2e-4, prior_lr=1e-3, ema_decay=0.99, ema_start=0)
        >>> summary = summarise(BigGAN8(BigGANOptions(width=8)), prior, channels=1, schedule=schedule)
        >>> summary.prior_parameters, summary.networks[0].layers[0].output_shape
        (240, (512,))
    """
    if entropy is None:
        # A prior without entropies is refused when a run starts, not here.
        known = prior.entropy_kind != "none"
        entropy = EntropyPolicy.of(prior) if known else EntropyPolicy("monte-carlo", samples=1)
    policy = entropy
    shape = (channels, architecture.image_size, architecture.image_size)

    def build() -> tuple[Networks, Prior]:
        networks, own_prior = architecture.build(prior.clusters, prior.latent_dim, channels), copy.deepcopy(prior)
        for part in (*networks.by_name().values(), own_prior):
            part.train().requires_grad_(False)
        return networks, own_prior

    def model(networks: Networks, own_prior: Prior) -> Model:
        return Model(own_prior, networks, networks.generator, policy)

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        networks, own_prior = build()
        told = describe(networks)
        try:
            parts = {name: ShapesOnly(part) for name, part in networks.by_name().items()}
            costs = count(model(attrs.evolve(networks, **parts), own_prior), shape, schedule, phases)
            counted = FROM_SHAPES
        except Exception:
            # A plugin may look at values, which the meta device has not. If it is broken, it fails once more below.
            networks, own_prior = build()
            told = describe(networks)
            low, high = (
                count(model(networks, own_prior), shape, attrs.evolve(schedule, batch=small), phases)
                for small in SMALL_BATCHES
            )
            steps = (schedule.batch - SMALL_BATCHES[0]) / (SMALL_BATCHES[1] - SMALL_BATCHES[0])
            costs = tuple(
                attrs.evolve(one, operations=round(one.operations + steps * (other.operations - one.operations)))
                for one, other in zip(low, high, strict=True)
            )
            counted = FROM_BATCHES
    return Summary(
        networks=told(),
        prior=type(prior).__name__,
        prior_parameters=sum(parameter.numel() for parameter in prior.parameters()),
        phases=costs,
        counted=counted,
        batch=schedule.batch,
    )
