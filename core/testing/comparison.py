"""Conditions that laws of several kinds share: types, shapes, equal tensors, gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck
from torch.testing import assert_close

from mpcc.core.testing.report import broken, require

__all__ = [
    "NO_CUDA",
    "devices",
    "finite",
    "gradients",
    "largest",
    "require_close",
    "require_gradients",
    "require_instance",
    "require_plugin",
    "require_same",
    "require_tensor",
    "uneven",
]

T = TypeVar("T")

# Gradients are compared with finite differences of these steps. The longer step is tried only if the shorter one fails,
# for functions that are exact to ten digits only.
STEPS = (1e-6, 1e-4)
# Allowed difference of a gradient g from finite differences: DIFFERENCE (1 + |g|).
DIFFERENCE = 1e-5
# A tensor with more elements is compared in one random direction instead of element by element.
ELEMENTS = 60
# The words of a report from a machine without CUDA.
NO_CUDA = "CPU; no CUDA device here"


def devices() -> list[torch.device]:
    """Return the CPU, and the current CUDA device where there is one."""
    cuda = [torch.device("cuda", torch.cuda.current_device())] if torch.cuda.is_available() else []
    return [torch.device("cpu"), *cuda]


def require_instance(what: str, value: object, kind: type[T]) -> T:
    """Check the type of a value, and return the value."""
    if not isinstance(value, kind):
        broken(f"{what}: expected a {kind.__name__}, got {type(value).__name__}")
    return value


def require_plugin(plugin: T, contract: type) -> T:
    """Check that a plugin derives from the class of its contract, and return the plugin."""
    require(isinstance(plugin, contract), f"expected a subclass of {contract.__name__}, got {type(plugin).__name__}")
    return plugin


def require_tensor(
    what: str, value: object, shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """Check that a value is a tensor with this shape, dtype and, if it is given, device, and return it."""
    tensor = require_instance(what, value, Tensor)
    require(tuple(tensor.shape) == tuple(shape), f"{what}: expected shape {tuple(shape)}, got {tuple(tensor.shape)}")
    require(tensor.dtype == dtype, f"{what}: expected {dtype}, got {tensor.dtype}")
    require(device in (None, tensor.device), f"{what}: expected device {device}, got {tensor.device}")
    return tensor


def finite(tensor: Tensor) -> bool:
    """Tell whether all elements are finite."""
    return bool(torch.isfinite(tensor).all())


def largest(values: Tensor) -> float:
    """Return the largest magnitude; 0 if there are no values, NaN if one of them is."""
    return float(values.detach().abs().max()) if values.numel() else 0.0


def require_close(what: str, actual: Tensor, expected: Tensor, allowed: float, relative: bool = False) -> float:
    """Check that tensors differ by less than a limit, and return the largest difference.

    Arguments:
        what: For the message.
        actual: The tensor under test.
        expected: In the same shape, or one that broadcasts to it.
        allowed: The limit.
        relative: Whether differences are divided by 1 + |expected|.
    """
    difference = largest((actual - expected) / (1 + expected.abs() if relative else 1))
    unit = " of 1 + |expected|" if relative else ""
    require(difference < allowed, f"{what} is off by {difference:.3g}, allowed {allowed:g}{unit}")
    return difference


def require_same(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], when: str) -> None:
    """Check that tensors are the same to the last bit."""
    for name, tensor in expected.items():
        try:
            assert_close(actual[name], tensor, rtol=0, atol=0)
        except AssertionError as error:
            other = actual[name]
            if other.shape != tensor.shape or not tensor.is_floating_point():
                broken(f"{when}: {name} differs: {' '.join(str(error).split())}")
            count = int((other != tensor).sum())
            figures = f"{count} of {tensor.numel()} numbers, by at most {largest(other - tensor):.3g}"
            broken(f"{when}: {name} differs in {figures}; expected the same")


def gradients(value: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients of a scalar, zeros where there are none."""
    zeros = {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}
    wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    if not (wanted and value.requires_grad):
        return zeros
    of_wanted = torch.autograd.grad(value, list(wanted.values()), allow_unused=True, retain_graph=True)
    there = {name: gradient for name, gradient in zip(wanted, of_wanted, strict=True) if gradient is not None}
    return {**zeros, **there}


def uneven(value: Tensor) -> Tensor:
    """Return fixed numbers between -1.5 and 1.5 in the shape of a tensor: weights of a sum that is not constant."""
    return 1.5 * torch.sin(1 + 2.3 * torch.arange(value.numel(), dtype=value.dtype)).reshape(value.shape)


def require_gradients(functions: Mapping[str, Callable[[], Tensor]], inputs: Mapping[str, Tensor]) -> str:
    """Compare the gradients of tensors with finite differences.

    Arguments:
        functions: The tensors by name, computed anew from the inputs in each call, float64.
        inputs: Leaf tensors by name, float64.
    """
    for name, function in functions.items():
        for key, tensor in inputs.items():
            require_gradient(f"{name} in {key}", function, tensor)
    count = len(functions) * sum(tensor.numel() for tensor in inputs.values())
    return f"float64, {count} derivatives against finite differences, allowed difference {DIFFERENCE:g}"


def require_gradient(what: str, function: Callable[[], Tensor], tensor: Tensor) -> None:
    """Compare the gradient of an uneven sum in one tensor with finite differences."""

    def weighted_sum(changed: Tensor) -> Tensor:
        # gradcheck changes the tensor in place. The second term gives a detached value a gradient, which is 0.
        value = function()
        return (value * uneven(value)).sum() + 0 * changed.sum()

    message = ""
    for step in STEPS:
        try:
            gradcheck(
                weighted_sum,
                tensor,
                eps=step,
                atol=DIFFERENCE,
                rtol=DIFFERENCE,
                nondet_tol=DIFFERENCE,
                check_undefined_grad=False,
                fast_mode=tensor.numel() > ELEMENTS,
            )
        except GradcheckError as error:
            message = " ".join(str(error).split()).partition(" The above")[0]
        else:
            return
    broken(f"{what}: {message}")
