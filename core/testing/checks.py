"""The checks of the contract kit: one for each kind of plugin, for a registered name or a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from mpcc.core.contracts import Architecture, Dataset, Metric, Objective, Prior
from mpcc.core.registry import Entry, Registry, load_registry
from mpcc.core.system.randomness import own_randomness
from mpcc.core.testing.architectures import ARCHITECTURE_LAWS, ArchitectureCase
from mpcc.core.testing.cases import Case
from mpcc.core.testing.choices import examine_choices
from mpcc.core.testing.data.contents import CONTENT_LAWS
from mpcc.core.testing.datasets import DATASET_LAWS, DatasetCase
from mpcc.core.testing.examination import examine_laws
from mpcc.core.testing.fast_networks import FAST_LAWS
from mpcc.core.testing.metric_scores import SCORE_LAWS
from mpcc.core.testing.metrics import METRIC_LAWS, MetricCase
from mpcc.core.testing.networks.company import COMPANY_LAWS
from mpcc.core.testing.networks.inputs import INPUT_LAWS
from mpcc.core.testing.networks.state import STATE_LAWS
from mpcc.core.testing.objectives import OBJECTIVE_LAWS, ObjectiveCase
from mpcc.core.testing.prior.cases import PriorCase
from mpcc.core.testing.prior.device import DEVICE
from mpcc.core.testing.prior.elsewhere import ELSEWHERE
from mpcc.core.testing.prior.gradients import GRADIENTS
from mpcc.core.testing.prior.noise import NOISE
from mpcc.core.testing.prior.numerics import NUMERICS
from mpcc.core.testing.prior.probability import PROBABILITY
from mpcc.core.testing.prior.rows import ROWS
from mpcc.core.testing.prior.state import STATE
from mpcc.core.testing.prior.structure import STRUCTURE
from mpcc.core.testing.prior.tails import ENCODER
from mpcc.core.testing.registration import REGISTRATION_LAWS, default_options
from mpcc.core.testing.report import ContractViolation, Finding, Law, Report

__all__ = ["check_architecture", "check_dataset", "check_metric", "check_objective", "check_prior", "examine"]

PRIOR_ROOMS: Sequence[Sequence[Law[PriorCase]]] = (
    # The first law builds the prior; what building does to the process explains what other laws would find.
    *(STRUCTURE[:1], STATE[:1], STRUCTURE[1:], DEVICE, STATE[1:]),
    *(ROWS, PROBABILITY, GRADIENTS, ENCODER, NUMERICS, NOISE, ELSEWHERE),
)
ARCHITECTURE_ROOMS: Sequence[Sequence[Law[ArchitectureCase]]] = (
    *(ARCHITECTURE_LAWS[:3], STATE_LAWS, ARCHITECTURE_LAWS[3:], INPUT_LAWS, COMPANY_LAWS, FAST_LAWS),
)
# The case and the laws of each kind, in the order of the report.
KINDS: dict[str, tuple[type[Case[Any]], Sequence[Law[Any]]]] = {
    "prior": (PriorCase, [law for room in PRIOR_ROOMS for law in room]),
    "architecture": (ArchitectureCase, [law for room in ARCHITECTURE_ROOMS for law in room]),
    "dataset": (DatasetCase, [*DATASET_LAWS, *CONTENT_LAWS]),
    "metric": (MetricCase, [*METRIC_LAWS, *SCORE_LAWS]),
    "objective": (ObjectiveCase, OBJECTIVE_LAWS),
}


def check_prior(prior: str | type[Prior], options: Any = None, *, seed: int = 0) -> Report:
    """Check a prior: shapes, probabilities, gradients, tails of its encoder, numerics, state. About a second.

    Arguments:
        prior: A registered name, or a class whose constructor takes ``(clusters, latent_dim, options)``.
        options: Passed to the constructor. Without them, a name gets its options class with the registered defaults,
            and a class gets None.
        seed: Of everything random; the same seed gives the same report.

    Raises:
        ContractViolation: If a law is broken, listing all that are broken.
        InvalidInput: If there is no such name, or two plugins claim it.

    Example:
        >>> report = check_prior("gmm")
        >>> print(report.lines()[0])
        prior gmm: all ... laws hold
    """
    return verdict("prior", prior, options, seed=seed)


def check_architecture(architecture: str | type[Architecture], options: Any = None, *, seed: int = 0) -> Report:
    """Check an architecture: shapes and ranges, gradients, independence of images, state.

    Arguments:
        architecture: A registered name, or a class whose constructor takes ``(options,)``.
        options: As for `check_prior`; small widths make a quick check.
        seed: Of everything random.

    Raises:
        ContractViolation: If a law is broken, listing all that are broken.
        InvalidInput: If there is no such name, or two plugins claim it.
    """
    return verdict("architecture", architecture, options, seed=seed)


def check_dataset(
    dataset: str | type[Dataset], options: Any = None, *, root: Path | str | None = None, download: bool = False
) -> Report:
    """Check a data set: images, labels and paths, determinism, what it says without its files.

    Arguments:
        dataset: A registered name, or a class whose constructor takes ``(options,)``.
        options: As for `check_prior`.
        root: The data folder. A set whose files are not there breaks the law that it loads.
        download: Whether missing files may be fetched into it.

    Raises:
        ContractViolation: If a law is broken, listing all that are broken.
        InvalidInput: If there is no such name, or two plugins claim it.
    """
    return verdict("dataset", dataset, options, root=root, download=download)


def check_metric(metric: str | type[Metric], options: Any = None, *, seed: int = 0) -> Report:
    """Check a metric: finite for degenerate clusterings, blind to names and order, better for a better clustering.

    Arguments:
        metric: A registered name, or a class whose constructor takes ``(options,)``.
        options: As for `check_prior`.
        seed: Of the clusterings.

    Raises:
        ContractViolation: If a law is broken, listing all that are broken.
        InvalidInput: If there is no such name, or two plugins claim it.

    Example:
        >>> check_metric("acc").passed
        True
    """
    return verdict("metric", metric, options, seed=seed)


def check_objective(objective: str | type[Objective], options: Any = None, *, seed: int = 0) -> Report:
    """Check an objective: its rows, which parts they train, whether both engines agree.

    Arguments:
        objective: A registered name, or a class whose constructor takes ``(options,)``.
        options: As for `check_prior`.
        seed: Of everything random.

    Raises:
        ContractViolation: If a law is broken, listing all that are broken.
        InvalidInput: If there is no such name, or two plugins claim it.

    Example:
        >>> check_objective("mpcc").passed
        True
    """
    return verdict("objective", objective, options, seed=seed)


def examine(
    kind: str,
    name: str,
    registry: Registry,
    *,
    options: Any = None,
    root: Path | str | None = None,
    download: bool = False,
    seed: int = 0,
    seconds: float | None = None,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Report:
    """Examine a registered plugin; one that cannot be loaded, or lacks its files, gets a report that says so.

    Without options, the registered defaults are examined, and then each choice of an option that has a few values.

    Arguments:
        kind: ``prior``, ``architecture``, ``dataset``, ``metric`` or ``objective``.
        name: A registered name.
        registry: Where it is looked up.
        options: An instance of its options class; the registered defaults if it is None.
        root: The data folder, for a data set.
        download: Whether a data set may fetch its files.
        seed: Of everything random.
        seconds: The limit of each law; by default that of the kind, which is generous.
        tell: Is called with each finding when its law ends.

    Raises:
        InvalidInput: If there is no such name, or two plugins claim it.
    """
    entry = registry.entry(kind, name)
    registration = examine_laws(kind, name, Entry, entry, REGISTRATION_LAWS, seed, tell=tell)
    if not registration.findings[0].passed:
        return registration
    chosen = default_options(entry) if options is None else options
    settings: dict[str, Any] = {"root": root, "download": download, "seed": seed}
    if kind == "metric":
        settings["taken"] = frozenset(registry.names(kind)) - {name}
    report = examine_class(kind, name, entry.load(), chosen, seconds=seconds, tell=tell, **settings)
    findings = registration.findings + report.findings
    if options is None and report.passed:
        findings += (examined_choices(kind, name, entry.load(), chosen, seconds, settings),)
        tell(findings[-1])
    return Report(kind, name, findings)


def examined_choices(
    kind: str, name: str, cls: type, options: Any, seconds: float | None, settings: dict[str, Any]
) -> Finding:
    """Examine each choice of a plugin's options that differs from the defaults."""
    laws = [law for law in KINDS[kind][1] if law.of_choices]

    def examine_again(changed: Any, names: frozenset[str] | None) -> Report:
        needed = [law for law in laws if names is None or law.essential or law.name in names]
        return examine_class(kind, name, cls, changed, laws=needed, seconds=seconds, **settings)

    def build(changed: Any) -> None:
        with own_randomness(settings["seed"], torch.device("cpu")):
            KINDS[kind][0](cls, changed, **settings).try_out()

    return examine_choices(options, build, examine_again)


