"""A run from configuration to run folder: assemble the parts, train, log, evaluate, save."""

from __future__ import annotations

import platform
import shlex
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import torch

from mpcc.core.assembly import choose_device, choose_metrics, differences, load_data
from mpcc.core.augmentation import Augmentation
from mpcc.core.checkpoint import load_checkpoint, random_states, restore_random_states, save_checkpoint
from mpcc.core.config import SECTIONS, RunConfig
from mpcc.core.contracts import ImageSet, Metric
from mpcc.core.engine import Engine, choose_engine
from mpcc.core.entropy import EntropyPolicy
from mpcc.core.errors import InvalidInput, TrainingDiverged
from mpcc.core.evaluation import choose_images
from mpcc.core.findings import feature_request, find
from mpcc.core.health import check_parameters, finite
from mpcc.core.hookspecs import RunInfo
from mpcc.core.matching import TermWeights
from mpcc.core.model import Model
from mpcc.core.observers import Observers
from mpcc.core.progress import ProgressDisplay
from mpcc.core.registry import Observer, Registry, reason
from mpcc.core.reporting import EventLog
from mpcc.core.run_folder import RunFolder
from mpcc.core.stream import ImageStream
from mpcc.core.training import Schedule, Trainer

__all__ = ["Run", "Stopped", "execute"]


# What a checkpoint holds: the trainer's state, and what `Run.state` adds.
CONTENTS = (
    *("iteration", "stream", "parts", "optimizers"),
    *("random", "images", "plugins", "versions", "config", "seconds", "evaluation_seconds"),
)


class Stopped(Exception):
    """The user stopped the run; the message says where it can be taken up again."""


