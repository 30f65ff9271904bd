"""Torch's noise, silenced: a random network then computes the same in each call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SilentNoise"]

# What a draw is replaced with: the middle of its distribution; of a mask of dropout, a one, which keeps everything.
MIDDLES = {
    **dict.fromkeys(("rand", "rand_like", "uniform_", "uniform"), 0.5),
    **dict.fromkeys(("randn", "randn_like", "normal_", "normal", "normal_functional"), 0.0),
    **dict.fromkeys(("bernoulli", "bernoulli_"), 1.0),
}


class SilentNoise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside a ``with`` block, dropout keeps everything and noise is constant, so that neither hides anything.

    Dropout in any form, such as `torch.nn.functional.dropout` or that of attention, and noise on images are covered.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute an operation, and replace what it has drawn."""
        name = func._schema.name.removeprefix("aten::")
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        made = func(*args, **(kwargs or {}))
        if name in MIDDLES and isinstance(made, Tensor):
            made.fill_(MIDDLES[name])
        return made
