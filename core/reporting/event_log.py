"""TensorBoard events of a run: curves, histograms, pictures and texts.

Tags, in one table:

==========================  ==================================================================
tag                         value
==========================  ==================================================================
``terms/<term>``            raw loss terms in nats or, for the data term, hinge units
``weighted/<term>``         the same times their weights, as they enter the objectives
``Scores/<score>``          scores of an evaluation; ``_`` for letters that a tag cannot have. TensorBoard sorts
                            capitals first, so that the page opens with them
``learning_rate/<part>``    Adam's step size
``gradient_norm/<part>``    Euclidean norm of the last gradient
``health/<quantity>``       the numbers behind the warnings (`mpcc.core.reporting.symptoms`), without those that other
                            curves show already
``health/<warning>``        text: a warning
``run``                     text: the command that repeats the run, and its configuration
``entropy``, ``restart``    text: a note that entropies are estimates; why training went back
``prior/scales``            histogram of the components' scales
``prior/weights``           histogram of phi
``prior/<quantity>``        other quantities of a prior, such as nu: a curve or a histogram
``latents/locations``       histogram of the encoder's locations of z of up to 5,000 evaluated images
``latents/scales``          histogram of the scales of q(z|x) of up to 256 evaluated images, if the family has them
``latents/posterior_...``   ``latents/posterior_entropy``: histogram of the entropies of q(y|x) as shares of log K
``clusters``                picture: real members of each cluster beside generated images of it
``samples``                 picture: generated images, a row for each cluster
``interpolations``          picture: the way in z from one sample of a cluster to another, a row for each cluster
``reconstructions``         picture: real images in pairs with their reconstructions
``confusion``               picture: classes against clusters, where there are labels
==========================  ==================================================================

Each curve has a line that explains it. The page Custom Scalars has the scores, each term raw and weighted, phase by
phase, gradients and step sizes; the page HPARAMS has the settings, in the same run.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from mpcc.core.contracts import Evaluation, Prior
from mpcc.core.evaluation.sheets import sheets
from mpcc.core.reporting.event_texts import explanation, flat, layout

if TYPE_CHECKING:
    # Needed for types only.
    from mpcc.core.evaluation.findings import Findings
    from mpcc.core.reporting.symptoms import Symptom

__all__ = ["EventLog"]

logger = logging.getLogger(__name__)

VERSION = "brain.Event:2"
# It tells apart files that a process opens within one second.
NUMBERS = itertools.count()
# The edges of a histogram's bins grow by a tenth, on both sides of 0, up to 1e20.
EDGES = list(itertools.accumulate(range(773), lambda edge, _: edge * 1.1, initial=1e-12))
# Images whose locations are drawn.
LATENTS = 5000
# Quantities of health that repeat other curves: medians of gradient_norm/, the mean of terms/data_discriminator.
REPEATED = ("gradient_norm_", "discriminator_hinge")
BINS = [*(-edge for edge in reversed(EDGES)), 0, *EDGES]


class EventLog:
    """TensorBoard events of one run, each handed to the system when the call returns.

    After the first failure to write, a warning says so and nothing more is written.

    Arguments:
        folder: The run folder.
        purge_step: On resume, the first step that is written anew; later events of the old run are hidden.
        meanings: What each metric says, in a phrase, by its name.
    """

    def __init__(self, folder: Path, purge_step: int | None = None, meanings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._path: Path | None = None
        self._file: IO[bytes] | None = None
        self._meanings = meanings or {}
        self._settings: Mapping[str, Mapping[str, Any]] = {}
        # The tags that have been explained; the terms of each phase, and those that the layout has.
        self._explained: set[str] = set()
        self._phases: dict[str, tuple[str, ...]] = {}
        self._laid_out: dict[str, tuple[str, ...]] | None = None
        self._open(purge_step)

    def began(self, command: str, config: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Write how the run is repeated, as text; the settings follow with the first scores.

        Arguments:
            command: Repeats the run.
            config: The configuration as TOML.
            tables: The same by section and name.
        """
        self._settings = tables
        # An indented block is shown as it is.
        lines = "".join(f"    {line}\n" for line in config.splitlines())
        # TensorBoard shows capital letters first.
        self.note("Run", f"    {command}\n\nThe configuration, config.toml:\n\n{lines}")

    def losses(
        self,
        step: int,
        terms: Mapping[str, float],
        weights: Mapping[str, float],
        learning_rates: Mapping[str, float],
        gradient_norms: Mapping[str, float],
    ) -> None:
        """Write the terms, raw and weighted, the step sizes and the sizes of the gradients."""
        for name, value in terms.items():
            self._scalar(f"terms/{name}", value, step)
            self._scalar(f"weighted/{name}", weights[name] * value, step)
        for name, value in learning_rates.items():
            self._scalar(f"learning_rate/{name}", value, step)
        for name, value in gradient_norms.items():
            self._scalar(f"gradient_norm/{name}", value, step)

    def evaluation(
        self,
        step: int,
        scores: Mapping[str, float],
        findings: Findings,
        prior: Prior,
        health: Mapping[str, float],
        warnings: Sequence[Symptom],
        phases: Mapping[str, Sequence[str]],
    ) -> None:
        """Write everything that an evaluation finds; the charts of several curves are laid out by phase."""
        self._phases |= {name: tuple(terms) for name, terms in phases.items()}
        self.scores(step, scores)
        self.prior(step, prior)
        self.latents(step, findings.evaluation, findings.encoder_scales())
        for name, picture in sheets(findings):
            self._picture(name, picture, step)
        for name, value in health.items():
            if not name.startswith(REPEATED):
                self._scalar(f"health/{name}", value, step)
        for warning in warnings:
            self.note(f"health/{warning.name}", warning.message, step)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write the metrics of an evaluation; with the first ones, the settings and the charts of several curves."""
        tags = {f"Scores/{legal(name)}": value for name, value in scores.items()}
        if self._settings:
            for content in summary.hparams(flat(self._settings), tags):  # type: ignore[no-untyped-call]
                self._add(0, content)
            self._settings = {}
        # Phases may begin later in a run.
        if self._phases != self._laid_out:
            self._laid_out = dict(self._phases)
            self._add(0, summary.custom_scalars(layout(tags, self._phases)))  # type: ignore[no-untyped-call]
        for tag, value in tags.items():
            self._scalar(tag, value, step)

    @torch.no_grad()
    def prior(self, step: int, prior: Prior) -> None:
        """Write histograms of a prior's weights and, if it has any, scales; and its other quantities."""
        scales = prior.scales()
        named = {} if scales is None else {"scales": scales}
        for name, value in (named | {"weights": prior.weights()} | dict(prior.quantities())).items():
            if value.numel() == 1:
                self._scalar(f"prior/{name}", value.item(), step)
            else:
                self._histogram(f"prior/{name}", value, step)

    def latents(self, step: int, evaluation: Evaluation, scales: Tensor | None) -> None:
        """Write histograms of the locations and scales of q(z|x), and of the entropies of q(y|x) as shares of log K."""
        self._histogram("latents/locations", evaluation.locations[:LATENTS], step)
        if scales is not None:
            self._histogram("latents/scales", scales, step)
        if evaluation.clusters > 1:
            entropies = torch.special.entr(evaluation.posterior.double()).sum(1) / math.log(evaluation.clusters)
            self._histogram("latents/posterior_entropy", entropies, step)

    def note(self, name: str, text: str, step: int = 0) -> None:
        """Write a line of text for the readers of the curves."""
        # File names need not be valid text, which events cannot hold.
        valid = text.encode("utf-8", "backslashreplace").decode("utf-8")
        self._add(step, summary.text(name, valid))  # type: ignore[no-untyped-call]

    def restarted(self, step: int, reason: str) -> None:
        """Hide the events from a step on, after training has gone back."""
        self.close()
        self._explained = set()
        self._open(step)
        self.note("restart", reason, step)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._path = self._file = None

    def _open(self, purge_step: int | None) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(NUMBERS)}"
        self._path = self._folder / name
        self._write(Event(file_version=VERSION))
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def _scalar(self, tag: str, value: float, step: int) -> None:
        content = summary.scalar(tag, value)  # type: ignore[no-untyped-call]
        if tag not in self._explained:
            self._explained.add(tag)
            # Without a data class, TensorBoard's own server drops the line.
            content.value[0].metadata.data_class = DATA_CLASS_SCALAR
            content.value[0].metadata.plugin_data.plugin_name = "scalars"
            content.value[0].metadata.summary_description = explanation(tag, self._meanings)
        self._add(step, content)

    def _histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Write a histogram of the finite ones of some values; nothing if there is none."""
        finite = values[torch.isfinite(values)].cpu()
        if finite.numel():
            self._add(step, summary.histogram(tag, finite, BINS))  # type: ignore[no-untyped-call]

    def _picture(self, tag: str, picture: Tensor, step: int) -> None:
        self._add(step, summary.image(tag, picture, dataformats="CHW"))  # type: ignore[no-untyped-call]

    def _add(self, step: int, content: Any) -> None:
        self._write(Event(step=step, summary=content))

    def _write(self, event: Event) -> None:
        if self._path is None:
            return
        event.wall_time = time.time()
        try:
            self._file = self._file or self._path.open("wb")
            RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            self.close()
            text = "TensorBoard events could not be written: %s; the run goes on without them"
            logger.warning(text, error.strerror or error)


def legal(name: str) -> str:
    """Return a name as a part of a TensorBoard tag: letters, digits, ``_``, ``-`` and ``.`` stay.

    Example:
        >>> legal("acc"), legal("frechet_distance[my_features:Pixels]")
        ('acc', 'frechet_distance_my_features_Pixels')
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_") or "_"
