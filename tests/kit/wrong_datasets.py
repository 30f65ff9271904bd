"""Data sets that are wrong, each in one way; the docstring of a class says in which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.hookspecs import hookimpl

COUNT, CLASSES = 60, 5


class Blots(Dataset):
    """Right: coarse random images, resized; the wrong ones change the set."""

    channels = 1

    def __init__(self, options: Any = None) -> None:
        pass

    def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
        coarse = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        images = F.interpolate(coarse, size=(image_size, image_size))
        names = tuple("abcde")
        labels = torch.arange(COUNT) % CLASSES
        found = ImageSet((255 * images).round().to(torch.uint8), labels, names, description="blots")
        return self.change(found, images, image_size)

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        """Spoil the set."""
        return found


class Wrapped(Blots):
    """Numbers in [-1, 1] are cast to uint8."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=(4 * images - 2).round().to(torch.int64).to(torch.uint8))


class OneLabel(Blots):
    """All labels are 3."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, labels=torch.full((COUNT,), 3))


class Repeated(Blots):
    """The first three images are repeated."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=found.images[torch.arange(COUNT) % 3])


class Reversed(Blots):
    """Larger images come in reverse order, their labels do not."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=found.images[:].flip(0)) if image_size > 10 else found  # type: ignore[index]


class Littering(Blots):
    """A list is written into the current folder."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        Path("labels.txt").write_text("a b c d e")
        return found


@attrs.define(eq=False)
class Source:
    """Right: the images of a set, read on demand."""

    images: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.images[indices]


@attrs.define(eq=False)
class OneBuffer(Source):
    buffer: Tensor = attrs.field(factory=lambda: torch.zeros(256, 1, 20, 20, dtype=torch.uint8))

    def __getitem__(self, indices: Tensor) -> Tensor:
        size = self.shape[-1]
        out = self.buffer[: len(indices), :, :size, :size]
        out.copy_(self.images[indices])
        return out


class Deduplicated(Source):
    def __getitem__(self, indices: Tensor) -> Tensor:
        if len(indices.unique()) == len(indices):
            return super().__getitem__(indices)
        return self.images[indices.unique().repeat(2)[: len(indices)]]


class Buffered(Blots):
    """The source gives the same buffer again."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=OneBuffer(found.images))


class Unrepeatable(Blots):
    """The source cannot give an image twice in one batch."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=Deduplicated(found.images))


class Scaled(Blots):
    """Grey levels lie in 0..1."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, images=images.round().to(torch.uint8))


class EmptyClass(Blots):
    """Two classes have a name and no image: a warning."""

    def change(self, found: ImageSet, images: Tensor, image_size: int) -> ImageSet:
        return attrs.evolve(found, class_names=tuple("abcdefg"))


@hookimpl
def register_datasets(register: Any) -> None:
    for name, cls in globals().items():
        if isinstance(cls, type) and issubclass(cls, Blots) and cls is not Blots:
            register(name, f"wrong_datasets:{name}", summary=cls.__doc__ or "")
