"""The subject of `mpcc bench`: the trainer of a preset under an engine, on random images.

The duration of an iteration does not depend on the values of pixels. Training is therefore measured on random images
of the preset's shape, without any data set. Letters in shapes: N images, D image channels, R image size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from mpcc.core.config import PluginChoice, RunConfig
from mpcc.core.contracts import Dataset, ImageSet, ImageSource
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.inference import predictions
from mpcc.core.method.model import Model
from mpcc.core.registry import Entry, Registry
from mpcc.core.reporting.summary import Summary
from mpcc.core.run.assembly import load_data
from mpcc.core.run.network_summary import network_summary
from mpcc.core.run.run import Run

__all__ = [
    "ImagesOnDemand",
    "Subject",
    "SyntheticImages",
    "SyntheticOptions",
    "predict",
    "random_images",
]

SYNTHETIC_IMAGES = 2000
SYNTHETIC = "synthetic"


@attrs.frozen
class SyntheticOptions:
    """Number of random images and of their channels."""

    count: int = SYNTHETIC_IMAGES
    channels: int = 1


class SyntheticImages(Dataset):
    """Random pixels; no file is read."""

    def __init__(self, options: SyntheticOptions) -> None:
        self.options = options
        self.channels = options.channels

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        """Return uint8 images, shape (count, channels, image_size, image_size)."""
        count, channels = self.options.count, self.options.channels
        return ImageSet(
            random_images(count, channels, image_size), description=f"{count} images of random pixels ({SYNTHETIC})"
        )


def random_images(count: int, channels: int, size: int) -> Tensor:
    """Return images of random pixels, uint8, shape (count, channels, size, size); every call returns the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


class ImagesOnDemand:
    """An `ImageSource` of any length that computes images when they are requested and stores none.

    Arguments:
        count: N.
        channels: D.
        size: R.

    Example:
        >>> source = ImagesOnDemand(1_000_000, 1, 2)
        >>> source.shape, source[torch.tensor([0, 256, 999_999])].flatten(1).tolist()
        ((1000000, 1, 2, 2), [[0, 37, 74, 111], [0, 37, 74, 111], [63, 100, 137, 174]])
    """

    def __init__(self, count: int, channels: int, size: int) -> None:
        self.shape = (count, channels, size, size)
        self._offsets = torch.arange(channels * size * size).view(1, channels, size, size) * 37

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return images, uint8, shape (n, D, R, R), for indices of shape (n,)."""
        return (indices.view(-1, 1, 1, 1) + self._offsets).remainder(256).to(torch.uint8)


@attrs.frozen(eq=False)
class Subject:
    """A preset and everything needed to build its parts.

    Attributes:
        name: Name of the preset.
        registry: Its plugins.
        config: Its configuration; engine and precision are replaced.
        channels: D of its images.
        data: Its own images, or None if they are missing or were not requested.
        missing: Why the images are missing; else empty.
    """

    name: str
    registry: Registry
    config: RunConfig
    channels: int
    data: ImageSet | None = None
    missing: str = ""

    @classmethod
    def of(cls, name: str, registry: Registry, config: RunConfig, *, reading: bool) -> Subject:
        """Return a preset with the shape of its images, and the images if requested.

        Arguments:
            name: Name of the preset.
            registry: Its plugins.
            config: Its configuration.
            reading: Whether the images themselves are needed, not only their shape.
        """
        architecture = config.arch.make()
        dataset: Dataset = config.data.make()
        data, missing = None, ""
        if reading or dataset.channels is None:
            try:
                offline = attrs.evolve(config, run=attrs.evolve(config.run, download=False))
                data = load_data(offline)
            except InvalidInput as error:
                missing = str(error)
        possible = architecture.channels or (1,)
        channels = dataset.channels or (possible[0] if data is None else data.images.shape[1])
        return cls(name, registry, config, channels, data, missing)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, R, R)."""
        size = self.config.arch.make().image_size
        return self.channels, size, size

    def assemble(self, engine: str) -> Run:
        """Build a run on random images under an engine; the weights do not depend on the engine.

        Arguments:
            engine: ``plain``, ``fast``, or ``fast-`` and another precision; ``-triton`` follows for our own kernels.
        """
        plain, triton, _ = engine.partition("-triton")
        name, _, precision = plain.partition("-")
        entry = Entry(
            *("dataset", SYNTHETIC, f"{__name__}:{SyntheticImages.__name__}", "Random pixels.", None),
            *({}, "built-in", "mpcc", ""),
        )
        values: dict[str, Any] = {"engine": name, "precision": precision or "float32", "metrics": "all", "workers": 0}
        values["kernels"] = "triton" if triton else "torch"
        settings = attrs.evolve(self.config.run, **values)
        count = max(SYNTHETIC_IMAGES, settings.batch)
        choice = PluginChoice(SYNTHETIC, SyntheticOptions(count, self.channels), entry)
        run = Run.assemble(self.registry, attrs.evolve(self.config, run=settings, data=choice))
        # The iterations of the longer part of a run are measured, without a fit between them.
        run.trainer.fit_decided = run.trainer.refit_decided = True
        return run

    def summary(self) -> Summary:
        """Count the operations of an iteration."""
        return network_summary(self.config, self.channels)


def predict(model: Model, source: ImageSource) -> None:
    """Predict the clusters of all images of a source and discard them."""
    for _ in predictions(model, source):
        pass
