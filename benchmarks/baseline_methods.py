"""Clusterings that need no model of ours: what `baselines.py` runs, each a function from pixels to clusters.

Every function takes pixels in [0, 1], shape (N, D), the number of clusters K and a seed, and returns the cluster of
each image, shape (N,). None of them sees a label. Settings are the libraries' defaults, or those of a publication that
the docstring names; none was chosen by a score on our data.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, Isomap
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from mpcc.core.errors import InvalidInput

__all__ = ["METHODS", "Clustering", "Method", "cluster", "shortened_epochs"]

Pixels = NDArray[np.float32]
Clusters = NDArray[np.int64]

# The share of the time that is left which trained methods plan with: rates vary, and the last epoch must end in time.
PLANNED = 0.8
# The part of the images, and the epochs, that tell how long an epoch takes.
REHEARSED_IMAGES, REHEARSED_EPOCHS = 5_000, (1, 5)


@attrs.frozen
class Clustering:
    """What a method found.

    Attributes:
        clusters: Shape (N,).
        fitted_on: How many of the N images the method has seen; the others went to their nearest neighbour among these.
        seconds: Time of the method alone.
        details: What else has to be known, such as the epochs that the time sufficed for.
    """

    clusters: Clusters
    fitted_on: int
    seconds: float
    details: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Method:
    """A method of clustering.

    Attributes:
        title: As tables show it.
        fit: The function; it gets pixels, K, the seed, and the time (s) that is left.
        most: The most images that it can take: its memory grows with the square of their number.
        package: What has to be installed beyond the base install: module and distribution.
    """

    title: str
    fit: Callable[[Pixels, int, int, float], tuple[Clusters, dict[str, Any]]]
    most: int | None = None
    package: tuple[str, str] | None = None

    def check(self) -> None:
        """Check that the method's package is installed.

        Raises:
            InvalidInput: If it is not.
        """
        if self.package is not None and importlib.util.find_spec(self.package[0]) is None:
            raise InvalidInput(
                f"{self.title} needs {self.package[1]}, which is not installed: pip install -e '.[baselines]', "
                "or leave the method out with --methods"
            )


def cluster(method: Method, pixels: Pixels, clusters: int, seed: int, left: float, most: int | None) -> Clustering:
    """Cluster images; if they are more than a method can take, fit on a part and assign the rest by nearest neighbour.

    Arguments:
        method: One of `METHODS`.
        pixels: In [0, 1], shape (N, D).
        clusters: K.
        seed: Of the method and of the choice of the part.
        left: Time (s) until the method will be ended.
        most: The size of the part, if not the method's own.
    """
    start = time.monotonic()
    most = min(most or method.most or len(pixels), method.most or len(pixels), len(pixels))
    if most == len(pixels):
        found, details = method.fit(pixels, clusters, seed, left)
        return Clustering(found, most, time.monotonic() - start, details)
    part = np.sort(np.random.default_rng(seed).choice(len(pixels), most, replace=False))
    found, details = method.fit(pixels[part], clusters, seed, left)
    nearest = NearestNeighbors(n_neighbors=1).fit(pixels[part]).kneighbors(pixels, return_distance=False)[:, 0]
    return Clustering(found[nearest], most, time.monotonic() - start, details)


def k_means(pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """Lloyd's algorithm, the best of ten starts."""
    return KMeans(clusters, n_init=10, random_state=seed).fit_predict(pixels).astype(np.int64), {}


