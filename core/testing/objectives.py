"""Laws of an objective: its rows can be carried out, train what they name, and are the same in both engines.

The kit tries them on small networks of its own, so that no architecture and no data set is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from mpcc.core.contracts import Architecture, Networks, Objective
from mpcc.core.engines.fast import FastEngine
from mpcc.core.errors import InvalidInput, PluginError
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.model import Model
from mpcc.core.method.phases import EndOfIteration, Phase, phases_of
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.method.training import Trainer
from mpcc.core.mixture import LocationScaleMixture
from mpcc.core.mixture_options import MixtureOptions
from mpcc.core.testing.cases import Case
from mpcc.core.testing.comparison import require_plugin
from mpcc.core.testing.report import Laws, broken, require

__all__ = ["OBJECTIVE_LAWS", "ObjectiveCase"]

CLUSTERS, LATENT_DIM, SIZE, BATCH, ITERATIONS = 3, 4, 8, 6, 2
PIXELS = SIZE * SIZE
SCHEDULE = Schedule(BATCH, 2, 2, lr=1e-3, prior_lr=1e-3, ema_decay=0.9, ema_start=0, iterations=ITERATIONS)
# Both engines compute in single precision; Adam makes a full step of a gradient that is only rounding.
SAME = 0.02


class Gaussians(LocationScaleMixture):
    """Diagonal Gaussians."""

    def family(self, loc: Tensor, scale: Tensor) -> Normal:
        """Return a Normal."""
        return Normal(loc, scale, validate_args=False)


class SmallGenerator(nn.Module):
    """A linear map of z and y to an image.

    Arguments:
        clusters: The number of labels.
    """

    def __init__(self, clusters: int) -> None:
        super().__init__()
        self.clusters, self.linear = clusters, nn.Linear(LATENT_DIM + clusters, PIXELS)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Return images, shape (N, 1, 8, 8)."""
        label = F.one_hot(y, self.clusters).to(z.dtype)
        return torch.tanh(self.linear(torch.cat([z, label], 1))).view(-1, 1, SIZE, SIZE)


def small_discriminator() -> nn.Module:
    """Return two layers from images to scores, shape (N,)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 16), nn.Softplus(), nn.Linear(16, 1), nn.Flatten(start_dim=0))


class SmallEncoder(nn.Module):
    """Two heads on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.raw_scale = nn.Linear(PIXELS, LATENT_DIM), nn.Linear(PIXELS, LATENT_DIM)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the location and the raw scale, each of shape (N, J)."""
        pixels = images.flatten(1)
        return self.loc(pixels), self.raw_scale(pixels)


class SmallArchitecture(Architecture):
    """The three networks above."""

    image_size = SIZE

    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        """Build them; one size of latents and images is enough here."""
        return Networks(SmallGenerator(clusters), small_discriminator(), SmallEncoder())


class ObjectiveCase(Case[Objective]):
    """An objective's class and options."""

    def trainer(self, engine: Engine) -> Trainer:
        """Return a trainer of small networks, the same each time."""
        torch.manual_seed(self.seed)
        objective, prior = self.make(), Gaussians(CLUSTERS, LATENT_DIM, MixtureOptions())
        try:
            objective.check(prior)
        except InvalidInput as error:
            broken(f"it refuses a mixture of Gaussians: {error}")
        networks = objective.networks(SmallArchitecture(), CLUSTERS, LATENT_DIM, 1)
        images = torch.randint(256, (5 * BATCH, 1, SIZE, SIZE), dtype=torch.uint8)
        model = Model.assemble(prior, networks, torch.device("cpu"), likelihood=objective.likelihood())
        rows, stream = phases_of(objective), ImageStream(images, BATCH, seed=0)
        changing = any(isinstance(row, Phase) and row.fitted is not None for row in rows)
        schedule = attrs.evolve(SCHEDULE, prior_fit=0.5) if changing else SCHEDULE
        return Trainer(model, stream, schedule, TermWeights(), engine, rows)

    def trained(self, engine: Engine) -> Trainer:
        """Return a trainer after some iterations; phases that change do so in their middle."""
        trainer = self.trainer(engine)
        torch.manual_seed(self.seed)
        for _ in range(ITERATIONS):
            trainer.iterate()
        return trainer


OBJECTIVE_LAWS = Laws[ObjectiveCase]()


@OBJECTIVE_LAWS.add("it builds, and its rows can be carried out", essential=True)
def rows_can_be_carried_out(case: ObjectiveCase) -> str:
    """The rows are phases with different names, and the parts that they name exist."""
    objective = case.make()
    require_plugin(objective, Objective)
    try:
        rows = phases_of(objective)
    except PluginError as error:
        broken(str(error))
    # Functions are left out: a partial or an inner function is another object each time.
    again = phases_of(objective)
    require(facts(again) == facts(rows), f"phases() returned other rows when it was called again: {again}")
    return ", ".join(row.name for row in rows)


def facts(rows: Sequence[Phase | EndOfIteration]) -> list[dict[str, Any]]:
    """Return the values of each row that are no functions."""
    return [{name: value for name, value in attrs.asdict(row).items() if not callable(value)} for row in rows]


@OBJECTIVE_LAWS.add("losses and gradients are finite and every part that is named gets a gradient")
def gradients_reach_what_is_named(case: ObjectiveCase) -> str:
    """Iterations with all phases change every part that a phase names, and leave the others as they are."""
    trainer = case.trainer(PlainEngine())
    parts = trainer.model.trained_parts()
    before = {name: [parameter.detach().clone() for parameter in part.parameters()] for name, part in parts.items()}
    for _ in range(ITERATIONS):
        trainer.iterate()
    breakdown = trainer.guard.breakdown()
    require(breakdown is None, str(breakdown))
    for name, part in parts.items():
        changed = any(not torch.equal(*pair) for pair in zip(before[name], part.parameters(), strict=True))
        named = any(name in row.trains for row in trainer.phases if isinstance(row, Phase))
        seen = "changed" if changed else "stayed as it was"
        require(changed == named, f"the {name} is {'' if named else 'not '}trained, but it {seen}")
    return ", ".join(f"{name} {float(value):.3g}" for name, value in trainer.iterate().items())


@OBJECTIVE_LAWS.add("the fast engine gives the same parameters as the plain one")
def both_engines_agree(case: ObjectiveCase) -> str:
    """If the objective drew random numbers by itself, the engines would differ."""
    plain, fast = case.trained(PlainEngine()), case.trained(FastEngine())
    pairs = zip(vector(plain), vector(fast), strict=True)
    worst = max(float((expected - actual).norm() / expected.norm().clamp(min=1e-6)) for expected, actual in pairs)
    require(worst < SAME, f"after {ITERATIONS} iterations parameters differ by {worst:.2g} of their size")
    return f"{worst:.1g} of the parameters' size"


def vector(trainer: Trainer) -> list[Tensor]:
    """Return the parameters of each part that has any as one vector."""
    parts = [list(part.parameters()) for part in trainer.model.trained_parts().values()]
    return [torch.cat([parameter.detach().flatten() for parameter in part]) for part in parts if part]
