"""The course of a run: train, log, evaluate, save; go on, go back or stop when something fails."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from mpcc.core.contracts import Metric
from mpcc.core.errors import InvalidInput, OutOfResources, RankLost, TrainingDiverged
from mpcc.core.evaluation.evaluation import SAME_IMAGES, choose_images
from mpcc.core.evaluation.findings import Findings, find
from mpcc.core.evaluation.sheets import sheets
from mpcc.core.hookspecs import RunInfo
from mpcc.core.images.pictures import channels_last
from mpcc.core.registry import reason
from mpcc.core.reporting.event_log import EventLog
from mpcc.core.reporting.health import check_parameters, finite
from mpcc.core.reporting.observers import Observers
from mpcc.core.reporting.pace import Pace
from mpcc.core.reporting.progress import ProgressDisplay
from mpcc.core.reporting.symptoms import Symptom, symptoms
from mpcc.core.reporting.vitals import Vitals, still_forming, vitals
from mpcc.core.run.due import due_after, evaluations_left, next_evaluation
from mpcc.core.run.resume import go_back
from mpcc.core.run.run import Run
from mpcc.core.run.saving import Saving
from mpcc.core.run.stop_requests import stop_requests
from mpcc.core.run.time_budget import comment_of
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.randomness import seed_everything
from mpcc.core.system.resources import disk_errors

__all__ = ["Stopped", "execute"]

logger = logging.getLogger(__name__)

# A run whose first evaluation is far away shows some images after so many seconds and iterations.
FIRST_LOOK_SECONDS, FIRST_LOOK_ITERATIONS = 120, 3
FIRST_LOOK_IMAGES = 2000


@attrs.frozen(eq=False)
class Found:
    """What an evaluation in the course of a run found.

    Attributes:
        findings: Scores, pictures, latents.
        measured: Quantities that tell whether the training is sound.
        warnings: What they tell.
    """

    findings: Findings
    measured: Vitals
    warnings: Sequence[Symptom]


class Stopped(Exception):
    """The user stopped the run; the message says where it can be taken up again."""


def execute(
    run: Run,
    folder: RunFolder,
    checkpoints: KeptCheckpoints,
    *,
    resumed: bool,
    bar: bool = False,
    until: int | None = None,
) -> dict[str, Any]:
    """Train to the end, or to an earlier iteration, writing the run folder on the way.

    Arguments:
        run: From `Run.assemble`; after `mpcc.core.run.resume.resume` for a resumed run.
        folder: A created folder.
        checkpoints: Those of the folder.
        resumed: Whether the folder holds an earlier part of this run.
        bar: Whether to draw a progress bar, if standard error is a terminal.
        until: The iteration after which to evaluate, save and pause; by default that of the end. The run can be
            resumed from there, and ends with the bits of a run that has not paused.

    Returns:
        The contents of ``results.json``.

    Raises:
        Stopped: After Ctrl-C or SIGTERM, with a checkpoint saved. With ``until``, a stop that was asked for in the very
            last iteration counts, too: others may follow.
        TrainingDiverged: If something is not finite and no restart is wanted or left; the last checkpoint is kept.
        OutOfResources: If the beginning or the end of the run could not be saved.
    """
    return Execution(run, folder, checkpoints, resumed=resumed, until=until).run_to_the_end(bar=bar)


class Execution:
    """The part of a run that one process carries out.

    Arguments:
        run: Assembled, and resumed if the folder holds an earlier part.
        folder: Where everything is written.
        checkpoints: Those of the folder.
        resumed: Whether the folder holds an earlier part of this run.
        until: The iteration after which to pause; by default that of the end.
    """

    def __init__(
        self, run: Run, folder: RunFolder, checkpoints: KeptCheckpoints, *, resumed: bool, until: int | None = None
    ) -> None:
        self.run = run
        self.folder = folder
        self.saving = Saving(run, folder, checkpoints)
        self.settings = run.config.run
        self._others_may_follow = until is not None
        self.end = min(until or self.settings.iterations, self.settings.iterations)
        self.trainer = run.trainer
        start = self.trainer.iteration
        with disk_errors(f"{folder.path} could not be written"):
            folder.cut_metrics(start)
            folder.write_config(run.config, comment_of(run.budget))
            if run.data.skipped:
                folder.write_skipped(run.data.skipped)
        self.observers = Observers.of(run.observers, self.trainer.model.device)
        self.pace = Pace(run.minutes, run.began)
        self._start, self._began, self._looked = start, time.monotonic(), False
        self.results: dict[str, Any] = {}
        # How many notes of the engine have been passed on.
        self._notes = 0
        self._pass_on_notes()
        # The last thing that is opened: `run_to_the_end` closes it, whatever happens.
        self.events = EventLog(folder.path, purge_step=start + 1 if resumed else None, meanings=run.meanings)
        if not resumed or not folder.metrics.exists():
            command = f"mpcc-run --config {quoted(folder.config)}"
            self.events.began(command, run.config.to_toml(), run.config.to_tables())

    def run_to_the_end(self, *, bar: bool) -> dict[str, Any]:
        """Train until all iterations are done, or until the pause; see `execute`."""
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
                ProgressDisplay(self.end, self.trainer.iteration, bar=bar) as display,
            ):
                self.display = display
                self.folder.keep()
                self.run.orders.hand_over()
                if self.trainer.iteration >= self.end:
                    # Its checkpoint is there, but its scores could not be written.
                    self._evaluate()
                while self.trainer.iteration < self.end:
                    try:
                        self._iterate(stop)
                    except TrainingDiverged as error:
                        self._restart(error)
            self.saving.check_end()
            if stop and self._others_may_follow:
                raise Stopped(self.saving.stopped())
        except Exception as error:
            known = (Stopped, TrainingDiverged, OutOfResources)
            ended = str(error) if isinstance(error, known) else reason(error)
            raise
        else:
            ended = "" if self.end == self.settings.iterations else f"paused at iteration {self.end}"
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
        trainer = self.trainer
        terms = self._train()
        self._pass_on_notes()
        self.display.advance()
        self.pace.iterated()
        self.observers.step_ended(trainer.iteration, terms)
        # A stop that is asked for later in this iteration waits for the next one and its checkpoint.
        due = due_after(trainer.iteration, self.settings, self.saving.since_saved, asked_to_stop=bool(stop))
        if trainer.iteration == self.end:
            due = attrs.evolve(due, evaluate=True, save=True)
        values_needed = due.log or due.evaluate or due.save
        if values_needed or trainer.model.device.type == "cpu":
            # On CUDA the host waits here. A later look is as good: no update follows the one that broke down.
            self._check_updates()
        values = finite(terms, trainer.iteration) if values_needed else {}
        if due.log:
            self._log(values)
        if due.save:
            self.run.orders.compare()
        scores = self._evaluate() if due.evaluate else None
        done, settings = trainer.iteration, attrs.evolve(self.settings, iterations=self.end)
        left = evaluations_left(done, settings)
        estimate = self.pace.estimate(done, self.end, left, next_evaluation(done, settings))
        if estimate:
            logger.info(estimate)
        self.saving.save(scores, due=due.save)
        if due.stop:
            message = self.saving.stopped()
            if not due.evaluate and stop[0] == signal.SIGINT:
                # A scheduler or a terminal that closes may not wait.
                logger.info("saved; evaluating the model as it is now (Ctrl-C again skips this)")
                self._look(self.run.indices)
            raise Stopped(message)
        if self._first_look_due():
            some = choose_images(len(self.run.data), min(len(self.run.indices), FIRST_LOOK_IMAGES), SAME_IMAGES)
            logger.info("a first look, at %d images", len(some))
            self._look(some)

    def _train(self) -> dict[str, Tensor]:
        trainer = self.trainer
        try:
            return self.run.orders.iterate()
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # A covariance can no longer be factorised: the parameters of a prior are out of their domain.
            check_parameters(trainer.model, trainer.iteration)
            raise TrainingDiverged(f"{error} at iteration {trainer.iteration}: training has diverged") from error

    def _check_updates(self) -> None:
        breakdown = self.trainer.guard.breakdown()
        if breakdown is None:
            return
        if not breakdown.latents:
            raise TrainingDiverged(f"{breakdown}: training has diverged; lower --lr or --prior-lr")
        # Parameters out of their domain would be the cause; they are still those from before the update.
        check_parameters(self.trainer.model, breakdown.iteration)
        name, stops = self.run.config.prior.name, self.settings.on_nonfinite == "stop"
        raise TrainingDiverged(
            f"{breakdown}, though all parameters are sound: the sampler of the prior {name} is at fault, not the step "
            f"sizes (mpcc plugins check {name} tests it)"
            + ("; --on-nonfinite restart-from-last goes on with other random numbers" if stops else "")
        )

    def _log(self, values: Mapping[str, float]) -> None:
        """Log the terms, the sizes of the gradients and the step sizes."""
        rates = {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in self.trainer.optimizers.items()}
        norms = {name: float(norm) for name, norm in self.trainer.guard.norms.items()}
        trainer = self.trainer
        self.events.losses(trainer.iteration, values, trainer.term_weights, rates, norms)
        # Another objective may have no discriminator.
        self.run.hinges += [values["data_discriminator"]] if "data_discriminator" in values else []
        for part, norm in norms.items():
            self.run.gradient_norms.setdefault(part, []).append(norm)

    def _first_look_due(self) -> bool:
        """Return whether the folder has no results yet, and the first evaluation is still far away.

        With minutes, the time of the first evaluation has been chosen, and there is no time for another one.
        """
        done, waited = self.trainer.iteration, time.monotonic() - self._began
        if self._looked or self.run.minutes is not None or done < FIRST_LOOK_ITERATIONS or waited < FIRST_LOOK_SECONDS:
            return False
        self._looked = True
        left = (next_evaluation(done, self.settings) - done) * waited / max(1, done - self._start)
        return left > FIRST_LOOK_SECONDS / 2 and not self.folder.results.exists()

    def _look(self, indices: Tensor) -> None:
        """Write scores, pictures and assignments that the course of the run does not depend on.

        The run, or the one that goes on from its checkpoint, ends as if this evaluation had not taken place.

        Arguments:
            indices: Which images are evaluated, shape (N,).
        """
        run = self.run
        training_seconds = run.seconds - run.evaluation_seconds
        try:
            found = self._find(indices, {name: one for name, one in run.metrics.items() if not one.on_request})
            self.saving.write_evaluation(found.findings, self.results, recorded=False)
            logger.info("look at %s", self.folder.to_look_at())
        except KeyboardInterrupt:
            logger.info("the evaluation was skipped; some files may be those of an earlier one")
        except RankLost:
            raise
        except Exception as error:  # nothing else that goes wrong here is worth the run
            logger.warning("it could not be evaluated: %s", reason(error))
        run.evaluation_seconds = run.seconds - training_seconds
        self.pace.evaluated()

    def _find(self, indices: Tensor, metrics: Mapping[str, Metric]) -> Found:
        """Evaluate the model as it is, and make the contents of ``results.json``."""
        run, trainer, settings = self.run, self.trainer, self.settings
        done = trainer.iteration
        training_seconds = run.seconds - run.evaluation_seconds
        # Otherwise an error would blame a metric for the scores of a model that has diverged.
        check_parameters(trainer.model, done)
        findings = find(trainer.model, run.data, indices, metrics, settings, run.baseline, run.orders.predictions)
        measured = vitals(
            trainer.model,
            findings.evaluation,
            findings.pictures,
            run.hinges,
            real_terms=trainer.real_terms,
            forming=still_forming(done, settings.iterations, fit_to_come=trainer.fit_to_come),
            # The weights of another run may have been trained for long.
            iterations=None if settings.init_from else done,
            gradient_norms=run.gradient_norms,
            terms=trainer.term_weights or None,
            prior_is_fixed="prior" not in trainer.optimizers,
        )
        warnings = symptoms(measured, settings)
        self.results = {
            **findings.summary(),
            "baseline": run.baseline.record(findings.evaluation, indices, run.metrics),
            "health": {
                "warnings": [{"name": symptom.name, "message": symptom.message} for symptom in warnings],
                "quantities": measured.quantities(),
                "restarts": run.restarts,
            },
            "iterations": done,
            "prior_fitted": trainer.prior_fitted,
            "seconds": round(run.seconds, 3),
            "evaluation_seconds": round(run.seconds - training_seconds, 3),
            "iterations_per_second": round(done / training_seconds, 3),
            **run.record(),
        }
        return Found(findings, measured, warnings)

    def _evaluate(self) -> dict[str, float]:
        """Evaluate; write scores, pictures and assignments; return the scores."""
        run, trainer, settings = self.run, self.trainer, self.settings
        done = trainer.iteration
        training_seconds = run.seconds - run.evaluation_seconds
        found = self._find(run.indices, run.metrics)
        findings, measured, warnings = found.findings, found.measured, found.warnings
        run.hinges, run.gradient_norms = [], {}
        scores = dict(findings.scores)
        self.pace.evaluated()
        late = self.pace.late(done, settings.iterations, evaluations_left(done, settings))
        self.display.scores(
            done,
            scores,
            clusters_used=findings.used,
            clusters=findings.evaluation.clusters,
            confidence=float(findings.evaluation.posterior.max(dim=1).values.mean()),
            late=late,
        )
        for symptom in warnings:
            if symptom.name not in run.told:
                logger.warning("%s", symptom.message)
        run.told = sorted({*run.told, *(symptom.name for symptom in warnings)})
        self.events.evaluation(
            done, scores, findings, trainer.model.prior, measured.quantities(), warnings, trainer.phase_terms
        )
        run.evaluation_seconds = run.seconds - training_seconds
        self.results |= {
            "seconds": round(run.seconds, 3),
            "evaluation_seconds": round(run.evaluation_seconds, 3),
        }
        self.saving.write_evaluation(findings, self.results)
        self.observers.notify("evaluated", iteration=done, scores=scores)
        if self.observers.listen("pictures"):
            # Drawn once more, for whoever wants them: most runs have no such observer.
            drawn = {name: channels_last(picture[None])[0] for name, picture in sheets(findings)}
            self.observers.notify("pictures", iteration=done, sheets=drawn)
        return scores

    def _restart(self, error: TrainingDiverged) -> None:
        """Go back to the last checkpoint with other random numbers, if that is wanted.

        Raises:
            TrainingDiverged: If no restart is wanted or left, or there is no checkpoint to go back to.
        """
        settings, run = self.settings, self.run
        if settings.on_nonfinite == "stop":
            raise TrainingDiverged(self.saving.kept(str(error))) from error
        if len(run.restarts) >= settings.max_restarts:
            raise TrainingDiverged(
                self.saving.kept(f"{error}; no restart is left (--max-restarts {settings.max_restarts})")
            ) from error
        at = self.trainer.iteration
        try:
            back, broken = go_back(run, self.saving.checkpoints)
        except InvalidInput as unreadable:
            raise TrainingDiverged(f"{error}; there is no checkpoint to restart from: {unreadable}") from error
        if back is None:
            raise TrainingDiverged(f"{error}; there is no checkpoint yet to restart from") from error
        for line in broken:
            logger.warning("%s", line)
        run.restarts.append({"iteration": at, "from": back, "reason": str(error)})
        # With the same random numbers training would diverge again. The new ones are as reproducible.
        seed_everything(settings.seed + 1_000_003 * len(run.restarts))
        run.orders.hand_over()
        logger.warning("%s; restart %d from iteration %d with other random numbers", error, len(run.restarts), back)
        self.display.restarted(back)
        self.saving.checkpoints.forget_after(back)
        self.events.restarted(back + 1, str(error))
        self.saving.attempt("the record of evaluations", lambda: self.folder.cut_metrics(back))

    def _warn_of_estimates(self) -> None:
        warning = self.trainer.model.entropy.warning()
        if warning is not None:
            logger.warning(warning)
            self.events.note("entropy", warning)

    def _pass_on_notes(self) -> None:
        engine = self.trainer.engine
        for note in engine.notes[self._notes :]:
            logger.info("engine %s: %s", engine.name, note)
        self._notes = len(engine.notes)
