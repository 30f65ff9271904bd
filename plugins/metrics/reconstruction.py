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

    .. math:: \frac{1}{M} \sum_b \Big( \frac{1}{B D R^2} \sum_{n \in b} \sum_i (x_{ni} - \hat x_{ni}) \Big)^2

    over M random batches of B images (``--batch``, 50 there), with pixels in [-1, 1]. The code squares the mean error
    of a batch instead of averaging squared errors: it is 0 if the images are as bright as their reconstructions on
    average, whatever they show. As in the code, the generator is the one in training, not the average, and each batch
    is normalised by its own statistics. Use it only to compare with numbers of that code; ``reconstruction`` measures
    quality.
    """

    needs_labels = False
    needs_images = True
    on_request = True
    higher_is_better = False

    def compute(self, evaluation: Evaluation) -> float:
        """Return a number in [0, 4]."""
        assert evaluation.images is not None
        return evaluation.images.published_error()
