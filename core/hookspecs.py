"""The hooks that a plugin may implement, on one screen.

A plugin is a module named by an entry point of the group ``mpcc``, or a file given with ``--plugin``. It implements any
of these hooks with `hookimpl`, and each hook may leave out arguments that it does not use::

    from mpcc.core.hookspecs import hookimpl

    @hookimpl
    def register_priors(register):
        register("my_prior", "my_package.prior:MyPrior", summary="...", options="my_package.options:MyOptions")

    @hookimpl
    def evaluated(iteration, scores):
        print(iteration, scores)

Every ``register`` has the same signature (`Register`): the name that a user types, the import path of the class, one
line of summary, the import path of the options class (an attrs class; none if there are no options) and default values
of its options. A metric that is registered with ``on_request=True`` is left out of ``all``. An objective may require
values of other sections, such as ``requires={"run": {"clusters": 1}}``; a user who asks for others is refused. Values
in ``suggests`` replace those of a preset that was made for another objective, and a user may change them. A user who
types a setting in ``unused``, such as ``["d_steps"]``, is told that training does not use it.

Nothing is imported before it is needed. Keep torch out of the modules that hold the hooks and the
options, so that ``--help`` and listings stay quick.

The other hooks watch a run and cannot change it: torch's random states are put back after each call. Only `step_ended`
is called too often for that, and must not draw random numbers. A hook that raises is reported and not called again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import pluggy

__all__ = [
    "HOOKS",
    "Register",
    "RegisterPreset",
    "RunInfo",
    "evaluated",
    "hookimpl",
    "hookspec",
    "register_architectures",
    "register_datasets",
    "register_metrics",
    "register_objectives",
    "register_presets",
    "register_priors",
    "run_ended",
    "run_started",
    "step_ended",
]

hookspec = pluggy.HookspecMarker("mpcc")
hookimpl = pluggy.HookimplMarker("mpcc")


class Register(Protocol):
    """The callable that each registration hook receives."""

    def __call__(
        self,
        name: str,
        target: str,
        *,
        summary: str,
        options: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        api_version: int = 1,
        on_request: bool = False,
        requires: Mapping[str, Mapping[str, Any]] | None = None,
        suggests: Mapping[str, Mapping[str, Any]] | None = None,
        unused: Sequence[str] | None = None,
    ) -> None: ...


class RegisterPreset(Protocol):
    """The callable that `register_presets` receives."""

    def __call__(self, name: str, tables: Mapping[str, Any]) -> None:
        """Register a preset.

        Arguments:
            name: What a user types after ``--preset``.
            tables: The fields of ``[presets.NAME]`` in a registry file: ``source``, ``for``, ``run``, ``prior``,
                ``arch``, ``data``, ``objective``; each but the first is a table.
        """


@attrs.frozen
class RunInfo:
    """A run at its start.

    Attributes:
        folder: The run folder; an observer may put files of its own into it.
        config: The resolved configuration: tables ``run``, ``prior``, ``arch``, ``data``, ``objective`` of plain
            values.
        iteration: How many iterations are done; not 0 for a resumed run.
        iterations: How many there will be.
    """

    folder: Path
    config: Mapping[str, Mapping[str, Any]]
    iteration: int
    iterations: int


@hookspec
def register_priors(register: Register) -> None:
    """Register subclasses of `mpcc.core.contracts.Prior`: p(y), p(z|y) and the family of q(z|x)."""


@hookspec
def register_architectures(register: Register) -> None:
    """Register subclasses of `mpcc.core.contracts.Architecture`: generator, discriminator and encoder."""


@hookspec
def register_datasets(register: Register) -> None:
    """Register subclasses of `mpcc.core.contracts.Dataset`: q(x), the images to be clustered."""


@hookspec
def register_metrics(register: Register) -> None:
    """Register subclasses of `mpcc.core.contracts.Metric`: scores of one evaluation."""


@hookspec
def register_objectives(register: Register) -> None:
    """Register subclasses of `mpcc.core.contracts.Objective`: which updates make an iteration, and their losses."""


@hookspec
def register_presets(register: RegisterPreset) -> None:
    """Register presets: values that a run starts from, for a data set or an architecture."""


@hookspec
def run_started(run: RunInfo) -> None:
    """Learn that training is about to start."""


@hookspec
def step_ended(iteration: int, terms: Mapping[str, Any]) -> None:
    """Learn the raw loss terms of each iteration: detached scalar tensors on the device, by name.

    Reading a term, with ``float(term)``, makes the host wait for the device: do so only every so many iterations.
    """


@hookspec
def evaluated(iteration: int, scores: Mapping[str, float]) -> None:
    """Learn the scores of an evaluation, by the names of the metrics; pictures and tables are in the run folder."""


@hookspec
def pictures(iteration: int, sheets: Mapping[str, Any]) -> None:
    """Learn the sheets of an evaluation by name, such as ``clusters``: numpy arrays, uint8, (height, width, 3)."""


@hookspec
def run_ended(iteration: int, results: Mapping[str, Any] | None, reason: str | None) -> None:
    """Learn that the run has ended: with the contents of ``results.json``, or with the reason why there are none."""


HOOKS = (
    *("register_priors", "register_architectures", "register_datasets", "register_metrics", "register_objectives"),
    *("register_presets", "run_started", "step_ended", "evaluated", "pictures", "run_ended"),
)
