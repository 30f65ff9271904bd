"""The speed of everything besides training: loading, prediction, and the posterior by number of clusters and batch.

Letters in shapes: N images in a batch or data set, K clusters, J latent dimensions, D image channels, R image size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from mpcc.core.bench.memory import memory_of
from mpcc.core.bench.subject import SYNTHETIC_IMAGES, ImagesOnDemand, Subject, predict, random_images
from mpcc.core.bench.timing import Measured, Spread, flattened, interleaved
from mpcc.core.contracts import ImageSource, Prior
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.inference import EVALUATION_BATCH
from mpcc.core.images.stream import ImageStream
from mpcc.core.method.model import to_unit_range
from mpcc.core.run.assembly import augmentation
from mpcc.core.run.run import Run
from mpcc.core.run.timed_steps import synchroniser
from mpcc.core.system.randomness import own_randomness

__all__ = [
    "BATCHES",
    "CLUSTERS",
    "FORMULAS",
    "growth",
    "loading_figures",
    "posterior_figures",
    "predict_figures",
    "predict_sizes",
]

CLUSTERS = (10, 32, 100, 320, 1000, 3200, 10_000)
BATCHES = (50, 160, 500, 1600, 5000)
FIXED_CLUSTERS, FIXED_BATCH = 100, 50
REPEATS = 7
BATCHES_AT_ONCE = 20
FEW_IMAGES = 10_000
# Peak memory counts as constant if its ratio between the largest and the smallest number of images is below this.
FLAT_BELOW = 1.1
# Fewer images do not fill the memory for a batch and for the next one, which is read ahead.
ENOUGH_IMAGES = 4 * EVALUATION_BATCH
FORMULAS = {
    "loading": f"images of {BATCHES_AT_ONCE} batches / the seconds until they are float32 in [-1, 1] on the device",
    "predict": "images / seconds of all of `mpcc.core.evaluation.inference.predictions`: encoder, then q(y|x); the "
    f"number of images is {SYNTHETIC_IMAGES} or --predict-images, whichever is smaller",
    "predict memory": f"flat if the peak for the most images is below {FLAT_BELOW} times the peak for the fewest, "
    f"null if the fewest are under {ENOUGH_IMAGES}; bytes an image are the difference of these two peaks / the "
    "difference of the two numbers of images",
    "posterior": f"seconds of q(y|z) and of all entropies, without gradients: by K for a batch of {FIXED_BATCH}, by "
    f"batch for K = {FIXED_CLUSTERS}; median of {REPEATS}",
    "growth": "exponent: slope of log seconds over log size by least squares; over the whole range, its upper half "
    "(sizes from the geometric mean of its ends), and its last decade; fixed costs dominate smaller sizes",
}


def loading_figures(subject: Subject, rounds: int, device: torch.device) -> dict[str, Any]:
    """Measure how many images a second a stream moves to a device.

    Arguments:
        subject: A preset; without images of its own, random ones in memory are used.
        rounds: Number of measurements.
        device: The device that receives the images.
    """
    settings, (channels, size, _), missing = subject.config.run, subject.shape, subject.missing
    order = partial(ImageStream, batch=settings.batch, seed=settings.seed, augmentation=augmentation(settings))
    stream_of = partial(order, workers=settings.workers, device=device)
    images: torch.Tensor | ImageSource = random_images(max(SYNTHETIC_IMAGES, settings.batch), channels, size)
    stream, data = stream_of(images), "synthetic"
    if subject.data is not None:
        try:
            stream, images = stream_of(subject.data.images), subject.data.images
            data, missing = subject.data.description or subject.config.data.name, ""
        except InvalidInput as error:
            missing = str(error)

    def load_batches() -> None:
        # A training iteration takes several batches at once, too.
        to_unit_range(stream.take(BATCHES_AT_ONCE), device)

    try:
        timed = interleaved([Measured("stream", load_batches)], rounds, 1, synchroniser(device))["stream"]
    finally:
        stream.close()
    seconds = flattened(timed)
    place = "memory" if isinstance(images, torch.Tensor) else f"files, read ahead by {settings.workers} processes"
    return {
        **{"data": data, "missing": missing, "from": place, "images": images.shape[0]},
        "seconds": seconds,
        "batches": BATCHES_AT_ONCE,
        "images_per_second": BATCHES_AT_ONCE * settings.batch / Spread.of(seconds).median,
    }


def predict_figures(subject: Subject, runs: Mapping[str, Run], images: int, rounds: int) -> dict[str, Any]:
    """Measure how many images a second are assigned to clusters, and how much memory that takes.

    Arguments:
        subject: A preset.
        runs: By engine, from `Subject.assemble`; only those in float32 are measured, the precision of predictions.
        images: The largest number of images whose memory is measured.
        rounds: Number of measurements of the rate.
    """
    trainers = {name: run.trainer for name, run in runs.items() if run.trainer.engine.precision_name == "float32"}
    channels, size, _ = subject.shape
    source = ImagesOnDemand(min(SYNTHETIC_IMAGES, images), channels, size)
    measured = [
        Measured(name, partial(predict, trainer.model, source), trainer.engine.active)
        for name, trainer in trainers.items()
    ]
    wait = synchroniser(next(iter(trainers.values())).model.device) if trainers else lambda: None
    engines = {}
    for name, timed in interleaved(measured, rounds, 1, wait).items():
        seconds = flattened(timed)
        engines[name] = {"seconds": seconds, "images_per_second": source.shape[0] / Spread.of(seconds).median}
    # Memory is measured for the fast engine, the default, unless only others are compared.
    engine = [*trainers, "fast"][-1] if "fast" in trainers or not trainers else [*trainers][-1]
    by_size = {size: memory_of(subject.config, channels, engine, images=size) for size in predict_sizes(images)}
    peaks = {size: figures["peak"] for size, figures in by_size.items() if "peak" in figures}
    memory: dict[str, Any] = {"engine": engine, "by_images": {str(size): figures for size, figures in by_size.items()}}
    if len(peaks) > 1:
        few, many = min(peaks), max(peaks)
        memory["ratio"] = peaks[many] / peaks[few]
        memory["flat"] = memory["ratio"] < FLAT_BELOW if few >= ENOUGH_IMAGES else None
        memory["bytes_per_image"] = (peaks[many] - peaks[few]) / (many - few)
    return {"images": source.shape[0], "data": "synthetic", "engines": engines, "memory": memory}


def predict_sizes(images: int) -> list[int]:
    """Return the numbers of images whose memory is measured: decades up to the largest number.

    Example:
        >>> predict_sizes(1_000_000), predict_sizes(100_000), predict_sizes(300)
        ([10000, 100000, 1000000], [10000, 100000], [30, 300])
    """
    sizes = [min(FEW_IMAGES, images // 10)]
    while sizes[-1] * 10 < images:
        sizes.append(sizes[-1] * 10)
    return [*sizes, images]


def posterior_figures(subject: Subject, device: torch.device) -> dict[str, Any]:
    """Measure the cost of the posterior over clusters and of the entropies, by K and by batch, and its growth."""
    config = subject.config
    latent_dim = config.run.latent_dim

    def prior_of(clusters: int) -> Prior:
        prior: Prior = config.prior.make(clusters, latent_dim)
        return prior.to(device).requires_grad_(False)

    with own_randomness(config.run.seed, device), torch.no_grad():
        priors = {clusters: prior_of(clusters) for clusters in CLUSTERS}
        z = torch.randn(max(BATCHES), latent_dim, device=device)
        small_batch, fixed_prior = z[:FIXED_BATCH], priors[FIXED_CLUSTERS]
        by_clusters = {K: partial(prior.log_responsibilities, small_batch) for K, prior in priors.items()}
        by_batch = {n: partial(fixed_prior.log_responsibilities, z[:n]) for n in BATCHES}
        curves: dict[str, Mapping[int, Callable[[], object]]] = {
            "responsibilities_by_clusters": by_clusters,
            "responsibilities_by_batch": by_batch,
        }
        if config.run.entropy != "monte-carlo" and fixed_prior.entropy_kind != "none":
            curves["entropies_by_clusters"] = {K: prior.entropies for K, prior in priors.items()}
        figures: dict[str, Any] = {"latent_dim": latent_dim, "batch": FIXED_BATCH, "clusters": FIXED_CLUSTERS}
        for name, steps in curves.items():
            measured = [Measured(str(size), step) for size, step in steps.items()]
            timed = interleaved(measured, REPEATS, 1, synchroniser(device))
            seconds = {size: flattened(timed[str(size)]) for size in steps}
            medians = [Spread.of(of_size).median for of_size in seconds.values()]
            measured_values = {"sizes": list(seconds), "seconds": list(seconds.values()), "median": medians}
            figures[name] = {**measured_values, "growth": growth(list(seconds), medians)}
    return figures


def growth(sizes: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Fit exponents b of seconds = a size^b by least squares of the logarithms.

    Arguments:
        sizes: In ascending order, at least two of them in the last decade.
        seconds: Positive, one for each size.

    Returns:
        Slopes over the ``whole`` range, its ``upper_half`` (from the geometric mean of its ends), and ``last_decade``.

    Example:
        >>> slopes = growth([10, 100, 1000, 10_000], [1.0, 1.0, 1.0, 10.0])
        >>> [round(slope, 3) for slope in slopes.values()]
        [0.3, 1.0, 1.0]
    """
    starts = {"whole": sizes[0], "upper_half": math.sqrt(sizes[0] * sizes[-1]), "last_decade": sizes[-1] / 10}
    logs = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(seconds, dtype=float))
    # The tolerance keeps a size that equals a start in spite of rounding.
    kept = {name: logs[0] >= math.log(start) - 1e-9 for name, start in starts.items()}
    return {name: float(np.polyfit(logs[0][which], logs[1][which], 1)[0]) for name, which in kept.items()}