@attrs.define(eq=False)
class Run:
    """The assembled parts of one run.

    Attributes:
        config: The resolved configuration.
        data: The images.
        trainer: Model, optimizers and stream.
        metrics: By name.
        indices: The images to be evaluated.
        plugins: Name, distribution and version of every plugin in use.
        observers: Plugins that watch.
        started: The monotonic clock's time at which the run began; for a resumed run, as if it had never paused.
        evaluation_seconds: Of `seconds`, those spent in evaluations.
    """

    config: RunConfig
    data: ImageSet
    trainer: Trainer
    metrics: Mapping[str, Metric]
    indices: torch.Tensor
    plugins: dict[str, str]
    observers: Sequence[Observer] = ()
    started: float = attrs.field(factory=time.monotonic)
    evaluation_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall-clock time spent in training and evaluations so far."""
        return time.monotonic() - self.started

    @classmethod
    def assemble(cls, registry: Registry, config: RunConfig) -> Run:
        """Load the plugins and the data and build everything, writing nothing.

        Raises:
            InvalidInput: If parts don't fit each other, or the data can't be read.
        """
        settings = config.run
        device = choose_device(settings.device)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        entries = {section: registry.entry(kind, getattr(config, section).name) for section, kind in SECTIONS.items()}
        architecture = entries["arch"].load()(config.arch.options)
        metrics = choose_metrics(registry, settings.metrics, feature_request(settings))
        dataset = entries["data"].load()(config.data.options)
        data = load_data(dataset, architecture, entries["data"].described(), config)
        torch.manual_seed(settings.seed)
        prior = entries["prior"].load()(settings.clusters, settings.latent_dim, config.prior.options)
        channels = data.images.shape[1]
        networks = architecture.build(settings.clusters, settings.latent_dim, channels)
        entropy = EntropyPolicy.of(prior, settings.entropy, settings.entropy_samples)
        model = Model.assemble(prior, networks, device, entropy)
        published = TermWeights.published(channels, architecture.image_size, settings.latent_dim)
        weights = attrs.evolve(
            published,
            latent=published.latent if settings.latent_weight is None else settings.latent_weight,
            membership=settings.membership_weight,
            entropy=published.entropy if settings.entropy_weight is None else settings.entropy_weight,
        )
        schedule = Schedule(
            **{field.name: getattr(settings, field.name) for field in attrs.fields(Schedule)},
        )
        stream = ImageStream(
            data.images,
            settings.batch,
            settings.seed,
            augmentation=Augmentation(settings.augment_crop, settings.augment_flip),
            workers=settings.workers,
            device=device,
        )
        trainer = Trainer(model, stream, schedule, weights, choose_engine(settings, device))
        indices = choose_images(len(data), settings.eval_images, settings.seed)
        used = [*entries.values(), *(registry.entry("metric", name) for name in metrics)]
        plugins = {f"{entry.kind} {entry.name}": f"{entry.distribution} {entry.version}" for entry in used}
        # What "auto" came to is part of the record.
        resolved = attrs.evolve(
            config, run=attrs.evolve(settings, entropy=entropy.kind, precision=trainer.engine.precision_name)
        )
        return cls(resolved, data, trainer, metrics, indices, plugins, registry.observers)

    def resume(self, folder: RunFolder) -> None:
        """Take up the state of the newest checkpoint.

        Raises:
            InvalidInput: If it does not fit the configuration.
        """
        state = load_checkpoint(folder.checkpoint)
        missing = sorted({*CONTENTS} - state.keys())
        if missing:
            raise InvalidInput(
                f"checkpoint {folder.checkpoint}: expected a run's full state, {missing[0]!r} is missing"
            )
        if state["iteration"] >= self.config.run.iterations:
            raise InvalidInput(
                f"--resume {folder.path}: the run is at iteration {state['iteration']}, of "
                f"{self.config.run.iterations}: expected more with --iterations"
            )
        if state["plugins"] != self.plugins:
            changed = [
                f"{name} was {version}"
                for name, version in state["plugins"].items()
                if self.plugins.get(name) != version
            ]
            raise InvalidInput(
                f"--resume {folder.path}: plugins have changed: {', '.join(changed) or 'more than before'}"
            )
        changed = differences(tomllib.loads(state["config"]), self.config.to_tables())
        if changed:
            raise InvalidInput(
                f"--resume {folder.path}: config.toml is not that of the checkpoint: {'; '.join(changed)}; "
                "put it back, or start a new run with --config"
            )
        if state["images"] != list(self.data.images.shape):
            raise InvalidInput(
                f"--resume {folder.path}: the data set has changed: expected images of shape {state['images']}, "
                f"got {list(self.data.images.shape)}"
            )
        try:
            self.trainer.restore(state)
            restore_random_states(state["random"])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            text = " ".join(str(error).split())[:300]
            raise InvalidInput(f"--resume {folder.path}: the checkpoint does not fit config.toml: {text}") from error
        self.started = time.monotonic() - state["seconds"]
        self.evaluation_seconds = state["evaluation_seconds"]

    def restore_model(self, state: Mapping[str, Any], source: Path) -> None:
        """Take up the weights of a checkpoint, to be evaluated; plugins that have changed since are warned of.

        Arguments:
            state: From `load_checkpoint`.
            source: Its file, for errors.

        Raises:
            InvalidInput: If it does not fit the configuration or the data.
        """
        if state["images"] != list(self.data.images.shape):
            raise InvalidInput(
                f"checkpoint {source}: the data set has changed: expected images of shape {state['images']}, "
                f"got {list(self.data.images.shape)}"
            )
        for name, version in state["plugins"].items():
            if self.plugins.get(name, version) != version:
                print(f"{name} was {version} when the checkpoint was saved, is {self.plugins[name]}", file=sys.stderr)
        try:
            for name, part in self.trainer.model.parts().items():
                part.load_state_dict(state["parts"][name])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            text = " ".join(str(error).split())[:300]
            raise InvalidInput(f"checkpoint {source} does not fit config.toml: {text}") from error
        self.trainer.iteration = state["iteration"]

    def record(self) -> dict[str, Any]:
        """Return what a result depends on beside the configuration, for ``results.json``."""
        return {
            "seed": self.config.run.seed,
            "device": str(self.trainer.model.device),
            "threads": torch.get_num_threads(),
            "engine": self.trainer.engine.record(),
            "plugins": self.plugins,
            "versions": versions(),
        }

    def state(self) -> dict[str, Any]:
        """Return the full state for a checkpoint."""
        return {
            **self.trainer.state(),
            "random": random_states(),
            "images": list(self.data.images.shape),
            "plugins": self.plugins,
            "versions": versions(),
            "config": self.config.to_toml(),
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
        }


def execute(run: Run, folder: RunFolder, *, resumed: bool) -> dict[str, Any]:
    """Train to the end, writing the run folder on the way.

    Arguments:
        run: From `Run.assemble`; after `Run.resume` for a resumed run.
        folder: A created folder.
        resumed: Whether the folder holds an earlier part of this run.

    Returns:
        The contents of ``results.json``.

    Raises:
        Stopped: After Ctrl-C or SIGTERM, with a checkpoint saved.
        TrainingDiverged: If a loss is not finite; the last checkpoint is kept.
    """
    settings, trainer = run.config.run, run.trainer
    start = trainer.iteration
    folder.cut_metrics(start)
    folder.write_config(run.config)
    if run.data.skipped:
        folder.write_skipped(run.data.skipped)
    events = EventLog(folder.path, trainer.weights, purge_step=start + 1 if resumed else None)
    results: dict[str, Any] = {}
    told = tell(trainer.engine, 0)
    observers, ended = Observers.of(run.observers, trainer.model.device), "interrupted"
    warning = trainer.model.entropy.warning()
    if warning is not None:
        print(warning, file=sys.stderr)
        events.note("entropy", warning)
    try:
        observers.notify("run_started", run=RunInfo(folder.path, run.config.to_tables(), start, settings.iterations))
        with (
            trainer.engine.active(),
            stop_requests() as stop,
            ProgressDisplay(settings.iterations, start) as display,
        ):
            while trainer.iteration < settings.iterations:
                try:
                    terms = trainer.iterate()
                except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
                    # A covariance can no longer be factorised: the parameters of a prior are out of their domain.
                    check_parameters(trainer.model, trainer.iteration, folder.checkpoint)
                    raise TrainingDiverged(
                        f"{error} at iteration {trainer.iteration}: training has diverged"
                    ) from error
                told = tell(trainer.engine, told)
                done = trainer.iteration
                last = done == settings.iterations
                display.advance()
                observers.step_ended(done, terms)
                logging = done % settings.log_every == 0 or last
                evaluating = done % settings.eval_every == 0 or last
                # Asked once: a request that comes later in this iteration waits for the next one and its checkpoint.
                stopping = bool(stop) and not last
                saving = done % settings.checkpoint_every == 0 or last or stopping
                if logging or evaluating or saving:
                    values = finite(terms, done, folder.checkpoint)
                if logging:
                    log_losses(events, trainer, values)
                if evaluating:
                    results = report(run, folder, events, display)
                    observers.notify("evaluated", iteration=done, scores=results["metrics"])
                if saving:
                    check_parameters(trainer.model, done, folder.checkpoint)
                    save_checkpoint(folder.checkpoint, run.state())
                    events.flush()
                if stopping:
                    command = f"mpcc-run --resume {shlex.quote(str(folder.path))}"
                    raise Stopped(f"stopped at iteration {done}; continue with: {command}")
    except Exception as error:
        ended = str(error) if isinstance(error, (Stopped, TrainingDiverged)) else reason(error)
        raise
    else:
        ended = ""
    finally:
        trainer.stream.close()
        events.close()
        observers.notify(
            "run_ended", iteration=trainer.iteration, results=None if ended else results, reason=ended or None
        )
    return results


def tell(engine: Engine, told: int) -> int:
    """Print the notes of an engine that have not been told yet; return how many there are now."""
    for note in engine.notes[told:]:
        print(f"engine {engine.name}: {note}", file=sys.stderr)
    return len(engine.notes)


def log_losses(events: EventLog, trainer: Trainer, values: Mapping[str, float]) -> None:
    """Log the terms and the step sizes."""
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in trainer.optimizers.items()}
    events.losses(trainer.iteration, values, rates)


def report(run: Run, folder: RunFolder, events: EventLog, display: ProgressDisplay) -> dict[str, Any]:
    """Evaluate; write scores, pictures and assignments; return the contents of ``results.json``."""
    settings, trainer = run.config.run, run.trainer
    training_seconds = run.seconds - run.evaluation_seconds
    # Scores of a model that has diverged would be laid at the door of a metric.
    check_parameters(trainer.model, trainer.iteration, folder.checkpoint)
    findings = find(trainer.model, run.data, run.indices, run.metrics, settings)
    scores = dict(findings.scores)
    folder.append_metrics({"iteration": trainer.iteration, "evaluated": len(run.indices), "metrics": scores})
    display.scores(trainer.iteration, scores, findings.used, findings.evaluation.clusters)
    events.scores(trainer.iteration, scores, findings.used)
    events.prior(trainer.iteration, trainer.model.prior)
    events.pictures(trainer.iteration, findings.pictures)
    if findings.confusion is not None:
        events.confusion(trainer.iteration, findings.confusion)
    findings.write(folder)
    run.evaluation_seconds = run.seconds - training_seconds
    results = {
        **findings.summary(),
        "iterations": trainer.iteration,
        "seconds": round(run.seconds, 3),
        "evaluation_seconds": round(run.evaluation_seconds, 3),
        "iterations_per_second": round(trainer.iteration / training_seconds, 3),
        **run.record(),
    }
    folder.write_results(results)
    return results


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("mpcc", "torch", "torchvision", "pyro-ppl", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Turn the first Ctrl-C or SIGTERM into an entry of the returned list; a second one interrupts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only.
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            # None stands for a handler that was not set from Python and can't be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
