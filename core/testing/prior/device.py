"""Laws on a prior's device: no tensor stays on the host, and the host never waits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from mpcc.core.contracts import Prior
from mpcc.core.method.entropy import monte_carlo_entropies
from mpcc.core.system.time_limits import Overdue
from mpcc.core.testing.device_watch import META, MOST, DeviceWatch, TooMany, described, without_autocast
from mpcc.core.testing.module_state import trained
from mpcc.core.testing.prior.cases import PriorCase, formulas
from mpcc.core.testing.report import Laws, Warned, require

__all__ = ["DEVICE"]

DEVICE = Laws[PriorCase]()


@DEVICE.add("no loop depends on the values of tensors", essential=True)
def no_loops(case: PriorCase) -> str:
    # With other parameters, the laws below could wait for its end forever.
    watched = DeviceWatch(type(None))
    try:
        watched = watch(case)
    except (KeyboardInterrupt, Overdue):
        raise
    except BaseException:  # the next law reports it
        pass
    lines = [line for line, times in watched.found.items() if len(times) >= MOST]
    require(not lines, f"{', '.join(lines)}, again and again: the loop may never end")
    return "on the meta device"


@DEVICE.add("no tensor stays on the host")
def no_strays(case: PriorCase) -> str:
    watched = watch(case)
    require(
        not watched.strays,
        f"{described(watched.strays)}; on CUDA it would fail: make noise on the device of the parameters, and register "
        "every constant as a buffer",
    )
    return f"{COMPUTED}, on the meta device"


@DEVICE.add("nothing waits for the device")
def never_waits(case: PriorCase) -> str:
    watched = watch(case)
    if watched.found:
        # The run's engine does without a graph then, which takes more time and gives the same.
        return Warned(
            f"{described(watched.found)}; on CUDA the host would wait, which keeps the iteration out of a graph: pass "
            "validate_args=False, compute on tensors, and keep constants as plain numbers or buffers"
        )
    return f"{COMPUTED}, on the meta device"


COMPUTED = "sampling, densities, entropies, q(z|x) and their gradients"


def watch(case: PriorCase) -> DeviceWatch:
    """Compute on the meta device what training computes from a prior, and return what was found."""
    prior: Prior = case.start(3, 2).to(META)
    watched = DeviceWatch(type(prior))

    inputs: list[Tensor] = list(trained(prior).values())

    def compute(what: str, function: Callable[[], Tensor | None]) -> None:
        watched.doing = what
        value = function()
        if isinstance(value, Tensor) and value.requires_grad:
            watched.doing = f"the gradient of {what}"
            torch.autograd.grad(value.sum(), inputs, allow_unused=True)

    with without_autocast(), contextlib.suppress(TooMany), watched.made_up_errors(), watched:
        watched.doing = "z"
        z, y = prior.sample(6)
        points, raw_scales = z.detach().requires_grad_(), torch.zeros_like(z, requires_grad=True)
        inputs += [points, raw_scales]
        compute("z", lambda: z)
        compute("input_map", lambda: prior.input_map(points))
        compute("label_ratio", lambda: prior.label_ratio(y))
        for name, formula in formulas(prior, points).items():
            compute(name, formula)
        if prior.entropy_kind == "none":
            compute("entropies", lambda: monte_carlo_entropies(prior, 2))
        compute("log q(z|x)", lambda: prior.encoder_distribution(points, raw_scales).log_prob(z.detach()))
    return watched
