"""Sheets: every image at a size that can be seen, in the order of the clusters, on pages that are not too wide."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest
import torch
from torch import Tensor

from mpcc.core.evaluation.evaluation import Pictures
from mpcc.core.evaluation.members import ClusterMembers, ShownClusters
from mpcc.core.evaluation.page import tiles
from mpcc.core.evaluation.sheets import member_sheet, overview_sheet, reconstruction_sheet, sample_sheet

WIDEST = 2500


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def shown_clusters(sizes: list[int], wanted: int | str = "all") -> ShownClusters:
    assignments = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return ShownClusters.of(assignments, len(sizes), wanted, seed=0)


def drawn(sizes: list[int], channels: int, side: int) -> Pictures:
    samples = noise(len(sizes), 10, channels, side, side)
    originals, reconstructions = noise(50, channels, side, side), noise(50, channels, side, side) // 2
    return Pictures(samples, originals, reconstructions, torch.arange(50) % len(sizes))


def group(cluster: int, size: int, channels: int, side: int, clusters: int = 3) -> ClusterMembers:
    typical, spread = noise(min(size, 20), channels, side, side), noise(min(size, 8), channels, side, side) // 3
    uncertain = noise(min(size, 10), channels, side, side) // 2
    n, s, m = len(typical), len(spread), len(uncertain)
    rivals = torch.full((m if clusters > 1 else 0,), (cluster + 1) % clusters)
    confidences = torch.linspace(0.4, 1, m)
    numbers = torch.arange(n), torch.arange(s), torch.arange(m)
    return ClusterMembers(cluster, *numbers, confidences, rivals, typical, spread, uncertain)


def place(sheet: Tensor, image: np.ndarray) -> tuple[int, int]:
    """The only place of an image on a sheet: its first row and column."""
    page = sheet.permute(1, 2, 0).numpy()
    height, width = image.shape[:2]
    tops, lefts = np.nonzero((page[: -height + 1, : -width + 1] == image[0, 0]).all(axis=2))
    found = [
        (int(top), int(left))
        for top, left in zip(tops, lefts, strict=True)
        if (page[top : top + height, left : left + width] == image).all()
    ]
    assert len(found) == 1
    return found[0]


def is_picture(sheet: Tensor) -> bool:
    return sheet.dtype == torch.uint8 and sheet.shape[0] == 3 and sheet.is_contiguous() and sheet.shape[2] <= WIDEST


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(("side", "factor"), [(5, 10), (8, 6), (28, 2), (32, 2), (48, 1), (64, 1)])
def test_small_images_are_enlarged_by_whole_factors(channels: int, side: int, factor: int) -> None:
    images = noise(3, channels, side, side)
    large = tiles(images)
    assert large.shape == (3, side * factor, side * factor, 3)
    for row in range(factor):
        for column in range(factor):
            pixels = torch.from_numpy(large[:, row::factor, column::factor].copy()).permute(0, 3, 1, 2)
            if channels in (1, 3):
                assert torch.equal(pixels, images.expand(3, 3, side, side))
            else:
                assert (pixels[:, 0].double() - images.double().mean(1)).abs().max() <= 0.5
                assert torch.equal(pixels[:, 0], pixels[:, 2])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 32])
def test_samples_and_members_stand_in_the_row_of_their_cluster(channels: int, side: int) -> None:
    sizes = [5, 12_345, 0]
    shown, pictures = shown_clusters(sizes), drawn(sizes, channels, side)
    groups = [group(k, size, channels, side) for k, size in enumerate(sizes)]
    samples, overview = sample_sheet(pictures, shown), overview_sheet(pictures, shown, groups)
    assert is_picture(samples)
    assert is_picture(overview)
    tops = []
    for k in range(3):
        at = [place(samples, image) for image in tiles(pictures.samples[k])]
        assert len({top for top, _ in at}) == 1
        assert [left for _, left in at] == sorted(left for _, left in at)
        tops.append(at[0][0])
        # At the left is room for number, size and share, which are dark.
        assert at[0][1] > 60
        assert (samples[:, at[0][0] : at[0][0] + 48, : at[0][1]] < 128).any()
        generated = [place(overview, image) for image in tiles(pictures.samples[k, :8])]
        assert len({top for top, _ in generated}) == 1
        if sizes[k]:
            shown_images = torch.cat([groups[k].typical_images[:4], groups[k].spread_images])
            real = [place(overview, image) for image in tiles(shown_images)]
            assert real == sorted(real)
            assert {top for top, _ in real} == {generated[0][0]}
            assert max(left for _, left in real) < min(left for _, left in generated)
        else:
            # The words "no members" stand in place of the images.
            left = at[0][1]
            assert (overview[:, generated[0][0] : generated[0][0] + 48, left : left + 70] < 150).any()
    assert tops == sorted(set(tops))


def test_originals_stand_beside_their_reconstructions() -> None:
    pictures = drawn([20, 30], 1, 8)
    sheet = reconstruction_sheet(pictures, shown_clusters([20, 30]))
    assert is_picture(sheet)
    before = (0, 0)
    for pair in range(50):
        top, left = place(sheet, tiles(pictures.originals[pair : pair + 1])[0])
        assert place(sheet, tiles(pictures.reconstructions[pair : pair + 1])[0]) == (top, left + 50)
        assert (top, left) > before
        before = (top, left)


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("clusters", [1, 3])
def test_a_cluster_has_its_typical_members_above_its_uncertain_ones(size: int, clusters: int) -> None:
    found = group(0, size, 3, 8, clusters)
    sheet = member_sheet(found, shown_clusters([size, *[4] * (clusters - 1)]))
    assert is_picture(sheet)
    sections = [found.typical_images, found.spread_images, found.uncertain_images]
    places = [[place(sheet, image) for image in tiles(section)] for section in sections]
    assert all(section == sorted(section) for section in places)
    for above, below in itertools.pairwise(places):
        assert max(top for top, _ in above) + 48 < min(top for top, _ in below)


def test_a_cluster_without_members_has_a_picture_that_says_so() -> None:
    sheet = member_sheet(group(1, 0, 1, 8), shown_clusters([3, 0, 3]))
    assert is_picture(sheet)
    assert (sheet < 128).any()


@pytest.mark.parametrize(("clusters", "side"), [(1, 8), (30, 64), (30, 256), (2, 700), (1000, 8)])
def test_no_sheet_is_too_wide_for_a_screen_and_each_shows_something_of_each_cluster(clusters: int, side: int) -> None:
    sizes = [20] * clusters
    samples = noise(1, 10, 1, side, side).expand(clusters, 10, 1, side, side)
    pictures = Pictures(samples, samples[0], samples[0], torch.zeros(10, dtype=torch.int64))
    shown = shown_clusters(sizes, 30)
    one = group(0, 20, 1, side, clusters)
    groups = [ClusterMembers(k, *(getattr(one, name) for name in FIELDS)) for k in shown.numbers]
    sheets = [sample_sheet(pictures, shown), overview_sheet(pictures, shown, groups)]
    for sheet in (*sheets, reconstruction_sheet(pictures, shown), member_sheet(groups[0], shown)):
        assert sheet.shape[2] <= WIDEST
    rows = min(clusters, 30)
    for sheet in sheets:
        assert rows * max(side, 48) < sheet.shape[1] < rows * (max(side, 48) + 12) + 100


FIELDS = tuple(field.name for field in attrs.fields(ClusterMembers))[1:]
