"""The law that a prior's samples are sound where its noise takes its smallest and its largest value.

Torch draws a uniform number of exactly 0 once in 2^24 times. A run draws thousands of numbers in each iteration, so
what happens at the ends of the noise happens in every long run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mpcc.core.contracts import Prior
from mpcc.core.testing.comparison import finite, gradients, uneven
from mpcc.core.testing.module_state import trained
from mpcc.core.testing.prior.cases import PriorCase
from mpcc.core.testing.report import Laws, broken, require

__all__ = ["ENDS", "NOISE", "ExtremeNoise"]

NOISE = Laws[PriorCase]()
# What a draw returns in a row: one of its ends, its middle, or what was drawn.
ENDS = 5
# Rows for every combination of the ends of three draws.
ROWS = ENDS**3
# A uniform number has 24 bits in float32, 53 bits in float64; on CUDA its smallest positive value is 2^-33.
SMALLEST = {torch.float32: 2.0**-33, torch.float64: 2.0**-53}
LARGEST = {torch.float32: 1 - 2.0**-24, torch.float64: 1 - 2.0**-53}
# From a uniform number of 2^-53: the largest normal number is sqrt(-2 log 2^-53), by the Box-Muller transform.
NORMAL, CAUCHY, EXPONENTIAL = 8.57, 1.6e16, 36.7

Choices = Sequence[float | Tensor]


def uniform(dtype: torch.dtype, low: float = 0.0, high: float = 1.0) -> Choices:
    """Return the ends of a uniform number on [low, high), as torch computes it."""
    width = torch.tensor(high - low, dtype=dtype)
    return [torch.tensor(u, dtype=dtype) * width + low for u in (0.0, SMALLEST[dtype], LARGEST[dtype], 0.5)]


def normal(mean: float | Tensor = 0.0, std: float | Tensor = 1.0) -> Choices:
    """Return the ends and the middle of a normal number."""
    return [mean - NORMAL * std, mean, mean + NORMAL * std]


def cauchy(median: float = 0.0, sigma: float = 1.0) -> Choices:
    """Return the ends and the middle of a Cauchy number."""
    return [median - CAUCHY * sigma, median, median + CAUCHY * sigma]


def log_normal(mean: float = 1.0, std: float = 2.0) -> Choices:
    """Return the ends and the middle of a log-normal number."""
    return [torch.exp(torch.as_tensor(number)) for number in normal(mean, std)]


def exponential(dtype: torch.dtype, rate: float = 1.0) -> Choices:
    """Return the smallest float, which is larger than 0, and -log 2^-53, both divided by the rate."""
    return [torch.finfo(dtype).tiny / rate, EXPONENTIAL / rate]


def gamma(concentration: Tensor) -> Choices:
    """Return the quantiles 2^-33 and 1 - 2^-33 of a Gamma number; on CUDA the smallest float, below a shape of 1."""
    alpha, share = concentration.detach().double().numpy(), 2.0**-33
    quantiles = stats.gamma.ppf(share, alpha), stats.gamma.isf(share, alpha)
    low, high = (torch.as_tensor(quantile).to(concentration.dtype) for quantile in quantiles)
    tiny = torch.finfo(concentration.dtype).tiny
    return [torch.where(concentration < 1, tiny, low.clamp(min=tiny)), high]


def choices(name: str, made: Tensor, arguments: Sequence[Any], settings: dict[str, Any]) -> Choices:
    """Return what an operation may return at the ends of its noise; nothing if it draws no noise."""
    plain = [argument for argument in arguments if isinstance(argument, float | int) and not isinstance(argument, bool)]
    of: dict[str, Callable[[], Choices]] = {
        "rand": lambda: uniform(made.dtype),
        "rand_like": lambda: uniform(made.dtype),
        "uniform_": lambda: uniform(made.dtype, *plain, **named(settings, {"from": "low", "to": "high"})),
        "randn": normal,
        "randn_like": normal,
        "normal_": lambda: normal(*plain, **named(settings, {"mean": "mean", "std": "std"})),
        "normal": lambda: normal(*arguments[:2]),
        "cauchy_": lambda: cauchy(*plain, **named(settings, {"median": "median", "sigma": "sigma"})),
        "exponential_": lambda: exponential(made.dtype, *plain, **named(settings, {"lambd": "rate"})),
        "log_normal_": lambda: log_normal(*plain, **named(settings, {"mean": "mean", "std": "std"})),
        "_standard_gamma": lambda: gamma(arguments[0]),
    }
    return of[name]() if name in of and made.dtype in SMALLEST else []


def named(settings: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return those of the settings that have a name here, under that name."""
    return {names[name]: value for name, value in settings.items() if name in names}


