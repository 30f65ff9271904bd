"""MNIST, in the folder layout of torchvision."""

from __future__ import annotations

import torchvision

from mpcc.plugins.datasets.reading.idx import IdxSet

__all__ = ["MNIST"]


class MNIST(IdxSet):
    """70,000 handwritten digits, 28 x 28 grey: 60,000 to train on, then 10,000 to test; below ``ROOT/MNIST/raw``.

    Source:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", 1998.
        Resizing: method section 5.
    """

    name = "mnist"
    folder = "MNIST"
    class_names = tuple("0123456789")
    downloader = torchvision.datasets.MNIST
