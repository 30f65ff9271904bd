"""A summary of a run before training: layers, parameters, and the floating-point operations of an iteration.

Layers are the modules that own parameters; forward hooks record their output shapes. The operations are those of the
phases of an iteration (`mpcc.core.method.phases`), including backward passes, as counted by
`torch.utils.flop_counter.FlopCounterMode`. The networks run on the meta device, which computes only shapes: large
networks take no longer than small ones. The prior computes real values.

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

from mpcc.core.contracts import Architecture, Networks, Objective, Prior
from mpcc.core.method.entropy import EntropyPolicy
from mpcc.core.method.losses import Batch, draw
from mpcc.core.method.model import Model, trainable
from mpcc.core.method.phases import MPCC, Draws, EndOfIteration, Phase, last_rows, loss_of, phases_of, takes_real
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights

__all__ = ["LayerSummary", "NetworkSummary", "PhaseCost", "Summary", "summarise"]

# For networks that do not run on the meta device, operations are counted on two small batches and extrapolated: the
# number of operations is an affine function of the batch size.
SMALL_BATCHES = (2, 4)
FROM_SHAPES = "from shapes alone"
FROM_BATCHES = f"computed on batches of {SMALL_BATCHES[0]} and {SMALL_BATCHES[1]}, and extrapolated"


@attrs.frozen
class LayerSummary:
    """One module that owns parameters.

    Attributes:
        name: Its path in the network.
        kind: Its class.
        output_shape: Shape of its output for one image; None if its forward is never called.
        parameters: Number of trained values, without those that an earlier layer also owns.
        shared: Whether it also belongs to the discriminator.
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
        """Number of trained values, including those shared with the discriminator."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def own_parameters(self) -> int:
        """Number of trained values that do not belong to the discriminator."""
        return sum(layer.parameters for layer in self.layers if not layer.shared)

    def lines(self) -> list[str]:
        """Return a table of the layers."""
        common = self.parameters - self.own_parameters
        note = f", {common:,} of them shared with the discriminator (*)" if common else ""
        head = f"{self.name}: {self.parameters:,} parameters{note}"
        rows = [("layer", "kind", "output", "parameters")]
        for layer in self.layers:
            shape = "-" if layer.output_shape is None else "x".join(map(str, layer.output_shape)) or "1"
            rows.append((f"{layer.name}{' *' if layer.shared else ''}", layer.kind, shape, f"{layer.parameters:,}"))
        return [head, *aligned(rows)]


@attrs.frozen
class PhaseCost:
    """The cost of the updates of one phase.

    Attributes:
        name: Name of the phase.
        updates: Number of updates in an iteration.
        operations: Floating-point operations of one update, backward pass included.
    """

    name: str
    updates: int
    operations: int


@attrs.frozen
class Summary:
    """The networks and the prior of a run, and the cost of an iteration.

    Attributes:
        networks: Generator, discriminator, encoder.
        prior: Class of the prior.
        prior_parameters: Number of trained values of the prior.
        phases: The costs of the phases in their order.
        counted: How the operations were counted, in words.
        batch: Images in each update.
    """

    networks: tuple[NetworkSummary, ...]
    prior: str
    prior_parameters: int
    phases: tuple[PhaseCost, ...]
    counted: str
    batch: int

    @property
    def parameters(self) -> int:
        """Number of all trained values; shared ones count once."""
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
            f"total: {self.parameters:,} trained parameters, including the encoder's own {encoder.own_parameters:,}",
            "",
            f"one iteration at batch {self.batch}: {spoken(self.operations_per_iteration)}",
        ]
        rows = [(str(phase.updates), phase.name, spoken(phase.operations)) for phase in self.phases]
        note = "multiplications and additions in convolutions and matrix products, forward and backward"
        return [*lines, *aligned([("updates", "of", "each"), *rows]), f"({note}, {self.counted})"]


def spoken(operations: int) -> str:
    """Return a number of operations with a unit.

    Example:
        >>> spoken(213_700_000_000), spoken(18_000_000)
        ('213.7 GFLOP', '18.00 MFLOP')
    """
    unit, name = next(((unit, name) for unit, name in ((1e12, "T"), (1e9, "G")) if operations >= unit), (1e6, "M"))
    return f"{operations / unit:#.4g} {name}FLOP"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as indented lines with the last column aligned to the right."""
    *widths, last_width = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for *cells, last in rows:
        left = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  " + "  ".join([*left, last.rjust(last_width)]))
    return lines


