"""Whether training is still sound: losses and parameters are finite, distributions inside their domain."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mpcc.core.errors import TrainingDiverged
from mpcc.core.method.model import Model

__all__ = ["check_parameters", "finite"]


def finite(terms: Mapping[str, Tensor], iteration: int) -> dict[str, float]:
    """Move the terms off the device in one piece, and check them before they are used.

    Raises:
        TrainingDiverged: If a term is not finite.
    """
    values = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {name} term is {value} at iteration {iteration}: training has diverged; lower --lr or --prior-lr"
            )
    return values


def check_parameters(model: Model, iteration: int) -> None:
    """Check every parameter before it is saved over a good checkpoint.

    Raises:
        TrainingDiverged: If a parameter is not finite, or the prior's distributions have left their domain.
    """
    for part, module in model.parts().items():
        for name, parameter in module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise TrainingDiverged(
                    f"parameter {name} of the {part} is not finite at iteration {iteration}: training has diverged; "
                    "lower --lr or --prior-lr"
                )
    try:
        model.prior.validate()
    except ValueError as error:
        raise TrainingDiverged(
            f"{error} at iteration {iteration}: training has diverged; lower --prior-lr, or raise the floor of "
            "the scales"
        ) from error
