"""The confusion table and its picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from mpcc.core.contracts import Evaluation
from mpcc.core.evaluation.confusion import Confusion, confusion_sheet
from mpcc.plugins.metrics.accuracy import accuracy


def evaluation(clusters: list[int] | np.ndarray, labels: list[int] | np.ndarray, count: int) -> Evaluation:
    posterior = torch.eye(count)[torch.as_tensor(clusters)]
    return Evaluation(posterior, torch.zeros(len(posterior), 2), torch.as_tensor(labels))


@pytest.mark.parametrize(("clusters", "classes"), [(4, 4), (7, 4), (3, 6), (1, 5), (5, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_the_table_is_scikit_learns_with_the_accuracy_on_its_diagonal(clusters: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=80)
    assigned = np.where(random.random(80) < 0.6, (labels + 1) % clusters, random.integers(clusters, size=80))
    found = Confusion.of(evaluation(assigned, labels, clusters))
    size = max(clusters, classes)
    oracle = confusion_matrix(labels, assigned, labels=range(size))
    rows = [int(name) for name in found.classes]
    assert sorted(rows) == sorted(set(labels.tolist()))
    # The columns are the clusters in the order of their numbers.
    assert np.array_equal(found.counts, oracle[rows, :clusters])
    in_pairs = [found.counts[row, cluster] for row, cluster in enumerate(found.matched)]
    assert sum(in_pairs) / 80 == accuracy(assigned, labels)
    assert all(count > 0 for count in in_pairs)
    assert list(found.matched) == sorted(set(found.matched))
    assert rows[len(found.matched) :] == sorted(rows[len(found.matched) :])


def test_classes_stand_in_the_order_of_their_clusters_and_those_without_one_come_last() -> None:
    # Cluster 2 is empty; the two images of class 0 are in cluster 1 with three of class 2.
    found = Confusion.of(evaluation([1, 1, 1, 1, 1, 0, 0], [0, 0, 2, 2, 2, 1, 1], 3), ["cat", "dog", "eel"])
    assert found.classes == ("dog", "eel", "cat")
    assert found.counts.tolist() == [[2, 0, 0], [0, 3, 0], [0, 2, 0]]
    assert found.matched == (0, 1)
    assert found.rows() == [
        ["class", "0", "1", "2", "matched_cluster"],
        ["dog", "2", "0", "0", "0"],
        ["eel", "0", "3", "0", "1"],
        ["cat", "0", "2", "0", ""],
    ]


def test_without_labels_there_is_no_table() -> None:
    with pytest.raises(ValueError, match="has no labels"):
        Confusion.of(Evaluation(torch.ones(2, 3), torch.zeros(2, 2)))


def test_clusters_keep_their_columns_whichever_classes_they_match() -> None:
    found = Confusion.of(evaluation([3, 3, 1, 1], [0, 0, 1, 1], 4), ["cat", "dog"])
    assert found.rows() == [
        ["class", "0", "1", "2", "3", "matched_cluster"],
        ["dog", "0", "2", "0", "0", "1"],
        ["cat", "0", "0", "0", "2", "3"],
    ]


@pytest.mark.parametrize(("clusters", "classes"), [(1, 1), (10, 10), (3, 40), (300, 20)])
def test_the_picture_is_as_large_as_it_must_be_and_dark_where_the_images_are(clusters: int, classes: int) -> None:
    labels = np.arange(200) % classes
    found = Confusion.of(evaluation(labels % clusters, labels, clusters))
    sheet = confusion_sheet(found)
    assert sheet.dtype == torch.uint8
    assert sheet.shape[0] == 3
    assert sheet.is_contiguous()
    assert max(sheet.shape) <= 1300
    # The largest cell, in the corner, is blue: half of its area at least is far from white.
    assert 0.001 < float((sheet[0] < 200).float().mean()) < 0.9


@pytest.mark.parametrize("clusters", [600, 1000])
def test_many_clusters_do_not_make_the_picture_too_wide(clusters: int) -> None:
    labels = np.arange(4 * clusters) % clusters
    sheet = confusion_sheet(Confusion.of(evaluation(labels, labels // 50, clusters)))
    assert clusters < sheet.shape[2] <= 2500


def test_names_that_cannot_be_drawn_do_not_stop_the_picture() -> None:
    names = ["\udcff raw bytes", "two\nlines", "Ελληνικά", "x" * 300, "", "\x00"]
    found = Confusion.of(evaluation([0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5], 3), names)
    assert confusion_sheet(found).shape[2] < 600
