"""The classes of plugins: `Prior`, `Architecture`, `Dataset`, `Metric`, and the values that pass between them.

Letters in shapes: N images in a batch or data set, K clusters, J latent dimensions, D image channels, R image size.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import attrs
import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.distributions import Distribution, Independent, constraints, kl_divergence

from mpcc.core.errors import InvalidInput
from mpcc.core.label_draws import systematic_labels

__all__ = [
    "Architecture",
    "Dataset",
    "Direction",
    "EvaluatedImages",
    "Evaluation",
    "FeatureRequest",
    "ImageSet",
    "ImageSource",
    "Metric",
    "Networks",
    "Objective",
    "Originals",
    "Prior",
]


# How many numbers (images x clusters x dimensions) a block of densities may take.
BLOCK = 2**18

# Which values of a score are better; a deviation, for example, is neither.
Direction = Literal["higher", "lower", "neither"]


class Prior(nn.Module, abc.ABC):
    r"""A learnable mixture p(y) p(z|y) together with the family of q(z|x) (method: supplement A.2).

    .. math:: p(z, y) = \phi_y \, p(z \mid y), \qquad q(y \mid z) = \phi_y p(z|y) / \sum_k \phi_k p(z|k)

    A subclass defines one component. Sampling, densities, entropies and responsibilities are derived here from that
    one distribution object, so they cannot disagree. All arithmetic is in the dtype of the parameters, under mixed
    precision too, because half precision has no Student-t sampler and overflows in heavy tails.

    A plugin's constructor takes ``(clusters, latent_dim, options)``. Every parameter is trained; fixed values are
    registered as buffers. `mpcc.core.mixture.LocationScaleMixture` holds the state that most priors share.

    Attributes:
        entropy_kind: What `entropies` returns: the ``closed-form`` entropies, ``numerical`` ones such as those of a
            quadrature, a ``lower-bound`` on them (the loss then bounds the divergence from above; supplement B.2), or
            ``none`` if the family has none of these. A run refuses ``none`` unless its user asks for a Monte Carlo
            estimate.
        entropy_tolerance: The largest error of a ``numerical`` entropy, in nats, for every component; 0 for the other
            kinds.
        label_draws: How `sample_labels` draws: ``independent`` labels, as in the paper, or ``systematic`` ones
            (`mpcc.core.label_draws`). A run sets it from ``--label-draws``.
    """

    clusters: int
    latent_dim: int
    entropy_kind: Literal["closed-form", "numerical", "lower-bound", "none"] = "closed-form"
    entropy_tolerance: float = 0.0
    label_draws: Literal["independent", "systematic"] = "independent"

    @abc.abstractmethod
    def component(self, y: Tensor) -> Distribution:
        """Return p(z|y) for each label: batch shape of ``y``, event shape (J,), with ``rsample`` and ``entropy``.

        Arguments:
            y: Labels in 0..K-1, int64, any shape.
        """

    @abc.abstractmethod
    def weights(self) -> Tensor:
        """Return phi = p(y), shape (K,), positive and summing to 1, on the device of the parameters or buffers.

        A phi made from parameters is trained. Drawing y has no gradient, so every term is multiplied by `label_ratio`.
        """

    @abc.abstractmethod
    def encoder_distribution(self, loc: Tensor, raw_scale: Tensor) -> Distribution:
        """Return q(z|x) from the encoder's two heads: batch shape (N,), event shape (J,), with ``rsample``.

        Its tails must be heavy enough for E_p abs(log q(z|x)) to be finite: a Normal q needs a prior with a variance.

        Arguments:
            loc: Location head, shape (N, J).
            raw_scale: Scale head, any real numbers (a log-variance for a Normal), shape (N, J).
        """

    def input_map(self, z: Tensor) -> Tensor:
        """Map z elementwise and strictly monotonically before the generator; densities are those of z itself."""
        return z

    def log_weights(self) -> Tensor:
        """Return log phi, shape (K,)."""
        return self.weights().log()

    def sample_labels(self, count: int) -> Tensor:
        """Draw ``count`` labels y ~ p(y), shape (count,), from torch's global random state."""
        weights = self.weights().detach()
        if self.label_draws == "systematic":
            return systematic_labels(weights, count)
        return torch.multinomial(weights, count, replacement=True)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw (z, y) ~ p(z, y), y first; z, shape (count, J), carries gradients to the parameters of p(z|y)."""
        with self.full_precision():
            y = self.sample_labels(count)
            z: Tensor = self.component(y).rsample()
        return z, y

    def label_ratio(self, y: Tensor) -> Tensor | None:
        r"""Return phi_y / stopgrad(phi_y), shape of ``y``, or None if phi has no gradient.

        Its value is 1 and its gradient is that of log phi_y. A mean of terms multiplied by it therefore has the
        gradient of the expectation over y ~ phi (method, section 4).
        """
        log_weights = self.log_weights()
        if not log_weights.requires_grad:
            return None
        log_phi = log_weights[y]
        return torch.exp(log_phi - log_phi.detach())

    def log_density(self, z: Tensor) -> Tensor:
        """Return log p(z|k) for every cluster, shape (N, K), for z of shape (N, J)."""
        labels = torch.arange(self.clusters, device=z.device)
        # The blocks fit into a cache; otherwise the time would grow faster than the number of clusters.
        rows = max(1, BLOCK // (self.clusters * self.latent_dim))
        with self.full_precision():
            components = self.component(labels)
            # An exported program takes any number of rows, so it cannot have a fixed number of blocks.
            parts = (z,) if torch.compiler.is_exporting() else torch.split(z, rows)
            blocks: list[Tensor] = [components.log_prob(part.unsqueeze(-2)) for part in parts]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def log_responsibilities(self, z: Tensor) -> Tensor:
        """Return log q(y|z) by Bayes' rule, shape (N, K), for z of shape (N, J)."""
        with self.full_precision():
            return torch.log_softmax(self.log_weights() + self.log_density(z), dim=-1)

    def entropies(self) -> Tensor:
        """Return H[p(z|k)] in nats for every cluster, shape (K,), or a lower bound on it, see `entropy_kind`.

        The entropy is differential, so it may be negative.
        """
        labels = torch.arange(self.clusters, device=self.weights().device)
        with self.full_precision():
            entropy: Tensor = self.component(labels).entropy()
        return entropy

    def divergences(self, loc: Tensor, raw_scale: Tensor) -> Tensor:
        """Return KL(q(z|x) || p(z|k)) in nats for every image and cluster, shape (N, K), in closed form.

        The forms are those that are registered with torch for the two families (`torch.distributions.register_kl`). A
        system of the forward KL needs them; one of the reverse KL does not (supplement, B.2).

        Arguments:
            loc: The encoder's location head, shape (N, J).
            raw_scale: Its scale head, shape (N, J).

        Raises:
            NotImplementedError: If there is no closed form for the two families.
        """
        rows, clusters = len(loc), self.clusters
        labels = torch.arange(clusters, device=loc.device).repeat(rows)
        with self.full_precision():
            q = self.encoder_distribution(loc.repeat_interleave(clusters, 0), raw_scale.repeat_interleave(clusters, 0))
            divergence: Tensor = kl_divergence(q, self.component(labels))
        return divergence.view(rows, clusters)

    @torch.no_grad()
    def validate(self) -> None:
        """Check the weights, and the parameters of all components against the constraints of their distributions.

        torch.compile switches the checks of torch.distributions off for the whole process. This check doesn't depend
        on them.

        Raises:
            ValueError: Naming the distribution, the parameter, a value and the constraint.
        """
        try:
            components = self.component(torch.arange(self.clusters, device=self.weights().device))
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # The constructor of a distribution factorises its covariance.
            raise ValueError(str(error)) from error
        while isinstance(components, Independent):
            components = components.base_dist
        family = type(components).__name__
        for name, constraint in components.arg_constraints.items():
            value = getattr(components, name)
            if constraints.is_dependent(constraint):  # type: ignore[no-untyped-call]
                continue
            finite = torch.isfinite(value)
            if not (bool(finite.all()) and bool(constraint.check(value).all())):  # type: ignore[no-untyped-call]
                worst = value.min() if bool(finite.all()) else value[~finite][0]
                raise ValueError(f"{family}.{name}: expected finite values, {constraint}, got {worst.item()}")
        weights = self.weights()
        if not (bool((weights > 0).all()) and abs(float(weights.sum()) - 1) < 1e-4):
            raise ValueError(f"weights: expected positive numbers that sum to 1, got {weights.tolist()}")

    def scales(self) -> Tensor | None:
        """Return the components' scales, shape (K, J), for the log, or None if the family has none."""
        return None

    def quantities(self) -> Mapping[str, Tensor]:
        """Return further tensors for the log, by name: a scalar becomes a curve, anything else a histogram."""
        return {}

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Switch mixed precision off for the length of a ``with`` block."""
        anchor = next(iter(self.parameters()), None)
        device = self.weights().device if anchor is None else anchor.device
        if not (is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)):
            yield  # entering autocast takes longer than most of what is computed inside
            return
        with torch.autocast(device.type, enabled=False):
            yield


@attrs.frozen(eq=False)
class Networks:
    """The three networks of one run.

    Attributes:
        generator: (z, y) -> images in [-1, 1]; z (N, J) float, y (N,) int64, images (N, D, R, R).
        discriminator: images -> scores, (N, D, R, R) -> (N,); or, if it is conditional, (images, y) -> scores.
        encoder: images -> (loc, raw_scale), (N, D, R, R) -> two of (N, J).
        conditional: Whether the discriminator takes labels. Generated images come with the labels that were sampled
            for them, real images with argmax q(y|z) at the encoder's location. It never gets labels of a data set.
        grouped: Whether one call of the generator inside `mpcc.core.layers.batch_norm.batch_groups` equals one call
            for each group. This holds if images of a batch depend on each other through `GroupedBatchNorm2d` only.

    The discriminator and the encoder may share parameters. Each then updates them with its own Adam moments.
    """

    generator: nn.Module
    discriminator: nn.Module
    encoder: nn.Module
    conditional: bool = False
    grouped: bool = False

    def by_name(self) -> dict[str, nn.Module]:
        """Return the three networks under the names that phases, optimizers, logs and checkpoints use."""
        return {"generator": self.generator, "discriminator": self.discriminator, "encoder": self.encoder}


class Architecture(abc.ABC):
    """Builds the networks for images of one size.

    A plugin's constructor takes ``(options,)``. Every parameter is trained; fixed values are registered as buffers.

    Attributes:
        image_size: R, the only image size that the networks take; data sets resize to it.
        channels: The numbers of channels D that the networks can be built for; None for any.
    """

    image_size: int
    channels: Sequence[int] | None = None

    @abc.abstractmethod
    def build(self, clusters: int, latent_dim: int, channels: int) -> Networks:
        """Build fresh, randomly initialised networks on the CPU for K clusters, J latent dimensions, D channels."""


class ImageSource(Protocol):
    """Images that are read on demand, from a set that need not fit into memory; a tensor is an image source too.

    An image source can be pickled, because worker processes read ahead with copies of it.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D, R, R)."""

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Read images, uint8, shape (n, D, R, R), for indices in 0..N-1, int64, shape (n,), in any order.

        Raises:
            InvalidInput: If a file cannot be read; the message names it.
        """


