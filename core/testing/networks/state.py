"""Laws on the state of networks: what building does to the process, what calls change, and where tensors live."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from mpcc.core.system.time_limits import Overdue
from mpcc.core.testing.architectures import ArchitectureCase, assembled, outputs, parameters_trained
from mpcc.core.testing.comparison import require_same
from mpcc.core.testing.device_watch import META, DeviceWatch, TooMany, described, without_autocast
from mpcc.core.testing.module_state import (
    require_copied,
    require_fair_building,
    require_known_parameters,
    require_saved,
    trained,
)
from mpcc.core.testing.networks.silent_noise import SilentNoise
from mpcc.core.testing.report import Laws, Undecided, require

__all__ = ["STATE_LAWS"]

STATE_LAWS = Laws[ArchitectureCase]()


@STATE_LAWS.add("building leaves the settings of the process alone, and parameters start in float32", of_choices=False)
def building(case: ArchitectureCase) -> str:
    return require_fair_building(lambda seed: case.networks(seed).by_name())


@STATE_LAWS.add("calls make no parameter, and in evaluation mode they change nothing")
@torch.no_grad()
def calls(case: ArchitectureCase) -> str:
    networks, inputs = case.networks(), case.inputs(4)
    before = {name: copy.deepcopy(part.state_dict()) for name, part in networks.by_name().items()}
    with SilentNoise():  # type: ignore[no-untyped-call]
        first = outputs(networks, *inputs)
        for name, part in networks.by_name().items():
            require_known_parameters(name, set(before[name]), part)
            require_same(before[name], part.state_dict(), f"{name} after a call in evaluation mode")
        require_same(first, outputs(networks, *inputs), "called twice in evaluation mode")
    return "evaluation mode, two calls"


@STATE_LAWS.add("saving and loading its state gives the same networks", after=[parameters_trained.name, calls.name])
def saved(case: ArchitectureCase) -> str:
    first, other, inputs = case.networks(seed=0), case.networks(seed=1), case.inputs(4)
    require_saved(first.by_name(), other.by_name(), lambda modules: outputs(assembled(modules, first), *inputs))
    return "weights_only"


@STATE_LAWS.add("a copy shares nothing with its original", of_choices=False, after=[calls.name])
def copied(case: ArchitectureCase) -> str:
    networks, inputs = case.networks(), case.inputs(4)
    require_copied(networks.by_name(), lambda modules: outputs(assembled(modules, networks), *inputs))
    return "copy.deepcopy"


@STATE_LAWS.add("no tensor of a network stays on the host", after=[parameters_trained.name, calls.name])
def no_strays(case: ArchitectureCase) -> str:
    try:
        watched = watch(case)
    except (KeyboardInterrupt, Overdue):
        raise
    except BaseException as error:  # an operation may have no version for shapes alone
        return Undecided(f"not known: on the meta device it raises {type(error).__name__}: {error}")
    require(
        not watched.strays,
        f"{described(watched.strays)}; on CUDA it would fail: make it on the device of the input, or register it as a "
        "buffer",
    )
    return "the three networks and their gradients, on the meta device"


def watch(case: ArchitectureCase) -> DeviceWatch:
    """Compute on the meta device what training computes of the networks, and return what was found."""
    networks = case.networks(training=True)
    networks = assembled({name: part.to(META) for name, part in networks.by_name().items()}, networks)
    inputs = [each.to(META) for each in case.inputs(4)]
    watched = DeviceWatch(case.cls if isinstance(case.cls, type) else type(case))
    parameters = [each for part in networks.by_name().values() for each in trained(part).values()]

    def compute(what: str, function: Callable[[], Tensor]) -> None:
        watched.doing = what
        value = function()
        watched.doing = f"the gradient of {what}"
        if value.requires_grad:
            torch.autograd.grad(value.sum(), parameters, allow_unused=True)

    z, y, images = inputs
    with without_autocast(), watched:
        try:
            compute("images", lambda: networks.generator(z, y))
            conditions = (y,) if networks.conditional else ()
            compute("scores", lambda: networks.discriminator(images, *conditions))
            compute("encodings", lambda: torch.cat(networks.encoder(images), dim=1))
        except TooMany:
            pass
        except RuntimeError:
            if not watched.strays:
                raise
    return watched
