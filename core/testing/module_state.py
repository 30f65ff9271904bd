"""What of a module is trained, saved and moved: laws that priors and networks share."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mpcc.core.testing.report import require

__all__ = ["require_same", "require_state_complete", "require_trained", "through_file"]


def require_trained(modules: Mapping[str, nn.Module]) -> str:
    """Check that every parameter asks for a gradient; return how many there are."""
    count = 0
    for part, module in modules.items():
        for name, parameter in module.named_parameters():
            count += 1
            require(
                parameter.requires_grad,
                f"{part}.{name} is a parameter that asks for no gradient: register what is fixed as a buffer",
            )
    return f"{count} parameters"


def require_state_complete(modules: Mapping[str, nn.Module]) -> None:
    """Check that no module keeps a tensor that neither moves with ``.to()`` nor is in the saved state."""
    for part, module in modules.items():
        for path, inner in module.named_modules():
            for name, value in vars(inner).items():
                require(
                    not isinstance(value, Tensor),
                    f"{'.'.join(filter(None, (part, path, name)))} is a plain tensor, which is not saved and does not "
                    "move to the device: make it a parameter or a buffer",
                )


def through_file(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module after it has been saved and loaded with ``weights_only=True``."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    state: dict[str, Tensor] = torch.load(file, weights_only=True)
    return state


def require_same(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], where: str) -> None:
    """Check that tensors are the same to the last bit."""
    for name, value in expected.items():
        other = actual[name]
        same = value.shape == other.shape and torch.equal(value, other)
        if not same and value.shape == other.shape:
            difference = float((value.double() - other.double()).abs().max())
            require(False, f"{where}: {name} differs by up to {difference:.3g}")
        require(same, f"{where}: {name} has shape {tuple(other.shape)}, was {tuple(value.shape)}")
