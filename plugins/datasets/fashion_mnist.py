"""Fashion-MNIST, in the folder layout of torchvision."""

from __future__ import annotations

import torchvision

from mpcc.plugins.datasets.reading.idx import IdxSet

__all__ = ["FashionMNIST"]


class FashionMNIST(IdxSet):
    """70,000 pictures of clothes, 28 x 28 grey, as many of each of ten classes, in files like MNIST's.

    60,000 are to train on, then 10,000 to test; the files are below ``ROOT/FashionMNIST/raw``.

    Source:
        H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
        algorithms", 2017. Resizing: method section 5.
    """

    name = "fashion-mnist"
    folder = "FashionMNIST"
    class_names = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
    downloader = torchvision.datasets.FashionMNIST
