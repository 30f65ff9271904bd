"""The Fréchet distance between real and generated images, in features."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from mpcc.core.contracts import Evaluation, FeatureRequest
from mpcc.plugins.metrics.extractors import Features
from mpcc.plugins.metrics.features import FeatureMetric, check_features, generated_features, real_features

__all__ = ["FrechetInceptionDistance", "frechet_bias", "frechet_distance"]

logger = logging.getLogger(__name__)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    r"""Return the squared Fréchet (Wasserstein-2) distance between Gaussians fitted to two sets of features.

    .. math:: |\mu_1 - \mu_2|^2 + \operatorname{tr} \Sigma_1 + \operatorname{tr} \Sigma_2
        - 2 \operatorname{tr} (\Sigma_1 \Sigma_2)^{1/2}

    Covariances are unbiased (divided by n - 1). All arithmetic is in float64.

    Arguments:
        first: Features, shape (n, F), n >= 2.
        second: Features, shape (m, F), m >= 2.

    Returns:
        A number >= 0, up to rounding. It is too large by about `frechet_bias`, so compare it only at equal n and m.

    Raises:
        ValueError: If the shapes don't fit.

    Reference:
        Heusel et al., GANs trained by a two time-scale update rule converge to a local Nash equilibrium, 2017;
        Dowson and Landau, The Fréchet distance between multivariate normal distributions, 1982.

    Example:
        >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [7.0]]))
        25.0
    """
    check_features(first, second)
    difference = first.double().mean(0) - second.double().mean(0)
    # torch-fidelity takes the eigenvalues of Sigma_1 Sigma_2. With fewer images than features this product is singular,
    # and the square roots of its rounding errors add up to more than 1e-6 (for equal sets, to -3e-6 instead of 0). Here
    # Sigma_i = R_i' R_i, from the QR decomposition of the centred features. The trace of the root is then the sum of
    # the singular values of R_1 R_2', and no root of a rounding error is taken.
    roots = [centred_root(features) for features in (first, second)]
    overlap = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    traces = roots[0].square().sum() + roots[1].square().sum()
    return float(difference.square().sum() + traces - 2 * overlap)


def frechet_bias(features: Tensor, first: int, second: int) -> float:
    r"""Return what `frechet_distance` is expected to be for two samples of one Gaussian, where it should be 0.

    .. math:: \Big( \frac1n + \frac1m \Big) \operatorname{tr} \Sigma + \frac12 \Big( \frac1{n-1} + \frac1{m-1} \Big)
        \sum_{i,j} \frac{\lambda_i \lambda_j}{\lambda_i + \lambda_j} (1 + \delta_{ij})

    with the eigenvalues of the covariance. The first term is exact: the variance of the means. The second is that of
    the two covariances: for a small difference D between them the distance is half the sum of
    :math:`|D_{ij}|^2 / (\lambda_i + \lambda_j)`. With equal eigenvalues the two terms are about
    :math:`(1/n + 1/m) \operatorname{tr} \Sigma \, (F + 5) / 4`, otherwise less. It holds for n and m above F.

    Arguments:
        features: Their covariance stands for the Gaussian's, shape (N, F), N >= 2.
        first: n, at least 2.
        second: m, at least 2.

    Raises:
        ValueError: If the shape does not fit, or n or m is less than 2.

    Reference:
        Ours; the second derivative is that of Bhatia, Jain and Lim, On the Bures-Wasserstein distance between positive
        definite matrices, 2019.

    Example:
        >>> features = torch.tensor([[-1.0], [1.0]]) / 2**0.5
        >>> round(frechet_bias(features, 101, 101), 4)
        0.0298
    """
    check_features(features, features)
    if min(first, second) < 2:
        raise ValueError(f"both samples must have at least 2 images, got {first} and {second}")
    eigenvalues = torch.linalg.svdvals(centred_root(features)).square()
    eigenvalues = eigenvalues[eigenvalues > 0]
    pairs = eigenvalues[:, None] * eigenvalues / (eigenvalues[:, None] + eigenvalues)
    of_means = (1 / first + 1 / second) * eigenvalues.sum()
    of_covariances = (1 / (first - 1) + 1 / (second - 1)) * (pairs.sum() + pairs.diagonal().sum()) / 2
    return float(of_means + of_covariances)


def centred_root(features: Tensor) -> Tensor:
    """Return R with R'R the covariance of features, float64, shape (min(n, F), F)."""
    values = features.double()
    centred = (values - values.mean(0)) / (len(values) - 1) ** 0.5
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root


class FrechetInceptionDistance(FeatureMetric):
    """The metric ``fid``: `frechet_distance` of the evaluated images and generated ones; lower is better.

    With another extractor than the standard one it is called ``frechet_distance[module:name]``.
    """

    standard_name, other_name = "fid", "frechet_distance"

    def check_examples(self, request: FeatureRequest, features: Features) -> None:
        """Warn if there are not more images than features."""
        width = features.values.shape[1]
        fewest = min(request.evaluated or 0, request.samples)
        if fewest <= width:
            logger.warning(
                "%s: %d evaluated and %d generated images are compared in %d features: with fewer images than features "
                "the distance depends on their number more than on what they show; expected more than %d of each "
                "(--eval-images, --generated-images), or an extractor with fewer features",
                self.names(request)[0],
                request.evaluated,
                request.samples,
                width,
                width,
            )

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the distance by its name; record what it would be for two samples of one Gaussian."""
        images = self.images(evaluation)
        real, generated = real_features(images).values, generated_features(images).values
        fewest, width = min(len(real), len(generated)), real.shape[1]
        bias = frechet_bias(real, len(real), len(generated)) if fewest > width else None
        images.record["frechet_bias"] = bias if bias is None else float(f"{bias:.4g}")
        return dict(zip(self.names(images.request), [frechet_distance(real, generated)], strict=True))
