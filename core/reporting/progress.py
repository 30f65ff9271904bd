"""The progress of a run: on a terminal a bar with rate, time left and the current scores, elsewhere plain lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self, TextIO, cast

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mpcc.core.system.output_streams import SafeStream

__all__ = ["ProgressDisplay"]

logger = logging.getLogger(__name__)


class _Rate(ProgressColumn):
    """Iterations a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- it/s" if speed is None else f"{speed:.1f} it/s")


class _BarAndScores(Progress):
    """A bar, and below it, where there is more room, a line with the scores of the last evaluation."""

    latest = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.latest:
            yield Text(self.latest)


class ProgressDisplay:
    """Shows the progress of a run: a live bar, or a message for every evaluation.

    Lines printed on standard error appear above the bar.

    Arguments:
        total: Iterations in all.
        done: Iterations that a resumed run had done before.
        bar: Whether there is a bar, if standard error is a terminal.
    """

    def __init__(self, total: int, done: int = 0, *, bar: bool = False) -> None:
        # A terminal may close while the bar is shown. The stream's encoding decides how the bar is drawn.
        console = Console(file=cast("TextIO", SafeStream(sys.stderr)), highlight=False)
        self._total = total
        self._bar = _BarAndScores(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            expand=True,
            disable=not (bar and console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total, completed=done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count one iteration."""
        self._bar.advance(self._task)

    def restarted(self, done: int) -> None:
        """Go back to a number of iterations."""
        self._bar.reset(self._task, completed=done)

    def scores(
        self,
        iteration: int,
        scores: Mapping[str, float],
        *,
        clusters_used: int,
        clusters: int,
        confidence: float,
        late: str = "",
    ) -> None:
        """Show what an evaluation found.

        Arguments:
            iteration: After which it took place.
            scores: By name.
            clusters_used: How many clusters have images.
            clusters: K.
            confidence: The mean confidence of the images.
            late: Words for the time by which the run will exceed its budget, if it will.
        """
        parts = [f"{clusters_used} of {clusters} clusters in use", f"mean confidence {confidence:.2f}"]
        parts += [f"{name} {value:.3f}" for name, value in scores.items()]
        text = ", ".join(parts) + (f"; {late}" if late else "")
        self._bar.latest = text
        if self._bar.disable:
            logger.info("iteration %d/%d: %s", iteration, self._total, text)