class ExtremeNoise(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside a ``with`` block, torch's noise takes its ends, in each row of a batch another combination of them.

    The first draw takes its ends in turn from row to row, the second one in turn every `ENDS` rows, and so on.

    Attributes:
        draws: What was drawn: the operation, and the numbers that each row got.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute an operation, and put ends of the noise in its place if it draws some."""
        made = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        ends = choices(name, made, args, kwargs or {}) if isinstance(made, Tensor) and made.numel() else []
        if ends:
            rows = torch.arange(len(made) if made.ndim else 1, device=made.device)
            which = rows // ENDS ** (len(self.draws) % 3) % ENDS
            which = which.reshape(-1, *[1] * (made.ndim - 1)) if made.ndim else which[0]
            for at, end in enumerate(ends):
                made.copy_(torch.where(which == at, torch.as_tensor(end).to(made), made))
            self.draws.append((name, made.detach().clone()))
        return made

    def row(self, index: int) -> str:
        """Say what the row of a batch got, e.g. ``uniform_ gave 0``."""
        got = []
        for name, numbers in self.draws:
            if numbers.ndim and len(numbers) > index:
                got.append(f"{name} gave {float(numbers[index].flatten()[0]):.3g}")
        return " and ".join(got)


@NOISE.add("the ends of its noise give finite samples with finite log-densities and gradients")
def ends_of_noise(case: PriorCase) -> str:
    draws = set()
    for when, prior in (("at the start", case.start(3, 2)), ("moved", case.build(3, 2, torch.float32))):
        draws |= check_ends(prior, when)
    return f"float32, {' and '.join(sorted(draws))} at {ROWS} combinations of ends" if draws else "no noise of torch's"


def check_ends(prior: Prior, when: str) -> set[str]:
    """Check samples at the ends of the noise, and return the operations that drew it."""
    with ExtremeNoise() as noise:
        z, y = prior.sample(ROWS)
    # Later noise, such as that of an estimated entropy, isn't that of these rows.
    zeros = torch.zeros_like(z)
    own = y.unsqueeze(1)
    with prior.full_precision():
        log_q = prior.encoder_distribution(zeros, zeros).log_prob(z)
    found = {
        "z": z.sum(1),
        "log p(z|y)": prior.log_density(z).gather(1, own).squeeze(1),
        "log q(y|z)": prior.log_responsibilities(z).gather(1, own).squeeze(1),
        "log q(z|x)": log_q,
    }
    for name, values in found.items():
        for row in (~torch.isfinite(values)).nonzero().flatten().tolist()[:1]:
            broken(f"{when}: {noise.row(row)}, and {name} is {worst(z[row] if name == 'z' else values[row])}")
    for name, values in found.items():
        for key, gradient in gradients((values * uneven(values)).sum(), trained(prior)).items():
            require(finite(gradient), f"{when}: the gradient of {name} in {key} is not finite at the ends of the noise")
    return {name for name, _ in noise.draws}


def worst(values: Tensor) -> float:
    """Return the first number that is not finite, or the first of all."""
    flat = values.detach().flatten()
    bad = flat[~torch.isfinite(flat)]
    return float(bad[0] if len(bad) else flat[0])
