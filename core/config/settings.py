"""Settings of a run that do not depend on its plugins: the section ``run`` of a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import attrs

from mpcc.core.choice_fields import check_choices
from mpcc.core.config.options import option
from mpcc.core.images.invariances import Invariances

__all__ = ["RESUMABLE", "Interval", "RunSettings"]

# Upper bounds are far above any useful value; they keep a typing error from filling memory. This one is a thousand
# years of the fastest preset.
MOST_ITERATIONS = 10**12
# A hundred years.
MOST_MINUTES = 60 * 24 * 36525
SECONDS = {"s": 1, "min": 60, "h": 3600}


@attrs.frozen
class Interval:
    """A number of iterations or a length of time; one of the two is None.

    Attributes:
        iterations: At least 1.
        seconds: More than 0.

    Example:
        >>> Interval.parse(500).due(done=1000, seconds=3.0), Interval.parse("10min").due(done=7, seconds=600.0)
        (True, True)
    """

    iterations: int | None
    seconds: float | None

    @classmethod
    def parse(cls, value: int | str) -> Interval:
        """Read an interval: a whole number, or a number with ``s``, ``min`` or ``h``.

        Raises:
            ValueError: If the value is neither, or not above 0.
        """
        if isinstance(value, int):
            if value < 1:
                raise ValueError(f"must be at least 1 iteration, got {value}")
            return cls(value, None)
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|min|h)", value)
        if match is None or float(match[1]) == 0:
            raise ValueError(f"must be a number of iterations, or a time such as 90s, 10min or 2h, got {value!r}")
        return cls(None, float(match[1]) * SECONDS[match[2]])

    def due(self, done: int, seconds: float) -> bool:
        """Return whether the action is due.

        Arguments:
            done: Iterations so far.
            seconds: Seconds since the last time.
        """
        if self.iterations is not None:
            return done % self.iterations == 0
        return self.seconds is not None and seconds >= self.seconds


def _one_or_all(instance: Any, attribute: attrs.Attribute[Any], value: int | str) -> None:
    if value != "all" and int(value) < 1:
        raise ValueError(f"must be at least 1 or all, got {value}")


def _changes(instance: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    Invariances.parse(value)


def _interval(instance: Any, attribute: attrs.Attribute[Any], value: int | str) -> None:
    Interval.parse(value)


@attrs.frozen(field_transformer=check_choices)
class RunSettings:
    """Settings of a run that do not depend on its plugins; the section ``run`` of a configuration."""

    clusters: int = option(10, "K, the number of clusters", least=1)
    latent_dim: int = option(24, "J, the dimensions of z", least=1, most=2**16)
    iterations: int = option(20_000, "how long to train", least=1, most=MOST_ITERATIONS)
    minutes: float | None = option(
        None,
        "minutes that the whole command may take: the speed is measured, and iterations, averages and evaluations "
        "are set to fit",
        above=0,
        most=MOST_MINUTES,
        seconds=60,
    )
    batch: int = option(50, "images in each update", least=2, most=2**16)
    lr: float = option(2e-4, "Adam step size of the networks", above=0)
    generator_lr_factor: float = option(
        1.0,
        "the generator's step size in units of --lr (a smaller one keeps the samples of a cluster varied)",
        above=0,
    )
    prior_lr: float = option(1.6e-3, "Adam step size of the prior (eta_p)", above=0)
    lr_decay: float = option(
        0.0,
        "share of the iterations, the last ones, over which step sizes fall linearly to 0; 0 for none",
        least=0,
        most=1,
    )
    d_steps: int = option(4, "discriminator updates in an iteration", least=1, most=1000)
    e_steps: int = option(4, "encoder updates in an iteration", least=1, most=1000)
    ema_decay: float = option(0.9999, "decay of the generator's average", least=0, below=1)
    ema_start: int = option(1000, "first iteration that the average includes", least=0)
    label_draws: Literal["independent", "systematic"] = option(
        "independent",
        "how the labels of a batch of generated images are drawn: independent of each other, or systematic, each "
        "cluster as often as its weight says",
    )
    latent_weight: float | Literal["published"] = option(
        "published", "weight of the latent term; published is the paper's, 1/(D R^2)", least=0
    )
    membership_weight: float = option(1.0, "weight of the membership term", least=0)
    entropy_weight: float | Literal["published"] = option(
        "published", "weight of the entropy term; published is the paper's, 0.01/J", least=0
    )
    balance_weight: float = option(
        0.0, "weight of the clusters' balance on real images, in units of the latent term's; 0 for none", least=0
    )
    balance_direction: Literal["images", "prior"] = option(
        "images", "direction of the balance: images for KL(q(y) || p(y)), prior for KL(p(y) || q(y))"
    )
    balance_tolerance: float = option(0.0, "imbalance without a loss, in nats", least=0)
    consistency_weight: float = option(
        0.0,
        "weight of the consistency of images and their changed copies, in units of the latent term's; 0 for none",
        least=0,
    )
    density_weight: float = option(
        0.0,
        "weight of the prior's density at draws from q(z|x) of real images, in nats; 0 for none",
        least=0,
    )
    prior_fit: float = option(
        0.0,
        "share of the iterations after which the prior is fitted to the latents of real images, for many clusters; "
        "0 for never",
        least=0,
        below=1,
    )
    prior_refit: float = option(
        0.0,
        "share of the iterations after which the prior is fitted once more; 0 for never",
        least=0,
        below=1,
    )
    prior_fit_groups: Literal["k-means", "mixture"] = option(
        "k-means",
        "how --prior-fit groups the latents: by k-means after whitening, or by a mixture of Gaussians with "
        "covariances of their own",
    )
    generator_latent_weight: float = option(
        0.0, "weight of the latent term in the generator's update, in units of the latent term's; 0 for none", least=0
    )
    generator_membership_weight: float = option(
        0.0,
        "weight of the information about y in generated images, in units of the latent term's; 0 for none",
        least=0,
    )
    invariant_to: str = option(
        "none",
        "what leaves the group of an image unchanged, such as shift,rotation=10,brightness; a name without a range "
        f"takes its default: {Invariances.usual()}",
        validator=_changes,
    )
    real_terms_rise: int = option(200, "iterations over which the terms on real images rise to their weights", least=0)
    entropy: Literal["auto", "closed-form", "numerical", "lower-bound", "monte-carlo"] = option(
        "auto", "entropies of the prior's components; auto takes what the prior declares, never an estimate"
    )
    entropy_samples: int | None = option(
        None, "samples a component and update for --entropy monte-carlo", least=1, most=10**5
    )
    standing_passes: int = option(16, "batches, of --batch samples, for standing statistics", least=1)
    metrics: str = option("all", "metrics to compute, separated by commas, or all")
    eval_every: int = option(5000, "iterations between evaluations", least=1)
    first_eval: int | None = option(
        None, "iterations before the first evaluation; if not given, those between evaluations", least=1
    )
    eval_images: int | Literal["all"] = option(
        "all", "how many images to evaluate, a fixed random choice: a number or all", validator=_one_or_all
    )
    picture_clusters: int | Literal["all"] = option(
        30,
        "how many clusters pictures show, a random choice among those with images: a number or all",
        validator=_one_or_all,
    )
    checkpoint_every: int | str = option(
        1000, "iterations between checkpoints, or a time such as 10min", validator=_interval
    )
    keep_checkpoints: int = option(2, "older checkpoints to keep beside the newest", least=0)
    best_by: str = option(
        "auto",
        "score without labels whose best evaluation is kept as a checkpoint; auto takes the first metric that judges "
        "clusterings, none keeps no checkpoint",
    )
    batch_norm: Literal["auto", "global", "rank"] = option(
        "auto",
        "with several processes, whose images the generator's batch norms normalise together: global for the whole "
        "batch, rank for each process's part; auto takes global if a part is smaller than the paper's batch of 50",
    )
    log_every: int = option(50, "iterations between log entries", least=1)
    on_nonfinite: Literal["stop", "restart-from-last"] = option(
        "stop", "what to do when a loss, gradient or parameter is not finite"
    )
    max_restarts: int = option(3, "how often a run may restart after a value that is not finite", least=0)
    init_from: Path | None = option(
        None, "run folder, or a checkpoint, whose weights a new run starts from, on more or other images"
    )
    seed: int = option(0, "random seed", least=0, below=2**63)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device to compute on; auto takes CUDA if there is one")
    features: str | None = option(
        None, "feature extractor of fid, kid and inception_score, module:name; the standard Inception if not given"
    )
    feature_weights: Path | None = option(None, "file with the weights of the standard Inception")
    generated_images: int = option(10_000, "images to generate for scores of features", least=1)
    augment_crop: int = option(0, "largest shift, in pixels, of the real images in training; 0 for none", least=0)
    augment_flip: bool = option(False, "mirror half of the real images in training")
    workers: int = option(
        2, "processes that read ahead when a data set does not fit into memory; 0 for none", least=0, most=256
    )
    engine: Literal["fast", "plain"] = option(
        "fast", "how iterations are executed: fast, or plain (step by step); both compute the same"
    )
    precision: Literal["float32", "tf32", "bf16", "auto"] = option(
        "float32",
        "precision of networks in the fast engine; tf32 needs CUDA; auto takes bf16 if a matrix unit computes in it",
    )
    kernels: Literal["torch", "triton"] = option(
        "torch",
        "kernels of the fast engine; triton adds some of our own, on CUDA; no GPU has run them yet",
    )
    graph_reductions: Literal["between", "captured"] = option(
        "between",
        "sums over several GPUs: between CUDA graphs, or captured in one; no GPU has run this yet",
    )
    threads: int | None = option(None, "threads on the CPU, torch's own choice if not given", least=1, most=1024)
    data_root: Path | None = option(None, "folder of the data sets, $MPCC_DATA if not given")
    download: bool = option(False, "fetch a missing data set into the data root")

    def __attrs_post_init__(self) -> None:
        """Check what depends on more than one setting."""
        if self.consistency_weight and not Invariances.parse(self.invariant_to):
            raise ValueError(
                f"consistency_weight {self.consistency_weight:g} needs changes that leave a group as it "
                "is; nearest valid choice: --invariant-to shift"
            )


# Settings that may change when a run is resumed; the result of the training does not depend on their values.
RESUMABLE = frozenset(
    (
        *("iterations", "minutes", "eval_every", "first_eval", "eval_images", "picture_clusters"),
        *("checkpoint_every", "keep_checkpoints", "log_every"),
        *("on_nonfinite", "max_restarts", "device", "data_root", "download", "workers", "engine", "precision"),
        *("kernels", "graph_reductions"),
        *("features", "feature_weights", "generated_images", "best_by", "init_from"),
    )
)
