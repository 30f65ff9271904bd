"""The fast engine's steps of an optimizer are those of torch, to the last bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Adam, Optimizer

from mpcc.core.engines.adam_steps import AdamSteps
from mpcc.core.method.training import adam


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(0)
    single = [nn.Parameter(torch.randn(size)) for size in ((3, 4), (5,), ())]
    return [*single, nn.Parameter(torch.randn(2, dtype=torch.float64))]


def gradients(weights: list[nn.Parameter], step: int) -> None:
    """Set random gradients; every second step, one parameter has none."""
    torch.manual_seed(step)
    for index, weight in enumerate(weights):
        gradient = torch.randn_like(weight)
        weight.grad = None if index == 1 and step % 2 else gradient


def same(one: Optimizer, other: Optimizer) -> None:
    for a, b in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert torch.equal(a, b)
        assert one.state[a].keys() == other.state[b].keys()
        for name, value in one.state[a].items():
            assert torch.equal(value, other.state[b][name]), name


def test_steps_are_those_of_torch_also_where_a_gradient_is_missing_or_the_step_size_changes() -> None:
    theirs, ours = (adam(parameters(), lr=0.1) for _ in range(2))
    steps = AdamSteps(ours)
    for step in range(6):
        for optimizer in (theirs, ours):
            gradients(optimizer.param_groups[0]["params"], step)
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        theirs.step()
        steps.step()
        same(theirs, ours)


def test_a_flag_stops_the_steps_and_their_count() -> None:
    theirs, ours = (adam(parameters(), lr=0.1) for _ in range(2))
    steps = AdamSteps(ours)
    flags = [torch.zeros(()) for _ in range(2)]
    for optimizer, flag in zip((theirs, ours), flags, strict=True):
        optimizer.found_inf = flag  # type: ignore[attr-defined]
    for step in range(4):
        for optimizer in (theirs, ours):
            gradients(optimizer.param_groups[0]["params"], step)
        for flag in flags:
            flag.fill_(step == 2)
        before = copy.deepcopy(ours.param_groups[0]["params"])
        theirs.step()
        steps.step()
        same(theirs, ours)
        stopped = all(torch.equal(a, b) for a, b in zip(before, ours.param_groups[0]["params"], strict=True))
        assert stopped == (step == 2)


def test_a_state_from_a_file_is_used_from_the_next_step_on() -> None:
    ours = adam(parameters(), lr=0.1)
    steps = AdamSteps(ours)
    for step in range(2):
        gradients(ours.param_groups[0]["params"], step)
        steps.step()
    theirs = adam(copy.deepcopy(ours.param_groups[0]["params"]), lr=0.1)
    saved = copy.deepcopy(ours.state_dict())
    for optimizer in (theirs, ours):
        optimizer.load_state_dict(copy.deepcopy(saved))
        gradients(optimizer.param_groups[0]["params"], 7)
    theirs.step()
    steps.step()
    same(theirs, ours)


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}, {"fused": False}])
def test_other_optimizers_take_their_own_step(options: dict[str, Any]) -> None:
    theirs, ours = (Adam(parameters(), **{"lr": 0.1, "fused": True, **options}) for _ in range(2))
    steps = AdamSteps(ours)
    for step in range(3):
        for optimizer in (theirs, ours):
            gradients(optimizer.param_groups[0]["params"], step)
        theirs.step()
        steps.step()
        same(theirs, ours)
