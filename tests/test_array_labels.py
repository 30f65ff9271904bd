"""Labels of a user's arrays as other tools write them: kinds of labels, splits, tables, and images without a label."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpcc.core.commands import entry
from mpcc.core.contracts import Evaluation, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.evaluation.evaluation import left_out, score
from mpcc.plugins.datasets.arrays import Arrays
from mpcc.plugins.datasets.options import ArraysOptions
from mpcc.plugins.metrics.accuracy import Accuracy
from mpcc.plugins.metrics.mutual_information import NormalizedMutualInformation
from mpcc.plugins.metrics.occupancy import Occupancy

COUNT = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), dtype=np.uint8)
CLASSES = np.array([2, 0, 1, 1, 0, 2, 2, 2, 0, 1, 1, 0])
NAMES = np.array(["dog", "cat", "owl"])  # not in the order of their names
BY_NAME = [{"cat": 0, "dog": 1, "owl": 2}[name] for name in NAMES[CLASSES]]


def load(path: Path, image_size: int = 8, **options: Any) -> ImageSet:
    return Arrays(ArraysOptions(path=path, **options)).load(image_size, None, download=False)


def labelled(folder: Path, labels: np.ndarray) -> ImageSet:
    np.save(folder / "x.npy", IMAGES)
    np.save(folder / "y.npy", labels, allow_pickle=True)
    return load(folder / "x.npy", labels=folder / "y.npy")


def table(folder: Path, text: str | bytes, name: str = "y.csv", **options: Any) -> ImageSet:
    np.save(folder / "x.npy", IMAGES)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(folder / "x.npy", labels=folder / name, **options)


@pytest.fixture(autouse=True)
def every_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mpcc")


def refusal(*arguments: Any, by: Any = load, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        by(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    return str(caught.value)


NUMBERED = {
    "a column": CLASSES[:, None],
    "a column of bytes": CLASSES[:, None].astype(np.uint8),
    "a row": CLASSES[None],
    "floats": CLASSES.astype(float),
    "big-endian": CLASSES.astype(">i4"),
    "big-endian floats": CLASSES.astype(">f8"),
    "half": CLASSES.astype(np.float16),
    "one-hot": np.eye(3)[CLASSES],
    "one-hot whole numbers": np.eye(3, dtype=np.int64)[CLASSES],
    "one-hot booleans": np.eye(3, dtype=bool)[CLASSES],
    "digits": CLASSES.astype(str),
    "digits with a point": CLASSES.astype(float).astype(str),
    "bytes of text": CLASSES.astype("S2"),
    "objects": CLASSES.astype(object),
    "objects of floats": CLASSES.astype(float).astype(object),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_numbers_of_every_kind_are_classes(kind: str, tmp_path: Path) -> None:
    found = labelled(tmp_path, NUMBERED[kind])
    assert found.labels is not None
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == CLASSES.tolist()
    assert list(found.class_names) == ["0", "1", "2"]


@pytest.mark.parametrize("kind", ["U", "S", "O", "column", "column of objects", "bytes in objects"])
def test_texts_are_classes_in_the_order_of_their_names(kind: str, tmp_path: Path) -> None:
    texts = NAMES[CLASSES]
    labels = {
        "U": texts,
        "S": texts.astype("S"),
        "O": texts.astype(object),
        "column": texts[:, None],
        "column of objects": texts.astype(object)[:, None],
        "bytes in objects": texts.astype("S").astype(object),
    }[kind]
    found = labelled(tmp_path, labels)
    assert found.labels is not None
    assert found.labels.tolist() == BY_NAME
    assert list(found.class_names) == ["cat", "dog", "owl"]


def test_numbers_in_texts_are_ordered_as_numbers(tmp_path: Path) -> None:
    found = labelled(tmp_path, np.array(["10", "9"] * 6))
    assert list(found.class_names) == ["9", "10"]
    found = labelled(tmp_path, np.array(["10", "9", "x"] * 4))
    assert list(found.class_names) == ["10", "9", "x"]


def test_numbers_among_texts_are_texts(tmp_path: Path) -> None:
    found = labelled(tmp_path, np.array(["cat", 3, None] * 4, dtype=object))
    assert list(found.class_names) == ["3", "cat"]
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, -1] * 4


def test_booleans_are_two_classes(tmp_path: Path) -> None:
    found = labelled(tmp_path, CLASSES > 0)
    assert found.labels is not None
    assert found.labels.tolist() == (CLASSES > 0).tolist()
    assert list(found.class_names) == ["False", "True"]


MISSING = {
    "-1": np.where(np.arange(COUNT) % 4, CLASSES, -1),
    "-1.0": np.where(np.arange(COUNT) % 4, CLASSES, -1.0),
    "nan": np.where(np.arange(COUNT) % 4, CLASSES, np.nan),
    "None": np.where(np.arange(COUNT) % 4, CLASSES.astype(object), None),
    "empty text": np.where(np.arange(COUNT) % 4, CLASSES.astype(str), ""),
    "the text nan": np.where(np.arange(COUNT) % 4, CLASSES.astype(str), "nan"),
    "nan among objects": np.where(np.arange(COUNT) % 4, CLASSES.astype(object), np.nan),
}


@pytest.mark.parametrize("kind", MISSING)
def test_images_without_a_label_are_told(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = labelled(tmp_path, MISSING[kind])
    assert found.labels is not None
    assert found.labels.tolist() == np.where(np.arange(COUNT) % 4, CLASSES, -1).tolist()
    assert list(found.class_names) == ["0", "1", "2"]
    assert caplog.messages == [
        f"{tmp_path / 'y.npy'}: 3 of 12 images have no label: scores that need labels compare the other 9"
    ]


def test_minus_one_beside_one_alone_is_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = labelled(tmp_path, np.where(CLASSES > 0, 1, -1))
    assert found.labels is not None
    assert found.labels.tolist() == (CLASSES > 0).tolist()
    assert list(found.class_names) == ["-1", "1"]
    assert caplog.messages == [f"{tmp_path / 'y.npy'} has the labels -1 and 1: both are classes"]


@pytest.mark.parametrize("labels", [np.zeros(COUNT), np.full(COUNT, np.nan), np.where(CLASSES == 1, 7, -1)])
def test_one_class_is_no_labelling(labels: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = labelled(tmp_path, labels)
    assert found.labels is None
    assert not found.class_names
    assert ", no labels, " in found.description
    (message,) = caplog.messages
    assert message.endswith("which is no labelling: the images count as unlabelled")


@pytest.mark.parametrize("ending", ["csv", "CSV", "tsv", "txt"])
@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("style", ["plain", "windows", "mark", "utf-16", "blank line at the end", "no end"])
def test_a_table_of_one_column_is_read(ending: str, header: bool, texts: bool, style: str, tmp_path: Path) -> None:
    lines = ["kind"] * header + [str(value) for value in (NAMES[CLASSES] if texts else CLASSES)]
    text = "\n".join(lines) + "\n" * (style != "no end") + "\n" * (style == "blank line at the end")
    text = text.replace("\n", "\r\n") if style == "windows" else text
    content = text.encode({"mark": "utf-8-sig", "utf-16": "utf-16"}.get(style, "utf-8"))
    found = table(tmp_path, content, f"y.{ending}")
    assert found.labels is not None
    assert found.labels.tolist() == (BY_NAME if texts else CLASSES.tolist())
    assert list(found.class_names) == (["cat", "dog", "owl"] if texts else ["0", "1", "2"])


def test_what_numpy_and_csv_write_is_read(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "y.txt", CLASSES)  # 2.000000000000000000e+00
    np.save(tmp_path / "x.npy", IMAGES)
    found = load(tmp_path / "x.npy", labels=tmp_path / "y.txt")
    assert found.labels is not None
    assert found.labels.tolist() == CLASSES.tolist()
    assert list(found.class_names) == ["0", "1", "2"]
    with (tmp_path / "y.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name of the file", "label"])
        writer.writerows([f'a, "b" {index}.png', f"{name}, of a kind"] for index, name in enumerate(NAMES[CLASSES]))
    found = load(tmp_path / "x.npy", labels=tmp_path / "y.csv")
    assert list(found.class_names) == ["cat, of a kind", "dog, of a kind", "owl, of a kind"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", "])
def test_a_column_goes_by_its_name_or_its_number(separator: str, tmp_path: Path) -> None:
    rows = [["file", "kind", "fold"], *([f"{i}.png", name, str(i % 2)] for i, name in enumerate(NAMES[CLASSES]))]
    text = "".join(separator.join(row) + "\n" for row in rows)
    for key, names in (("kind", ["cat", "dog", "owl"]), ("1", ["cat", "dog", "owl"]), ("fold", ["0", "1"])):
        assert list(table(tmp_path, text, labels_key=key).class_names) == names
    body = text.split("\n", 1)[1]
    assert list(table(tmp_path, body, labels_key="2").class_names) == ["0", "1"]
    said = refusal(tmp_path, text, by=table)
    assert said == (
        f"{tmp_path / 'y.csv'}: expected one column of labels, got 3: file, kind, fold; pass --data.labels-key with "
        "the name of a column or its number from 0"
    )
    assert "got 3: 0 (0.png), 1 (owl), 2 (0); pass" in refusal(tmp_path, body, by=table)
    said = refusal(tmp_path, text, by=table, labels_key="kidn")
    assert "expected one of file, fold, kind" in said
    assert "did you mean 'kind'?" in said
    assert list(table(tmp_path, text.replace("kind", "Label")).class_names) == ["cat", "dog", "owl"]


def test_one_hot_columns_are_classes(tmp_path: Path) -> None:
    rows = [",".join("1" if number == place else "0" for place in range(3)) for number in CLASSES]
    found = table(tmp_path, "\n".join(rows))
    assert found.labels is not None
    assert found.labels.tolist() == CLASSES.tolist()


def test_columns_of_blanks_are_read_in_txt_and_a_class_may_have_blanks_in_csv(tmp_path: Path) -> None:
    text = "".join(f"{index}   {name}\n" for index, name in enumerate(NAMES[CLASSES]))
    assert list(table(tmp_path, text, "y.txt", labels_key="1").class_names) == ["cat", "dog", "owl"]
    text = "".join(f"big {name}\n" for name in NAMES[CLASSES])
    assert list(table(tmp_path, text).class_names) == ["big cat", "big dog", "big owl"]


@pytest.mark.parametrize("line", ["", '""', "nan", "NA"])
def test_an_empty_cell_is_an_image_without_a_label(line: str, tmp_path: Path) -> None:
    lines = [str(value) for value in CLASSES]
    lines[4] = line
    for text in ("\n".join(lines), "\n".join(["kind", *lines]) + "\n"):
        found = table(tmp_path, text)
        assert found.labels is not None
        assert found.labels.tolist() == [*CLASSES[:4].tolist(), -1, *CLASSES[5:].tolist()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0\n1\n",
            "expected a row of labels for each of 12 images, in their order, with or without a header, got 2 rows",
        ),
        ("0\n" * 14, "with or without a header, got 14 rows"),
        ("", "got 0 rows"),
        ("a,b\n" * 11 + "a\n", "expected 2 columns in every row, got 1 in row 11"),
        (b"\xff\x00\x80\n" * 12, "expected a table of text in UTF-8"),
        (b"\x93NUMPY\x01\x00" * 12, "expected a table of text in UTF-8"),
        ("0.5\n" * 12, "expected labels that are whole numbers, got 0.5 at index 0"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(text: str | bytes, message: str, tmp_path: Path) -> None:
    said = refusal(tmp_path, text, by=table)
    assert message in said
    assert str(tmp_path / "y.csv") in said


def test_a_missing_table_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    table(tmp_path, "\n".join("01" * 6), "labels.csv")
    said = refusal(tmp_path / "x.npy", labels=tmp_path / "label.csv")
    assert said.endswith(f"expected a table of labels (did you mean {str(tmp_path / 'labels.csv')!r}?)")
    said = refusal(tmp_path / "x.npy", labels=tmp_path / "labels.xlsx")
    assert said.endswith("expected labels in a file whose name ends in .npy, .npz, .pt, .pth, .csv, .tsv, .txt")


SPLITS = {
    "medmnist": {f"{part}_{what}": (part, what) for part in ("train", "val", "test") for what in ("images", "labels")},
    "keras": {"x_train": ("train", "images"), "y_train": ("train", "labels")}
    | {"x_test": ("test", "images"), "y_test": ("test", "labels")},
    "capitals": {"X_train": ("train", "images"), "Y_train": ("train", "labels")}
    | {"X_valid": ("val", "images"), "Y_valid": ("val", "labels")},
    "words": {"Xtrain": ("train", "images"), "ytrain": ("train", "labels")}
    | {"Xtest": ("test", "images"), "ytest": ("test", "labels")},
}
ROWS = {"train": slice(0, 7), "val": slice(7, 9), "test": slice(9, 12)}


@pytest.mark.parametrize("style", SPLITS)
@pytest.mark.parametrize("extension", ["npz", "pt"])
def test_splits_are_joined_or_chosen_and_keep_their_labels(style: str, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"all.{extension}"
    both = {"images": IMAGES, "labels": CLASSES[:, None].astype(np.uint8)}
    arrays = {name: both[what][ROWS[part]] for name, (part, what) in SPLITS[style].items()}
    if extension == "npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, path)
    parts = list(dict.fromkeys(part for part, _ in SPLITS[style].values()))
    for split, chosen in (("all", parts), *((part, [part]) for part in parts)):
        for memory in ("auto", "stream") if extension == "pt" else ("auto",):
            found = load(path, split=split, memory=memory)
            rows = np.concatenate([np.arange(COUNT)[ROWS[part]] for part in chosen])
            assert np.array_equal(found.images[torch.arange(len(rows))][:, 0], IMAGES[rows])
            assert found.labels is not None
            assert [int(found.class_names[label]) for label in found.labels.tolist()] == CLASSES[rows].tolist()
            assert len(found) == len(rows)
            named = {
                what: [name for name, (part, of) in SPLITS[style].items() if part in chosen and of == what]
                for what in ("images", "labels")
            }
            assert f", {' + '.join(named['images'])}: {len(rows)} grey images" in found.description
            assert f"(labels: {' + '.join(named['labels'])})" in found.description
    absent = next(part for part in ("val", "test", "train") if part not in parts) if len(parts) < 3 else None
    if absent:
        said = refusal(path, split=absent)
        assert f"has the images of {' and '.join(parts)} only: expected {' or '.join([*parts, 'all'])}" in said
    # One array by its name, or all splits by what they hold.
    first = next(name for name, (_, what) in SPLITS[style].items() if what == "images")
    assert len(load(path, images_key=first)) == 7
    labels = {"medmnist": "labels"}.get(style, "y")
    assert load(path, labels_key=labels).labels is not None


def test_a_split_without_labels_is_unlabelled(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=IMAGES[:7], train_labels=CLASSES[:7], test_images=IMAGES[7:])
    found = load(tmp_path / "x.npz")
    assert found.labels is not None
    assert found.labels.tolist() == [*CLASSES[:7].tolist(), *[-1] * 5]


def test_labels_that_were_asked_for_and_are_not_there_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=IMAGES[:7], train_labels=CLASSES[:7], test_images=IMAGES[7:])
    assert refusal(tmp_path / "x.npz", split="test", labels_key="labels") == (
        f"--data.labels-key labels: {tmp_path / 'x.npz'} has train_labels, but no labels for the images of test_images"
    )
    assert "did you mean 'train_labels'?" in refusal(tmp_path / "x.npz", labels_key="lables")


def test_splits_of_other_sizes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=IMAGES, x_test=np.zeros((3, 9, 9), np.uint8))
    assert refusal(tmp_path / "x.npz").endswith(
        "expected splits of equal size and type, got uint8 (12, 8, 8) and uint8 (3, 9, 9); choose one with --data.split"
    )
    assert len(load(tmp_path / "x.npz", split="test")) == 3
    np.save(tmp_path / "x.npy", IMAGES)
    assert refusal(tmp_path / "x.npy", split="test") == (
        f"--data.split test: {tmp_path / 'x.npy'} is one array without splits: expected all"
    )


def test_labels_of_splits_in_another_file_go_with_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train=IMAGES[:7], test=IMAGES[7:])
    np.savez(tmp_path / "y.npz", train=CLASSES[:7], test=CLASSES[7:])
    for split, rows in (("all", slice(None)), ("train", slice(0, 7)), ("test", slice(7, None))):
        found = load(tmp_path / "x.npz", labels=tmp_path / "y.npz", split=split)
        assert found.labels is not None
        assert [int(found.class_names[label]) for label in found.labels.tolist()] == CLASSES[rows].tolist()


def test_labels_beside_the_images_that_are_no_classes_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    several = np.ones((COUNT, 14), dtype=np.uint8)
    np.savez(tmp_path / "chest.npz", train_images=IMAGES, train_labels=several)
    found = load(tmp_path / "chest.npz")
    assert found.labels is None
    assert found.description.endswith("; not used: train_labels (12, 14)")
    (message,) = caplog.messages
    assert message.startswith(f"labels are not used: {tmp_path / 'chest.npz'}, train_labels: expected labels of shape")
    assert "an image with several labels, or none, has no class" in message
    assert "has no class" in refusal(tmp_path / "chest.npz", labels_key="train_labels")


KNOWN = torch.tensor([0, 0, 1, -1, 1, -1])


def test_scores_that_need_labels_compare_the_labelled_images() -> None:
    posterior = torch.eye(3)[[0, 0, 1, 1, 0, 2]]
    metrics = {"acc": Accuracy(), "nmi": NormalizedMutualInformation(), "occupancy": Occupancy()}
    part = KNOWN >= 0
    whole, known = Evaluation(posterior, posterior, KNOWN), Evaluation(posterior[part], posterior[part], KNOWN[part])
    scores = score(metrics, whole)
    assert scores["acc"] == score(metrics, known)["acc"] == 0.75
    assert scores["nmi"] == score(metrics, known)["nmi"]
    everything = Evaluation(posterior, posterior)
    assert {name: value for name, value in scores.items() if name not in ("acc", "nmi")} == score(metrics, everything)
    assert left_out(metrics, torch.full((6,), -1)) == dict.fromkeys(("acc", "nmi"), "no evaluated image has a label")


class WithImages(Accuracy):
    needs_images = True


def test_a_metric_of_labels_and_images_needs_all_labels() -> None:
    metrics = {"acc": Accuracy(), "odd": WithImages()}
    assert left_out(metrics, KNOWN) == {"odd": "it needs images and the labels of all of them, and some have none"}
    assert left_out(metrics, KNOWN.clamp(0)) == {}
    assert set(left_out(metrics, torch.tensor([2, -1, 2]))) == {"acc", "odd"}


TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 4, "latent-dim": 3, "clusters": 3, "d-steps": 1, "e-steps": 1},
    **{"iterations": 1, "standing-passes": 1, "device": "cpu", "threads": 1, "preset": "none", "metrics": "acc"},
}


def test_a_run_with_a_few_labels_scores_them_and_writes_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", IMAGES)
    np.save("y.npy", np.where(np.arange(COUNT) % 4, NAMES[CLASSES].astype(object), None), allow_pickle=True)
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*flags, "--data=arrays", "--data.path=x.npy", "--data.labels=y.npy", "--out=run"])
    assert caught.value.code == 0
    assert "3 of 12 images have no label: scores that need labels compare the other 9" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "run" / "assignments.csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == [
        name if index % 4 else "" for index, name in enumerate(NAMES[CLASSES].tolist())
    ]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["evaluated"]["images"] == 12
    assert results["evaluated"]["labelled"] == 9
    pairs = [(row["cluster"], row["label"]) for row in rows if row["label"]]
    shared = {pair: pairs.count(pair) for pair in pairs}
    assert results["metrics"]["acc"] * 9 == pytest.approx(round(results["metrics"]["acc"] * 9))
    assert results["metrics"]["acc"] * 9 >= max(shared.values())
    confusion = list(csv.reader((tmp_path / "run" / "confusion.csv").read_text().splitlines()))
    assert sorted(row[0] for row in confusion[1:]) == ["cat", "dog", "owl"]
    assert sum(int(count) for row in confusion[1:] for count in row[1:-1]) == 9
