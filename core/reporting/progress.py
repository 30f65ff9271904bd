"""What the terminal shows: a progress bar with rate, time left and the current scores, or plain lines in a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

__all__ = ["ProgressDisplay"]


class _Rate(ProgressColumn):
    """Iterations a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- it/s" if speed is None else f"{speed:.1f} it/s")


class _BarAndScores(Progress):
    """A bar, and below it a line with the scores of the last evaluation, which a bar's line has no room for."""

    latest = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.latest:
            yield Text(self.latest)


class ProgressDisplay:
    """Shows the progress of a run on standard error.

    On a terminal it is a live bar; elsewhere a line for every evaluation.

    Arguments:
        total: Iterations in all.
        done: Iterations done before, by the run that is resumed.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._total = total
        self._bar = _BarAndScores(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(compact=True),
            console=self.console,
            expand=True,
            disable=not self.console.is_terminal,
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
        """Go back to so many iterations."""
        self._bar.reset(self._task, completed=done)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def scores(self, iteration: int, scores: Mapping[str, float], clusters_used: int, clusters: int) -> None:
        """Show the scores of an evaluation."""
        parts = [f"{name} {value:.3f}" for name, value in scores.items()]
        text = " ".join([*parts, f"clusters {clusters_used}/{clusters}"])
        self._bar.latest = text
        if not self.console.is_terminal:
            self.say(f"iteration {iteration}/{self._total}: {text}")
