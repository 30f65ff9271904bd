"""The baseline beside the scores: k-means on pixels, against scikit-learn; what it costs; what it leaves alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mpcc.core.commands import entry
from mpcc.core.contracts import Evaluation, ImageSet
from mpcc.core.evaluation.baseline import Effort, PixelBaseline, averaged
from mpcc.core.evaluation.baseline_sheet import baseline_sheet, counterparts, find_groups
from mpcc.core.evaluation.members import ShownClusters
from mpcc.core.registry import load_registry

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 4},
    **{"eval-every": 2, "standing-passes": 2, "device": "cpu", "threads": 1, "preset": "none"},
}


def train(out: Path, *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*(f"--{name}={value}" for name, value in TINY.items()), *arguments, f"--out={out}"])
    assert caught.value.code == 0
    results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return results


def digits() -> ImageSet:
    found = load_digits()
    pixels = torch.from_numpy((found.images * 15).astype(np.uint8))[:, None]
    return ImageSet(pixels, torch.from_numpy(found.target).long())


def metrics(*names: str) -> dict[str, Any]:
    registry = load_registry(())
    return {name: registry.entry("metric", name).load()(None) for name in names}


def assigned(clusters: torch.Tensor, total: int, labels: torch.Tensor | None = None) -> Evaluation:
    posterior = torch.nn.functional.one_hot(clusters, total).float()
    return Evaluation(posterior, posterior, labels)


def test_its_scores_are_those_of_k_means_on_the_pixels_of_the_evaluated_images() -> None:
    data, indices = digits(), torch.arange(0, 1797, 2)
    baseline = PixelBaseline(data, 10, seed=4)
    own = torch.arange(len(indices)) % 10
    found = baseline.record(assigned(own, 10, data.labels[indices]), indices, metrics("acc", "nmi", "silhouette"))
    pixels = data.images[indices].flatten(1).float().numpy()
    expected = KMeans(10, n_init=10, random_state=0).fit_predict(pixels)
    labels = data.labels[indices].numpy()
    assert set(found["metrics"]) == {"acc", "nmi"}
    # Starts differ, and so do the local optima that are found.
    assert found["metrics"]["nmi"] == pytest.approx(normalized_mutual_info_score(labels, expected), abs=0.05)
    assert (found["method"], found["images"], found["size"], found["clusters"]) == ("k-means on pixels", 899, 8, 10)
    clusters = baseline.clusters(indices).clusters.numpy()
    assert found["metrics"]["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert found["agreement"] == pytest.approx(adjusted_rand_score(own.numpy(), clusters))


def test_without_labels_it_says_how_far_it_agrees_with_the_run() -> None:
    data, indices = digits(), torch.arange(500)
    baseline = PixelBaseline(data, 10, seed=0)
    same = baseline.clusters(indices).clusters
    found = baseline.record(assigned(same.roll(1, 0) * 0 + (same + 3) % 10, 10), indices, metrics("acc"))
    assert found["metrics"] == {}
    assert found["agreement"] == 1.0
    drawn = torch.randint(10, (500,), generator=torch.Generator().manual_seed(1))
    assert abs(baseline.record(assigned(drawn, 10), indices, metrics("acc"))["agreement"]) < 0.02


def test_images_without_a_label_do_not_count_in_its_scores() -> None:
    data, indices = digits(), torch.arange(400)
    labels = data.labels[:400].clone()
    labels[::2] = -1
    baseline = PixelBaseline(data, 10, seed=0)
    found = baseline.record(assigned(torch.arange(400) % 10, 10, labels), indices, metrics("nmi"))
    clusters = baseline.clusters(indices).clusters[1::2]
    assert found["metrics"]["nmi"] == pytest.approx(normalized_mutual_info_score(labels[1::2], clusters))


def test_fewer_different_images_than_clusters_are_no_failure() -> None:
    images = torch.tensor([0, 0, 9, 9, 9], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 8, 8).contiguous()
    found = PixelBaseline(ImageSet(images), 4, seed=0).clusters(torch.arange(5))
    assert found.total == 2
    assert adjusted_rand_score([0, 0, 1, 1, 1], found.clusters) == 1.0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("clusters", [2, 10, 100])
def test_it_takes_little_time_and_memory_whatever_the_images(channels: int, size: int, clusters: int) -> None:
    effort = Effort.within(10_000, channels, size, clusters)
    values = channels * effort.size**2
    assert effort.images * values * clusters <= 4e8
    assert effort.starts == 1 or effort.images * values * clusters * effort.starts <= 8e7
    assert effort.images * values * 4 <= 2e8
    assert effort.images >= 2000
    assert size % effort.size == 0


def test_averages_are_those_of_squares_of_pixels() -> None:
    images = torch.randint(256, (3, 2, 16, 16), dtype=torch.uint8)
    expected = images.numpy().reshape(3, 2, 8, 2, 8, 2).mean(axis=(3, 5)).reshape(3, -1)
    np.testing.assert_allclose(averaged(images, 8).numpy(), expected, rtol=1e-6)
    assert torch.equal(averaged(images, 16), images.float().flatten(1))


def test_it_is_computed_once_for_the_same_images() -> None:
    class Counting:
        shape = (40, 1, 8, 8)
        read = 0

        def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
            self.read += len(indices)
            return digits().images[indices]

    source = Counting()
    baseline = PixelBaseline(ImageSet(source), 3, seed=0)
    for _ in range(3):
        baseline.record(assigned(torch.arange(40) % 3, 3), torch.arange(40), {})
    assert source.read == 40


def test_a_run_has_it_in_its_results_and_trains_the_same_bits_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = train(tmp_path / "with")["baseline"]
    assert set(found["metrics"]) == {"acc", "purity", "nmi", "ari"}
    assert 0.7 < found["metrics"]["acc"] < 0.85
    monkeypatch.setattr(PixelBaseline, "record", lambda *arguments: {})
    train(tmp_path / "without")
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True) for name in ("with", "without")
    )
    for part, tensors in one["parts"].items():
        for name, value in tensors.items():
            assert torch.equal(value, two["parts"][part][name]), (part, name)
    for name in ("torch", "python", "numpy"):
        if name in one["random"]:
            assert repr(one["random"][name]) == repr(two["random"][name])


def test_groups_stand_beside_the_clusters_with_which_they_share_most_images_in_all() -> None:
    data, indices = digits(), torch.arange(0, 1797, 3)
    pixels = PixelBaseline(data, 5, seed=0).clusters(indices)
    own = torch.randint(5, (len(indices),), generator=torch.Generator().manual_seed(1))
    beside = counterparts(own, pixels, 5)

    def shared(pairs: dict[int, int]) -> int:
        return sum(int(((own == one) & (pixels.clusters == other)).sum()) for one, other in pairs.items())

    everything = [dict(enumerate(order)) for order in itertools.permutations(range(5))]
    assert shared(beside) == max(map(shared, everything))


def test_distances_are_those_to_the_mean_of_the_group() -> None:
    data, indices = digits(), torch.arange(200)
    pixels = PixelBaseline(data, 4, seed=0).clusters(indices)
    values = data.images[indices[pixels.positions]].flatten(1).double().numpy()
    for group in range(4):
        members = values[pixels.clusters.numpy() == group]
        distances = np.linalg.norm(members - members.mean(axis=0), axis=1)
        np.testing.assert_allclose(pixels.distances[pixels.clusters == group].numpy(), distances, rtol=1e-3)


@pytest.mark.parametrize("clusters", [1, 7, 40])
def test_the_sheet_has_a_row_for_each_cluster_that_is_shown(clusters: int) -> None:
    data, indices = digits(), torch.arange(100)
    pixels = PixelBaseline(data, clusters, seed=0).clusters(indices)
    own = torch.arange(100) % clusters
    heights = []
    for wanted in {1, min(clusters, 6)}:
        shown = ShownClusters.of(own, clusters, wanted, seed=0)
        groups = find_groups(data, indices, own, pixels, shown)
        assert all(group.cluster in shown.numbers and 0 < group.shared <= group.size for group in groups)
        picture = baseline_sheet(groups, pixels, shown)
        assert (picture.dtype, picture.shape[0]) == (torch.uint8, 3)
        heights.append((wanted, picture.shape[1]))
    if len(heights) == 2:
        (one, low), (many, high) = sorted(heights)
        # An image of 8 pixels is enlarged to 48; rows are 8 pixels apart.
        assert high - low == (many - one) * (48 + 8)


def test_a_sheet_without_any_group_says_so() -> None:
    data, indices = digits(), torch.arange(100)
    pixels = PixelBaseline(data, 3, seed=0).clusters(indices)
    # The only cluster that is shown has no image, and so no group.
    shown = ShownClusters((3,), (40, 30, 30, 0))
    own = torch.arange(100) % 3
    assert find_groups(data, indices, own, pixels, shown) == ()
    assert baseline_sheet((), pixels, shown).shape[0] == 3
