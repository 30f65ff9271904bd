"""What `mpcc bench` measures: the trainer of a preset under an engine, on images that cost nothing to come by.

How long an iteration takes does not depend on the values of pixels: training is measured on random images of the
preset's shape, so that no data set is needed. Letters in shapes: N images, D image channels, R image size.
"""

from __future__ import annotations

from collections.abc import Callable
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
    "settling_iterations",
    "synchroniser",
]

SYNTHETIC_IMAGES = 2000
SETTLING_ON_CUDA = 6
SYNTHETIC = "synthetic"


@attrs.frozen
class SyntheticOptions:
    """How many random images, and of how many channels."""

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
    """Return images of random pixels, uint8, shape (count, channels, size, size), the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


class ImagesOnDemand:
    """An `ImageSource` of any length that holds nothing: what it gives is made when it is asked for.

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


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done everything that it was told to; on a CPU that is nothing."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def settling_iterations(device: torch.device) -> int:
    """Return how many iterations come before any that counts: on CUDA engines choose kernels and record them first."""
    return SETTLING_ON_CUDA if device.type == "cuda" else 0


@attrs.frozen(eq=False)
class Subject:
    """A preset, and the means to build its parts.

    Attributes:
        name: Of the preset.
        registry: Its plugins.
        config: Its values; engine and precision are replaced.
        channels: D of its images.
        data: Its own images, or None if they are not there.
        missing: Why they are not; empty if they are there or were not looked for.
    """

    name: str
    registry: Registry
    config: RunConfig
    channels: int
    data: ImageSet | None = None
    missing: str = ""

    @classmethod
    def of(cls, name: str, registry: Registry, config: RunConfig, *, reading: bool) -> Subject:
        """Find out what the images of a preset are.

        Arguments:
            name: Of the preset.
            registry: Its plugins.
            config: Its values.
            reading: Whether its images are wanted themselves, not just their shape.
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
        """Build everything for training on random images under an engine; the same weights whichever it is.

        Arguments:
            engine: ``plain``, ``fast``, or ``fast-bf16``.
        """
        name, _, precision = engine.partition("-")
        entry = Entry(
            *("dataset", SYNTHETIC, f"{__name__}:{SyntheticImages.__name__}", "Random pixels.", None),
            *({}, "built-in", "mpcc", ""),
        )
        values: dict[str, Any] = {"engine": name, "precision": precision or "float32", "metrics": "all", "workers": 0}
        settings = attrs.evolve(self.config.run, **values)
        count = max(SYNTHETIC_IMAGES, settings.batch)
        choice = PluginChoice(SYNTHETIC, SyntheticOptions(count, self.channels), entry)
        return Run.assemble(self.registry, attrs.evolve(self.config, run=settings, data=choice))

    def summary(self) -> Summary:
        """Count the operations of an iteration."""
        return network_summary(self.config, self.channels)


def predict(model: Model, source: ImageSource) -> None:
    """Find the clusters of all images of a source, and forget them."""
    for _ in predictions(model, source):
        pass