class Carry(torch.autograd.Function):
    """Zeros of the same shape on another device; their gradients are zeros, too, and can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: str | torch.device) -> Tensor:
        """Return zeros in the shape of ``x`` on the device."""
        ctx.origin = x.device
        return torch.zeros_like(x, device=device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return zeros on the device of ``x``."""
        return carry(gradients[0], ctx.origin), None


def carry(value: Tensor, device: str | torch.device) -> Tensor:
    """Return zeros in the shape of a tensor on another device, connected to its autograd graph."""
    carried: Tensor = Carry.apply(value, device)
    return carried


class ShapesOnly(nn.Module):
    """A network on the meta device with inputs and outputs on the CPU; it returns zeros of the right shape.

    Arguments:
        network: The network, which is moved to the meta device.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to("meta")

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return zeros in the shape of the network's output."""
        output = self.network(*(carry(value, "meta") for value in inputs))
        if isinstance(output, Tensor):
            return carry(output, "cpu")
        return tuple(carry(value, "cpu") for value in output)


def owned(network: nn.Module) -> Iterator[tuple[str, nn.Module, list[nn.Parameter]]]:
    """Yield path, module and own parameters of each module that has any; a shared parameter counts once."""
    counted: set[int] = set()
    for name, module in network.named_modules():
        parameters = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in counted]
        counted.update(map(id, parameters))
        if parameters:
            yield name or type(module).__name__, module, parameters


def describe(networks: Networks) -> Callable[[], tuple[NetworkSummary, ...]]:
    """Count parameters and record the output shapes of later forward calls; the returned function gives the result."""
    of_discriminator = {id(parameter) for parameter in networks.discriminator.parameters()}
    shapes: dict[int, tuple[int, ...]] = {}

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs = (output,) if isinstance(output, Tensor) else output
        first = next((value for value in outputs if isinstance(value, Tensor)), None)
        if first is not None:
            shapes.setdefault(id(module), tuple(first.shape[1:]))

    entries: dict[str, list[tuple[nn.Module, LayerSummary]]] = {}
    for part, network in networks.by_name().items():
        entries[part] = []
        for name, module, parameters in owned(network):
            shared = part == "encoder" and all(id(parameter) in of_discriminator for parameter in parameters)
            number = sum(parameter.numel() for parameter in parameters)
            entries[part].append((module, LayerSummary(name, type(module).__name__, None, number, shared)))
            module.register_forward_hook(watch)

    def summaries() -> tuple[NetworkSummary, ...]:
        made = []
        for part, layers in entries.items():
            shaped = (attrs.evolve(layer, output_shape=shapes.get(id(module))) for module, layer in layers)
            made.append(NetworkSummary(part, tuple(shaped)))
        return tuple(made)

    return summaries


class Untracked(contextlib.AbstractContextManager[None]):
    """Replaces torch's tracker of modules, whose hooks fail on gradients inside a loss; only totals are needed here."""

    parents = frozenset({"Global"})

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