def examine_class(
    kind: str,
    name: str,
    cls: type,
    options: Any,
    *,
    laws: Sequence[Law[Any]] | None = None,
    seconds: float | None = None,
    tell: Callable[[Finding], None] = lambda finding: None,
    **settings: Any,
) -> Report:
    """Examine a class by laws, by default all of its kind; the settings are those of its `Case`."""
    build, all_laws = KINDS[kind]
    case = build(cls, options, **settings)
    limit = case.law_seconds if seconds is None else seconds
    chosen = all_laws if laws is None else laws
    report = examine_laws(kind, name, cls, case, chosen, case.seed, seconds=limit, tell=tell)
    first, *others = report.findings
    if options is None and not first.passed and first.detail.startswith("raised"):
        hint = "; no options were given: does it need an instance of its options class?"
        return Report(kind, name, (attrs.evolve(first, detail=first.detail + hint), *others))
    return report


def verdict(kind: str, plugin: str | type, options: Any, **settings: Any) -> Report:
    """Return the report on a registered name or a class.

    Raises:
        ContractViolation: If a law is broken.
    """
    if isinstance(plugin, str):
        report = examine(kind, plugin, load_registry(), options=options, **settings)
    else:
        report = examine_class(kind, plugin.__name__, plugin, options, **settings)
    if not report.passed:
        raise ContractViolation(report)
    return report
