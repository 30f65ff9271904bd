"""Metrics: laws over all of them first, then each against an oracle of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from mpcc.core.contracts import Evaluation, FeatureRequest, Metric
from mpcc.core.evaluation.contingency import contingency
from mpcc.core.testing.metrics import MadeUpImages
from mpcc.plugins.metrics.accuracy import Accuracy, accuracy
from mpcc.plugins.metrics.calibration import Calibration, calibration_error, right_images
from mpcc.plugins.metrics.kept_information import KeptInformation, kept_information
from mpcc.plugins.metrics.mutual_information import NormalizedMutualInformation, normalized_mutual_information
from mpcc.plugins.metrics.occupancy import Occupancy, occupancy
from mpcc.plugins.metrics.purity import Purity, purity
from mpcc.plugins.metrics.rand_index import AdjustedRandIndex, adjusted_rand_index
from mpcc.plugins.metrics.reconstruction import Reconstruction, SquaredMeanError
from mpcc.plugins.metrics.silhouette import Silhouette, silhouette

FUNCTIONS = [accuracy, purity, normalized_mutual_information, adjusted_rand_index]
ADAPTERS = [
    (Accuracy, accuracy),
    (Purity, purity),
    (NormalizedMutualInformation, normalized_mutual_information),
    (AdjustedRandIndex, adjusted_rand_index),
]
LOWEST = {accuracy: 0.0, purity: 0.0, normalized_mutual_information: 0.0, adjusted_rand_index: -0.5}

Score = Callable[..., float]
Labellings = tuple[np.ndarray, np.ndarray]

every_metric = pytest.mark.parametrize("score", FUNCTIONS, ids=lambda f: f.__name__)
every_shape = pytest.mark.parametrize(
    ("clusters", "classes"), [(2, 2), (3, 3), (5, 3), (3, 5), (1, 4), (4, 1), (6, 6)], ids=lambda k: str(k)
)


def noisy(clusters: int, classes: int, seed: int, count: int = 60) -> Labellings:
    """Half of the images sit in the cluster of their class, the others anywhere."""
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    assigned = np.where(random.random(count) < 0.5, labels % clusters, random.integers(clusters, size=count))
    return assigned, labels


def brute_force_accuracy(assigned: np.ndarray, labels: np.ndarray) -> float:
    """Try every injective map; the smaller side is padded with names that match nothing."""
    clusters, classes = int(assigned.max()) + 1, int(labels.max()) + 1
    names = [*range(classes), *range(-clusters, 0)]
    return max(
        float(np.mean(np.array(chosen)[assigned] == labels)) for chosen in set(itertools.permutations(names, clusters))
    )


# Laws over all metrics


@every_metric
@every_shape
def test_the_numbers_of_the_clusters_do_not_matter(score: Score, clusters: int, classes: int) -> None:
    assigned, labels = noisy(clusters, classes, seed=0)
    renamed = np.random.default_rng(1).permutation(clusters + 40)[assigned]
    assert score(renamed, labels) == pytest.approx(score(assigned, labels), abs=1e-12)


@every_metric
@every_shape
def test_the_numbers_of_the_classes_do_not_matter(score: Score, clusters: int, classes: int) -> None:
    assigned, labels = noisy(clusters, classes, seed=2)
    renamed = np.random.default_rng(3).permutation(classes + 40)[labels]
    assert score(assigned, renamed) == pytest.approx(score(assigned, labels), abs=1e-12)


@every_metric
def test_the_order_of_the_images_does_not_matter(score: Score) -> None:
    assigned, labels = noisy(4, 4, seed=4)
    order = np.random.default_rng(5).permutation(len(labels))
    assert score(assigned[order], labels[order]) == pytest.approx(score(assigned, labels), abs=1e-12)


@every_metric
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_a_perfect_clustering_scores_exactly_one(score: Score, classes: int) -> None:
    random = np.random.default_rng(6)
    for _ in range(50):
        labels = random.integers(classes, size=40)
        assert score(random.permutation(classes)[labels], labels) == pytest.approx(1.0, abs=1e-12)
        assert score(random.permutation(classes)[labels], labels) <= 1.0


@every_metric
@every_shape
def test_a_score_is_a_finite_float_within_its_range(score: Score, clusters: int, classes: int) -> None:
    for seed in range(20):
        value = score(*noisy(clusters, classes, seed, count=2 + seed))
        assert type(value) is float
        assert math.isfinite(value)
        assert LOWEST[score] <= value <= 1.0


@every_metric
def test_an_image_moved_to_its_own_cluster_never_lowers_the_score_of_a_near_perfect_clustering(score: Score) -> None:
    labels = np.repeat(np.arange(5), 10)
    assigned = labels.copy()
    assigned[[0, 10, 20]] = [1, 2, 3]
    values = [score(assigned, labels)]
    for index in (0, 10, 20):
        assigned[index] = labels[index]
        values.append(score(assigned, labels))
    assert values == sorted(values)
    assert values[0] < values[-1] == 1.0


@every_metric
def test_one_image_in_one_class_is_perfect(score: Score) -> None:
    assert score([3], [8]) == 1.0


@every_metric
def test_lists_arrays_and_tensors_of_any_integer_type_score_the_same(score: Score) -> None:
    assigned, labels = noisy(3, 4, seed=7)
    expected = score(assigned, labels)
    assert score(assigned.tolist(), labels.tolist()) == expected
    assert score(assigned.astype(np.uint8), labels.astype(np.int32)) == expected
    assert score(torch.tensor(assigned, dtype=torch.int16), torch.tensor(labels)) == expected


@every_metric
@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        ([0, 1], [0, 1, 2], r"same length, got shapes \(2,\) and \(3,\)"),
        ([[0, 1]], [0, 1], r"clusters must have shape \(N,\) with N >= 1, got shape \(1, 2\)"),
        ([0, 1], 1, r"labels must have shape \(N,\) with N >= 1, got shape \(\)"),
        ([], [], r"clusters must have shape \(N,\) with N >= 1, got shape \(0,\)"),
        ([0, 1], [0, -1], r"labels must be >= 0, got -1 at index 1"),
        ([-2, 1], [0, 1], r"clusters must be >= 0, got -2 at index 0"),
        ([0.0, 1.0], [0, 1], r"clusters must be integers, got float64"),
        ([0, 1], [False, True], r"labels must be integers, got bool"),
        (["a", "b"], [0, 1], r"clusters must be integers, got <U1"),
    ],
)
def test_bad_input_is_refused_by_an_error_that_names_it(
    score: Score, clusters: object, labels: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(clusters, labels)


# Adapters


@pytest.mark.parametrize(("adapter", "score"), ADAPTERS)
def test_an_adapter_scores_the_most_probable_clusters(adapter: Callable[[None], Metric], score: Score) -> None:
    assigned, labels = noisy(4, 3, seed=8)
    # The odd row totals say that only the order within a row matters.
    posterior = torch.nn.functional.one_hot(torch.tensor(assigned), 4) + torch.rand(60, 4) * 0.9
    evaluation = Evaluation(posterior, locations=torch.zeros(60, 2), labels=torch.tensor(labels))
    metric = adapter(None)
    assert metric.needs_labels
    assert metric.higher_is_better
    assert metric.compute(evaluation) == score(assigned, labels)


@pytest.mark.parametrize("adapter", [adapter for adapter, _ in ADAPTERS])
def test_an_adapter_refuses_an_evaluation_without_labels(adapter: Callable[[], Metric]) -> None:
    with pytest.raises(ValueError, match="has no labels"):
        adapter().compute(Evaluation(torch.ones(2, 3), torch.zeros(2, 2)))


# Accuracy and purity, which are never the same thing


@every_shape
@pytest.mark.parametrize("seed", range(5))
def test_accuracy_is_the_best_of_all_one_to_one_matchings(clusters: int, classes: int, seed: int) -> None:
    # Fewer names than 5 + 3 keep the search small.
    if clusters * classes > 20:
        clusters = classes = 4
    assigned, labels = noisy(clusters, classes, seed, count=17)
    assert accuracy(assigned, labels) == pytest.approx(brute_force_accuracy(assigned, labels), abs=1e-12)


@every_shape
@pytest.mark.parametrize("seed", range(5))
def test_the_contingency_table_and_purity_agree_with_scikit_learn(clusters: int, classes: int, seed: int) -> None:
    assigned, labels = noisy(clusters, classes, seed)
    oracle = contingency_matrix(assigned, labels)
    assert np.array_equal(contingency(assigned, labels), oracle)
    assert purity(assigned, labels) == pytest.approx(oracle.max(axis=1).sum() / oracle.sum(), abs=1e-12)


@every_shape
def test_accuracy_never_exceeds_purity(clusters: int, classes: int) -> None:
    for seed in range(30):
        assigned, labels = noisy(clusters, classes, seed)
        assert accuracy(assigned, labels) <= purity(assigned, labels)


def test_two_clusters_of_one_class_count_once_for_accuracy_and_twice_for_purity() -> None:
    labels = [0] * 6 + [1] * 4
    clusters = [0] * 3 + [1] * 3 + [2] * 4
    assert accuracy(clusters, labels) == 0.7
    assert purity(clusters, labels) == 1.0


def test_a_greedy_matching_would_fall_short_of_accuracy() -> None:
    # Greedy takes the 5 and is left with the 0; the best matching is 4 + 4.
    clusters = [0] * 9 + [1] * 4
    labels = [0] * 5 + [1] * 4 + [0] * 4
    assert accuracy(clusters, labels) == 8 / 13
    assert purity(clusters, labels) == 9 / 13


# Mutual information and the Rand index


@every_shape
@pytest.mark.parametrize("seed", range(5))
def test_nmi_and_ari_agree_with_scikit_learn(clusters: int, classes: int, seed: int) -> None:
    assigned, labels = noisy(clusters, classes, seed)
    nmi = normalized_mutual_info_score(labels, assigned, average_method="arithmetic")
    assert normalized_mutual_information(assigned, labels) == pytest.approx(nmi, abs=1e-12)
    assert adjusted_rand_index(assigned, labels) == pytest.approx(adjusted_rand_score(labels, assigned), abs=1e-12)


def test_nmi_is_the_formula_in_its_docstring() -> None:
    assigned, labels = noisy(4, 3, seed=9)
    joint = contingency(assigned, labels) / len(labels)
    rows, columns = joint.sum(1), joint.sum(0)
    inside = joint > 0
    information = (joint[inside] * np.log(joint[inside] / np.outer(rows, columns)[inside])).sum()
    entropies = -(rows * np.log(rows)).sum() - (columns * np.log(columns)).sum()
    assert normalized_mutual_information(assigned, labels) == pytest.approx(2 * information / entropies, abs=1e-12)


def test_ari_counts_pairs_of_images() -> None:
    assigned, labels = noisy(4, 3, seed=10, count=25)
    pairs = list(itertools.combinations(range(25), 2))
    together = np.array([assigned[i] == assigned[j] for i, j in pairs])
    alike = np.array([labels[i] == labels[j] for i, j in pairs])
    expected = together.sum() * alike.sum() / len(pairs)
    index = ((together & alike).sum() - expected) / ((together.sum() + alike.sum()) / 2 - expected)
    assert adjusted_rand_index(assigned, labels) == pytest.approx(index, abs=1e-12)


# Degenerate clusterings: what each score says of them, by hand


@pytest.mark.parametrize(
    ("score", "one_cluster", "all_singletons"),
    [
        (accuracy, 0.5, 0.3),
        (purity, 0.5, 1.0),
        (normalized_mutual_information, 0.0, None),
        (adjusted_rand_index, 0.0, 0.0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_cluster_and_all_singletons(score: Score, one_cluster: float, all_singletons: float | None) -> None:
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2)
    assert score(np.zeros(10, dtype=int), labels) == pytest.approx(one_cluster, abs=1e-12)
    if all_singletons is None:
        entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
        all_singletons = 2 * entropy / (entropy + math.log(10))
    assert score(np.arange(10), labels) == pytest.approx(all_singletons, abs=1e-12)


# Without labels: silhouette, occupancy, reconstructions


def slow_silhouette(points: np.ndarray, clusters: np.ndarray) -> float:
    """The definition, point by point."""
    found = []
    for index, point in enumerate(points):
        distances = np.linalg.norm(points - point, axis=1)
        own = (clusters == clusters[index]) & (np.arange(len(points)) != index)
        if not own.any():
            found.append(0.0)
            continue
        a = distances[own].mean()
        b = min(distances[clusters == k].mean() for k in np.unique(clusters) if k != clusters[index])
        found.append((b - a) / max(a, b))
    return float(np.mean(found))


@pytest.mark.parametrize("clusters", [2, 5, 30])
def test_the_silhouette_is_its_definition(clusters: int) -> None:
    random = np.random.default_rng(clusters)
    points, assigned = random.normal(size=(40, 3)), random.integers(clusters, size=40)
    points[:, 0] += assigned
    assert silhouette(points, assigned) == pytest.approx(slow_silhouette(points, assigned), abs=1e-12)
    assert -1 <= silhouette(points, assigned) <= 1


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_silhouette_with_nothing_to_compare_is_zero(count: int) -> None:
    points = np.random.default_rng(0).normal(size=(count, 3))
    assert silhouette(points, np.zeros(count, dtype=int)) == 0.0
    assert silhouette(points, np.arange(count)) == 0.0
    assert silhouette(np.zeros((6, 3)), [0, 0, 0, 1, 1, 1]) == 0.0


def test_of_many_points_a_fixed_sample_is_compared() -> None:
    random = np.random.default_rng(1)
    points, assigned = random.normal(size=(400, 2)), random.integers(3, size=400)
    points[:, 0] += 4 * assigned
    everything, sampled = silhouette(points, assigned), silhouette(points, assigned, sample=150)
    assert sampled == silhouette(points, assigned, sample=150) != everything
    assert sampled == pytest.approx(everything, abs=0.05)
    # One image of the second cluster will not be in a sample of two.
    assert silhouette(points, [1] + [0] * 399, sample=2) == 0.0


def test_a_silhouette_needs_a_location_for_each_cluster() -> None:
    with pytest.raises(ValueError, match=r"locations must have shape \(3, J\), got \(2, 5\)"):
        silhouette(np.zeros((2, 5)), [0, 1, 1])


@pytest.mark.parametrize("counts", [[5], [3, 3], [1, 2, 3, 4], [1] * 6])
def test_occupancy_counts_clusters_and_gives_the_entropy_of_their_shares(counts: list[int]) -> None:
    assigned = np.random.default_rng(2).permutation(np.repeat(3 * np.arange(len(counts)), counts))
    used, entropy = occupancy(assigned)
    assert used == len(counts)
    assert entropy == pytest.approx(stats.entropy(counts), abs=1e-12)
    assert 0 <= entropy <= math.log(used) + 1e-12


# Kept information


def drifting(clusters: np.ndarray, count: int, stays: float, seed: int) -> np.ndarray:
    """Clusters of reconstructions: a share of the images stays, the others are anywhere."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(clusters)) < stays, clusters, random.integers(count, size=len(clusters)))