class Originals(Protocol):
    """The images of a set before they became squares of R pixels."""

    def original(self, index: int) -> Path | bytes | Tensor:
        """Return one image: its file, the content of its file if that is in an archive, or else its pixels.

        Arguments:
            index: In 0..N-1.

        Returns:
            Pixels are uint8, shape (D, H, W).

        Raises:
            InvalidInput: If the file cannot be read; the message names it.
        """


@attrs.frozen(eq=False)
class ImageSet:
    """Images with their labels, class names, paths and description.

    Attributes:
        images: A uint8 tensor, shape (N, D, R, R), on the CPU; or, for a set that does not fit into memory, an
            `ImageSource`.
        labels: int64, shape (N,), or None; -1 for an image without a label. Only metrics and pictures read them;
            training never does.
        class_names: The name of each label, or empty.
        paths: Where each image came from, one string an image, or empty.
        description: One line for the log and ``results.json``: source, split, preprocessing.
        skipped: The files that were left out as unreadable, one line ``PATH: REASON`` each, or empty.
        settled: Options of the data set whose values were found in the images, such as a range of grey levels, by name.
            A run records them in place of the user's, so that other images are read in the same way.
        originals: The images as they were before, or None if nothing more than ``images`` is known of them.
    """

    images: Tensor | ImageSource
    labels: Tensor | None = None
    class_names: Sequence[str] = ()
    paths: Sequence[str] = ()
    description: str = ""
    skipped: Sequence[str] = ()
    settled: Mapping[str, object] = attrs.field(factory=dict)
    originals: Originals | None = None

    def __len__(self) -> int:
        return self.images.shape[0]


