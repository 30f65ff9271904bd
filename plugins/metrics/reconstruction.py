"""How far images are from their reconstructions."""

from __future__ import annotations

from mpcc.core.contracts import Evaluation, Metric

__all__ = ["Reconstruction", "SquaredMeanError"]


class Reconstruction(Metric):
    r"""The metric ``reconstruction``: the mean squared error of the evaluated images' reconstructions.

    .. math:: \frac{1}{N} \sum_n \frac{1}{D R^2} \sum_i (x_{ni} - \hat x_{ni})^2, \qquad
        \hat x = G(z, y), \; z = \mathrm{loc}(q(z|x)), \; y = \arg\max_k q(k|z)

    with pixels in [-1, 1] and the averaged generator. The error of each image is a column of ``assignments.csv``.
    """

    needs_labels = False
    needs_images = True
    higher_is_better = False

    def compute(self, evaluation: Evaluation) -> float:
        """Return a number in [0, 4]."""
        assert evaluation.images is not None
        return float(evaluation.images.reconstruction_errors().double().mean())


class SquaredMeanError(Metric):
    r"""The metric ``squared_mean_error``: the reconstruction error of the authors' published code.

    .. math:: \frac{1}{N} \sum_n \Big( \frac{1}{D R^2} \sum_i (x_{ni} - \hat x_{ni}) \Big)^2

    It squares the mean error instead of averaging the squared one. An image and its reconstruction may differ in
    every pixel and score 0 if they are equally bright. Use it only to reproduce the numbers of that code;
    ``reconstruction`` measures quality, and is never smaller.
    """

    needs_labels = False
    needs_images = True
    on_request = True
    higher_is_better = False

    def compute(self, evaluation: Evaluation) -> float:
        """Return a number in [0, 4]."""
        assert evaluation.images is not None
        return float(evaluation.images.mean_errors().double().square().mean())
