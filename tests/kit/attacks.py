"""Priors that attack the kit itself: exceptions that cannot be shown, loops without an end, escape codes, settings."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from wrong_priors import MIXTURE, Gaussians

from mpcc.core.hookspecs import hookimpl


class UnsaidError(Exception):
    def __str__(self) -> str:
        raise ValueError("cannot be said")


class Unsaid(Gaussians):
    """Its exception has no text."""

    def entropies(self) -> Tensor:
        raise UnsaidError


class Cancelled(Gaussians):
    """Its exception is no Exception."""

    def entropies(self) -> Tensor:
        raise asyncio.CancelledError("over")


class Endless(Gaussians):
    """Its density does not end for many rows."""

    def log_density(self, z: Tensor) -> Tensor:
        while len(z) == 50:
            pass
        return super().log_density(z)


class Coloured(Gaussians):
    """Its message has escape codes, and is long."""

    def entropies(self) -> Tensor:
        raise ValueError("\x1b[2J\x1b[31mred\x07" + "a" * 5000 + "\nend")


class Leaking(Gaussians):
    """It changes settings of the process in a call."""

    def family(self, loc: Tensor, scale: Tensor) -> Distribution:
        torch.set_default_dtype(torch.float64)
        Distribution.set_default_validate_args(False)
        print("\x1b[2Jnot part of the report")
        return Normal(loc, scale, validate_args=False)


@hookimpl
def register_priors(register: Any) -> None:
    for name, cls in globals().items():
        if isinstance(cls, type) and issubclass(cls, Gaussians) and cls is not Gaussians:
            register(name, f"attacks:{name}", summary=cls.__doc__, options=MIXTURE)
