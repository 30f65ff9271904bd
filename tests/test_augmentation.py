"""Augmentation: shifts with reflected borders and mirror images, drawn from a generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpcc.core.errors import InvalidInput
from mpcc.core.images.augmentation import Augmentation
from mpcc.core.images.stream import ImageStream

IMAGES = torch.randint(256, (200, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def variants(image: np.ndarray, crop: int, flip: bool) -> list[np.ndarray]:
    """All that may become of an image, (D, R, R), made by numpy: pad by reflection, cut out, mirror."""
    size = image.shape[-1]
    padded = np.pad(image, ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
    places = range(2 * crop + 1)
    cut = [padded[:, top : top + size, left : left + size] for top in places for left in places]
    return cut + [each[:, :, ::-1] for each in cut] if flip else cut


@pytest.mark.parametrize(("crop", "flip"), [(0, True), (1, False), (2, True), (5, False)])
def test_every_image_becomes_one_of_its_crops(crop: int, flip: bool) -> None:
    made = Augmentation(crop, flip)(IMAGES, seeded())
    assert (made.shape, made.dtype) == (IMAGES.shape, torch.uint8)
    assert made.is_contiguous()
    for image, result in zip(IMAGES.numpy(), made.numpy(), strict=True):
        assert any(np.array_equal(result, variant) for variant in variants(image, crop, flip))


def test_every_shift_and_both_directions_are_equally_likely() -> None:
    image = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    count = 18_000
    made = Augmentation(crop=1, flip=True)(image.expand(count, 1, 3, 3), seeded(1))
    distinct, times = made.flatten(1).unique(dim=0, return_counts=True)
    # A crop and the mirror image of another may be the same picture: expected counts are those of the variants.
    known = [tuple(variant.ravel()) for variant in variants(image[0].numpy(), 1, True)]
    for row, found in zip(distinct.tolist(), times.tolist(), strict=True):
        share = known.count(tuple(row)) / len(known)
        assert abs(found - count * share) < 5 * (count * share * (1 - share)) ** 0.5


def test_without_crop_and_flip_nothing_happens_and_nothing_is_drawn() -> None:
    generator = seeded()
    before = generator.get_state()
    assert Augmentation()(IMAGES, generator) is IMAGES
    assert torch.equal(generator.get_state(), before)


def test_a_shift_as_large_as_the_image_is_refused_with_the_nearest_valid_one() -> None:
    with pytest.raises(InvalidInput, match=r"--augment-crop 6: expected less than the image size of 6 pixels .*crop 5"):
        ImageStream(IMAGES, 10, seed=0, augmentation=Augmentation(crop=6))


def test_an_augmented_stream_taken_up_anywhere_goes_on_as_if_it_had_not_stopped() -> None:
    def stream() -> ImageStream:
        return ImageStream(IMAGES, 60, seed=3, augmentation=Augmentation(2, True))

    straight = stream()
    batches = [straight.next() for _ in range(8)]
    assert not torch.equal(batches[0], ImageStream(IMAGES, 60, seed=3).next())
    for done in range(1, 8):
        first, second = stream(), stream()
        for _ in range(done):
            first.next()
        second.restore(first.state())
        assert all(torch.equal(second.next(), batch) for batch in batches[done:])


def test_an_image_is_augmented_differently_in_every_epoch() -> None:
    stream = ImageStream(IMAGES[:1].expand(4, 3, 6, 6), 4, seed=0, augmentation=Augmentation(2, True))
    assert not torch.equal(stream.next(), stream.next())