def operation_counter() -> FlopCounterMode:
    """Return torch's counter of floating-point operations; losses may contain gradients."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = Untracked()  # type: ignore[assignment]
    return counter


def count(
    model: Model,
    shape: tuple[int, int, int],
    schedule: Schedule,
    phases: Sequence[Phase | EndOfIteration],
    weights: TermWeights,
) -> tuple[PhaseCost, ...]:
    """Count the operations of an update of each phase, with the gradients that the training loop takes.

    The count is that of the plain engine, without the savings of the fast one.

    Arguments:
        model: A frozen model on the CPU.
        shape: (D, R, R).
        schedule: Batch size and numbers of updates.
        phases: The phases of an objective.
        weights: Weights of the terms; without weight, terms on real images cost nothing.
    """
    size = schedule.batch
    costs = []
    for phase in phases:
        if not isinstance(phase, Phase):
            continue
        real = torch.zeros(size, *shape) if takes_real(phase, weights) else None
        with trainable(*(model.trained_parts()[part] for part in phase.trains)), operation_counter() as flops:
            generated = None
            if phase.draws is not Draws.NOTHING:
                generated = draw(model, size, train_prior=phase.draws is Draws.WITH_PRIOR)
            batch = Batch(size, real, generated, real if phase.real_terms else None)
            loss_of(phase, model, batch, weights).total.backward()  # type: ignore[no-untyped-call]
        costs.append(PhaseCost(phase.name, phase.updates(schedule), flops.get_total_flops()))
    return tuple(costs)


def summarise(
    architecture: Architecture,
    prior: Prior,
    *,
    channels: int,
    schedule: Schedule,
    phases: Sequence[Phase | EndOfIteration] = MPCC,
    weights: TermWeights = TermWeights(),  # noqa: B008 - it is frozen
    entropy: EntropyPolicy | None = None,
    objective: Objective | None = None,
) -> Summary:
    """Describe the networks that an architecture builds for a prior, and count the operations of an iteration.

    Neither torch's global random state nor the prior changes.

    Arguments:
        architecture: Builds the networks for the prior's K and J.
        prior: A prior on the CPU.
        channels: D.
        schedule: Batch size and numbers of updates.
        phases: The updates of an iteration; of those that end before the run does, none is counted.
        weights: Weights of the terms, for those that take images only if they have one.
        entropy: How the entropies of the components are computed; None for the prior's own declaration.
        objective: Builds the networks, and has the phases; None for those of the architecture.

    Raises:
        InvalidInput: If the architecture does not support K, J or D.

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
        # A run refuses a prior without entropies when it starts; the summary still describes it.
        declared = prior.entropy_kind != "none"
        entropy = EntropyPolicy.of(prior) if declared else EntropyPolicy("monte-carlo", samples=1)
    policy = entropy
    rows = last_rows(phases if objective is None else phases_of(objective))
    shape = (channels, architecture.image_size, architecture.image_size)

    def build() -> Model:
        sizes, own_prior = (prior.clusters, prior.latent_dim, channels), copy.deepcopy(prior)
        networks = architecture.build(*sizes) if objective is None else objective.networks(architecture, *sizes)
        likelihood = None if objective is None else objective.likelihood()
        for part in (*networks.by_name().values(), own_prior, *([] if likelihood is None else [likelihood])):
            part.train().requires_grad_(False)
        return Model(own_prior, networks, networks.generator, policy, likelihood)

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        model = build()
        summaries = describe(model.networks)
        try:
            parts: dict[str, Any] = {name: ShapesOnly(part) for name, part in model.networks.by_name().items()}
            on_meta = attrs.evolve(model, networks=attrs.evolve(model.networks, **parts))
            costs, counted = count(on_meta, shape, schedule, rows, weights), FROM_SHAPES
        except Exception:
            # A plugin may read values, which the meta device does not have. A broken plugin fails again below.
            model = build()
            summaries = describe(model.networks)
            small, large = (
                count(model, shape, attrs.evolve(schedule, batch=batch), rows, weights) for batch in SMALL_BATCHES
            )
            steps = (schedule.batch - SMALL_BATCHES[0]) / (SMALL_BATCHES[1] - SMALL_BATCHES[0])
            costs = tuple(
                attrs.evolve(low, operations=round(low.operations + steps * (high.operations - low.operations)))
                for low, high in zip(small, large, strict=True)
            )
            counted = FROM_BATCHES
    return Summary(
        networks=summaries(),
        prior=type(prior).__name__,
        prior_parameters=sum(parameter.numel() for parameter in prior.parameters()),
        phases=costs,
        counted=counted,
        batch=schedule.batch,
    )
