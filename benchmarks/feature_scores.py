"""Scores of features against independent oracles: Fréchet distance, kernel distance, classifier score.

    python benchmarks/feature_scores.py

prints the scores of mpcc and of an oracle for fixed features, with more images than features and with fewer, and their
relative difference. The last columns show the score of torch-fidelity for the same features in float32. The oracles are
scipy's matrix square root and the formulas written out in numpy, all in float64.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg, special
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from mpcc.plugins.metrics.frechet_distance import frechet_distance
from mpcc.plugins.metrics.inception_score import classifier_score
from mpcc.plugins.metrics.kernel_distance import kernel_distance

__all__ = ["main", "oracle_frechet", "oracle_kernel", "oracle_score"]

# Images in each set, and features. With fewer images than features the covariances are singular.
SHAPES = ((1000, 64), (1000, 512), (200, 512))
SHUFFLING_SEED = 2020  # torch-fidelity's


def features(count: int, width: int, seed: int, shift: float) -> Tensor:
    """Return correlated features >= 0, float32, shape (count, width), as the last layer of a network has them."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / width**0.5
    return (torch.randn(count, width, generator=random) @ mixing + 0.3 + shift).relu()


def float64(values: Tensor) -> NDArray[np.float64]:
    """Return a tensor as an array."""
    array: NDArray[np.float64] = values.numpy().astype(np.float64)
    return array


def oracle_frechet(first: Tensor, second: Tensor) -> float:
    """Return the Fréchet distance with scipy's matrix square root."""
    a, b = float64(first), float64(second)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    difference, root = a.mean(0) - b.mean(0), linalg.sqrtm(cov_a @ cov_b).real
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root))


def oracle_kernel(first: Tensor, second: Tensor) -> float:
    """Return the unbiased squared discrepancy of two sets of the same size, with k(a, b) = (a . b / F + 1)^3."""
    a, b = float64(first), float64(second)
    count, width = a.shape
    within = 0.0
    for x in (a, b):
        kernel = (x @ x.T / width + 1) ** 3
        within += (kernel.sum() - np.trace(kernel)) / (count * (count - 1))
    return float(within - 2 * ((a @ b.T / width + 1) ** 3).mean())


def oracle_score(logits: Tensor, splits: int) -> float:
    """Return the mean over parts of exp KL(p(c|x) || p(c)), images shuffled as torch-fidelity does."""
    values = float64(logits)[np.random.RandomState(SHUFFLING_SEED).permutation(len(logits))]
    scores = []
    for number in range(splits):
        part = values[number * len(values) // splits : (number + 1) * len(values) // splits]
        p = special.softmax(part, axis=1)
        scores.append(math.exp(float((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())))
    return float(np.mean(scores))


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| score | images | features | mpcc | oracle | difference | torch-fidelity, float32 | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for count, width in SHAPES:
        first, second = features(count, width, 1, 0.0), features(count, width, 2, 0.1)
        statistics = [fid_features_to_statistics(values) for values in (first, second)]
        kernel = kid_features_to_metric(first, second, kid_subsets=1, kid_subset_size=count, verbose=False)
        logits = 3 * first[:, : width // 4]
        rows = {
            "Fréchet distance": (
                frechet_distance(first, second),
                oracle_frechet(first, second),
                fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"],
            ),
            "kernel distance": (
                kernel_distance(first, second)[0],
                oracle_kernel(first, second),
                kernel["kernel_inception_distance_mean"],
            ),
            "classifier score": (
                classifier_score(logits)[0],
                oracle_score(logits, 10),
                isc_features_to_metric(logits)["inception_score_mean"],
            ),
        }
        for name, (ours, oracle, single) in rows.items():
            cells = [f"{ours:.12g}", f"{oracle:.12g}", f"{abs(ours / oracle - 1):.1e}"]
            print(
                f"| {name} | {count} | {width} | {' | '.join(cells)} | {single:.12g} | {abs(single / oracle - 1):.1e} |"
            )


if __name__ == "__main__":
    main()
