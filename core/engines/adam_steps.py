"""Adam's fused step without the preparations that torch repeats at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

__all__ = ["AdamSteps"]

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class AdamSteps:
    """The steps of one optimizer: the kernels of `torch.optim.Adam.step`, in its order, with its state.

    Arguments:
        optimizer: Fused, without weight decay, AMSGrad or maximisation; others take torch's own step.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._alike: list[list[nn.Parameter]] = []
        groups = optimizer.param_groups
        options = groups[0]
        unused = ("weight_decay", "amsgrad", "maximize", "differentiable", "decoupled_weight_decay")
        self._lean = (
            type(optimizer) is Adam
            and len(groups) == 1
            and bool(options["fused"])
            and not any(options[name] for name in unused)
        )
        if self._lean:
            by_type: dict[tuple[torch.device, torch.dtype], list[nn.Parameter]] = {}
            for parameter in options["params"]:
                by_type.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            self._alike = list(by_type.values())

    def step(self) -> None:
        """Update the parameters that have a gradient."""
        state = self.optimizer.state
        due = [[parameter for parameter in alike if parameter.grad is not None] for alike in self._alike]
        if not self._lean or not all(len(state[parameter]) for alike in due for parameter in alike):
            # The first step makes the moments.
            self.optimizer.step()
            return
        options = self.optimizer.param_groups[0]
        beta1, beta2 = options["betas"]
        found: Tensor | None = getattr(self.optimizer, "found_inf", None)
        values: dict[str, Any] = {"lr": options["lr"], "beta1": beta1, "beta2": beta2, "eps": options["eps"]}
        values |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False, "grad_scale": None, "found_inf": found}
        fused: Any = torch._fused_adam_
        with torch.no_grad():
            for alike in due:
                if not alike:
                    continue
                averages, squares, steps = ([state[parameter][name] for parameter in alike] for name in MOMENTS)
                torch._foreach_add_(steps, 1)
                gradients = [parameter.grad for parameter in alike if parameter.grad is not None]
                fused(alike, gradients, averages, squares, [], steps, **values)
                # On the CPU the flag is at hand, and steps need no correction unless it is set.
                if found is not None and (found.device.type != "cpu" or found):
                    torch._foreach_sub_(steps, [found] * len(steps))
