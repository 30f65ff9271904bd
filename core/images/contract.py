"""What a data set has loaded against its contract, and against the architecture of the run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mpcc.core.contracts import Architecture, ImageSet
from mpcc.core.errors import InvalidInput, PluginError

__all__ = ["check_fit"]


def check_fit(data: ImageSet, architecture: Architecture, described: str, arch: str) -> None:
    """Check that a data set fits the architecture, whatever its number of images.

    Arguments:
        data: What the data set has loaded.
        architecture: Gives the size of the images and the numbers of channels.
        described: Kind, name and origin of the data set, for errors.
        arch: The name of the architecture.

    Raises:
        PluginError: If the data set breaks its contract.
        InvalidInput: If size or channels don't fit.
    """
    if not isinstance(data, ImageSet):
        raise PluginError(f"{described}: load(): expected an ImageSet, got a {type(data).__qualname__}")
    images, size = data.images, architecture.image_size
    # One image of a source shows the type of all.
    kind = images.dtype if isinstance(images, torch.Tensor) else images[torch.tensor([0])].dtype
    if kind != torch.uint8 or len(images.shape) != 4:
        made_of = "" if isinstance(images, Tensor) else f"a {type(images).__qualname__} of "
        got = f"{made_of}{kind} {tuple(images.shape)}"
        raise PluginError(f"{described}: expected uint8 images (N, D, R, R), got {got}")
    count, channels, *shape = images.shape
    if shape != [size, size]:
        raise InvalidInput(
            f"{described} gave images of {shape[1]}x{shape[0]} pixels; architecture {arch!r} takes {size}x{size}"
        )
    if architecture.channels is not None and channels not in architecture.channels:
        raise InvalidInput(
            f"{described} gave images with {channels} channels; architecture {arch!r} takes "
            f"{' or '.join(map(str, architecture.channels))}"
        )
    texts: dict[str, object] = {"description": data.description}
    texts |= {f"{name}[0]": value[0] for name, value in named_texts(data).items() if len(value)}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise PluginError(f"{described}: {name}: expected a text, got a {type(text).__qualname__}")
    for name, values in (("labels", data.labels), ("paths", data.paths or None)):
        if values is not None and len(values) != count:
            raise PluginError(f"{described}: expected {count} {name}, one for each image, got {len(values)}")
    if data.labels is not None and (not isinstance(data.labels, Tensor) or data.labels.dim() != 1):
        got = f"shape {tuple(data.labels.shape)}" if hasattr(data.labels, "shape") else type(data.labels).__qualname__
        raise PluginError(f"{described}: labels: expected an int64 tensor of shape ({count},), (N,), got {got}")
    if data.labels is not None:
        highest = len(data.class_names) - 1 if data.class_names else None
        low, high = int(data.labels.min()), int(data.labels.max())
        if data.labels.dtype != torch.int64 or low < -1 or high < 0 or (highest is not None and high > highest):
            expected = "0 or more" if highest is None else f"in 0..{highest}"
            raise PluginError(
                f"{described}: expected int64 labels {expected}, got {data.labels.dtype} in {low}..{high} "
                "(-1 is for an image without a label)"
            )


def named_texts(data: ImageSet) -> dict[str, Sequence[str]]:
    """Return the lists of texts of an image set by name."""
    return {"class_names": data.class_names, "paths": data.paths, "skipped": data.skipped}