def ward(pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """Ward's agglomerative clustering; nothing in it is random."""
    return AgglomerativeClustering(clusters, linkage="ward").fit_predict(pixels).astype(np.int64), {}


def mixture(points: NDArray[Any], clusters: int, seed: int) -> Clusters:
    """Cluster an embedding by a Gaussian mixture with full covariances, the best of ten starts."""
    found = GaussianMixture(clusters, n_init=10, random_state=seed).fit_predict(points.astype(np.float64))
    return np.asarray(found, np.int64)


def reduced(pixels: Pixels, seed: int) -> Pixels:
    """Return the first 50 principal components, as van der Maaten and Hinton (2008) do before t-SNE."""
    dimensions = min(50, *pixels.shape)
    return pixels if dimensions == pixels.shape[1] else PCA(dimensions, random_state=seed).fit_transform(pixels)


def t_sne(pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """t-SNE in two dimensions, then a mixture."""
    perplexity = min(30.0, (len(pixels) - 1) / 3)
    embedded = TSNE(perplexity=perplexity, random_state=seed).fit_transform(reduced(pixels, seed))
    return mixture(embedded, clusters, seed), {}


def isomap(pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """Isomap in as many dimensions as clusters, ten at most, then a mixture."""
    with warnings.catch_warnings():
        # A neighbourhood graph in several parts is completed; scikit-learn warns of it.
        warnings.simplefilter("ignore")
        embedded = Isomap(n_components=min(clusters, 10)).fit_transform(pixels)
    return mixture(embedded, clusters, seed), {}


def umap(pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """UMAP with the settings of N2D (McConville et al., 2019) on pixels, then a mixture; ten dimensions at most."""
    from umap import UMAP

    settings = {"n_neighbors": 20, "min_dist": 0.0, "n_components": min(clusters, 10), "n_jobs": 1}
    embedded = UMAP(**settings, random_state=seed).fit_transform(pixels)
    return mixture(np.asarray(embedded), clusters, seed), {}


def vade(pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """Train VaDE (Jiang et al., 2017) as in ClustPy."""
    from clustpy.deep import VaDE

    return trained(VaDE, pixels, clusters, seed, left)


def dec(pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """Train DEC (Xie et al., 2016) as in ClustPy."""
    from clustpy.deep import DEC

    return trained(DEC, pixels, clusters, seed, left)


def trained(algorithm: type, pixels: Pixels, clusters: int, seed: int, left: float) -> tuple[Clusters, dict[str, Any]]:
    """Train a network of ClustPy: the library's numbers of epochs, or as many as the time suffices for."""
    start = time.monotonic()
    # What more epochs add on a part of the images is the time of an epoch; the rest is spent once.
    some = pixels[: min(len(pixels), REHEARSED_IMAGES)]
    times = []
    for epochs in REHEARSED_EPOCHS:
        begin = time.monotonic()
        algorithm(clusters, pretrain_epochs=epochs, clustering_epochs=epochs, random_state=seed).fit(some)
        times.append(time.monotonic() - begin)
    more, share = REHEARSED_EPOCHS[1] - REHEARSED_EPOCHS[0], len(pixels) / len(some)
    # A machine that is busy during the first rehearsal alone may show no difference.
    an_epoch = share * max((times[1] - times[0]) / (2 * more), times[1] / (10 * REHEARSED_EPOCHS[1]))
    once = max(0.0, share * times[0] - 2 * REHEARSED_EPOCHS[0] * an_epoch)
    usual = algorithm(clusters)
    remaining = left - (time.monotonic() - start) - once
    pretraining, clustering = shortened_epochs(
        usual.pretrain_epochs, usual.clustering_epochs, an_epoch, max(0.0, remaining)
    )
    model = algorithm(clusters, pretrain_epochs=pretraining, clustering_epochs=clustering, random_state=seed)
    found = model.fit(pixels).labels_
    return np.asarray(found, np.int64), {
        "epochs": [pretraining, clustering],
        "usual_epochs": [usual.pretrain_epochs, usual.clustering_epochs],
    }


def shortened_epochs(pretraining: int, clustering: int, an_epoch: float, left: float) -> tuple[int, int]:
    """Return both numbers of epochs, cut in proportion if the time does not suffice for all.

    Arguments:
        pretraining: Usual epochs of the first kind.
        clustering: Usual epochs of the second kind.
        an_epoch: Time (s) of one.
        left: Time (s) that there is.

    Example:
        >>> shortened_epochs(100, 150, 1.0, 1000.0), shortened_epochs(100, 150, 1.0, 125.0)
        ((100, 150), (40, 60))
    """
    share = min(1.0, PLANNED * left / (an_epoch * (pretraining + clustering)))
    return max(1, int(pretraining * share)), max(1, int(clustering * share))


# Ward's and Isomap's distances fill 8 N^2 bytes or half of it: 10,000 images need 0.8 GB, 70,000 would need 39.
METHODS = {
    "k-means": Method("k-means", k_means),
    "ward": Method("Ward", ward, most=10_000),
    "t-sne": Method("t-SNE + mixture", t_sne),
    "isomap": Method("Isomap + mixture", isomap, most=10_000),
    "umap": Method("UMAP + mixture", umap, package=("umap", "umap-learn")),
    "vade": Method("VaDE", vade, package=("clustpy", "clustpy")),
    "dec": Method("DEC", dec, package=("clustpy", "clustpy")),
}
