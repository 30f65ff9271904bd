"""The order of an iteration as values: one row for each kind of update. The order is written nowhere else.

The training loop, the count of operations, `mpcc bench` and the tests read these rows. `MPCC` is the system of the
paper. Another system is another tuple, registered like any plugin (`mpcc.core.contracts.Objective`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import attrs

from mpcc.core.contracts import Objective
from mpcc.core.errors import PluginError
from mpcc.core.method.losses import (
    Batch,
    Loss,
    discriminator_loss,
    encoder_and_prior_loss,
    encoder_loss,
    generator_loss,
)
from mpcc.core.method.model import Model
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights

__all__ = [
    "MPCC",
    "Draws",
    "EndOfIteration",
    "Phase",
    "check_phases",
    "last_rows",
    "loss_of",
    "phases_of",
    "real_batches",
    "takes_part",
    "takes_real",
]

# The parts that a phase can train; the first three are the networks.
NETWORKS = ("discriminator", "generator", "encoder")
PARTS = (*NETWORKS, "prior", "likelihood")


def names_of(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return names as a tuple: of one name, of several, or of none."""
    return (given,) if isinstance(given, str) else tuple(given or ())


class Draws(enum.Enum):
    """The samples that an update draws from the generation joint p(x, z, y)."""

    NOTHING = "nothing"
    FIXED = "generated images held fixed"
    WITH_PRIOR = "generated images held fixed, latents with gradients to the prior"


@attrs.frozen
class Phase:
    """One kind of update.

    Attributes:
        name: Its name in the log, the count of operations and the benchmark.
        trains: The parts that receive gradients and whose optimizers step, in this order: ``discriminator``,
            ``generator``, ``encoder``, ``prior``, ``likelihood``. A part without parameters is left out.
        updates: Returns the number of updates in one iteration of a schedule.
        loss: Returns the loss of a model, a batch and the weights of the terms.
        draws: The samples drawn for each update.
        real: Index of the batch of real images for the first update. Each further update takes the next batch; after
            the last batch comes the first. None means that the phase takes no real images.
        advances: The network whose spectral norms take a power iteration after each update; or several, or None.
        real_terms: The terms that need the real images. If none of them has a weight, the phase takes no real images;
            otherwise it takes transformed copies of them, too. Empty if the phase always needs its real images.
        fitted: False for a phase that ends when the prior is fitted to real images (`Schedule.prior_fit`), True for one
            that begins then, None for one that is always there. Without such a fit, the phases are those after it. When
            phases change, all optimizers start anew.
    """

    name: str = attrs.field(validator=attrs.validators.instance_of(str))
    trains: tuple[str, ...]
    updates: Callable[[Schedule], int] = attrs.field(validator=attrs.validators.is_callable())
    loss: Callable[[Model, Batch, TermWeights], Loss] = attrs.field(validator=attrs.validators.is_callable())
    draws: Draws = attrs.field(default=Draws.NOTHING, validator=attrs.validators.instance_of(Draws))
    real: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.instance_of(int), attrs.validators.ge(0)]),
    )
    advances: tuple[str, ...] = attrs.field(default=(), converter=names_of)
    real_terms: tuple[str, ...] = ()
    fitted: bool | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(bool))
    )


@attrs.frozen
class EndOfIteration:
    """An action after the updates of an iteration.

    Attributes:
        name: Its name in the benchmark.
        action: Called with the model, the schedule and the number of iterations done.
    """

    name: str
    action: Callable[[Model, Schedule, int], None]


def average_generator(model: Model, schedule: Schedule, done: int) -> None:
    """Move the average towards the generator, or copy the generator before ``ema_start``."""
    model.average(schedule.ema_decay if done >= schedule.ema_start else 0.0)


# The terms of MPCC on real images (ours; method, section 8), and those that train the prior alone.
REAL_TERMS = ("balance", "consistency")
PRIOR_TERMS = ("density",)


def takes_real(phase: Phase, weights: TermWeights) -> bool:
    """Return whether a phase takes real images if the terms have these weights."""
    wanted = not phase.real_terms or any(getattr(weights, name, 0) for name in phase.real_terms)
    return phase.real is not None and wanted


def trains_encoder(phase: Phase, weights: TermWeights) -> bool:
    """Return whether terms on real images, with these weights, train the encoder in a phase."""
    of_encoder = [name for name in phase.real_terms if name not in PRIOR_TERMS]
    return phase.real is not None and any(getattr(weights, name, 0) for name in of_encoder)


