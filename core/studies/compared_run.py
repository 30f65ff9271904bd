"""A run as a comparison sees it: its settings, what its folder says about its end, or why it has no scores yet.

The files are read without torch and without the run's plugins, which need not be installed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.config import SECTIONS, RunSettings
from mpcc.core.config.layers import METRICS
from mpcc.core.errors import InvalidInput
from mpcc.core.run.saved_run import run_layer

__all__ = ["ComparedRun", "SeenImages", "Setting", "read_run"]

# A setting by section and name, such as ("prior", "df").
Setting = tuple[str, str]
# Settings that no score depends on: where files are, what is kept, shown and computed, and when.
NO_PART = frozenset(
    (
        *("seed", "data_root", "download", "workers", "checkpoint_every", "keep_checkpoints", "log_every"),
        *("picture_clusters", "best_by", "minutes", "metrics", "eval_every", "first_eval"),
    )
)

# The folder does not tell whether a process still trains in it.
UNFINISHED = "stopped or running"


@attrs.frozen
class SeenImages:
    """Which images a run saw, as far as ``results.json`` tells.

    Attributes:
        description: In words.
        count: How many there are.
        shape: The shape of one, (D, R, R); None in results of an earlier version.
        fingerprint: The digest of some of them; None in results of an earlier version.
    """

    description: str
    count: int
    shape: tuple[int, ...] | None = None
    fingerprint: str | None = None


@attrs.frozen(eq=False)
class ComparedRun:
    """What the folder of a run says.

    Attributes:
        folder: The folder, as the user named it.
        settings: Values by section and name, without those that no score depends on. A plugin has the name ``name``.
        others: Those that no score depends on, except the seed.
        budget: The minutes of ``--minutes`` from which the iterations and what depends on them came, or None; a text if
            the run went on after that.
        seed: The seed; None if the configuration cannot be read.
        problem: Why there are no scores, or none of the end of the run; None if there are.
        iterations: Those of the last evaluation.
        minutes: Of training, evaluations not counted.
        used: Clusters with images.
        clusters: K.
        scores: By name.
        warnings: Names of the warnings.
        images: What the run saw.
        baseline: Scores of the baseline, by name.
        agreement: How far the clusters of the baseline agree with those of the run.
    """

    folder: Path
    settings: Mapping[Setting, Any] = attrs.field(factory=dict)
    others: Mapping[Setting, Any] = attrs.field(factory=dict)
    budget: float | str | None = None
    seed: int | None = None
    problem: str | None = None
    iterations: int | None = None
    minutes: float | None = None
    used: int | None = None
    clusters: int | None = None
    scores: Mapping[str, float] = attrs.field(factory=dict)
    warnings: tuple[str, ...] = ()
    images: SeenImages | None = None
    baseline: Mapping[str, float] = attrs.field(factory=dict)
    agreement: float | None = None

    def curve(self) -> list[tuple[int, dict[str, float]]]:
        """Return the iteration and the scores of each evaluation, from ``metrics.jsonl``.

        Raises:
            ValueError: If the file does not hold them.
            OSError: If it cannot be read.
        """
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        evaluations = [table(json.loads(line)) for line in lines]
        return [(whole(each["iteration"]), numbers(each["metrics"])) for each in evaluations]


def read_run(folder: Path, failure: str | None = None, unfinished: str = UNFINISHED) -> ComparedRun:
    """Read what the folder of a run says; a problem with it is a part of that.

    A run that has not come to its end has the scores of its last evaluation.

    Arguments:
        folder: The run folder.
        failure: Why the run failed, if a comparison of seeds has recorded that.
        unfinished: What is said of a run that has not come to its end.
    """
    try:
        tables = run_layer(folder).tables
        everything, seed, planned = settings_of(tables)
    except (InvalidInput, ValueError) as error:
        text = str(error).removeprefix(f"run folder {folder}: ").replace(str(folder / "config.toml"), "config.toml")
        return ComparedRun(folder, problem=f"damaged: {text}")
    own = {name: value for name, value in everything.items() if not of_no_part(name)}
    others = {name: value for name, value in everything.items() if of_no_part(name)}
    run = ComparedRun(folder, own, others, seed=seed)
    failed = None if failure is None else f"failed: {failure}"
    path = folder / "results.json"
    try:
        results = table(json.loads(path.read_bytes()))
        found = with_results(run, results)
    except FileNotFoundError:
        return attrs.evolve(run, problem=failed or "unfinished: not evaluated yet")
    except OSError as error:
        text = f"damaged: results.json cannot be read: {error.strerror or error}"
        return attrs.evolve(run, problem=failed or text)
    except KeyError as error:
        return attrs.evolve(run, problem=failed or f"damaged: results.json: {error} is missing")
    except (ValueError, RecursionError) as error:
        return attrs.evolve(run, problem=failed or f"damaged: results.json: {error}")
    done = found.iterations or 0
    if failed is None and done >= planned:
        return found
    state = failed or unfinished
    return attrs.evolve(found, problem=f"{state}: scores of iteration {done:,} of {planned:,}")


def of_no_part(setting: Setting) -> bool:
    """Return whether no score depends on a setting."""
    return setting[0] == "run" and setting[1] in NO_PART


def settings_of(tables: Mapping[str, Mapping[str, Any]]) -> tuple[dict[Setting, Any], int, int]:
    """Return the settings of a configuration, its seed and its iterations; what it does not name has its default.

    The settings are without the seed, and without the minutes, which a run replaces by what they come to.

    Raises:
        ValueError: If the seed or the iterations are no numbers.
    """
    defaults = {field.name: field.default for field in attrs.fields(RunSettings)}
    run = {**defaults, **tables.get("run", {})}
    own = {("run", name): value for name, value in run.items() if name not in ("seed", "minutes")}
    plugins = {
        (section, name): value
        for section in SECTIONS
        for name, value in {"name": None, **tables.get(section, {})}.items()
    }
    of_metrics = {section: table for section, table in tables.items() if section.startswith(METRICS)}
    plugins |= {(section, name): value for section, table in of_metrics.items() for name, value in table.items()}
    return {**plugins, **own}, whole(run["seed"]), whole(run["iterations"])


def with_results(run: ComparedRun, results: Mapping[str, Any]) -> ComparedRun:
    """Return a run with the contents of its ``results.json``.

    Raises:
        KeyError: If something is missing.
        ValueError: If something is not what a run writes.
    """
    evaluated, clusters = table(results["evaluated"]), table(results["clusters"])
    # Results of an earlier version lack these two.
    data, baseline = table(results.get("data", {})), table(results.get("baseline", {}))
    shape = tuple(whole(size) for size in listed(data.get("images", [])))
    seconds = number(results["seconds"]) - number(results.get("evaluation_seconds", 0))
    # Without a warning there may be no such section.
    warnings = listed(table(results.get("health", {})).get("warnings", []))
    return attrs.evolve(
        run,
        budget=minutes_of(table(results.get("budget", {})), run.settings),
        iterations=whole(results["iterations"]),
        minutes=seconds / 60,
        used=whole(clusters["used"]),
        clusters=whole(clusters["total"]),
        scores=numbers(results["metrics"]),
        warnings=tuple(str(table(each)["name"]) for each in warnings),
        images=SeenImages(str(evaluated["data"]), whole(evaluated["of"]), shape[1:] or None, data.get("fingerprint")),
        baseline=numbers(baseline.get("metrics", {})),
        agreement=number(baseline["agreement"]) if "agreement" in baseline else None,
    )


def minutes_of(budget: Mapping[str, Any], settings: Mapping[Setting, Any]) -> float | str | None:
    """Return the minutes that the iterations of a run came from; None if it has had none.

    If the run was resumed with more minutes or iterations, its results tell the last minutes only, and a text says so.

    Arguments:
        budget: What the time budget came to; empty without one.
        settings: Of the run.

    Example:
        >>> minutes_of({"minutes": 5, "iterations": 900}, {("run", "iterations"): 900})
        5.0
        >>> minutes_of({"minutes": 5, "iterations": 900}, {("run", "iterations"): 2000})
        '5 (resumed)'
    """
    if "minutes" not in budget:
        return None
    minutes = number(budget["minutes"])
    return minutes if budget.get("iterations") == settings.get(("run", "iterations")) else f"{minutes:g} (resumed)"


def table(value: Any) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {shown(value)}")
    return value


def listed(value: Any) -> list[Any]:
    """Return a JSON array.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {shown(value)}")
    return value


def number(value: Any) -> float:
    """Return a finite number.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, got {shown(value)}")
    return float(value)


def whole(value: Any) -> int:
    """Return a whole number.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {shown(value)}")
    return value


def numbers(value: Any) -> dict[str, float]:
    """Return scores by name.

    Raises:
        ValueError: If they are something else.
    """
    return {name: number(each) for name, each in table(value).items()}


def shown(value: Any) -> str:
    """Return a value for an error, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
