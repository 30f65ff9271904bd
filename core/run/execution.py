"""The course of a run: train, log, evaluate, save; go on, go back or stop when something fails."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mpcc.core.config.interval import Interval
from mpcc.core.errors import InvalidInput, OutOfResources, TrainingDiverged
from mpcc.core.evaluation.findings import find
from mpcc.core.hookspecs import RunInfo
from mpcc.core.method.engine import Engine
from mpcc.core.registry import reason
from mpcc.core.reporting.event_log import EventLog
from mpcc.core.reporting.health import check_parameters, finite
from mpcc.core.reporting.observers import Observers
from mpcc.core.reporting.progress import ProgressDisplay
from mpcc.core.reporting.symptoms import symptoms, vitals
from mpcc.core.run.resume import go_back
from mpcc.core.run.run import Run
from mpcc.core.run.stop_requests import stop_requests
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.randomness import seed_everything
from mpcc.core.system.resources import disk_errors

__all__ = ["Stopped", "execute"]


class Stopped(Exception):
    """The user stopped the run; the message says where it can be taken up again."""


def execute(run: Run, folder: RunFolder, checkpoints: KeptCheckpoints, *, resumed: bool) -> dict[str, Any]:
    """Train to the end, writing the run folder on the way.

    Arguments:
        run: From `Run.assemble`; after `mpcc.core.run.resume.resume` for a resumed run.
        folder: A created folder.
        checkpoints: Those of the folder.
        resumed: Whether the folder holds an earlier part of this run.

    Returns:
        The contents of ``results.json``.

    Raises:
        Stopped: After Ctrl-C or SIGTERM, with a checkpoint saved.
        TrainingDiverged: If something is not finite and no restart is wanted or left; the last checkpoint is kept.
        OutOfResources: If the beginning or the end of the run could not be saved.
    """
    return Execution(run, folder, checkpoints, resumed=resumed).run_to_the_end()


class Execution:
    """One process's share of a run.

    Arguments:
        run: Assembled, and resumed if it is.
        folder: Where everything is written.
        checkpoints: Those of the folder.
        resumed: Whether the folder holds an earlier part of this run.
    """

    def __init__(self, run: Run, folder: RunFolder, checkpoints: KeptCheckpoints, *, resumed: bool) -> None:
        self.run = run
        self.folder = folder
        self.checkpoints = checkpoints
        self.settings = run.config.run
        self.trainer = run.trainer
        start = self.trainer.iteration
        with disk_errors(folder.path):
            folder.cut_metrics(start)
            folder.write_config(run.config)
            if run.data.skipped:
                folder.write_skipped(run.data.skipped)
        self.events = EventLog(folder.path, purge_step=start + 1 if resumed else None)
        self.observers = Observers.of(run.observers, self.trainer.model.device)
        self.results: dict[str, Any] = {}
        self._interval = Interval.parse(self.settings.checkpoint_every)
        self._saved_at = time.monotonic()
        # Why the last attempt to save, or to write an evaluation, failed.
        self._unsaved: str | None = None
        self._unwritten: str | None = None
        self._told = tell(self.trainer.engine, 0)

    def run_to_the_end(self) -> dict[str, Any]:
        """Train until all iterations are done; see `execute`."""
        ended = "interrupted"
        self._warn_of_estimates()
        try:
            self.observers.notify(
                "run_started",
                run=RunInfo(
                    self.folder.path, self.run.config.to_tables(), self.trainer.iteration, self.settings.iterations
                ),
            )
            with (
                self.trainer.engine.active(),
                stop_requests() as stop,
                ProgressDisplay(self.settings.iterations, self.trainer.iteration) as display,
            ):
                self.display = display
                while self.trainer.iteration < self.settings.iterations:
                    try:
                        self._iterate(stop)
                    except TrainingDiverged as error:
                        self._restart(error)
            self._check_end()
        except Exception as error:
            known = (Stopped, TrainingDiverged, OutOfResources)
            ended = str(error) if isinstance(error, known) else reason(error)
            raise
        else:
            ended = ""
        finally:
            self.trainer.stream.close()
            self.events.close()
            self.observers.notify(
                "run_ended",
                iteration=self.trainer.iteration,
                results=None if ended else self.results,
                reason=ended or None,
            )
        return self.results

    def _iterate(self, stop: Sequence[int]) -> None:
        """Carry out an iteration and what is due after it."""
        settings, trainer = self.settings, self.trainer
        try:
            terms = trainer.iterate()
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # A covariance can no longer be factorised: the parameters of a prior are out of their domain.
            check_parameters(trainer.model, trainer.iteration)
            raise TrainingDiverged(f"{error} at iteration {trainer.iteration}: training has diverged") from error
        self._told = tell(trainer.engine, self._told)
        done = trainer.iteration
        last = done == settings.iterations
        self.display.advance()
        self.observers.step_ended(done, terms)
        logging = done % settings.log_every == 0 or last
        evaluating = done % settings.eval_every == 0 or last
        # Asked once: a request that comes later in this iteration waits for the next one and its checkpoint.
        stopping = bool(stop) and not last
        saving = self._interval.due(done, time.monotonic() - self._saved_at) or last or stopping
        if logging or evaluating or saving or trainer.model.device.type == "cpu":
            # On CUDA the host waits here. Nothing is lost by looking later: updates end with the one that broke down.
            self._check_updates()
        if logging or evaluating or saving:
            values = finite(terms, done)
        if logging:
            self._log(values)
        before = None if self.run.best is None else self.run.best.plain()
        best = evaluating and self._evaluate()
        failure = None
        if saving:
            check_parameters(trainer.model, done)
            failure = self._save(best=best)
        elif best:
            failure = self._attempt("the best checkpoint", lambda: self.checkpoints.save_best(self.run.state()))
        if best and failure is not None and self.run.best is not None:
            # What is not on the disk is not what later evaluations have to surpass.
            self.run.best.restore(before)
        if stopping:
            raise Stopped(self._stopped())

    def _check_updates(self) -> None:
        found = self.trainer.guard.breakdown()
        if found is not None:
            raise TrainingDiverged(f"{found}: training has diverged; lower --lr or --prior-lr")

    def _log(self, values: Mapping[str, float]) -> None:
        """Log the terms, the sizes of the gradients and the step sizes."""
        rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in self.trainer.optimizers.items()}
        norms = {name: float(norm) for name, norm in self.trainer.guard.norms.items()}
        self.events.losses(self.trainer.iteration, values, self.trainer.term_weights, rates, norms)
        # Another objective may have no discriminator.
        self.run.hinges += [values["data_discriminator"]] if "data_discriminator" in values else []

    def _evaluate(self) -> bool:
        """Evaluate; write scores, pictures and assignments; return whether this is the best evaluation so far."""
        run, trainer, settings = self.run, self.trainer, self.settings
        done = trainer.iteration
        training_seconds = run.seconds - run.evaluation_seconds
        # Scores of a model that has diverged would be laid at the door of a metric.
        check_parameters(trainer.model, done)
        findings = find(trainer.model, run.data, run.indices, run.metrics, settings)
        found = vitals(trainer.model, findings.evaluation, findings.pictures, run.hinges)
        run.hinges = []
        seen = symptoms(found)
        scores = dict(findings.scores)
        self.display.scores(done, scores, findings.used, findings.evaluation.clusters)
        for symptom in seen:
            if symptom.name not in run.told:
                self.display.say(f"warning: {symptom.message}")
        run.told = sorted({*run.told, *(symptom.name for symptom in seen)})
        self.events.evaluation(done, scores, findings, trainer.model.prior, found.quantities(), seen)
        run.evaluation_seconds = run.seconds - training_seconds
        self.results = {
            **findings.summary(),
            "health": {
                "warnings": [{"name": symptom.name, "message": symptom.message} for symptom in seen],
                "quantities": found.quantities(),
                "restarts": run.restarts,
            },
            "iterations": done,
            "seconds": round(run.seconds, 3),
            "evaluation_seconds": round(run.evaluation_seconds, 3),
            "iterations_per_second": round(done / training_seconds, 3),
            **run.record(),
        }

        def write() -> None:
            self.folder.append_metrics({"iteration": done, "evaluated": len(run.indices), "metrics": scores})
            self.folder.write_findings(findings)
            self.folder.write_results(self.results)

        self._unwritten = self._attempt(f"the evaluation of iteration {done}", write)
        self.observers.notify("evaluated", iteration=done, scores=scores)
        return run.best is not None and run.best.improves(scores, done)

    def _save(self, *, best: bool) -> str | None:
        self._unsaved = self._attempt("a checkpoint", lambda: self.checkpoints.save(self.run.state(), best=best))
        self._saved_at = time.monotonic()
        self.events.flush()
        return self._unsaved

    def _attempt(self, what: str, write: Callable[[], None]) -> str | None:
        """Write something; if the system refuses, say so and go on. Return why it was refused."""
        try:
            write()
        except OSError as error:
            text = error.strerror or str(error)
            self.display.say(f"warning: {what} could not be written: {text}; {self._kept('training goes on')}")
            return text
        return None

    def _kept(self, text: str) -> str:
        kept = self.checkpoints.kept
        return text if kept is None else f"{text}; {kept}"

    def _stopped(self) -> str:
        if self._unsaved is not None:
            raise self._not_saved(f"stopped at iteration {self.trainer.iteration}, which could not be saved")
        command = f"mpcc-run --resume {shlex.quote(str(self.folder.path))}"
        return f"stopped at iteration {self.trainer.iteration}; continue with: {command}"

    def _check_end(self) -> None:
        """Refuse to call a run finished whose end is not on the disk."""
        if self._unsaved is not None:
            raise self._not_saved("the last checkpoint could not be written")
        if self._unwritten is not None:
            raise OutOfResources(
                f"the results could not be written: {self._unwritten}; {self._kept('the run is saved')}; "
                f"free space, then: mpcc evaluate {shlex.quote(str(self.folder.path))}"
            )

    def _not_saved(self, what: str) -> OutOfResources:
        """Make the error for an end that is not on the disk: why, what is there, how to go on."""
        folder = shlex.quote(str(self.folder.path))
        if self.checkpoints.kept is not None:
            there = f"{self._kept('free space')}; continue with: mpcc-run --resume {folder}"
        elif self.results and self._unwritten is None:
            there = f"there is no other one, but the results are in {folder}"
        else:
            there = "there is no other one: free space and start anew"
        return OutOfResources(f"{what}: {self._unsaved}; {there}")

    def _restart(self, error: TrainingDiverged) -> None:
        """Go back to the last checkpoint with other random numbers, if that is wanted.

        Raises:
            TrainingDiverged: If it is not, or has been done often enough, or there is nothing to go back to.
        """
        settings, run = self.settings, self.run
        if settings.on_nonfinite == "stop":
            raise TrainingDiverged(self._kept(str(error))) from error
        if len(run.restarts) >= settings.max_restarts:
            raise TrainingDiverged(
                self._kept(f"{error}; it was restarted --max-restarts {settings.max_restarts} times")
            ) from error
        at = self.trainer.iteration
        try:
            back, broken = go_back(run, self.checkpoints)
        except InvalidInput as unreadable:
            raise TrainingDiverged(f"{error}; there is nothing to restart from: {unreadable}") from error
        if back is None:
            raise TrainingDiverged(f"{error}; there is no checkpoint yet to restart from") from error
        for line in broken:
            self.display.say(f"warning: {line}")
        run.restarts.append({"iteration": at, "from": back, "reason": str(error)})
        # The same numbers would lead to the same end; these are as reproducible.
        seed_everything(settings.seed + 1_000_003 * len(run.restarts))
        self.display.say(
            f"warning: {error}; restart {len(run.restarts)} from iteration {back} with other random numbers"
        )
        self.display.restarted(back)
        self.checkpoints.forget_after(back)
        self.events.restarted(back + 1, str(error))
        self._attempt("the record of evaluations", lambda: self.folder.cut_metrics(back))

    def _warn_of_estimates(self) -> None:
        warning = self.trainer.model.entropy.warning()
        if warning is not None:
            print(warning, file=sys.stderr)
            self.events.note("entropy", warning)


def tell(engine: Engine, told: int) -> int:
    """Print the notes of an engine that have not been told yet; return how many there are now."""
    for note in engine.notes[told:]:
        print(f"engine {engine.name}: {note}", file=sys.stderr)
    return len(engine.notes)
