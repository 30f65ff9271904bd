"""What is trained, saved and copied of a module: conditions that priors and networks share."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from mpcc.core.testing.comparison import require_same
from mpcc.core.testing.report import require

__all__ = ["require_copied", "require_saved", "require_trained", "trained"]

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
    return f"{len(parameters)} parameters"


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
                require(
                    not isinstance(value, Tensor),
                    f"{'.'.join(filter(None, (part, path, name)))} is a plain tensor, which is not saved and does not "
                    "move to the device: make it a parameter or a buffer",
                )


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