class Dataset(abc.ABC):
    """q(x): where the images come from.

    A plugin's constructor takes ``(options,)``.

    Attributes:
        channels: D, if it is known before any file is read; a dry run then needs no file.
        clusters: A number of clusters to look for, if the set suggests one. A run takes it if neither its user nor a
            preset says how many; without it, and with class names, it takes the number of classes.
        image_side: The side of the images in pixels before they are resized, if it is known before any file is read. A
            run then takes networks that suit it, if neither its user nor a preset names an architecture.
        each_once: Whether each image is wanted once only. A set that can be read when it is needed is then not held in
            memory, unless its options say so. A prediction sets it before it loads the images.
    """

    channels: int | None = None
    clusters: int | None = None
    image_side: int | None = None
    each_once: bool = False

    @abc.abstractmethod
    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Read the whole set, resized to (R, R).

        Arguments:
            image_size: R, in pixels.
            root: The user's data folder (``--data-root``), or None if there is none.
            download: Whether files that are missing may be fetched into ``root``.

        Raises:
            InvalidInput: If files are missing or broken; the message names the file and the remedy.
        """

    def load_inputs(self, inputs: Sequence[Path], image_size: int) -> ImageSet:
        """Read files and folders that a user names, in their order, as one set.

        Only the data sets that ``registry.toml`` names as readers of a user's own files have to support this.

        Arguments:
            inputs: Paths that exist, at least one. The paths of the images begin with these.
            image_size: R, in pixels.

        Raises:
            InvalidInput: If the data set does not read such files, or an input is broken; the message names it.
        """
        raise InvalidInput(f"{type(self).__qualname__} reads its own files only, not {inputs[0]}")


class EvaluatedImages(abc.ABC):
    """The images of one evaluation, for metrics that need more than latents; N evaluated images.

    Everything is computed on demand; the errors are computed once.

    Attributes:
        device: The device of the networks.
        request: The user's choices for scores of features.
        cache: Values that metrics of the same evaluation share; a metric names its keys after itself.
        record: Values for ``results.json`` that tell how scores were computed: finite numbers, texts, lists and dicts
            of them. A metric names its keys. A run turns tensors into numbers.
    """

    device: torch.device
    request: FeatureRequest
    cache: dict[str, object]
    record: dict[str, object]

    @abc.abstractmethod
    def real(self) -> Iterator[Tensor]:
        """Yield batches of the evaluated images, uint8, (n, D, R, R), on the CPU, N in all, in their order."""

    @abc.abstractmethod
    def generated(self, count: int) -> Iterator[Tensor]:
        """Yield batches of images of fresh (z, y) ~ p, uint8, (n, D, R, R), on the CPU, ``count`` in all.

        The averaged generator makes them with standing statistics. Each call yields the same images.
        """

    @abc.abstractmethod
    def reconstruction_errors(self) -> Tensor:
        """Return each image's mean squared error over its D R^2 values in [-1, 1], float32, shape (N,).

        The averaged generator reconstructs an image from the encoder's location and the most probable cluster.
        """

    @abc.abstractmethod
    def reconstructed_clusters(self) -> Tensor:
        """Return the most probable cluster of each image's reconstruction, int64, shape (N,), on the CPU.

        The reconstruction is the one of `reconstruction_errors`, rounded to uint8 and encoded like any image.
        """

    @abc.abstractmethod
    def published_error(self) -> float:
        """Return the reconstruction error of the authors' published code: a mean error over a batch, squared.

        As there, the generator is the one in training, and each batch, in random order and of the size of training, is
        normalised by its own statistics. An incomplete last batch is left out; fewer images are one batch.
        """


@attrs.frozen(eq=False)
class Evaluation:
    """The results of one evaluation, as metrics get them; N evaluated images.

    Attributes:
        posterior: q(y|x), the mean of q(y|z) over the encoder's q(z|x), float32, shape (N, K).
        locations: The encoder's location of z, float32, shape (N, J).
        labels: True labels, int64, shape (N,), or None; -1 for an image without a label. A metric that
            `Metric.needs_labels` gets the labelled images only.
        images: Real, reconstructed and generated images, or None where there are latents only.
    """

    posterior: Tensor
    locations: Tensor
    labels: Tensor | None = None
    images: EvaluatedImages | None = None

    @property
    def clusters(self) -> int:
        """K."""
        return self.posterior.shape[1]

    @property
    def assignments(self) -> Tensor:
        """The most probable cluster of each image, int64, shape (N,)."""
        return self.posterior.argmax(dim=1)

    def labelled(self) -> Evaluation | None:
        """Return the part of the evaluation whose images have labels, or None if no image has one.

        A part has no `images`.

        Example:
            >>> part = Evaluation(torch.eye(3), torch.eye(3), torch.tensor([1, -1, 0])).labelled()
            >>> part.assignments, part.labels
            (tensor([0, 2]), tensor([1, 0]))
        """
        if self.labels is None or bool((known := self.labels >= 0).all()):
            return self if self.labels is not None else None
        return Evaluation(self.posterior[known], self.locations[known], self.labels[known]) if known.any() else None


@attrs.frozen
class FeatureRequest:
    """The user's choices for scores that compare features of real and generated images.

    Attributes:
        extractor: ``module:name`` of a feature extractor; None for the standard Inception network.
        weights: File of the standard network's weights; None for the cached one.
        samples: How many images to generate.
        download: Whether missing weights may be fetched.
        evaluated: How many images are evaluated, or None while the data has not been read.
        examples: A few of them, uint8, shape (n, D, R, R), on the device of the run, or None likewise.
        cache: Values that metrics which are prepared with this request share; a metric names its keys after itself.
    """

    extractor: str | None = None
    weights: Path | None = None
    samples: int = 10_000
    download: bool = False
    evaluated: int | None = None
    examples: Tensor | None = attrs.field(default=None, eq=False, repr=False)
    cache: dict[str, object] = attrs.field(factory=dict, init=False, eq=False, repr=False)


class Metric(abc.ABC):
    """A score, or a few, of one evaluation.

    A plugin's constructor takes ``(options,)``; ``--metrics.NAME.OPTION`` sets an option.

    Attributes:
        needs_labels: Whether the metric is left out if the data set has no labels.
        needs_images: Whether the metric reads `Evaluation.images`.
        on_request: Whether the metric is computed only if it is named, not as one of ``all``, because it is slow or
            needs more files.
        higher_is_better: The direction of improvement.
        judges_clusterings: Whether the score alone tells a good clustering without labels: one that uses all clusters
            scores better than a collapsed one, and than a random one. ``--best-by auto`` chooses by such a score.
    """

    needs_labels: bool = True
    needs_images: bool = False
    on_request: bool = False
    higher_is_better: bool = True
    judges_clusterings: bool = False

    def __init__(self, options: object = None) -> None:  # noqa: B027 - most metrics have no options
        pass

    def prepare(self, request: FeatureRequest) -> None:  # noqa: B027 - most metrics need nothing
        """Check, before training starts, that all files and packages are there that the metric needs.

        It is called twice: before the data is read, and with examples of the data, on which a metric may be tried.

        Raises:
            InvalidInput: If one is missing; the message names it and the remedy.
        """

    def scores(self, name: str, request: FeatureRequest) -> Mapping[str, Direction]:
        """Return the names of all scores, each with its direction of improvement, before anything is computed.

        A metric whose `compute` returns a mapping overrides it; ``--best-by`` takes these names.

        Arguments:
            name: The name under which the metric is registered.
            request: The settings of scores of features.
        """
        return {name: "higher" if self.higher_is_better else "lower"}

    @abc.abstractmethod
    def compute(self, evaluation: Evaluation) -> float | Mapping[str, float]:
        """Return the score as a finite number; or several scores, each by the full name that `scores` gives."""


class Objective(abc.ABC):
    """A system of joint matching: which updates make an iteration, in which order, and what each minimises.

    A plugin's constructor takes ``(options,)``. Most systems define their rows and nothing else.
    """

    def check(self, prior: Prior) -> None:  # noqa: B027 - most systems can use any prior
        """Refuse a prior that the system cannot use, before anything is read.

        Arguments:
            prior: On the CPU.

        Raises:
            InvalidInput: With the reason, and a prior that it can use.
        """

    def networks(self, architecture: Architecture, clusters: int, latent_dim: int, channels: int) -> Networks:
        """Build the networks of the system; by default those of the architecture, whose generator sees y.

        Arguments:
            architecture: The user's choice.
            clusters: K.
            latent_dim: J.
            channels: D.
        """
        return architecture.build(clusters, latent_dim, channels)

    def likelihood(self) -> nn.Module | None:
        """Return what turns generated images into densities p(x|z), or None if the system needs no density.

        It becomes the part ``likelihood`` of the model, which a phase may train.
        """
        return None

    @abc.abstractmethod
    def phases(self) -> Sequence[object]:
        """Return the rows of an iteration in their order: `Phase` and `EndOfIteration` of `mpcc.core.method.phases`."""
