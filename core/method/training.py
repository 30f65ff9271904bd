"""The training loop: one iteration of matching the two joints, phase by phase.

The order is that of the authors' code: discriminator steps, one generator step, encoder steps. In each phase only what
is named in ``trainable`` has gradients; everything else is held fixed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mpcc.core.images.stream import ImageStream
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.finite_guard import FiniteGuard
from mpcc.core.method.model import Model, thawed, to_unit_range
from mpcc.core.method.objectives import Generated, Loss, discriminator_loss, encoder_loss, generator_loss
from mpcc.core.method.terms import TermWeights

__all__ = ["Schedule", "Trainer"]


@attrs.frozen
class Schedule:
    """How much of what happens in one iteration.

    Attributes:
        batch: Images in each update, real and generated.
        d_steps: Discriminator updates.
        e_steps: Encoder updates.
        lr: Adam's step size for the three networks.
        prior_lr: Adam's step size for the prior, eta_p.
        ema_decay: Of the generator's average.
        ema_start: The first iteration that is averaged; before it the average is a copy.
        iterations: How many there will be; only a decay of the step sizes needs to know.
        lr_decay: Over which share of them, the last ones, all step sizes fall linearly to 0; 0 for constant ones, which
            are the paper's (supplement, C). The decay is ours.

    Raises:
        ValueError: If step sizes are to fall towards an end that is not known.
    """

    batch: int
    d_steps: int
    e_steps: int
    lr: float
    prior_lr: float
    ema_decay: float
    ema_start: int
    iterations: int | None = None
    lr_decay: float = 0.0

    def __attrs_post_init__(self) -> None:
        """Check that there is an end."""
        if self.lr_decay > 0 and self.iterations is None:
            raise ValueError(f"lr_decay {self.lr_decay}: expected the number of iterations, too")

    def lr_factor(self, done: int) -> float:
        """Return what multiplies the step sizes in the iteration after so many; more than 0, at the very end too.

        Example:
            >>> schedule = Schedule(50, 4, 4, 2e-4, 1e-3, 0.99, 0, iterations=10, lr_decay=0.4)
            >>> [schedule.lr_factor(done) for done in range(10)]
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
        """
        if self.iterations is None or self.lr_decay == 0:
            return 1.0
        left = max(self.iterations - done, 1)
        return min(1.0, left / (self.lr_decay * self.iterations))


def adam(parameters: Iterable[nn.Parameter], lr: float | Tensor, capturable: bool = False) -> Adam:
    """Return Adam as in the paper: beta1 0, beta2 0.999, eps 1e-8, no weight decay (supplement, C).

    Arguments:
        parameters: To be updated.
        lr: Step size; a tensor if it is to change after the update has been recorded.
        capturable: Whether updates can be recorded in a CUDA graph.
    """
    return Adam(parameters, lr=lr, betas=(0.0, 0.999), eps=1e-8, fused=True, capturable=capturable)


def check_moments(name: str, optimizer: Optimizer) -> None:
    """Check a state that comes from a file: fused steps read memory by the shapes of the parameters.

    Raises:
        ValueError: If a moment or a count is of another kind or shape than its parameter asks for.
    """
    for parameter, state in optimizer.state.items():
        shapes = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": torch.Size()}
        for key, shape in shapes.items():
            value = state.get(key)
            if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                raise ValueError(f"{key} in the optimizer of the {name} is not of the shape {tuple(shape)}")


class Trainer:
    """Holds the optimizers and carries out iterations.

    Arguments:
        model: What is trained.
        stream: Real images; an iteration takes ``d_steps`` batches.
        schedule: Numbers of updates and step sizes.
        weights: Of the terms.
        engine: What executes the iterations; the plain one if it is None.

    Attributes:
        iteration: How many iterations are done.
        guard: Knows the first update whose loss or gradient was not finite.
    """

    def __init__(
        self,
        model: Model,
        stream: ImageStream,
        schedule: Schedule,
        weights: TermWeights,
        engine: Engine | None = None,
    ) -> None:
        self.model = model
        self.stream = stream
        self.schedule = schedule
        self.weights = weights
        self.engine = engine or PlainEngine()
        self.engine.prepare(model)
        self.iteration = 0
        networks = model.networks
        # The shared trunk is in two optimizers, with moments of its own in each.
        self.optimizers = {
            "discriminator": self._optimizer(networks.discriminator, schedule.lr),
            "generator": self._optimizer(networks.generator, schedule.lr),
            "encoder": self._optimizer(networks.encoder, schedule.lr),
        }
        # A fixed prior has buffers only, and Adam refuses an empty list.
        if any(True for _ in model.prior.parameters()):
            self.optimizers["prior"] = self._optimizer(model.prior, schedule.prior_lr)
        # A module looks for its parameters anew each time that it is asked.
        self._parameters = {
            name: [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for name, optimizer in self.optimizers.items()
        }
        self.guard = FiniteGuard(self.optimizers.values(), model.device)

    def _optimizer(self, part: nn.Module, lr: float) -> Adam:
        """Return the optimizer of a part; a recorded update reads a step size that changes from the device."""
        capturable = self.engine.capturable
        recorded = capturable and self.schedule.lr_decay > 0
        step = torch.tensor(lr, device=self.model.device) if recorded else lr
        return adam(part.parameters(), step, capturable)

    def _set_step_sizes(self) -> None:
        """Give the optimizers the step sizes of the iteration that comes."""
        factor = self.schedule.lr_factor(self.iteration)
        for name, optimizer in self.optimizers.items():
            lr = factor * (self.schedule.prior_lr if name == "prior" else self.schedule.lr)
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr

    def iterate(self) -> dict[str, Tensor]:
        """Carry out one iteration.

        From the first update whose loss or gradient is not finite, nothing is updated any more: see `guard`.

        Returns:
            The raw terms of the last update of each kind, detached scalars on the device.
        """
        self._set_step_sizes()
        real = self.stream.take(self.schedule.d_steps)
        terms = self.engine.run(self.updates, real)
        self.iteration += 1
        self.model.average(self.schedule.ema_decay if self.iteration >= self.schedule.ema_start else 0.0)
        return terms

    def updates(self, real: Tensor) -> dict[str, Tensor]:
        """Update everything as often as the schedule says, in its order.

        Arguments:
            real: Real images, uint8, a batch for each discriminator update, shape (d_steps, N, D, R, R).
        """
        model, batch, generated = self.model, self.schedule.batch, self.engine.generated
        self.guard.begin()
        for images, fakes in zip(real, generated(model, batch, self.schedule.d_steps), strict=True):
            terms = self._discriminator_step(images, fakes)
        terms |= self._generator_step()
        with self._trained("prior"):
            (fakes,) = generated(model, batch, 1, train_prior=True)
        terms |= self._encoder_step(fakes, train_prior=True)
        # The prior has changed: the images for the encoder alone are drawn from the new one.
        for fakes in generated(model, batch, self.schedule.e_steps - 1):
            terms |= self._encoder_step(fakes, train_prior=False)
        return terms

    def _discriminator_step(self, images: Tensor, fakes: Generated) -> dict[str, Tensor]:
        discriminator = self.model.networks.discriminator
        with self._trained("discriminator"):
            with self.engine.precision():
                loss = discriminator_loss(self.model, to_unit_range(images, self.model.device), fakes, self.weights)
            self._update("discriminator", loss, "discriminator")
        self.engine.advance(discriminator)
        return loss.terms

    def _generator_step(self) -> dict[str, Tensor]:
        generator = self.model.networks.generator
        with self._trained("generator", "prior"):
            with self.engine.precision():
                loss = generator_loss(self.model, self.schedule.batch, self.weights)
            self._update("generator", loss, "generator", "prior")
        self.engine.advance(generator)
        return loss.terms

    def _encoder_step(self, fakes: Generated, train_prior: bool) -> dict[str, Tensor]:
        encoder = self.model.networks.encoder
        with self._trained("encoder", *(["prior"] if train_prior else [])):
            with self.engine.precision():
                loss = encoder_loss(self.model, fakes, self.weights, train_prior)
            self._update("encoder", loss, "encoder", *(["prior"] if train_prior else []))
        self.engine.advance(encoder)
        return loss.terms

    def _trained(self, *names: str) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the parameters of these parts alone have gradients."""
        return thawed([parameter for name in names for parameter in self._parameters.get(name, ())])

    def _update(self, phase: str, loss: Loss, *names: str) -> None:
        optimizers = {name: self.optimizers[name] for name in names if name in self.optimizers}
        for name in optimizers:
            for parameter in self._parameters[name]:
                parameter.grad = None
        loss.objective.backward()  # type: ignore[no-untyped-call]
        found = {name: [each.grad for each in self._parameters[name] if each.grad is not None] for name in optimizers}
        self.guard.watch(phase, loss.objective, found)
        for optimizer in optimizers.values():
            optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on, random states aside."""
        return {
            "iteration": self.iteration,
            "stream": self.stream.state(),
            "parts": {name: part.state_dict() for name, part in self.model.parts().items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.iteration = state["iteration"]
        self.stream.restore(state["stream"])
        for name, part in self.model.parts().items():
            part.load_state_dict(state["parts"][name])
        for name, optimizer in self.optimizers.items():
            # The state gives moments and counts; how steps are taken is the run's own, and the engine's.
            own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(state["optimizers"][name])
            for group, options in zip(optimizer.param_groups, own, strict=True):
                group.update(options, capturable=self.engine.capturable)
            check_moments(name, optimizer)
        self.guard.reset(self.iteration)
        self.engine.reset()
