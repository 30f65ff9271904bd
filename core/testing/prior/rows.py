"""Laws on the rows of a batch and the dimensions of a latent: noise of their own, and results of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy import stats
from torch import Tensor

from mpcc.core.testing.comparison import largest
from mpcc.core.testing.prior.cases import PriorCase
from mpcc.core.testing.report import Laws, require

__all__ = ["ROWS"]

ROWS = Laws[PriorCase]()
# Even and odd: what fills a batch in two halves may get only one of them right.
COUNTS = (1000, 1001)
STANDARD_ERRORS = 6.0
# Allowed difference of a row alone and in a batch, float64, relative to 1 + the value.
COMPANY = 1e-9
BATCH = 5


@ROWS.add("each row of a batch has noise of its own, and so has each dimension")
@torch.no_grad()
def own_noise(case: PriorCase) -> str:
    prior = case.build(1, 3)
    loc = torch.zeros(1, 3, dtype=torch.float64)
    for count in COUNTS:
        y, heads = torch.zeros(count, dtype=torch.int64), loc.expand(count, -1)
        require_own_noise(f"sample({count})", prior.sample(count)[0])
        require_own_noise(f"component(y).rsample() of {count} labels", prior.component(y).rsample())
        drawn = prior.encoder_distribution(heads, heads).rsample()
        require_own_noise(f"encoder_distribution(...).rsample() of {count} rows", drawn)
    return f"batches of {' and '.join(map(str, COUNTS))} rows"


def require_own_noise(what: str, z: Tensor) -> None:
    """Check samples (N, J) of one distribution: no two rows and no two dimensions hold the same noise."""
    count = len(z)
    different, which = torch.unique(z, dim=0, return_inverse=True)
    if len(different) < count:
        shared = int(torch.bincount(which).argmax())
        first, second = (which == shared).nonzero().flatten()[:2].tolist()
        require(
            False,
            f"{what}: rows {first} and {second} are equal, {len(different)} of {count} rows differ: expected noise of "
            "its own for each row",
        )
    ranks = z.argsort(0).argsort(0)
    for a in range(z.shape[1]):
        for b in range(a):
            alike = torch.equal(ranks[:, a], ranks[:, b]) or torch.equal(ranks[:, a], count - 1 - ranks[:, b])
            require(
                not alike,
                f"{what}: dimensions {b} and {a} rise and fall together in all rows: expected noise of its own for "
                "each dimension",
            )
    for lag in (1, count // 2, (count + 1) // 2):
        for axis in range(z.shape[1]):
            related = float(stats.spearmanr(z[lag:, axis], z[: count - lag, axis]).statistic)
            require(
                abs(related) < STANDARD_ERRORS / (count - lag) ** 0.5,
                f"{what}: rows that are {lag} apart have a rank correlation of {related:.2f} in dimension {axis}: "
                "expected independent rows",
            )


@ROWS.add("a row is the same alone and in a batch")
@torch.no_grad()
def company(case: PriorCase) -> str:
    prior = case.build(3, 3)
    z, y = prior.sample(BATCH)
    loc, raw_scale = torch.randn(BATCH, 3).double(), torch.randn(BATCH, 3).double()
    of_rows: dict[str, Callable[[slice], Tensor]] = {
        "log p(z|y) of component(y)": lambda rows: prior.component(y[rows]).log_prob(z[rows]),
        "log_density(z)": lambda rows: prior.log_density(z[rows]),
        "log_responsibilities(z)": lambda rows: prior.log_responsibilities(z[rows]),
        "input_map(z)": lambda rows: prior.input_map(z[rows]),
        "log q(z|x) of encoder_distribution(loc, raw_scale)": (
            lambda rows: prior.encoder_distribution(loc[rows], raw_scale[rows]).log_prob(z[rows])
        ),
    }
    for name, computed in of_rows.items():
        together = computed(slice(None))
        for row in range(BATCH):
            difference = largest((computed(slice(row, row + 1))[0] - together[row]) / (1 + together[row].abs()))
            require(
                difference < COMPANY,
                f"{name}: row {row} alone and in a batch of {BATCH} differ by {difference:.3g}, allowed {COMPANY:g}: "
                "use no statistics of the batch, and no positions in it",
            )
    return f"{', '.join(of_rows)}"
