"""The clusters that pictures show, and their typical and uncertain members, against a direct computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from mpcc.core.config import RunSettings
from mpcc.core.contracts import Evaluation, FeatureRequest, ImageSet
from mpcc.core.evaluation.evaluated_images import ModelImages
from mpcc.core.evaluation.evaluation import evaluate
from mpcc.core.evaluation.findings import find
from mpcc.core.evaluation.members import SPREAD, TYPICAL, UNCERTAIN, ClusterMembers, ShownClusters, find_members
from mpcc.core.method.model import Model
from mpcc.plugins.architectures.biggan import BigGAN8
from mpcc.plugins.architectures.options import BigGANOptions
from mpcc.plugins.priors.gmm import GaussianMixture
from mpcc.plugins.priors.options import GaussianMixtureOptions

J = 4


def model(clusters: int, family: type[GaussianMixture] = GaussianMixture) -> Model:
    torch.manual_seed(0)
    prior = family(clusters, J, GaussianMixtureOptions(scale_floor=0.1, initial_raw_scale=-2))
    return Model.assemble(prior, BigGAN8(BigGANOptions(width=1)).build(clusters, J, channels=1), torch.device("cpu"))


def picture_of(number: Tensor) -> Tensor:
    """An image that says which one it is: its number in the first two pixels."""
    images = torch.zeros(len(number), 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256
    return images


def numbers_of(images: Tensor) -> list[int]:
    return (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1].int()).tolist()


class Album:
    """Images that are read on demand, which counts how often each is read."""

    def __init__(self, count: int) -> None:
        self.shape = (count, 1, 8, 8)
        self.read: list[int] = []

    def __getitem__(self, indices: Tensor) -> Tensor:
        assert len(indices)
        self.read += indices.tolist()
        return picture_of(indices)


def members(made: Model, evaluation: Evaluation, shown: ShownClusters, album: Album) -> tuple[ClusterMembers, ...]:
    """The members of clusters; the evaluated images are every second image of the album."""
    indices = torch.arange(len(evaluation.locations)) * 2
    request = FeatureRequest()
    images = ModelImages(made, ImageSet(album), indices, evaluation, request=request, passes=1, batch=4, seed=0)
    return find_members(images, evaluation, shown)


def evaluation_of(made: Model, count: int, spread: float = 1.0) -> Evaluation:
    """Locations near the components, and their posteriors."""
    random = torch.Generator().manual_seed(3)
    near = torch.randint(made.prior.clusters, (count,), generator=random)
    with torch.no_grad():
        locations = made.prior.loc[near] + spread * torch.randn(count, J, generator=random)
        return Evaluation(made.prior.log_responsibilities(locations).exp(), locations)


# Which clusters


@pytest.mark.parametrize("wanted", ["all", 30, 40])
def test_all_clusters_are_shown_when_all_are_wanted_or_there_are_few(wanted: int | str) -> None:
    shown = ShownClusters.of(torch.tensor([2, 2, 29]), 30, wanted, seed=1)
    assert shown.numbers == tuple(range(30))
    assert (shown.clusters, shown.images, shown.used) == (30, 3, 2)
    assert shown.sizes[2] == 2


def test_of_many_clusters_some_are_chosen_by_the_seed_in_the_order_of_their_numbers() -> None:
    assignments = torch.arange(1000) % 200
    torch.manual_seed(5)
    before = torch.get_rng_state()
    choices = [ShownClusters.of(assignments, 200, 30, seed).numbers for seed in range(300)]
    assert torch.equal(torch.get_rng_state(), before)
    for choice in choices:
        assert list(choice) == sorted(set(choice))
        assert len(choice) == 30
    assert ShownClusters.of(assignments, 200, 30, 7).numbers == choices[7]
    assert len(set(choices)) == 300
    counts = np.bincount(np.concatenate([np.array(choice) for choice in choices]), minlength=200)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_clusters_with_images_come_first_and_stay_as_long_as_they_have_some() -> None:
    used = torch.arange(0, 200, 5)
    shown = ShownClusters.of(used, 200, 30, seed=0)
    assert set(shown.numbers) <= set(used.tolist())
    # Another cluster that is not shown gets its first images, or loses them: the others are shown as before.
    hidden = sorted(set(used.tolist()) - set(shown.numbers))
    assert ShownClusters.of(used[used != hidden[0]], 200, 30, seed=0).numbers == shown.numbers
    fewer = used[used != shown.numbers[0]]
    assert len(set(ShownClusters.of(fewer, 200, 30, seed=0).numbers) & set(shown.numbers)) == 29
    # There are only two with images.
    few = ShownClusters.of(torch.tensor([3, 150]), 200, 30, seed=0)
    assert {3, 150} <= set(few.numbers)
    assert len(few.numbers) == 30


@pytest.mark.parametrize(
    ("size", "images", "share"),
    [(1, 1, "100.0 %"), (1, 3, "33.3 %"), (1, 1000, "0.1 %"), (1, 20_000, "< 0.1 %"), (0, 7, "0.0 %")],
)
def test_a_share_is_never_rounded_to_nothing(size: int, images: int, share: str) -> None:
    assert ShownClusters((0, 1), (size, images - size)).share(0) == share


# Which members


@pytest.mark.parametrize("clusters", [1, 3, 12])
@pytest.mark.parametrize("count", [5, 700])
def test_members_are_sorted_by_density_and_by_posterior(clusters: int, count: int) -> None:
    made = model(clusters)
    found = evaluation_of(made, count)
    shown = ShownClusters.of(found.assignments, clusters, "all", seed=0)
    album = Album(2 * count)
    chosen = members(made, found, shown, album)
    assert [group.cluster for group in chosen] == list(range(clusters))
    loc, scale = made.prior.loc.numpy().astype(float), made.prior.scales().detach().numpy().astype(float)
    for group in chosen:
        k = group.cluster
        own = (found.assignments == k).nonzero().flatten().tolist()
        density = stats.norm.logpdf(found.locations.numpy().astype(float), loc[k], scale[k]).sum(1)
        by_density = sorted(own, key=lambda number: -density[number])
        assert group.typical.tolist() == by_density[:TYPICAL]
        assert len(group.spread) == min(SPREAD, len(own))
        if len(own) > 1:
            ranks = [by_density.index(number) for number in group.spread.tolist()]
            assert (ranks[0], ranks[-1]) == (0, len(own) - 1)
            assert 1 <= min(np.diff(ranks)) <= max(np.diff(ranks)) <= min(np.diff(ranks)) + 1
        posterior = found.posterior[:, k].tolist()
        expected = sorted(own, key=lambda number: (posterior[number], density[number]))[:UNCERTAIN]
        assert group.uncertain.tolist() == expected
        assert group.confidences.tolist() == [posterior[number] for number in expected]
        assert numbers_of(group.typical_images) == [2 * number for number in group.typical.tolist()]
        assert numbers_of(group.spread_images) == [2 * number for number in group.spread.tolist()]
        assert numbers_of(group.uncertain_images) == [2 * number for number in expected]
        if clusters == 1:
            assert len(group.rivals) == 0
        else:
            second = found.posterior[expected].topk(2, dim=1).values[:, 1]
            assert torch.equal(found.posterior[expected, group.rivals], second)
            assert k not in group.rivals.tolist()
    # Only what is shown is read, and once.
    parts = [torch.cat([group.typical, group.spread, group.uncertain]).unique() for group in chosen]
    assert sorted(album.read) == sorted(2 * number for number in torch.cat(parts).tolist())


def test_clusters_without_images_have_empty_members_and_nothing_is_read_for_those_that_are_not_shown() -> None:
    made = model(12)
    found = evaluation_of(made, 6, spread=0.01)
    shown = ShownClusters.of(found.assignments, 12, 2, seed=0)
    album = Album(12)
    chosen = members(made, found, shown, album)
    assert tuple(group.cluster for group in chosen) == shown.numbers
    assert len(album.read) == sum(shown.sizes[number] for number in shown.numbers)
    every = members(made, found, ShownClusters.of(found.assignments, 12, "all", seed=0), Album(12))
    empty = [group for group in every if not shown.sizes[group.cluster]]
    assert len(empty) >= 6
    for group in empty:
        assert group.typical_images.shape == group.uncertain_images.shape == (0, 1, 8, 8)
        assert len(group.confidences) == 0


def test_where_no_posterior_tells_images_apart_the_densities_do() -> None:
    made = model(2)
    found = evaluation_of(made, 60)
    sure = Evaluation(torch.eye(2)[found.assignments], found.locations)
    for group in members(made, sure, ShownClusters.of(sure.assignments, 2, 30, seed=0), Album(120)):
        with torch.no_grad():
            density = made.prior.log_density(found.locations)[:, group.cluster]
        assert torch.equal(density[group.typical], density[group.typical].sort(descending=True).values)
        assert torch.equal(density[group.uncertain], density[group.uncertain].sort().values)


class Odd(GaussianMixture):
    """A mixture whose density is not finite where the first coordinate of z is negative."""

    wrong = float("nan")

    def component(self, y: Tensor) -> Distribution:
        loc, wrong = self.loc[y], self.wrong

        class Broken(Normal):
            def log_prob(self, value: Tensor) -> Tensor:
                density: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
                return torch.where(value[..., :1] < 0, torch.full_like(density, wrong), density)

        return Independent(Broken(loc, torch.ones_like(loc), validate_args=False), 1, validate_args=False)


class Absent(Odd):
    """The density there is 0."""

    wrong = float("-inf")


@pytest.mark.parametrize("family", [Odd, Absent])
def test_members_whose_density_is_not_finite_come_last_by_their_posterior(family: type[GaussianMixture]) -> None:
    made = model(1, family)
    random = torch.Generator().manual_seed(1)
    locations = torch.randn(12, J, generator=random)
    assert (locations[:, 0] < 0).any()
    sound = locations[:, 0] >= 0
    posterior = torch.rand(12, 1, generator=random)
    found = Evaluation(posterior, locations)
    (group,) = members(made, found, ShownClusters.of(found.assignments, 1, 30, seed=0), Album(24))
    order = group.typical.tolist()
    finite = [number for number in order if sound[number]]
    assert order[: len(finite)] == finite
    rest = order[len(finite) :]
    assert rest == sorted(rest, key=lambda number: -float(posterior[number, 0]))
    # All of them, if no density is finite.
    nowhere = Evaluation(posterior, -locations.abs())
    (group,) = members(made, nowhere, ShownClusters.of(nowhere.assignments, 1, 30, seed=0), Album(24))
    assert group.typical.tolist() == posterior[:, 0].argsort(descending=True).tolist()


def test_choosing_members_changes_no_random_state() -> None:
    made = model(3)
    found = evaluation_of(made, 50)
    shown = ShownClusters.of(found.assignments, 3, 30, seed=0)
    torch.manual_seed(4)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].tolist()
    members(made, found, shown, Album(100))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpys


@pytest.mark.parametrize("wanted", [2, "all"])
def test_an_evaluation_shows_as_many_clusters_as_the_settings_say(wanted: int | str) -> None:
    made = model(5)
    random = torch.Generator().manual_seed(1)
    data = ImageSet(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=random))
    settings = RunSettings(standing_passes=1, picture_clusters=wanted, seed=6)
    found = find(made, data, torch.arange(40), {}, settings)
    assert len(found.shown.numbers) == (5 if wanted == "all" else wanted)
    assert [group.cluster for group in found.members] == list(found.shown.numbers)
    assignments = evaluate(made, data, torch.arange(40)).assignments
    assert found.shown.sizes == tuple(torch.bincount(assignments, minlength=5).tolist())
    assert found.summary()["clusters"]["sizes"] == list(found.shown.sizes)
