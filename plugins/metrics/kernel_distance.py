"""The kernel distance between real and generated images, in features."""

from __future__ import annotations

from torch import Tensor

from mpcc.core.contracts import Evaluation
from mpcc.plugins.metrics.features import FeatureMetric, check_features, generated_features, real_features

__all__ = ["KernelInceptionDistance", "kernel_distance"]

SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance(first: Tensor, second: Tensor, subset_size: int = SUBSET_SIZE) -> tuple[float, float]:
    r"""Return the unbiased squared maximum mean discrepancy of two sets of features, a mean over random subsets.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j) + k(\tilde x_i, \tilde x_j)}{m (m - 1)}
        - \frac{2}{m^2} \sum_{i, j} k(x_i, \tilde x_j), \qquad k(a, b) = (a \cdot b / F + 1)^3

    Computed by torch-fidelity with its subsets, 100 of m = 1,000 images. With fewer images than that on one side,
    the subsets are as large as the smaller set; if both sets have that size, there is one subset, of all images.

    Arguments:
        first: Features, shape (n, F), n >= 2.
        second: Features, shape (m, F), m >= 2.
        subset_size: Images in each subset, at most.

    Returns:
        The mean over the subsets, around 0 or below for equal distributions, and its standard deviation over them.

    Raises:
        ValueError: If the shapes don't fit.

    Reference:
        Bińkowski et al., Demystifying MMD GANs, 2018.

    Example:
        >>> import torch
        >>> kernel_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]]))
        (-3.5, 0.0)
    """
    check_features(first, second)
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(len(first), len(second), subset_size)
    complete = size == len(first) == len(second)
    # torch-fidelity computes in the type of the features. In float32 the difference of sums of cubes would lose five
    # digits.
    scores = kid_features_to_metric(
        first.double(),
        second.double(),
        kid_subsets=1 if complete else SUBSETS,
        kid_subset_size=size,
        kid_kernel="poly",
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
        verbose=False,
    )
    return float(scores[KEY_METRIC_KID_MEAN]), float(scores[KEY_METRIC_KID_STD])


class KernelInceptionDistance(FeatureMetric):
    """The metric ``kid``: `kernel_distance` of the evaluated images and generated ones; lower is better.

    The scores are ``kid`` and ``kid_deviation``; with another extractor than the standard one
    ``kernel_distance[module:name]`` and ``kernel_distance_deviation[module:name]``.
    """

    standard_name, other_name, has_deviation = "kid", "kernel_distance", True
    by_torch_fidelity = "kid"

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the distance and its deviation over subsets by their names."""
        images = self.images(evaluation)
        values = kernel_distance(real_features(images).values, generated_features(images).values)
        return dict(zip(self.names(images.request), values, strict=True))
