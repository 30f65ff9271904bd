"""Groups of runs that differ only by their seed, and the settings in which groups differ."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from mpcc.core.config.time_budget import SET_BY_MINUTES
from mpcc.core.studies.compared_run import ComparedRun, SeenImages, Setting
from mpcc.core.studies.spread import spreads

__all__ = ["FOLLOWING", "RunGroup", "differing", "grouped", "image_sets"]

# What follows from a time budget: a group of the same minutes has no value for it.
FOLLOWING = tuple(("run", name) for name in SET_BY_MINUTES)
ITERATIONS = ("run", "iterations")
# The order of settings in a table.
SECTIONS_SHOWN = ("data", "arch", "prior", "objective", "run", "metrics")


@attrs.frozen(eq=False)
class RunGroup:
    """Runs of the same settings and images with different seeds, or a single run.

    Attributes:
        runs: In the order in which they were named.
        settings: Those that they share, by section and name.
    """

    runs: tuple[ComparedRun, ...]
    settings: Mapping[Setting, Any]

    @property
    def problem(self) -> str | None:
        """Why there are no scores, or none of the end; such a run is a group of its own."""
        return self.runs[0].problem

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted(run.seed for run in self.runs if run.seed is not None)

    def spreads(self) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of every score over the runs."""
        return spreads([run.scores for run in self.runs])

    def quantities(self) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of iterations, minutes and clusters in use."""
        values = [
            {name: value for name in ("iterations", "minutes", "used") if (value := getattr(run, name)) is not None}
            for run in self.runs
        ]
        return spreads(values)

    def warnings(self) -> dict[str, int]:
        """Return how many runs have each warning, by its name."""
        names = [name for run in self.runs for name in run.warnings]
        return {name: names.count(name) for name in dict.fromkeys(names)}


def grouped(runs: Iterable[ComparedRun]) -> list[RunGroup]:
    """Return runs in groups, in the order of their first runs. A run with a problem is a group of its own.

    Runs of the same ``--minutes`` form a group though each has come to another number of iterations.
    """
    exact: dict[Hashable, list[ComparedRun]] = {}
    for index, run in enumerate(runs):
        key = (index,) if run.problem is not None else (key_of(run.settings), run.images)
        exact.setdefault(key, []).append(run)
    groups: dict[Hashable, list[RunGroup]] = {}
    for number, members in enumerate(exact.values()):
        settings = common_settings(members)
        key = (number,) if members[0].problem is not None else (key_of(settings), members[0].images)
        groups.setdefault(key, []).append(RunGroup(tuple(members), settings))
    return [
        RunGroup(tuple(itertools.chain.from_iterable(part.runs for part in parts)), parts[0].settings)
        for parts in groups.values()
    ]


def common_settings(runs: Sequence[ComparedRun]) -> dict[Setting, Any]:
    """Return the settings of runs that share them; the same time budget stands for all that follows from it."""
    settings, budgets = runs[0].settings, {run.budget for run in runs}
    minutes = budgets.pop()
    free = {key: value for key, value in settings.items() if key not in FOLLOWING}
    if runs[0].iterations is None:
        # Without results it is not known which of the others minutes have set.
        return free
    if minutes is None or budgets:
        return dict(settings)
    if isinstance(minutes, str):
        # Resumed runs may have trained for different times before.
        free[ITERATIONS] = settings[ITERATIONS]
    return {("run", "minutes"): minutes, **free}


def key_of(settings: Mapping[Setting, Any]) -> Hashable:
    """Return settings as a key; values of TOML may be lists."""
    return frozenset((name, repr(value)) for name, value in settings.items())


def differing(groups: Sequence[RunGroup], *, everything: bool = False) -> list[Setting]:
    """Return the settings that differ between groups, as far as their configurations can be read.

    An option that only some plugins have does not differ between plugins. Between groups with the same plugin, an
    option that one of them does not name differs from a value. The iterations are left out, which are told anyway.

    Arguments:
        groups: The runs.
        everything: Whether settings count that minutes have set, or that no score depends on.
    """
    known = [group.settings for group in groups if group.settings]
    names = dict.fromkeys(name for settings in known for name in settings if name != ITERATIONS)
    found = [name for name in names if differs(name, known)]
    if everything:
        runs = [run for group in groups for run in group.runs if run.settings]
        of_runs = [{**run.settings, **run.others} for run in runs]
        names = dict.fromkeys(name for run in runs for name in (*FOLLOWING, *run.others) if name != ITERATIONS)
        found += [name for name in names if name not in found and differs(name, of_runs, followed=False)]
    return sorted(found, key=lambda name: SECTIONS_SHOWN.index(name[0].partition(".")[0]))


def differs(name: Setting, known: Sequence[Mapping[Setting, Any]], *, followed: bool = True) -> bool:
    """Return whether a setting has different values.

    Arguments:
        name: The setting.
        known: Settings of groups or of runs.
        followed: Whether those that follow from minutes may be missing.
    """
    if len({repr(settings[name]) for settings in known if name in settings}) > 1:
        return True
    if name in FOLLOWING and followed:
        return False
    plugins = {settings.get((name[0], "name")) for settings in known if name in settings}
    rivals = [settings for settings in known if settings.get((name[0], "name")) in plugins]
    missing = any(name not in settings for settings in rivals)
    return missing and any(settings.get(name) is not None for settings in rivals)


def image_sets(groups: Sequence[RunGroup]) -> list[tuple[SeenImages, list[RunGroup]]]:
    """Return the image sets that groups saw, each with its groups.

    Without a digest, as in results of an earlier version, sets with the same description are taken for the same.
    """
    seen = [group for group in groups if group.runs[0].images is not None]
    digests = all(group.runs[0].images.fingerprint is not None for group in seen if group.runs[0].images)
    found: dict[Hashable, tuple[SeenImages, list[RunGroup]]] = {}
    for group in seen:
        images = group.runs[0].images
        assert images is not None, "groups without images are left out"
        key = images.fingerprint if digests else (images.description, images.count)
        found.setdefault(key, (images, []))[1].append(group)
    return list(found.values())