# The prior steps twice in an iteration: with the generator and with the first encoder update. The encoder's other
# updates draw from the prior after its second step (supplement, C; authors' code).
MPCC: tuple[Phase | EndOfIteration, ...] = (
    Phase(
        name="discriminator",
        trains=("discriminator",),
        updates=lambda schedule: schedule.d_steps,
        loss=discriminator_loss,
        draws=Draws.FIXED,
        real=0,
        advances="discriminator",
    ),
    Phase(
        name="generator and prior",
        trains=("generator", "prior"),
        updates=lambda schedule: 1,
        loss=generator_loss,
        advances="generator",
    ),
    Phase(
        name="encoder and prior",
        trains=("encoder", "prior"),
        updates=lambda schedule: 1,
        loss=encoder_and_prior_loss,
        draws=Draws.WITH_PRIOR,
        advances="encoder",
        real=0,
        real_terms=(*REAL_TERMS, *PRIOR_TERMS),
    ),
    Phase(
        name="encoder",
        trains=("encoder",),
        updates=lambda schedule: schedule.e_steps - 1,
        loss=encoder_loss,
        draws=Draws.FIXED,
        advances="encoder",
        real=1,
        real_terms=REAL_TERMS,
    ),
    EndOfIteration("average", average_generator),
)


def real_batches(phases: Sequence[Phase | EndOfIteration], schedule: Schedule) -> int:
    """Return how many batches of real images an iteration takes, the number for the phase that needs the most.

    A phase whose real images are for `Phase.real_terms` takes those that are there, in turn.

    Example:
        >>> real_batches(MPCC, Schedule(50, d_steps=4, e_steps=9, lr=1, prior_lr=1, ema_decay=0, ema_start=0))
        4
    """
    with_real = [row for row in phases if isinstance(row, Phase) and row.real is not None and row.updates(schedule)]
    counts = [1 if row.real_terms else (row.real or 0) + row.updates(schedule) for row in with_real]
    return max(counts, default=0)


def takes_part(phase: Phase, schedule: Schedule, fit_decided: bool) -> bool:
    """Return whether a phase is part of the next iteration.

    Arguments:
        phase: The phase.
        schedule: Says whether the prior is fitted to real images at all.
        fit_decided: Whether the time for that is over.
    """
    return phase.fitted in (None, fit_decided or not schedule.prior_fit)


def last_rows(phases: Sequence[Phase | EndOfIteration]) -> tuple[Phase | EndOfIteration, ...]:
    """Return the rows of the last iterations of a run: all but the phases that end when the prior is fitted."""
    return tuple(row for row in phases if isinstance(row, EndOfIteration) or row.fitted in (None, True))


def phases_of(objective: Objective) -> tuple[Phase | EndOfIteration, ...]:
    """Return the rows of a registered objective after checking them.

    Raises:
        PluginError: If the training loop cannot carry out a row.
    """
    rows, name = objective.phases(), type(objective).__name__
    if not isinstance(rows, Sequence):
        raise PluginError(f"{name}.phases(): expected a tuple of rows, got {rows!r}")
    return check_phases(rows, name)


def loss_of(phase: Phase, model: Model, batch: Batch, weights: TermWeights) -> Loss:
    """Return the loss of an update.

    Raises:
        PluginError: If the phase returns something else than a loss that can be minimised.
    """
    loss: object = phase.loss(model, batch, weights)
    if not isinstance(loss, Loss):
        raise PluginError(f"phase {phase.name!r}: expected a Loss, got {type(loss).__name__}; make it with Loss.of")
    if loss.total.dim() or not loss.total.requires_grad:
        raise PluginError(
            f"phase {phase.name!r}: expected a scalar loss with a gradient, got the shape {tuple(loss.total.shape)}"
            f"{'' if loss.total.requires_grad else ' without a gradient'}; does it depend on {', '.join(phase.trains)}?"
        )
    if loss.terms.keys() != loss.weights.keys():
        raise PluginError(
            f"phase {phase.name!r}: expected a weight for each term, got the weights {sorted(loss.weights)} for the "
            f"terms {sorted(loss.terms)}"
        )
    return loss


def check_phases(rows: Sequence[object], name: str) -> tuple[Phase | EndOfIteration, ...]:
    """Return the rows if the training loop can carry them out.

    Arguments:
        rows: The rows of an objective.
        name: The objective's name, for the message.

    Raises:
        PluginError: If it cannot; the message gives the row, its value and what was expected.
    """
    known = tuple(row for row in rows if isinstance(row, Phase | EndOfIteration))
    for row in rows:
        if row not in known:
            raise PluginError(f"{name}: expected rows that are a Phase or EndOfIteration, got {row!r}")
    phases = [row for row in known if isinstance(row, Phase)]
    for phase in phases:
        if not phase.trains or not {*phase.trains} <= {*PARTS}:
            raise PluginError(
                f"{name}, phase {phase.name!r}: trains {phase.trains}; expected some of {', '.join(PARTS)}"
            )
        if not {*phase.advances} <= {*NETWORKS}:
            raise PluginError(
                f"{name}, phase {phase.name!r}: advances {phase.advances}; expected some of {', '.join(NETWORKS)}"
            )
    names = [row.name for row in known]
    if len(set(names)) < len(names):
        raise PluginError(f"{name}: expected a name of its own for each row, got {', '.join(names)}")
    if not any(phase.real is not None for phase in phases):
        raise PluginError(f"{name}: expected a phase that takes real images (real=0), but there is none")
    return known
