"""What leaves a group as it is: names and ranges, and the changes of images against scipy."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from mpcc.core.config.settings import RunSettings
from mpcc.core.images import transforms
from mpcc.core.images.invariances import Invariances
from mpcc.core.images.stream import ImageStream

IMAGES = torch.randint(256, (64, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def changed(text: str, images: Tensor = IMAGES, seed: int = 0) -> Tensor:
    return transforms.transformed(images, Invariances.parse(text), seeded(seed))


@pytest.mark.parametrize("text", ["none", "shift=0.25", "shift=0.125,rotation=12,flip=0.5", Invariances.usual()])
def test_a_text_is_read_and_written_alike(text: str) -> None:
    assert str(Invariances.parse(text)) == text
    assert bool(Invariances.parse(text)) == (text != "none")


def test_a_name_without_a_range_takes_its_default() -> None:
    assert Invariances.parse(" shift , rotation = 5") == Invariances(shift=0.125, rotation=5.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shfit", "did you mean 'shift'"),
        ("shift=2", "shift must be above 0 and at most 1 (share of the side), got 2"),
        ("rotation=0", "rotation must be above 0"),
        ("scale=x", "scale: expected a number (share), got 'x'"),
        ("flip,flip", "flip is given twice"),
        ("shift=nan", "shift must be above 0"),
        ("", "unknown change ''"),
    ],
)
def test_other_texts_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        RunSettings(invariant_to=text)


def test_consistency_needs_a_change() -> None:
    with pytest.raises(ValueError, match="nearest valid choice: --invariant-to shift"):
        RunSettings(consistency_weight=0.3)


def test_no_change_keeps_every_pixel() -> None:
    assert torch.equal(transforms.transformed(IMAGES, Invariances(), seeded()), IMAGES)


@pytest.mark.parametrize(
    "name", ["shift", "rotation", "scale", "shear", "crop", "flip", "brightness", "contrast", "colour"]
)
def test_each_change_changes_images_and_depends_on_the_seed_alone(name: str) -> None:
    made = changed(name)
    assert made.shape == IMAGES.shape
    assert made.dtype == torch.uint8
    assert not torch.equal(made, IMAGES)
    assert torch.equal(made, changed(name))
    assert not torch.equal(made, changed(name, seed=1))
    # An image is changed on its own: the draws of the first do not depend on how it looks.
    other = IMAGES.clone()
    other[1:] = 0
    assert torch.equal(changed(name, other)[0], made[0])


@pytest.mark.parametrize("text", ["shift=0.3", "rotation=40", "scale=0.4", "shear=0.5", "crop=0.5", "flip=0.5"])
def test_geometry_is_that_of_scipy(text: str) -> None:
    invariances = Invariances.parse(text)
    draws = torch.rand(transforms.ROWS, len(IMAGES), generator=seeded()).mul_(2).sub_(1)
    maps = transforms.affine_maps(invariances, draws).double().numpy()
    made, side = changed(text).numpy(), IMAGES.shape[-1]
    centre = (side - 1) / 2
    for image, result, affine in zip(IMAGES.numpy(), made, maps, strict=True):
        # torch's coordinates are (x, y) in units of half a side; scipy's are (row, column) in pixels.
        matrix = affine[::-1, 1::-1]
        offset = centre + affine[::-1, 2] * side / 2 - matrix @ [centre, centre]
        for channel, seen in zip(image, result, strict=True):
            expected = ndimage.affine_transform(channel.astype(float), matrix, offset, order=1, mode="grid-constant")
            assert np.abs(np.rint(expected) - seen).max() <= 1


def test_maps_stay_within_their_ranges() -> None:
    draws = torch.rand(transforms.ROWS, 4000, generator=seeded()).mul_(2).sub_(1)

    def maps(text: str) -> Tensor:
        return transforms.affine_maps(Invariances.parse(text), draws)

    shifts = maps("shift=0.2")[:, :, 2] / 2
    assert stats.kstest(shifts.flatten().numpy(), stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3
    angles = maps("rotation=30")
    degrees = torch.rad2deg(torch.atan2(angles[:, 1, 0], angles[:, 0, 0]))
    assert stats.kstest(degrees.numpy(), stats.uniform(-30, 60).cdf).pvalue > 1e-3
    # A crop shows nothing from outside of the picture.
    crops = maps("crop=0.6")
    corners = torch.tensor([[x, y, 1.0] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    assert (crops @ corners.T).abs().max() <= 1 + 1e-6
    assert crops[:, 0, 0].min() < 0.45
    mirrored = maps("flip=0.25")[:, 0, 0] < 0
    assert abs(int(mirrored.sum()) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_light_keeps_what_it_says() -> None:
    grey = torch.full((500, 1, 4, 4), 128, dtype=torch.uint8)
    bright = changed("brightness=0.2", grey).float()
    assert bool((bright.amax((1, 2, 3)) == bright.amin((1, 2, 3))).all())
    assert (bright - 128).abs().max() <= 51
    assert torch.equal(changed("contrast=0.5", grey), grey)
    # One channel has no colour.
    assert torch.equal(changed("colour=0.5", grey), grey)
    ratios = changed("colour=0.2", torch.full((500, 3, 2, 2), 100, dtype=torch.uint8))[:, :, 0, 0].float() / 100
    assert ratios.min() >= 0.8
    assert ratios.max() <= 1.2
    assert (ratios.amax(1) - ratios.amin(1)).max() > 0.1


def test_transformed_copies_follow_the_batches_and_depend_only_on_the_place_in_the_stream() -> None:
    def stream(text: str = "shift=0.3") -> ImageStream:
        return ImageStream(IMAGES, 8, seed=3, invariances=Invariances.parse(text))

    first = stream()
    taken = [first.take(2, transformed=True) for _ in range(3)]
    assert taken[0].shape == (4, 8, 3, 9, 9)
    plain = stream("none")
    for made in taken:
        batches = plain.take(2)
        assert torch.equal(made[:2], batches)
        assert not torch.equal(made[2:], batches)
    again = stream()
    again.take(2, transformed=True)
    resumed = stream()
    resumed.restore(again.state())
    assert torch.equal(resumed.take(2, transformed=True), taken[1])
