"""``seeds.json``: which seeds are compared, what came of each, and which one is chosen.

The module imports no torch: commands read the file to find the chosen run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.errors import InvalidInput
from mpcc.core.studies.spread import agreement, spreads
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.whole_files import write_whole

__all__ = ["RECORD", "SeedRecord", "SeedRun", "chosen_seed", "compares_seeds", "whole"]

RECORD = "seeds.json"


@attrs.define
class SeedRun:
    """What came of one seed.

    Attributes:
        seed: The seed.
        scores: The scores of evaluations that count, by iteration.
        error: Why the run failed, or None.
        status: The exit status of that failure.
        final: Whether another try would fail in the same way, as diverged training does.
    """

    seed: int
    scores: dict[int, dict[str, float]] = attrs.field(factory=dict)
    error: str | None = None
    status: int = 0
    final: bool = False

    @property
    def folder(self) -> str:
        """The name of its run folder."""
        return f"seed-{self.seed}"


@attrs.define
class SeedRecord:
    """A comparison of seeds and its course so far.

    Attributes:
        runs: In the order in which they are trained.
        iterations: Of a whole run.
        compared_at: The iteration after which seeds are compared, unless all are trained to the end.
        train_all: Whether all are trained to the end.
        score: The score without labels that chooses; None if there is none, which only ``train_all`` allows.
        higher: Whether higher is better in it.
        label_scores: The scores against labels, each with whether higher is better; they choose nothing.
    """

    runs: list[SeedRun]
    iterations: int
    compared_at: int
    train_all: bool
    score: str | None
    higher: bool
    label_scores: dict[str, bool]

    @property
    def counted_at(self) -> int:
        """The iteration whose scores are compared."""
        return self.iterations if self.train_all else self.compared_at

    @property
    def compared(self) -> list[SeedRun]:
        """The runs with scores at that iteration; a run that failed later is among them."""
        return [run for run in self.runs if self.counted_at in run.scores]

    @property
    def failed(self) -> list[SeedRun]:
        """The runs that failed."""
        return [run for run in self.runs if run.error is not None]

    def chosen(self) -> SeedRun | None:
        """Return the run with the best score among those that have not failed; of equal ones the first.

        Labels have no part in it.
        """
        return next(iter(self.best()), None)

    def best(self) -> list[SeedRun]:
        """Return the runs that share the best score among those that have not failed, in their order."""
        usable = [run for run in self.compared if run.error is None and self._value(run) is not None]
        values = [self._value(run) for run in usable]
        top = (max if self.higher else min)((value for value in values if value is not None), default=None)
        return [run for run, value in zip(usable, values, strict=True) if value == top]

    def _value(self, run: SeedRun) -> float | None:
        """Return the score that chooses, if the run has it."""
        value = run.scores[self.counted_at].get(self.score or "")
        return value if value is not None and math.isfinite(value) else None

    def spreads(self) -> dict[str, dict[str, Any]]:
        """Return the spread of every score over the compared runs."""
        return spreads([run.scores[self.counted_at] for run in self.compared])

    def agreement(self) -> dict[str, dict[str, Any]]:
        """Return how well the score without labels orders the runs as the scores against labels do."""
        if self.score is None:
            return {}
        scores = [run.scores[self.counted_at] for run in self.compared]
        return agreement(scores, self.score, self.label_scores, higher=self.higher)

    def state_of(self, run: SeedRun) -> str:
        """Return ``failed``, ``finished``, ``compared``, or ``unfinished``."""
        if run.error is not None:
            return "failed"
        if self.iterations in run.scores:
            return "finished"
        return "compared" if self.compared_at in run.scores else "unfinished"

    def plain(self) -> dict[str, Any]:
        """Return the contents of ``seeds.json``."""
        chosen = self.chosen()
        return {
            "chosen": None if chosen is None else {"seed": chosen.seed, "folder": chosen.folder},
            "chosen_by": None if self.score is None else {"score": self.score, "higher_is_better": self.higher},
            "counted_at": self.counted_at,
            "compared_at": self.compared_at,
            "iterations": self.iterations,
            "all": self.train_all,
            "spreads": self.spreads(),
            "agreement": self.agreement(),
            "label_scores": self.label_scores,
            "runs": [
                {
                    **{"seed": run.seed, "folder": run.folder, "state": self.state_of(run)},
                    "evaluations": [{"iteration": at, "metrics": scores} for at, scores in sorted(run.scores.items())],
                    "failure": None
                    if run.error is None
                    else {"reason": run.error, "status": run.status, "final": run.final},
                }
                for run in self.runs
            ],
        }

    def write(self, folder: Path) -> None:
        """Write ``seeds.json``.

        Raises:
            OSError: If it cannot be written; the file is as it was.
        """
        write_whole(folder / RECORD, (json.dumps(self.plain(), indent=2, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> SeedRecord:
        """Read ``seeds.json``.

        Raises:
            InvalidInput: If it cannot be read, or does not hold what `write` writes.
        """
        path = folder / RECORD
        try:
            plain = json.loads(path.read_bytes())
            score = plain["chosen_by"] or {"score": None, "higher_is_better": True}
            record = cls(
                runs=[run_of(each) for each in plain["runs"]],
                iterations=whole(plain["iterations"]),
                compared_at=whole(plain["compared_at"]),
                train_all=bool(plain["all"]),
                score=None if score["score"] is None else str(score["score"]),
                higher=bool(score["higher_is_better"]),
                label_scores={str(name): bool(higher) for name, higher in plain["label_scores"].items()},
            )
            if not record.runs or len({run.seed for run in record.runs}) < len(record.runs):
                raise ValueError("expected different seeds")
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput(
                f"{path} is damaged: expected the record of a comparison of seeds ({type(error).__name__}: {error})"
            ) from error
        return record


def run_of(plain: Mapping[str, Any]) -> SeedRun:
    """Return one run of a record."""
    failure = plain["failure"] or {"reason": None, "status": 0, "final": False}
    return SeedRun(
        seed=whole(plain["seed"]),
        scores={
            whole(each["iteration"]): {str(name): float(value) for name, value in each["metrics"].items()}
            for each in plain["evaluations"]
        },
        error=None if failure["reason"] is None else str(failure["reason"]),
        status=whole(failure["status"]),
        final=bool(failure["final"]),
    )


def whole(value: Any) -> int:
    """Return a whole number that is not negative.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


def compares_seeds(folder: Path) -> bool:
    """Return whether a folder holds a comparison of seeds."""
    try:
        return (folder / RECORD).is_file()
    except OSError:
        return False


def chosen_seed(folder: Path) -> Path:
    """Return the folder of the chosen run if a folder compares seeds, or else the folder itself.

    Raises:
        InvalidInput: If no run has been chosen yet, or the record cannot be read.
    """
    if not compares_seeds(folder):
        return folder
    record = SeedRecord.read(folder)
    chosen = record.chosen()
    if chosen is None or record.state_of(chosen) != "finished":
        first = (record.compared or record.runs)[0] if chosen is None else chosen
        raise InvalidInput(
            f"{folder} compares {len(record.runs)} seeds, and no chosen one is finished: go on with mpcc-run --resume "
            f"{quoted(folder)}, or name the folder of a seed, such as {folder / first.folder}"
        )
    return folder / chosen.folder
