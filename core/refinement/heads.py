"""Classifiers on the frozen features of a trained model, which begin as its clusters and grow more informative.

The features are those of the layers that discriminator and encoder share. The classifiers first imitate q(y|x). Then
they maximise the information I(y; y') that the clusters of two changed copies of an image have of each other (Ji et
al., Invariant Information Clustering, 2019). A second output with several times as many clusters does the same, which
helps the layer that both share. No label is used.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.inference import EVALUATION_BATCH, encoder_heads
from mpcc.core.images.invariances import Invariances
from mpcc.core.images.transforms import transformed
from mpcc.core.method.model import Model
from mpcc.core.system.kernel_settings import full_precision
from mpcc.core.system.randomness import own_randomness

__all__ = ["Features", "Heads", "RefinementSettings", "information", "refined", "shared_layers"]

# The side of the maps that features are pooled to.
POOLED = 4
# Probabilities below it count as much as it, so that their logarithm is finite.
LEAST = 1e-8
# Images whose features give means and deviations.
STANDARD_IMAGES = 10_000
# The share of the steps in which the heads imitate q(y|x).
IMITATION = 0.25
HIDDEN, STEP_SIZE, WEIGHT_DECAY = 256, 1e-3, 1e-5
# Images of a step: at least so many, and at least so many for each cluster.
LEAST_IMAGES, IMAGES_PER_CLUSTER = 500, 20
# Clusters of the second output, for each of the first; and images of a step for each of them, at least.
FINER, IMAGES_PER_FINER = 5, 10


@attrs.frozen
class RefinementSettings:
    """How heads are trained.

    Attributes:
        steps: Of each head.
        heads: How many are trained; the one with the most information is kept.
        invariances: The changes that leave the group of an image as it is.
        seed: Of all draws.
    """

    steps: int
    heads: int
    invariances: Invariances
    seed: int


@torch.no_grad()
def shared_layers(model: Model, images: Tensor) -> nn.Module:
    """Return the layers that discriminator and encoder share: of the modules of both, the one with the most weights.

    Only modules that the encoder calls and that return a tensor with a row for each image count.

    Arguments:
        model: The networks.
        images: A few images, uint8, shape (n, D, R, R), that the encoder is called with.

    Raises:
        InvalidInput: If they share none.
    """
    networks, sizes = model.networks, dict[nn.Module, int]()
    of_discriminator = set(networks.discriminator.modules())

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() in (2, 4) and len(output) == len(images):
            sizes[module] = sum(weight.numel() for weight in module.parameters())

    hooks = [module.register_forward_hook(note) for module in networks.encoder.modules() if module in of_discriminator]
    try:
        with full_precision(model.device):
            encoder_heads(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    if not any(sizes.values()):
        raise InvalidInput(
            "refine: discriminator and encoder share no layers, whose features the classifiers need: expected an "
            "architecture in which they do, such as the built-in ones without --arch.shared-blocks 0"
        )
    return max(sizes, key=lambda module: sizes[module])


class Seen(Exception):
    """The shared layers have been executed; the rest of the encoder is not needed."""


class Features:
    """Features of images: the output of shared layers after a ReLU, pooled to 4x4, standardised.

    Arguments:
        model: Its networks stay as they are.
        images: Some of the training images, uint8, shape (n, D, R, R), which give means and deviations.

    Raises:
        InvalidInput: If discriminator and encoder share no layers.
    """

    def __init__(self, model: Model, images: Tensor) -> None:
        self._model, self._layers = model, shared_layers(model, images[:2])
        self._mean, self._deviation = torch.zeros((), device=model.device), torch.ones((), device=model.device)
        raw = self(images)
        self._mean, self._deviation = raw.mean(0), raw.std(0, correction=0) + 1e-3

    @property
    def size(self) -> int:
        """The number of features of an image."""
        return len(self._mean)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return features, float32, shape (n, F), of images, uint8, shape (n, D, R, R), a part of them at a time."""
        return torch.cat([self._of(part) for part in torch.split(images, EVALUATION_BATCH)])

    def _of(self, images: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def see(module: nn.Module, inputs: object, output: Tensor) -> None:
            seen.append(output)
            raise Seen

        hook = self._layers.register_forward_hook(see)
        try:
            with contextlib.suppress(Seen), full_precision(self._model.device):
                encoder_heads(self._model, images)
        finally:
            hook.remove()
        maps = torch.relu(seen[0].float())
        if maps.dim() == 4:
            maps = functional.adaptive_avg_pool2d(maps, POOLED)
        return (maps.flatten(1) - self._mean) / self._deviation


class Heads(nn.Module):
    """A hidden layer with two outputs: the clusters, and finer ones.

    Arguments:
        features: F.
        clusters: K.
        finer: Clusters of the second output; 0 for none.
    """

    def __init__(self, features: int, clusters: int, finer: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU())
        self.clusters = nn.Linear(HIDDEN, clusters)
        self.finer = nn.Linear(HIDDEN, finer) if finer else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return probabilities of the clusters, (n, K), and of the finer ones, for features, (n, F)."""
        h = self.hidden(features)
        return self.clusters(h).softmax(1), None if self.finer is None else self.finer(h).softmax(1)


def information(first: Tensor, second: Tensor) -> Tensor:
    r"""Return I(y; y') in nats of the clusters of two copies of each image.

    .. math:: P = \frac{1}{2n} \sum_i (p_i p_i'^T + p_i' p_i^T), \quad I = \sum_{jk} P_{jk} \log \frac{P_{jk}}{P_j P_k}

    Arguments:
        first: Probabilities of the first copies, shape (n, K).
        second: Those of the second ones, same shape.

    Example:
        >>> sure = torch.eye(2)
        >>> information(sure, sure), information(sure, torch.full((2, 2), 0.5))
        (tensor(0.6931), tensor(0.))
    """
    joint = first.t() @ second / len(first)
    joint = ((joint + joint.t()) / 2).clamp_min(LEAST)
    joint = joint / joint.sum()
    each = joint.sum(0)
    return (joint * (joint.log() - each.log() - each.log()[:, None])).sum().clamp_min(0)


@attrs.frozen(eq=False)
class Refined:
    """What refinement found.

    Attributes:
        features: Computes the features that the heads need.
        heads: The head with the most information.
        information: That of each head, as a share of log K, in the order of training.
    """

    features: Features
    heads: Heads
    information: tuple[float, ...]

    @torch.no_grad()
    def posterior(self, images: Tensor) -> Tensor:
        """Return the probability of each cluster, on the CPU, shape (n, K), for images, uint8, shape (n, D, R, R)."""
        found: Tensor = self.heads(self.features(images))[0]
        return found.cpu()


def refined(model: Model, images: Tensor | ImageSource, posterior: Tensor, settings: RefinementSettings) -> Refined:
    """Train heads on the features of a model, which stays as it is, and so do all random states.

    Arguments:
        model: The trained networks.
        images: All training images, uint8, shape (N, D, R, R).
        posterior: q(y|x) of these images, shape (N, K), K at least 2.
        settings: How they are trained.

    Raises:
        InvalidInput: If discriminator and encoder share no layers.
    """
    count, clusters = posterior.shape
    size = min(count, max(LEAST_IMAGES, IMAGES_PER_CLUSTER * clusters))
    finer = min(FINER * clusters, size // IMAGES_PER_FINER)
    generator = torch.Generator().manual_seed(settings.seed)
    features = Features(model, images[torch.randperm(count, generator=generator)[:STANDARD_IMAGES].sort().values])
    with own_randomness(settings.seed, model.device):
        every = [Heads(features.size, clusters, finer if finer > clusters else 0) for _ in range(settings.heads)]
    together = nn.ModuleList(every).to(model.device)
    optimizer = torch.optim.Adam(together.parameters(), STEP_SIZE, weight_decay=WEIGHT_DECAY)
    # The last tenth tells how good a head is: single batches scatter.
    told, last = max(1, settings.steps // 10), torch.zeros(settings.heads)
    for step, chosen in enumerate(batches(count, size, settings.steps, generator)):
        pixels, imitates = images[chosen], step < IMITATION * settings.steps
        first, second = (features(transformed(pixels, settings.invariances, generator)) for _ in range(2))
        target, objectives = posterior[chosen].to(first.device), []
        for number, heads in enumerate(every):
            (one, fine), (other, other_fine) = heads(first), heads(second)
            gained = information(one, other)
            objectives.append(likeness(target, one, other) if imitates else gained)
            if fine is not None and other_fine is not None:
                objectives.append(information(fine, other_fine))
            if step >= settings.steps - told:
                last[number] += float(gained.detach())
        optimizer.zero_grad()
        (-torch.stack(objectives).sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    shares = (last / told / math.log(clusters)).tolist()
    return Refined(features, every[shares.index(max(shares))].eval(), tuple(shares))


def likeness(target: Tensor, *found: Tensor) -> Tensor:
    """Return how well probabilities imitate a target, all of shape (n, K): the mean of sum_k target_k log p_k."""
    each = [(target * probabilities.clamp_min(LEAST).log()).sum(1).mean() for probabilities in found]
    return torch.stack(each).mean()


def batches(count: int, size: int, number: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of so many batches; each epoch takes every image once, in another order."""
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(number):
        if len(left) < size:
            left = torch.randperm(count, generator=generator)
        yield left[:size]
        left = left[size:]
