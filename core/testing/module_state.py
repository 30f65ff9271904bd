"""What is trained, saved and copied of a module: conditions that priors and networks share."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mpcc.core.system.randomness import seed_everything
from mpcc.core.testing.comparison import require_same
from mpcc.core.testing.report import broken, require

__all__ = [
    "require_copied",
    "require_fair_building",
    "require_known_parameters",
    "require_saved",
    "require_trained",
    "trained",
]

M = TypeVar("M", bound=nn.Module)


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that ask for a gradient, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def require_trained(modules: Mapping[str, nn.Module]) -> str:
    """Check that every parameter is trained; return how many there are."""
    parameters = {
        f"{part}.{name}": parameter for part, module in modules.items() for name, parameter in module.named_parameters()
    }
    for name, parameter in parameters.items():
        require(
            parameter.requires_grad,
            f"{name} is a parameter with requires_grad=False, but every parameter is trained; expected a buffer for a "
            "fixed value",
        )
    for part, module in modules.items():
        known = {id(each) for each in (*module.modules(), *module.parameters())}
        for place, value in attributes(part, module):
            hidden = [each for each in contents(value) if id(each) not in known]
            if hidden:
                broken(
                    f"{place} is a plain {type(value).__name__} that holds a {type(hidden[0]).__name__}: what is in it "
                    "is not trained, saved or moved to the device; choose nn.ModuleList, ParameterList or ModuleDict"
                )
    return f"{len(parameters)} parameters"


def attributes(part: str, module: nn.Module) -> Iterator[tuple[str, object]]:
    """Yield the plain attributes of a module and of its inner modules, with their places."""
    for path, inner in module.named_modules():
        for name, value in vars(inner).items():
            # torch keeps its own tables of parameters and modules in these.
            if not name.startswith("_") or not isinstance(value, dict):
                yield ".".join(filter(None, (part, path, name))), value


def contents(value: object) -> list[nn.Module | nn.Parameter]:
    """Return the modules and parameters in a plain list, tuple, set or dict."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return [each for each in inside if isinstance(each, nn.Module | nn.Parameter)]


def require_fair_building(build: Callable[[int], Mapping[str, nn.Module]]) -> str:
    """Check that building depends on the seed, changes no setting of the process, and gives float32 parameters.

    Arguments:
        build: Seeds torch with its argument and builds modules by name.
    """
    drawn: list[dict[str, float]] = []
    for seed in range(2):
        seed_everything(seed)
        modules = build(seed)
        require(
            torch.get_default_dtype() == torch.float32,
            f"building sets torch's default dtype to {torch.get_default_dtype()}: expected torch.float32, as it was",
        )
        for part, module in modules.items():
            for name, parameter in module.named_parameters():
                require(
                    parameter.dtype == torch.float32 or not parameter.is_floating_point(),
                    f"{part}.{name} starts as {parameter.dtype}: expected torch.float32",
                )
        drawn.append({"torch": float(torch.rand(())), "NumPy": float(np.random.rand()), "Python": random.random()})
    for library, number in drawn[0].items():
        require(
            number != drawn[1][library],
            f"building seeds {library}'s global random state: after it, two seeds of a run draw the same numbers; draw "
            "from the state and never seed it",
        )
    return "torch's, NumPy's and Python's random states, default dtype"


def require_known_parameters(part: str, names: set[str], module: nn.Module) -> None:
    """Check that a module has no other parameters and buffers than before some calls."""
    late = sorted(set(module.state_dict()) - names)
    require(
        not late,
        f"{part}.{', '.join(late)} is made in a call: make it in the constructor, because optimizers and checkpoints "
        "know only what is there before the first call",
    )


@torch.no_grad()
def require_saved(
    modules: Mapping[str, M], others: Mapping[str, M], values: Callable[[Mapping[str, M]], Mapping[str, Tensor]]
) -> None:
    """Check that a saved state holds everything.

    Arguments:
        modules: Their state is saved, and loaded with ``weights_only=True``.
        others: Modules of another seed, which take the state over.
        values: Computes outputs of modules, which have to be the same for both.
    """
    expected = values(modules)
    for part, module in modules.items():
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        others[part].load_state_dict(torch.load(file, weights_only=True))
    require_same(expected, values(others), "loaded into one of another seed")
    for part, module in modules.items():
        for path, inner in module.named_modules():
            for name, value in vars(inner).items():
                place = ".".join(filter(None, (part, path, name)))
                require(
                    not isinstance(value, Tensor) or computed(inner, name),
                    f"{place} is a plain tensor, which is not saved and does not move to the device: make it a "
                    "parameter or a buffer",
                )
                require(
                    not isinstance(value, Distribution),
                    f"{place} is a {type(value).__name__} that the constructor made: its tensors are not saved and do "
                    "not move to the device; make it in each call, from parameters or buffers",
                )


def computed(module: nn.Module, name: str) -> bool:
    """Tell whether torch computes an attribute anew in each call, as its spectral and weight norms do."""
    parameters = dict(module.named_parameters(recurse=False))
    return f"{name}_orig" in parameters or {f"{name}_g", f"{name}_v"} <= parameters.keys()


@torch.no_grad()
def require_copied(modules: Mapping[str, M], values: Callable[[Mapping[str, M]], Mapping[str, Tensor]]) -> None:
    """Check that copies compute the same as their originals, and that changing a copy leaves its original alone."""
    expected = values(modules)
    twins = {part: copy.deepcopy(module) for part, module in modules.items()}
    require_same(expected, values(twins), "copy")
    for twin in twins.values():
        for parameter in twin.parameters():
            parameter.add_(1)
    require_same(expected, values(modules), "after its copy was changed")
