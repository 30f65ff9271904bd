"""How many calls of an iteration write to memory: on a GPU each is a kernel at least, on a CPU each costs its overhead.

The networks are as narrow as possible, which changes no call.
"""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mpcc.core.bench.subject import Subject
from mpcc.core.config.config import resolve
from mpcc.core.config.layers import Layer
from mpcc.core.method.training import Trainer
from mpcc.core.registry import load_registry

# Bounds for the fast engine, about 3 % above what was counted when they were written.
BOUNDS = {
    "digits": 1450,
    "mnist": 1660,
    "mnist-paper": 2320,
    "omniglot-paper": 2320,
    "fashion-mnist-paper": 2360,
    "cifar10-paper": 2390,
}
# What takes memory without writing to it, and what reads a number or a shape.
QUIET = ("aten.empty", "aten.new_empty", "aten.detach", "aten._unsafe_view", "aten._local_scalar_dense")


class Writes(TorchDispatchMode):
    """Counts the calls of operators that write, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = operator._schema
        view = not schema.is_mutable and any(value.alias_info is not None for value in schema.returns)
        name = str(operator)
        if not view and not name.startswith(QUIET):
            self.found[name] += 1
        return operator(*args, **(kwargs or {}))


def trainer(preset: str, engine: str) -> Trainer:
    """The trainer of a preset, with narrow networks and small batches."""
    registry = load_registry()
    tables: dict[str, Any] = {"run": {"device": "cpu", "batch": 2}, "arch": {"width": 1}}
    if preset in registry.names("dataset"):
        tables["data"] = {"name": preset}
    config = resolve(registry, [Layer("flag", tables)], preset)
    return Subject.of(preset, registry, config, reading=False).assemble(engine).trainer


def writes(preset: str, engine: str) -> collections.Counter[str]:
    """Count the calls of the second iteration; optimizers make their moments in the first."""
    made = trainer(preset, engine)
    made.iterate()
    with Writes() as counted:
        made.iterate()
    return counted.found


@pytest.mark.parametrize("preset", BOUNDS)
def test_the_calls_of_an_iteration_stay_below_their_bound(preset: str) -> None:
    found = writes(preset, "fast")
    most = ", ".join(f"{name} {count}" for name, count in found.most_common(8))
    assert found.total() <= BOUNDS[preset], f"{found.total()} calls, most of them {most}"


def test_the_fast_engine_makes_two_thirds_of_the_calls_of_the_plain_one() -> None:
    assert writes("digits", "fast").total() < 2 / 3 * writes("digits", "plain").total()


def test_what_is_counted_is_what_writes() -> None:
    x = torch.ones(2, 3)
    with Writes() as counted:
        x.t().flatten().add_(1)
        torch.empty(3).copy_(x[0].detach())
    assert counted.found == {"aten.add_.Tensor": 1, "aten.clone.default": 1, "aten.copy_.default": 1}
