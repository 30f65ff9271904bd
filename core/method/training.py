"""The training loop: it carries out the phases of `mpcc.core.method.phases`, iteration by iteration.

In each update, only the parameters of the parts that the phase trains receive gradients. All others are held fixed.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from mpcc.core.images.stream import ImageStream
from mpcc.core.layers import batch_norm
from mpcc.core.method.engine import Engine, PlainEngine
from mpcc.core.method.finite_guard import FiniteGuard
from mpcc.core.method.losses import Batch, Generated, Loss
from mpcc.core.method.model import Model, thawed, to_unit_range
from mpcc.core.method.phases import (
    MPCC,
    Draws,
    EndOfIteration,
    Phase,
    loss_of,
    real_batches,
    takes_part,
    takes_real,
    trains_encoder,
)
from mpcc.core.method.prior_fit import fit_images, fit_prior
from mpcc.core.method.schedule import Schedule
from mpcc.core.method.terms import TermWeights
from mpcc.core.system import ranks

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


def adam(parameters: Iterable[nn.Parameter], lr: float | Tensor, capturable: bool = False) -> Adam:
    """Return Adam as in the paper: beta1 0, beta2 0.999, eps 1e-8, no weight decay (supplement, C).

    Arguments:
        parameters: The parameters to be updated.
        lr: Step size; a tensor if it has to change after the update has been recorded.
        capturable: Whether updates can be recorded in a CUDA graph.
    """
    return Adam(parameters, lr=lr, betas=(0.0, 0.999), eps=1e-8, fused=True, capturable=capturable)


def check_moments(name: str, optimizer: Optimizer) -> None:
    """Check a state that comes from a file, because fused steps read memory by the shapes of the parameters.

    Raises:
        ValueError: If a moment or a count does not have the type or the shape that its parameter needs.
    """
    for parameter, state in optimizer.state.items():
        shapes = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape, "step": torch.Size()}
        for key, shape in shapes.items():
            value = state.get(key)
            if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                raise ValueError(f"{key} in the optimizer of the {name} does not have the shape {tuple(shape)}")


def no_clock(name: str) -> contextlib.AbstractContextManager[None]:
    """Return a context that does nothing."""
    return contextlib.nullcontext()


class Trainer:
    """Holds the optimizers and carries out iterations, phase by phase.

    Arguments:
        model: The model to be trained.
        stream: Real images.
        schedule: Numbers of updates and step sizes.
        weights: Weights of the terms.
        engine: Executes the iterations; None for the plain engine.
        phases: The updates of an iteration in their order.
        norms_over_ranks: Whether batch norms take the moments of the batches of all ranks together.

    Attributes:
        iteration: Number of iterations done.
        fit_decided: Whether the iteration of a fit of the prior to the latents of real images has come.
        refit_decided: Whether the iteration of a second fit has come.
        prior_fitted: Whether one of the two has been made.
        guard: Records the first update whose loss or gradient was not finite.
        term_weights: The weight of each term in its last update, by name.
        real_terms: Whether terms on real images train the encoder.
        section: Returns a context for the named section of an iteration: ``real images``, ``generated images``, or a
            row of the phases. `mpcc bench` puts a clock here.
    """

    def __init__(
        self,
        model: Model,
        stream: ImageStream,
        schedule: Schedule,
        weights: TermWeights,
        engine: Engine | None = None,
        phases: Sequence[Phase | EndOfIteration] = MPCC,
        *,
        norms_over_ranks: bool = False,
    ) -> None:
        self.model = model
        self.stream = stream
        self.schedule = schedule
        self.weights = weights
        self.engine = engine or PlainEngine()
        self.engine.prepare(model)
        self.phases = tuple(phases)
        self.norms_over_ranks = norms_over_ranks
        self.iteration = 0
        self.fit_decided = self.refit_decided = self.prior_fitted = False
        self.term_weights: dict[str, float] = {}
        self.phase_terms: dict[str, tuple[str, ...]] = {}
        self.section: Callable[[str], contextlib.AbstractContextManager[Any]] = no_clock
        self._real_batches = real_batches(self.phases, schedule)
        optional = [row for row in self.phases if isinstance(row, Phase) and row.real_terms]
        self.real_terms = any(trains_encoder(row, weights) for row in optional)
        # On the device, because they change after an iteration has been recorded.
        taken = any(takes_real(row, weights) for row in optional)
        self._rise = torch.zeros((), device=model.device) if taken else None
        self._density_factor = torch.zeros((), device=model.device)
        trained = {part for phase in self.phases if isinstance(phase, Phase) for part in phase.trains}
        # Two optimizers hold the shared trunk, each with its own moments. A fixed prior has no parameters, and Adam
        # refuses an empty list.
        self.optimizers = {
            name: self._optimizer(part, schedule.step_size(name))
            for name, part in model.trained_parts().items()
            if name in trained and any(True for _ in part.parameters())
        }
        # A module collects its parameters anew at each request, which takes time.
        self._parameters = {
            name: [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for name, optimizer in self.optimizers.items()
        }
        self.guard = FiniteGuard(self.optimizers.values(), model.device)

    def _optimizer(self, part: nn.Module, lr: float) -> Adam:
        """Return the optimizer of a part; a recorded update needs a changing step size as a tensor on the device."""
        capturable = self.engine.capturable
        on_device = capturable and self.schedule.lr_decay > 0
        step_size = torch.tensor(lr, device=self.model.device) if on_device else lr
        return adam(part.parameters(), step_size, capturable)

    def _set_step_sizes(self) -> None:
        """Give the optimizers the step sizes of the next iteration."""
        factor = self.schedule.lr_factor(self.iteration)
        for name, optimizer in self.optimizers.items():
            lr = factor * self.schedule.step_size(name)
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr

    def iterate(self, *, recorded: bool = True) -> dict[str, Tensor]:
        """Carry out one iteration.

        From the first update whose loss or gradient is not finite, no parameters change any more: see `guard`.

        Arguments:
            recorded: Whether the engine may replay a recorded iteration, which has no sections.

        Returns:
            The raw terms by name, each from the last update that computed it, detached scalars on the device.
        """
        self._set_step_sizes()
        if self.schedule.prior_fit_due(self.iteration) and not self.fit_decided:
            self.fit_decided = True
            # In a short run both may come at once, and one fit is enough.
            self.refit_decided = self.schedule.prior_refit_due(self.iteration)
            logger.info("iteration %d: %s", self.iteration, self.fit_prior())
            self._change_phases()
        elif self.schedule.prior_refit_due(self.iteration) and not self.refit_decided:
            self.refit_decided = True
            logger.info("iteration %d: %s", self.iteration, self.fit_prior())
        if self._rise is not None:
            rise = self.schedule.real_terms_factor(self.iteration)
            self._rise.fill_(rise)
            self._density_factor.fill_(rise if self.fit_decided or not self.schedule.prior_fit else 0.0)
        with self.section("real images"):
            count, transformed = self._real_batches, self._rise is not None
            real = self.stream.take(count, transformed=transformed) if count else torch.empty(0)
        terms = self.engine.run(self.updates, real) if recorded else self.updates(real)
        self.iteration += 1
        for row in self.phases:
            if isinstance(row, EndOfIteration):
                with self.section(row.name):
                    row.action(self.model, self.schedule, self.iteration)
        return terms

    def updates(self, real: Tensor) -> dict[str, Tensor]:
        """Carry out the updates of all phases in their order.

        Arguments:
            real: Real images, uint8, shape (batches, N, D, R, R). If a phase has terms on real images, the transformed
                copies of all batches follow.
        """
        with contextlib.ExitStack() as held:
            if self.norms_over_ranks:
                for network in self.model.networks.by_name().values():
                    held.enter_context(batch_norm.norms_over_ranks(network))
            return self._updates(real)

    def _updates(self, real: Tensor) -> dict[str, Tensor]:
        self.guard.begin()
        terms: dict[str, Tensor] = {}
        for phase in self.phases:
            if isinstance(phase, Phase) and takes_part(phase, self.schedule, self.fit_decided):
                for update, generated in enumerate(self._drawn(phase)):
                    images, transformed = None, None
                    if phase.real is not None and takes_real(phase, self.weights):
                        index = (phase.real + update) % self._real_batches
                        images = real[index]
                        transformed = real[self._real_batches + index] if phase.real_terms else None
                    with self.section(phase.name):
                        terms |= self._update(phase, images, transformed, generated)
        return terms

    def _drawn(self, phase: Phase) -> Iterator[Generated | None]:
        """Yield the generated images for each update of a phase, None if it draws none."""
        model, size, count = self.model, self.schedule.batch, phase.updates(self.schedule)
        if phase.draws is Draws.NOTHING:
            yield from itertools.repeat(None, count)
            return
        with_prior = phase.draws is Draws.WITH_PRIOR
        # Several batches can be generated at once if no update between them changes the generator or the prior.
        together = 1 if with_prior or {"generator", "prior"} & {*phase.trains, *phase.advances} else count
        for _ in range(0, count, max(together, 1)):
            batches = self.engine.generated(model, size, together, with_prior)
            while (batch := self._next(batches, with_prior)) is not None:
                yield batch

    def _next(self, batches: Iterator[Generated], with_prior: bool) -> Generated | None:
        with self.section("generated images"), self._trained(*(["prior"] if with_prior else [])):
            return next(batches, None)

    def _update(
        self, phase: Phase, images: Tensor | None, transformed: Tensor | None, generated: Generated | None
    ) -> dict[str, Tensor]:
        """Carry out one update: loss, gradients, steps of the optimizers, power iteration."""
        model = self.model
        with self._trained(*phase.trains):
            with self.engine.precision():
                real, moved = (
                    None if pixels is None else to_unit_range(pixels, model.device) for pixels in (images, transformed)
                )
                rise = 1.0 if self._rise is None else self._rise
                batch = Batch(self.schedule.batch, real, generated, moved, rise, self._density_factor)
                loss = loss_of(phase, model, batch, self.weights)
            loss = self._step(phase, loss, loss.latents if generated is None else generated.z)
        self.engine.changed(phase.trains)
        for network in phase.advances:
            self.engine.advance(getattr(model.networks, network))
        self.term_weights |= loss.weights
        self.phase_terms[phase.name] = tuple(loss.terms)
        return loss.terms

    def _trained(self, *names: str) -> contextlib.AbstractContextManager[None]:
        """Return a context in which only the parameters of these parts receive gradients."""
        return thawed([parameter for name in names for parameter in self._parameters.get(name, ())])

    def _step(self, phase: Phase, loss: Loss, latents: Tensor | None) -> Loss:
        optimizers = {name: self.optimizers[name] for name in phase.trains if name in self.optimizers}
        for name in optimizers:
            for parameter in self._parameters[name]:
                parameter.grad = None
        loss.total.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: [parameter.grad for parameter in self._parameters[name] if parameter.grad is not None]
            for name in optimizers
        }
        loss, latents = loss.over_ranks(phase.name, list(itertools.chain(*gradients.values())), latents)
        self.guard.watch(phase.name, loss.total, gradients, latents)
        for optimizer in optimizers.values():
            self.engine.step(optimizer)
        return loss

    @property
    def fit_to_come(self) -> bool:
        """Whether nothing trains clusters before a fit of the prior that is still to come, as in an autoencoder."""
        waiting = any(isinstance(row, Phase) and row.fitted is not None for row in self.phases)
        return waiting and self.schedule.prior_fit > 0 and not self.fit_decided

    @torch.no_grad()
    def fit_prior(self) -> str:
        """Fit the prior to the latents of real images, which the seed chooses; its optimizer starts anew.

        Returns:
            What was done, in words.
        """
        optimizer, model = self.optimizers.get("prior"), self.model
        if optimizer is None:
            return f"the prior is not fitted: {type(model.prior).__name__} has nothing that is trained"
        dtype, heads = next(model.networks.encoder.parameters()).dtype, []
        # What an engine has kept from the last iteration is not in a checkpoint, and its last digits can differ.
        self.engine.changed(("encoder",))
        for pixels in self.stream.some(fit_images(model.prior.clusters)):
            with self.engine.precision():
                heads.append(model.networks.encoder(to_unit_range(pixels, model.device).to(dtype)))
        loc, raw_scale = (torch.cat(values).to(model.prior.weights().dtype) for values in zip(*heads, strict=True))
        if not bool(loc.isfinite().all() & raw_scale.isfinite().all()):  # the next update says what has diverged
            return "the prior is not fitted: the latents of real images are not finite"
        groups = fit_prior(model.prior, loc, raw_scale, self.stream.seed, self.schedule.prior_fit_groups)
        # Ranks compute the same, on machines that may round differently.
        groups = ranks.current().told(groups)
        ranks.current().broadcast([*model.prior.parameters(), *model.prior.buffers()])
        if not groups:
            return "the prior is not fitted: its likelihood did not rise"
        self.prior_fitted = True
        for moments in optimizer.state.values():
            for value in moments.values():
                value.zero_()
        self.engine.changed(("prior",))
        return f"the prior is fitted to {groups} groups of the latents of {len(loc)} images"

    def _change_phases(self) -> None:
        """Start all optimizers anew if the fit of the prior has begun or ended phases.

        Moments of another loss would make the first steps of a new one many times too large.
        """
        if any(isinstance(row, Phase) and row.fitted is not None for row in self.phases):
            self.engine.reset()  # a recorded iteration has the phases of those before
            for optimizer in self.optimizers.values():
                optimizer.state.clear()

    def state(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on, except random states."""
        return {
            "iteration": self.iteration,
            "fit_decided": self.fit_decided,
            "refit_decided": self.refit_decided,
            "prior_fitted": self.prior_fitted,
            "stream": self.stream.state(),
            "parts": {name: part.state_dict() for name, part in self.model.parts().items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.iteration = state["iteration"]
        self.prior_fitted = state.get("prior_fitted", False)
        self.fit_decided = state.get("fit_decided", self.prior_fitted)
        self.refit_decided = state.get("refit_decided", False)
        self.stream.restore(state["stream"])
        for name, part in self.model.parts().items():
            part.load_state_dict(state["parts"][name])
        for name, optimizer in self.optimizers.items():
            # Only moments and counts come from the state; the options of the steps come from this run and its engine.
            groups = optimizer.param_groups
            options = [{key: value for key, value in group.items() if key != "params"} for group in groups]
            optimizer.load_state_dict(state["optimizers"][name])
            for group, own in zip(optimizer.param_groups, options, strict=True):
                group.update(own, capturable=self.engine.capturable)
            check_moments(name, optimizer)
        self.guard.reset(self.iteration)
        self.engine.reset()
