"""The hooks that a plugin may implement, on one screen.

A plugin is a module named by an entry point of the group ``mpcc``. It implements any of these with `hookimpl`::

    from mpcc.core.hookspecs import hookimpl

    @hookimpl
    def register_priors(register):
        register("my_prior", "my_package.prior:MyPrior", summary="...", options="my_package.options:MyOptions")

Every ``register`` has the same signature (`Register`): the name that a user types, the import path of the class, one
line of summary, the import path of the options class (an attrs class; none if there are no options) and default values
of its options. Nothing is imported before it is needed: keep torch out of the module with the hooks and out of the one
with the options, so that ``--help`` and listings stay quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pluggy

__all__ = [
    "Register",
    "hookimpl",
    "hookspec",
    "register_architectures",
    "register_datasets",
    "register_metrics",
    "register_priors",
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
    ) -> None: ...


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
