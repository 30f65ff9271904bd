"""Inference: images to latents and clusters, a batch at a time, so that memory does not grow with their number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import cast

import attrs
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from mpcc.core.contracts import ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.image_posterior import image_posterior
from mpcc.core.images.read_ahead import in_order
from mpcc.core.method.model import Model, to_unit_range
from mpcc.core.system import ranks
from mpcc.core.system.kernel_settings import full_precision

__all__ = [
    "EVALUATION_BATCH",
    "Prediction",
    "encoder_heads",
    "encoder_scales",
    "predict",
    "predictions",
    "shared_predictions",
]

# Images that pass through a network at once.
EVALUATION_BATCH = 256


@attrs.frozen(eq=False)
class Prediction:
    """What the encoder and the prior make of n images, on the CPU.

    Attributes:
        locations: The location of q(z|x), in the precision of the encoder, shape (n, J).
        posterior: q(y|x), the mean of q(y|z) over q(z|x), shape (n, K).

    Example:
        >>> prediction = Prediction(torch.zeros(2, 3), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
        >>> prediction.clusters.tolist(), prediction.confidence.tolist()
        ([1, 0], [0.75, 0.5])
    """

    locations: Tensor
    posterior: Tensor

    @property
    def clusters(self) -> Tensor:
        """The most probable cluster of each image, int64, shape (n,)."""
        return self.posterior.argmax(dim=1)

    @property
    def confidence(self) -> Tensor:
        """The posterior probability of that cluster, q(y|x), shape (n,)."""
        return self.posterior.max(dim=1).values

    @property
    def finite(self) -> bool:
        """Whether all locations and posteriors are finite numbers."""
        return bool(torch.isfinite(self.locations).all() and torch.isfinite(self.posterior).all())


def predictions(
    model: Model, images: Tensor | ImageSource | Iterable[Tensor], *, batch: int = EVALUATION_BATCH
) -> Iterator[Prediction]:
    """Predict images in their order, a batch at a time; predictions that have been yielded are not kept.

    The networks compute in evaluation mode, without gradients and in the precision of their parameters, whatever the
    caller's autocast and TF32 settings say. Modes are put back after every batch: whenever a prediction is yielded, and
    after an error, the model is as it was.

    Arguments:
        model: Encoder and prior; with fused layers if `mpcc.core.layers.fusion.fuse` has switched them on.
        images: uint8, shape (N, D, R, R); or batches of them, any number, each of any size.
        batch: The most images that pass through the encoder at once.

    Yields:
        A prediction for each ``batch`` images, the last for fewer; each given batch is split on its own.

    Raises:
        InvalidInput: If ``batch`` is less than 1, or an image cannot be read.
    """
    if batch < 1:
        raise InvalidInput(f"batch: expected at least 1, got {batch}")
    # A generator expression, not ``yield``: the check above runs at once, not with the first prediction.
    return (predict(model, part) for part in batches(images, batch))


def batches(images: Tensor | ImageSource | Iterable[Tensor], batch: int) -> Iterator[Tensor]:
    """Yield images, uint8, in batches of at most ``batch``."""
    if isinstance(images, Tensor) or hasattr(images, "shape"):
        yield from in_order(cast("Tensor | ImageSource", images), batch)
    else:
        for larger in images:
            yield from torch.split(larger, batch)


def shared_predictions(
    model: Model, images: Tensor | ImageSource, indices: Tensor, *, batch: int = EVALUATION_BATCH
) -> list[Prediction]:
    """Predict some images; if several ranks call it, each predicts its share of the batches.

    Arguments:
        model: Encoder and prior, the same on all ranks.
        images: uint8, shape (N, D, R, R).
        indices: Which of them, shape (n,), the same on all ranks.
        batch: The most images that pass through the encoder at once.

    Returns:
        A prediction for each batch, in order; on other ranks than the first, nothing.
    """
    together = ranks.current()
    chosen = torch.split(indices, batch)[together.index :: together.size]
    own = [predict(model, images[numbers]) for numbers in chosen]
    of_ranks = together.collected([(each.locations, each.posterior) for each in own])
    return [
        Prediction(*of_ranks[number % together.size][number // together.size])
        for number in range(len(torch.split(indices, batch)) if together.first else 0)
    ]


@torch.no_grad()
def predict(model: Model, images: Tensor) -> Prediction:
    """Predict one batch, uint8, shape (n, D, R, R)."""
    with full_precision(model.device):
        location, raw_scale = encoder_heads(model, images)
        posterior = image_posterior(model.prior, location, raw_scale)
    return Prediction(location.cpu(), posterior.cpu())


def encoder_heads(model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return location and raw scale of the encoder in evaluation mode for one batch, uint8, shape (n, D, R, R)."""
    encoder = model.networks.encoder
    dtypes = (parameter.dtype for parameter in encoder.parameters() if parameter.is_floating_point())
    precision = next(dtypes, torch.float32)
    with evaluating(encoder):
        location, raw_scale = encoder(to_unit_range(images, model.device).to(precision))
    return location, raw_scale


@torch.no_grad()
def encoder_scales(model: Model, images: Tensor) -> Tensor | None:
    """Return the scales of q(z|x) for one batch, shape (n, J), on the CPU; None if the family has no ``scale``.

    Arguments:
        model: Encoder and prior.
        images: uint8, shape (n, D, R, R).
    """
    with full_precision(model.device), model.prior.full_precision():
        q: Distribution = model.prior.encoder_distribution(*encoder_heads(model, images))
    while isinstance(q, Independent):
        q = q.base_dist
    scale = getattr(q, "scale", None)
    return scale.cpu() if isinstance(scale, Tensor) and scale.shape == (len(images), model.prior.latent_dim) else None


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a ``with`` block, then restore the mode of each module."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
