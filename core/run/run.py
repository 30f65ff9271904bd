"""The parts of a run, put together from a configuration, and its whole state."""

from __future__ import annotations

import gc
import io
import itertools
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import torch

from mpcc.core.config import RunConfig
from mpcc.core.config.hints import about_size, hinted, hinted_by_classes
from mpcc.core.contracts import ImageSet, Metric
from mpcc.core.errors import InvalidInput, TrainingDiverged
from mpcc.core.evaluation.baseline import PixelBaseline
from mpcc.core.evaluation.best_score import BestScore, score_to_watch
from mpcc.core.evaluation.evaluation import SAME_IMAGES, choose_images, left_out
from mpcc.core.evaluation.findings import feature_request, find
from mpcc.core.evaluation.sheets import member_sheets, sheets
from mpcc.core.images.fingerprint import fingerprint
from mpcc.core.method.training import Trainer
from mpcc.core.registry import Observer, Registry
from mpcc.core.reporting.health import check_parameters
from mpcc.core.reporting.vitals import vitals
from mpcc.core.run.assembly import (
    build_model,
    build_trainer,
    choose_device,
    choose_metrics,
    fitted,
    load_data,
    settle,
    try_metrics,
)
from mpcc.core.run.costs import Copy, Costs, iteration_seconds, measure
from mpcc.core.run.ranks.orders import Orders, agreed, follow
from mpcc.core.run.saved_run import take_weights, warn_of_changes
from mpcc.core.run.time_budget import budgeted, measuring_seconds
from mpcc.core.run.timed_steps import busy_machine, load_before, settling_iterations, synchroniser, timed
from mpcc.core.storage.picture_files import png
from mpcc.core.system import ranks
from mpcc.core.system.randomness import random_states, seed_everything

__all__ = ["Run", "versions"]

logger = logging.getLogger(__name__)


