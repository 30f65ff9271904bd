"""The Fréchet distance between real and generated images, in features."""

from __future__ import annotations

import torch
from torch import Tensor

from mpcc.core.contracts import Evaluation
from mpcc.plugins.metrics.features import FeatureMetric, check_features, generated_features, real_features

__all__ = ["FrechetInceptionDistance", "frechet_distance"]


def frechet_distance(first: Tensor, second: Tensor) -> float:
    r"""Return the squared Fréchet (Wasserstein-2) distance between Gaussians fitted to two sets of features.

    .. math:: |\mu_1 - \mu_2|^2 + \operatorname{tr} \Sigma_1 + \operatorname{tr} \Sigma_2
        - 2 \operatorname{tr} (\Sigma_1 \Sigma_2)^{1/2}

    Covariances are unbiased (divided by n - 1). All arithmetic is in float64.

    Arguments:
        first: Features, shape (n, F), n >= 2.
        second: Features, shape (m, F), m >= 2.

    Returns:
        A number >= 0, up to rounding. Its bias is about +1/n + 1/m, so compare it only at equal n and m.

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

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the distance by its name."""
        images = self.images(evaluation)
        value = frechet_distance(real_features(images).values, generated_features(images).values)
        return {self.named(images, "fid", "frechet_distance"): value}