@pytest.mark.parametrize(("count", "images", "stays"), [(3, 30, 0.5), (10, 60, 0.8), (10, 200, 0.0), (4, 40, 1.0)])
def test_kept_information_is_the_mutual_information_beyond_chance(count: int, images: int, stays: float) -> None:
    random = np.random.default_rng(images)
    first = random.integers(count, size=images)
    second = drifting(first, count, stays, seed=7)
    chance = [nats_shared(first, random.permutation(second)) for _ in range(4000)]
    mean, error = np.mean(chance), np.std(chance) / len(chance) ** 0.5
    nats = nats_shared(first, second)
    low, high = ((nats - mean - z * error) / (math.log(count) - mean - z * error) for z in (5, -5))
    share = math.exp(stats.entropy(np.bincount(first))) / count
    assert low * share <= kept_information(first, second, count) <= high * share


def nats_shared(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information as the divergence of the joint distribution from the product of its margins."""
    table = contingency(first, second) / len(first)
    product = table.sum(1, keepdims=True) * table.sum(0)
    return float((table[table > 0] * np.log(table[table > 0] / product[table > 0])).sum())


def test_kept_information_is_one_for_a_complete_and_stable_clustering_and_zero_by_chance() -> None:
    complete = np.repeat(np.arange(10), 30)
    assert kept_information(complete, complete, 10) == pytest.approx(1)
    assert kept_information(complete, (complete + 3) % 10, 10) == pytest.approx(1)
    random = np.random.default_rng(0)
    by_chance = [kept_information(random.permutation(complete), complete, 10) for _ in range(400)]
    assert abs(np.mean(by_chance)) < 5 * np.std(by_chance) / 20
    # One cluster, as many clusters as images, and K = 1 tell nothing.
    assert kept_information(0 * complete, 0 * complete, 10) == 0
    assert kept_information(np.arange(20), np.arange(20), 20) == 0
    assert kept_information([0, 0], [0, 0], 1) == 0


@pytest.mark.parametrize("used", [1, 2, 5, 9])
def test_a_stable_collapse_scores_below_a_complete_clustering_that_is_not_stable(used: int) -> None:
    complete = np.repeat(np.arange(10), 180)
    collapsed = complete % used
    bound = used * math.log(used) / (10 * math.log(10))
    found = kept_information(collapsed, collapsed, 10)
    assert found <= bound + 1e-9
    # A complete clustering scores higher even if some reconstructions leave their cluster.
    assert kept_information(complete, drifting(complete, 10, 0.95 if used == 9 else 0.8, seed=1), 10) > found + 0.02
    # An unequal collapse: nearly all images in one cluster, a few in each of the others.
    unequal = np.where(np.arange(1800) % 20 == 0, complete, 0)
    assert kept_information(unequal, unequal, 10) < 0.03


def test_the_silhouette_prefers_a_collapse_where_kept_information_does_not() -> None:
    # Ten groups around two far centres: whatever joins five of them each is well separated.
    random = np.random.default_rng(3)
    centres = random.normal(size=(10, 5)) + 8 * (np.arange(10) % 2)[:, None]
    groups = np.repeat(np.arange(10), 50)
    locations = centres[groups] + 0.5 * random.normal(size=(500, 5))
    collapsed = groups % 2
    assert silhouette(locations, collapsed) > silhouette(locations, groups) + 0.2
    moved = drifting(groups, 10, 0.9, seed=4)
    assert kept_information(collapsed, moved % 2, 10) < 0.1 < 0.7 < kept_information(groups, moved, 10)


@pytest.mark.parametrize(("clusters", "message"), [([0, 3], "less than K = 3, got 3"), ([0], "the same length")])
def test_clusters_that_do_not_fit_are_refused(clusters: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept_information(clusters, [0, 1], 3)


def test_scores_announce_their_names_and_directions() -> None:
    request = FeatureRequest()
    assert Accuracy().scores("acc", request) == {"acc": "higher"}
    assert Reconstruction().scores("mse", request) == {"mse": "lower"}
    assert Occupancy().scores("occupancy", request) == {"occupancy_used": "higher", "occupancy_entropy": "higher"}
    judges = {metric: metric.judges_clusterings for metric in (KeptInformation, Silhouette, Reconstruction, Occupancy)}
    assert list(judges.values()) == [True, False, False, False]


def test_metrics_without_labels_need_none() -> None:
    assigned, labels = noisy(4, 3, seed=11)
    posterior = torch.eye(4)[torch.from_numpy(assigned)]
    locations = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    images = MadeUpImages.of(torch.from_numpy(labels), torch.from_numpy(assigned))
    blind = Evaluation(posterior, locations, None, images)
    assert Silhouette().compute(blind) == silhouette(locations, assigned)
    used, entropy = occupancy(assigned)
    assert Occupancy().compute(blind) == {"occupancy_used": float(used), "occupancy_entropy": entropy}
    again = images.reconstructed_clusters()
    assert KeptInformation().compute(blind) == kept_information(assigned, again, 4)
    # The made-up reconstruction of x is -x.
    differences = 2 * (images.images.numpy().reshape(60, -1) / 127.5 - 1)
    assert Reconstruction().compute(blind) == pytest.approx((differences**2).mean(), rel=1e-6)
    expected = differences.mean() ** 2
    assert SquaredMeanError().compute(blind) == pytest.approx(expected, rel=1e-6)
    assert SquaredMeanError().compute(blind) < Reconstruction().compute(blind)
    for metric in (Silhouette, Occupancy, Reconstruction, SquaredMeanError):
        assert not metric.needs_labels
    assert [metric.on_request for metric in (Silhouette, Occupancy, Reconstruction, SquaredMeanError)] == [
        *(False, False, False, True)
    ]
    assert not Reconstruction.higher_is_better


# Calibration


def test_a_calibrated_confidence_has_a_small_error_and_an_overconfident_one_its_excess() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(0.2, 1, 200_000)
    right = random.uniform(size=len(sure)) < sure
    assert calibration_error(sure, right) < 0.01
    assert calibration_error(np.full(1000, 0.99), np.arange(1000) < 700) == pytest.approx(0.29)
    assert calibration_error([1.0, 0.0], [True, False]) == 0.0


def test_the_images_that_are_right_make_accuracy_and_purity() -> None:
    random = np.random.default_rng(1)
    clusters, labels = random.integers(0, 7, 500), random.integers(0, 4, 500)
    matched, majority = right_images(clusters, labels)
    assert matched.mean() == pytest.approx(accuracy(clusters, labels))
    assert majority.mean() == pytest.approx(purity(clusters, labels))
    posterior = torch.eye(7)[torch.from_numpy(clusters)]
    computed = Calibration().compute(Evaluation(posterior, posterior, torch.from_numpy(labels)))
    assert computed["calibration_matched"] == pytest.approx(1 - accuracy(clusters, labels))
    assert computed["calibration_majority"] == pytest.approx(1 - purity(clusters, labels))


@pytest.mark.parametrize(("sure", "right"), [([], []), ([0.5], [True, False]), ([[0.5]], [[True]])])
def test_confidences_of_other_shapes_are_refused(sure: list[Any], right: list[Any]) -> None:
    with pytest.raises(ValueError, match="expected two arrays of one shape"):
        calibration_error(sure, right)
