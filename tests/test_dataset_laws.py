"""The contract kit on data sets whose images are read on demand, right and deliberately wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.testing import ContractViolation, check_dataset

COUNT = 500
READING = "an image is the same at each reading, in any batch and in any process"
IMAGES = "images are uint8, (N, D, R, R), of the size asked for"
COMPANIONS = "labels, names and paths fit the images"
AGAIN = "loading again gives the same and leaves the global random states alone"


@attrs.define(eq=False)
class Noise:
    """A right source of random images."""

    size: int
    calls: int = 0

    @property
    def shape(self) -> Any:
        return COUNT, 1, self.size, self.size

    def __getitem__(self, indices: Tensor) -> Tensor:
        self.calls += 1
        images = [np.random.default_rng(index).integers(0, 256, self.shape[1:]) for index in indices.tolist()]
        return torch.from_numpy(np.stack(images).astype(np.uint8))


class Restless(Noise):
    def __getitem__(self, indices: Tensor) -> Tensor:
        return super().__getitem__(indices) + self.calls


class InOrder(Noise):
    def __getitem__(self, indices: Tensor) -> Tensor:
        return super().__getitem__(indices.sort().values)


class Sociable(Noise):
    def __getitem__(self, indices: Tensor) -> Tensor:
        images = super().__getitem__(indices)
        return images + images.float().mean().byte()


class AtHome(Noise):
    def __reduce__(self) -> Any:
        raise TypeError("it has an open file")


class Forgetful(Noise):
    def __reduce__(self) -> Any:
        return Forgetful, (self.size + 1,)


class Floats(Noise):
    def __getitem__(self, indices: Tensor) -> Any:
        return super().__getitem__(indices).float()


class Flat(Noise):
    def __getitem__(self, indices: Tensor) -> Any:
        return super().__getitem__(indices)[:, 0]


class Numpy(Noise):
    def __getitem__(self, indices: Tensor) -> Any:
        return super().__getitem__(indices).numpy()


class Listed(Noise):
    @property
    def shape(self) -> Any:
        return [COUNT, 1, self.size, self.size]


def data_set(source: Callable[[int], Any], **changes: Any) -> type[Dataset]:
    """A data set of such a source."""

    class Made(Dataset):
        channels = changes.pop("channels", None)

        def __init__(self, options: None = None) -> None:
            pass

        def load(self, image_size: int, root: Path | None, download: bool) -> ImageSet:
            return ImageSet(source(image_size), **{"labels": torch.arange(COUNT) % 3, **changes})

    return Made


def failures(cls: type[Dataset]) -> dict[str, str]:
    with pytest.raises(ContractViolation) as caught:
        check_dataset(cls)
    return {finding.name: finding.detail for finding in caught.value.report.failures}


def test_a_right_source_passes_and_few_of_its_images_are_read() -> None:
    sources: list[Noise] = []

    def source(size: int) -> Noise:
        sources.append(Noise(size))
        return sources[-1]

    report = check_dataset(data_set(source, channels=1))
    assert report.passed
    (detail,) = (finding.detail for finding in report.findings if finding.name == READING)
    assert detail == "200 of 500, read when needed"
    assert sum(each.calls for each in sources) < 30


@pytest.mark.parametrize(
    ("source", "laws", "detail"),
    [
        (Restless, {READING}, "reading the same images again gives others"),
        (InOrder, {READING}, "the images depend on the order of reading"),
        (Sociable, {READING}, "an image depends on the others that are read with it"),
        (AtHome, {READING}, "it cannot be sent to worker processes: TypeError: it has an open file"),
        (Forgetful, {READING}, "a copy in another process reads other images"),
        (Floats, {IMAGES}, "images: expected torch.uint8, got torch.float32"),
        (Flat, {IMAGES}, "images: expected shape (200, 1, 8, 8), got (200, 8, 8)"),
        (Numpy, {IMAGES}, "images: expected a Tensor, got ndarray"),
        (Listed, {IMAGES}, "images.shape: expected a tuple, got list"),
        (lambda size: "text", {"it loads"}, "images: expected a tensor or an ImageSource, got str"),
    ],
)
def test_a_source_that_breaks_the_contract_is_found(source: Any, laws: set[str], detail: str) -> None:
    found = failures(data_set(source))
    assert laws <= set(found)
    assert any(detail in text for text in found.values())


@pytest.mark.parametrize(
    ("changes", "law", "detail"),
    [
        ({"channels": 3}, IMAGES, "channels: it declares 3 but its images have 1"),
        ({"skipped": [3]}, COMPANIONS, "skipped: expected lines of text, got 3"),
        ({"skipped": ["a.png: two\nlines"]}, COMPANIONS, "skipped: expected lines of text, got 'a.png: two\\nlines'"),
    ],
)
def test_what_is_said_about_the_images_must_fit_them(changes: dict[str, Any], law: str, detail: str) -> None:
    found = failures(data_set(Noise, **changes))
    assert set(found) == {law}
    assert found[law] == detail