@attrs.define(eq=False)
class Run:
    """The assembled parts of one run.

    Attributes:
        config: The resolved configuration.
        data: The images.
        trainer: Model, optimizers and stream.
        metrics: By name.
        indices: The images to be evaluated.
        baseline: Clusters the pixels of the evaluated images, to be compared with the run.
        plugins: Name, distribution and version of every plugin in use.
        observers: Plugins that watch the run.
        meanings: What each metric says, in a phrase, by its name.
        started: The monotonic clock's time at which the run began; for a resumed run, as if it had never paused.
        evaluation_seconds: The part of `seconds` that evaluations took.
        best: The score whose best evaluation is kept as a checkpoint, or None.
        restarts: Each restart after a breakdown: its iteration, its reason, the iteration that the run went back to.
        hinges: Logged losses of the discriminator since the last evaluation.
        gradient_norms: Logged norms of the gradient of each part since then.
        told: Names of the warnings that have been shown.
        budget: What the time budget came to, in numbers; empty without one.
        minutes: The time budget of this process, or None.
        began: The monotonic clock's time at the start of the command.
        orders: What the ranks of a training do together; a process that trains alone has no others to give orders to.
    """

    config: RunConfig
    data: ImageSet
    trainer: Trainer
    metrics: Mapping[str, Metric]
    indices: torch.Tensor
    baseline: PixelBaseline
    plugins: dict[str, str]
    observers: Sequence[Observer] = ()
    meanings: Mapping[str, str] = attrs.field(factory=dict)
    started: float = attrs.field(factory=time.monotonic)
    evaluation_seconds: float = 0.0
    best: BestScore | None = None
    restarts: list[dict[str, Any]] = attrs.field(factory=list)
    hinges: list[float] = attrs.field(factory=list)
    gradient_norms: dict[str, list[float]] = attrs.field(factory=dict)
    told: list[str] = attrs.field(factory=list)
    budget: dict[str, float] = attrs.field(factory=dict)
    minutes: float | None = None
    began: float = attrs.field(factory=time.monotonic)
    _fingerprint: str | None = attrs.field(default=None, init=False)
    orders: Orders = attrs.field(init=False)

    @orders.default
    def _orders(self) -> Orders:
        return Orders(self.trainer, self.data.images)

    @property
    def seconds(self) -> float:
        """Wall-clock time spent in training and evaluations so far."""
        return time.monotonic() - self.started

    @classmethod
    def assemble(
        cls,
        registry: Registry,
        config: RunConfig,
        *,
        began: float | None = None,
        done: int | None = None,
        runs: float = 1.0,
    ) -> Run:
        """Load the plugins and the data and build everything, writing nothing.

        Arguments:
            registry: The plugins.
            config: What to build. With ``minutes``, a copy of the run is measured first and thrown away; the run has
                the number of iterations and the settings that the minutes come to.
            began: The monotonic clock's time from which the minutes count; by default now.
            done: Iterations that a resumed run has done, if minutes are to be added to them.
            runs: How many whole runs the minutes are for; this one gets its share.

        Raises:
            InvalidInput: If parts don't fit each other, the data can't be read, or the minutes are too few.
        """
        began = time.monotonic() if began is None else began
        config = hinted(registry, config)
        settings, busy, together = config.run, busy_machine(*load_before()), ranks.current()
        device = choose_device(settings.device)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        request = feature_request(settings)
        with agreed():
            # Only the first rank evaluates.
            metrics = choose_metrics(registry, settings.metrics, request, config.metrics) if together.first else {}
            # One process of a machine fetches the files that are missing.
            first_here = together.on_machine == 0 or not settings.download
            loaded = load_data(config) if first_here else None
        with agreed():
            data = load_data(config) if loaded is None else loaded
        if line := about_size(registry, config, data):
            logger.info(line)
        config, budget = fitted(hinted_by_classes(config, data), len(data)), None
        baseline = PixelBaseline(data, config.run.clusters, settings.seed)
        if settings.minutes is not None:
            costs = cls._measured(registry, config, data, baseline, device)
            # The copy makes room for the run.
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            seconds = time.monotonic() - began
            with agreed():
                if costs is not None:
                    config, budget = budgeted(config, costs, before=seconds, images=len(data), done=done, runs=runs)
                    logger.info(budget.line)
                    if busy:
                        logger.info(busy)
            config = attrs.evolve(config, run=together.told(config.run))
        with agreed():
            run = cls._built(registry, config, data, baseline, metrics, device)
        run.minutes, run.began = settings.minutes, began
        run.budget = {} if budget is None else budget.record()
        missing = left_out(metrics, None if data.labels is None else data.labels[run.indices])
        if missing:
            logger.info("left out: %s: %s", ", ".join(missing), next(iter(missing.values())))
        return run

    @classmethod
    def _measured(
        cls, registry: Registry, config: RunConfig, data: ImageSet, baseline: PixelBaseline, device: torch.device
    ) -> Costs | None:
        """Build a copy of the run, measure it and throw it away; on other ranks than the first, help to.

        Metrics are made anew for it, as they may keep what they have computed. The run is seeded when it is built. The
        baseline is computed before, so that its time counts, and the run keeps it.
        """
        logger.info("--minutes %g: measuring the speed of this machine", config.run.minutes)
        settings, first = attrs.evolve(config.run, minutes=None, best_by="none"), ranks.current().first
        built = time.perf_counter()
        with agreed():
            metrics = {}
            if first:
                baseline.clusters(choose_images(len(data), settings.eval_images, SAME_IMAGES))
                built = time.perf_counter()
                metrics = choose_metrics(registry, settings.metrics, feature_request(settings), config.metrics)
            run = cls._built(registry, attrs.evolve(config, run=settings), data, baseline, metrics, device)
        trainer = run.trainer

        def evaluate(images: int, passes: int) -> None:
            check_parameters(trainer.model, trainer.iteration)
            some = choose_images(len(data), images, SAME_IMAGES)
            briefly = attrs.evolve(settings, standing_passes=passes)
            findings = find(trainer.model, data, some, metrics, briefly, predicted=run.orders.predictions)
            vitals(trainer.model, findings.evaluation, findings.pictures, [])
            drawn = (picture for _, picture in sheets(findings))
            for picture in itertools.chain(drawn, member_sheets(findings)):
                png(picture)

        copy = Copy(
            iterate=run.orders.iterate,
            evaluate=evaluate,
            serialise=lambda: torch.save(run.state(), io.BytesIO()),
            wait=synchroniser(device),
            settling=settling_iterations(device),
            images=len(run.indices),
            passes=settings.standing_passes,
            built_in=time.perf_counter() - built,
        )
        # Most iterations come after the fit of the prior, whose seconds are measured by themselves.
        trainer.fit_decided = trainer.refit_decided = True
        try:
            with trainer.engine.active():
                if not first:
                    follow(trainer, data.images)
                    return None
                costs = measure(copy, measuring_seconds(config.run.minutes or 0))
                fit = timed(run.orders.fit_prior, synchroniser(device)) if settings.prior_fit else 0.0
                fit *= 1 + bool(settings.prior_refit)
            return attrs.evolve(costs, start=costs.start + fit)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise TrainingDiverged(f"{error} while the speed was measured: training has diverged") from error
        finally:
            if first:
                run.orders.end()
            trainer.stream.close()

    @classmethod
    def _built(
        cls,
        registry: Registry,
        config: RunConfig,
        data: ImageSet,
        baseline: PixelBaseline,
        metrics: Mapping[str, Metric],
        device: torch.device,
    ) -> Run:
        """Seed the random states and build everything on images that have been read."""
        settings = config.run
        request = feature_request(settings)
        seed_everything(settings.seed)
        model = build_model(config, data.images.shape[1], device)
        trainer = build_trainer(config, model, data.images)
        indices = choose_images(len(data), settings.eval_images, SAME_IMAGES)
        try_metrics(metrics, data, indices, settings, device)
        entries = [*config.entries(), *(registry.entry("metric", name) for name in metrics)]
        plugins = {f"{entry.kind} {entry.name}": f"{entry.distribution} {entry.version}" for entry in entries}
        # The record holds the values that "auto" stood for.
        resolved = attrs.evolve(
            settle(config, data),
            run=attrs.evolve(config.run, entropy=model.entropy.kind, precision=trainer.engine.precision_name),
        )
        watched = settings.best_by if ranks.current().first else "none"
        best = score_to_watch(watched, metrics, registry.names("metric"), request, settings.clusters)
        meanings = registry.summaries("metric")
        return cls(
            resolved, data, trainer, metrics, indices, baseline, plugins, registry.observers, meanings, best=best
        )

    def seconds_per_iteration(self, limit: float) -> float:
        """Carry out a few iterations and return how long one takes; the run is of no further use.

        Arguments:
            limit: Seconds for all of them, which one may exceed.

        Raises:
            TrainingDiverged: If a covariance can no longer be factorised.
        """
        trainer, device = self.trainer, self.trainer.model.device
        try:
            with trainer.engine.active():
                return iteration_seconds(
                    trainer.iterate, synchroniser(device), settling=settling_iterations(device), limit=limit
                )
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise TrainingDiverged(f"{error} while the speed was measured: training has diverged") from error
        finally:
            trainer.stream.close()

    def restore_model(self, state: Mapping[str, Any], source: Path) -> None:
        """Load the weights of a checkpoint for an evaluation; a warning names plugins that have changed since.

        Arguments:
            state: From `load_checkpoint`.
            source: Its file, for errors.

        Raises:
            InvalidInput: If the checkpoint does not fit the configuration or the data.
        """
        if state["images"] != list(self.data.images.shape):
            raise InvalidInput(
                f"checkpoint {source}: the data set has changed: expected images of shape {state['images']}, "
                f"got {list(self.data.images.shape)}"
            )
        if state["fingerprint"] != self.state_of_data()["fingerprint"]:
            raise InvalidInput(
                f"checkpoint {source}: the data set has changed: it has as many images as before, but different ones "
                "or another order; mpcc predict assigns clusters to other images, and mpcc evaluate with --data NAME "
                "evaluates them"
            )
        warn_of_changes(state["plugins"], self.plugins)
        take_weights(self.trainer.model, state, source)
        self.trainer.iteration = state["iteration"]

    def executed(self) -> dict[str, str]:
        """Return where and how the run is computed: device, engine, precision, and kernels if some are our own."""
        engine = self.trainer.engine
        own = {"kernels": "triton"} if engine.own_kernels else {}
        device = self.trainer.model.device.type
        return {"device": device, "engine": engine.name, "precision": engine.precision_name, **own}

    def state_of_data(self) -> dict[str, Any]:
        """Return what a checkpoint says about the images: their shape, and a digest of some of them."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.data.images)
        return {"images": list(self.data.images.shape), "fingerprint": self._fingerprint}

    def record(self) -> dict[str, Any]:
        """Return what a result depends on besides the configuration, for ``results.json``."""
        return {
            "seed": self.config.run.seed,
            "data": self.state_of_data(),
            "device": str(self.trainer.model.device),
            "threads": torch.get_num_threads(),
            "engine": self.trainer.engine.record(),
            "plugins": self.plugins,
            "versions": versions(),
            **({"budget": self.budget} if self.budget else {}),
        }

    def state(self) -> dict[str, Any]:
        """Return the full state for a checkpoint."""
        return {
            **self.trainer.state(),
            "random": random_states(),
            **self.state_of_data(),
            "plugins": self.plugins,
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "executed": self.executed(),
            "config": self.config.to_toml(),
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "best": None if self.best is None else self.best.plain(),
            "restarts": self.restarts,
            "hinges": self.hinges,
            "gradient_norms": self.gradient_norms,
            "told": self.told,
            "budget": self.budget,
        }


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("mpcc", "torch", "torchvision", "pyro-ppl", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}
