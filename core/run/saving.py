"""Checkpoints and evaluations on their way to the disk, and messages about those that could not be written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from mpcc.core.errors import InvalidInput, OutOfResources
from mpcc.core.evaluation.findings import Findings
from mpcc.core.report.report_page import REPORT_FILE, write_report
from mpcc.core.reporting.health import check_parameters
from mpcc.core.run.run import Run
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.projector_files import write_projector
from mpcc.core.storage.run_folder import RunFolder
from mpcc.core.system.output_streams import quoted

__all__ = ["Saving"]

logger = logging.getLogger(__name__)


class Saving:
    """Writes checkpoints and evaluations of a run; if writing fails, a warning says so and training goes on.

    Arguments:
        run: The run.
        folder: Its folder.
        checkpoints: The checkpoints of the folder.
    """

    def __init__(self, run: Run, folder: RunFolder, checkpoints: KeptCheckpoints) -> None:
        self.run = run
        self.folder = folder
        self.checkpoints = checkpoints
        self._saved_at = time.monotonic()
        self._evaluated = False
        # Why the last attempt to save, or to write an evaluation, failed.
        self._unsaved: str | None = None
        self._unwritten: str | None = None

    @property
    def since_saved(self) -> float:
        """Seconds since the last checkpoint, or since the attempt to save it."""
        return time.monotonic() - self._saved_at

    def save(self, scores: Mapping[str, float] | None, *, due: bool) -> None:
        """Save a checkpoint if one is due, and the best checkpoint if this evaluation is the best so far.

        Arguments:
            scores: Of the evaluation of this iteration, if there was one.
            due: Whether a checkpoint is due.

        Raises:
            TrainingDiverged: If a checkpoint is due, and a parameter is not finite.
        """
        iteration, watched = self.run.trainer.iteration, self.run.best
        best_before = None if watched is None else watched.plain()
        best = watched is not None and scores is not None and watched.improves(scores, iteration)
        failure = None
        if due:
            check_parameters(self.run.trainer.model, iteration)
            failure = self.attempt("a checkpoint", lambda: self.checkpoints.save(self.run.state(), best=best))
            self._unsaved, self._saved_at = failure, time.monotonic()
        elif best:
            failure = self.attempt("the best checkpoint", lambda: self.checkpoints.save_best(self.run.state()))
        if watched is not None and best and failure is not None:
            # A best score counts only once its checkpoint is on the disk.
            watched.restore(best_before)

    def write_evaluation(self, findings: Findings, results: Mapping[str, Any], *, recorded: bool = True) -> None:
        """Write the files of an evaluation, ``results.json`` and then the report last.

        Arguments:
            findings: Of the evaluation.
            results: The contents of ``results.json``.
            recorded: Whether the evaluation gets its line in ``metrics.jsonl``.
        """
        done = results["iterations"]

        def write() -> None:
            line = {"iteration": done, "evaluated": len(findings.indices), "metrics": dict(findings.scores)}
            if recorded:
                self.folder.append_metrics(line)
            self.folder.write_findings(findings)
            self.folder.write_results(results)

        self._evaluated = True
        self._unwritten = self.attempt(f"the evaluation of iteration {done}", write)
        if self._unwritten is None:
            if done == self.run.config.run.iterations:
                # Images are read for it, so it is not done at every evaluation.
                seed = self.run.config.run.seed
                self.attempt("projector", lambda: write_projector(self.folder.path, findings, seed))
            self.attempt(REPORT_FILE, self._report)

    def _report(self) -> None:
        """Write the report; a file that a user has put there or changed does not end a run."""
        try:
            write_report(self.folder.path, self.run.meanings, lenient=True)
        except InvalidInput as error:
            logger.warning("%s could not be written: %s", REPORT_FILE, error)

    def attempt(self, what: str, write: Callable[[], None]) -> str | None:
        """Write something; if that fails, warn and return the reason."""
        try:
            write()
        except OSError as error:
            text = error.strerror or str(error)
            logger.warning("%s could not be written: %s; %s", what, text, self.kept("training goes on"))
            return text
        return None

    def kept(self, text: str) -> str:
        """Return a text, followed by the checkpoint from which the run can go on, if there is one."""
        kept = self.checkpoints.kept
        return text if kept is None else f"{text}; {kept}"

    def stopped(self) -> str:
        """Return the message for a run that the user has stopped.

        Raises:
            OutOfResources: If the run could not be saved.
        """
        stopped = f"stopped at iteration {self.run.trainer.iteration}"
        self._check_saved(f"{stopped}, which could not be saved")
        return f"{stopped}; {self._how_to_continue}"

    def check_end(self) -> None:
        """Check that the end of the run is on the disk.

        Raises:
            OutOfResources: If the last checkpoint or the results are missing there.
        """
        self._check_saved("the last checkpoint could not be written")
        if self._unwritten is not None:
            raise OutOfResources(
                f"the results could not be written: {self._unwritten}; {self.kept('the run is saved')}; "
                f"free space, then: mpcc evaluate {self._quoted}"
            )

    @property
    def _quoted(self) -> str:
        return quoted(self.folder.path)

    @property
    def _how_to_continue(self) -> str:
        return f"continue with: {self.folder.resume_line}"

    def _check_saved(self, failure: str) -> None:
        """Raise an error if the last checkpoint is not on the disk, with the reason and how to go on."""
        if self._unsaved is None:
            return
        if self.checkpoints.kept is not None:
            remedy = f"{self.kept('free space')}; {self._how_to_continue}"
        elif self._evaluated and self._unwritten is None:
            remedy = f"there is no other checkpoint, but the results are in {self._quoted}"
        else:
            remedy = "there is no other checkpoint: free space and start anew"
        raise OutOfResources(f"{failure}: {self._unsaved}; {remedy}")
