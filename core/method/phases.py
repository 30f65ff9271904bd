"""The order of an iteration as values: one row for each kind of update. Nothing else knows the order.

The training loop, the count of operations, `mpcc bench` and the tests read these rows. `MPCC` is the system of the
paper; another system is another tuple, registered like any plugin (`mpcc.core.contracts.Objective`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import attrs

from mpcc.core.contracts import Objective
from mpcc.core.errors import PluginError
from mpcc.core.method.model import Model
from mpcc.core.method.objectives import (
    Batch,
    Loss,
    discriminator_loss,
    encoder_and_prior_loss,
    encoder_loss,
    generator_loss,
)
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights

__all__ = ["MPCC", "Afterwards", "Draws", "Phase", "check_phases", "phases_of", "real_batches"]

# The parts that a phase can train; the first three are the networks.
NETWORKS = ("discriminator", "generator", "encoder")
PARTS = (*NETWORKS, "prior")


class Draws(enum.Enum):
    """What is drawn from the generation joint p(x, z, y) for an update."""

    NOTHING = "nothing"
    FIXED = "generated images held fixed"
    WITH_PRIOR = "generated images held fixed, latents with gradients to the prior"


@attrs.frozen
class Phase:
    """One kind of update.

    Attributes:
        name: What the log, the count of operations and the benchmark call it.
        trains: The parts that receive gradients and whose optimizers step, in this order: ``discriminator``,
            ``generator``, ``encoder``, ``prior``. A part without parameters is left out.
        updates: How many updates an iteration of a schedule has.
        loss: What is minimised, from the model, the batch and the weights of the terms.
        draws: What is drawn for each update.
        real: Which of the iteration's batches of real images the first update takes; the next update takes the next
            batch, and the first batch follows the last. None for no real images.
        advances: The network whose spectral norms take a power iteration after each update.
    """

    name: str
    trains: tuple[str, ...]
    updates: Callable[[Schedule], int]
    loss: Callable[[Model, Batch, TermWeights], Loss]
    draws: Draws = Draws.NOTHING
    real: int | None = None
    advances: str | None = None


@attrs.frozen
class Afterwards:
    """What follows the updates of an iteration.

    Attributes:
        name: What the benchmark calls it.
        action: Called with the model, the schedule and the number of iterations that are done.
    """

    name: str
    action: Callable[[Model, Schedule, int], None]


def average_generator(model: Model, schedule: Schedule, done: int) -> None:
    """Move the average towards the generator; before ``ema_start`` the average is a copy."""
    model.average(schedule.ema_decay if done >= schedule.ema_start else 0.0)


# The prior steps twice in an iteration: with the generator, and with the first encoder update. The encoder's other
# updates draw from the prior that this leaves (supplement, C; authors' code).
MPCC: tuple[Phase | Afterwards, ...] = (
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
    ),
    Phase(
        name="encoder",
        trains=("encoder",),
        updates=lambda schedule: schedule.e_steps - 1,
        loss=encoder_loss,
        draws=Draws.FIXED,
        advances="encoder",
    ),
    Afterwards("average", average_generator),
)


def real_batches(phases: Sequence[Phase | Afterwards], schedule: Schedule) -> int:
    """Return how many batches of real images an iteration takes: as many as the phase that needs most of them.

    Example:
        >>> real_batches(MPCC, Schedule(50, d_steps=4, e_steps=9, lr=1, prior_lr=1, ema_decay=0, ema_start=0))
        4
    """
    taking = (phase for phase in phases if isinstance(phase, Phase) and phase.real is not None)
    return max((phase.updates(schedule) for phase in taking), default=0)


def phases_of(objective: Objective) -> tuple[Phase | Afterwards, ...]:
    """Return the rows of a registered objective, checked.

    Raises:
        PluginError: If a row cannot be carried out.
    """
    return check_phases(objective.phases(), type(objective).__name__)


def check_phases(rows: Sequence[object], name: str) -> tuple[Phase | Afterwards, ...]:
    """Return rows that the training loop can carry out, and refuse others.

    Arguments:
        rows: Of an objective.
        name: Of the objective, for the message.

    Raises:
        PluginError: Naming the row, what it says and what was expected.
    """
    known = tuple(row for row in rows if isinstance(row, Phase | Afterwards))
    for row in rows:
        if row not in known:
            raise PluginError(f"{name}: expected rows that are a Phase or Afterwards, got {row!r}")
    phases = [row for row in known if isinstance(row, Phase)]
    for phase in phases:
        if not phase.trains or not {*phase.trains} <= {*PARTS}:
            raise PluginError(
                f"{name}, phase {phase.name!r}: trains {phase.trains}; expected some of {', '.join(PARTS)}"
            )
        if phase.advances not in (None, *NETWORKS):
            raise PluginError(
                f"{name}, phase {phase.name!r}: advances {phase.advances!r}; expected one of {', '.join(NETWORKS)}"
            )
    names = [row.name for row in known]
    if len(set(names)) < len(names):
        raise PluginError(f"{name}: expected a name of its own for each row, got {', '.join(names)}")
    if not any(phase.real is not None for phase in phases):
        raise PluginError(f"{name}: expected a phase that takes real images (real=0), there is none")
    return known
