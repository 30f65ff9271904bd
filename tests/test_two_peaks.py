"""Two peaks in the latents of a cluster: found where two groups are, not where there is one, whatever its tails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpcc.core.reporting.two_peaks import clusters_with_two_peaks, has_two_peaks

N = 300


def latents(kind: str, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    z = random.normal(size=(N, 6))
    if kind == "two":
        z[: N // 3, 2] += 7
    elif kind == "heavy":
        z = random.standard_t(3, size=(N, 6))
    elif kind == "flat":
        z = random.uniform(-1, 1, size=(N, 6))
    elif kind == "few":
        z[: N // 20, 2] += 9
    return z


@pytest.mark.parametrize(("kind", "expected"), [("two", 20), ("one", 0), ("heavy", 0), ("flat", 0), ("few", 0)])
def test_only_two_groups_are_named(kind: str, expected: int) -> None:
    found = [clusters_with_two_peaks(torch.from_numpy(latents(kind, s)), torch.zeros(N).long()) for s in range(20)]
    assert sum(clusters == [0] for clusters in found) == expected


def test_each_cluster_is_looked_at_alone_and_small_ones_are_not() -> None:
    z = np.concatenate([latents("one", 0) + 20, latents("two", 1), latents("two", 2)[::10]])
    assigned = torch.tensor([0] * N + [3] * N + [5] * (N // 10))
    before = np.random.get_state()[1].copy()
    assert clusters_with_two_peaks(torch.from_numpy(z), assigned) == [3]
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros(50), False),
        (np.full(50, 0.1), False),
        (np.full(50, 1e-9), False),
        (np.full(50, np.nan), False),
        (np.r_[np.zeros(25), np.ones(25)], True),
    ],
)
def test_odd_values_are_no_error(values: np.ndarray, expected: bool) -> None:
    assert has_two_peaks(values) is expected
