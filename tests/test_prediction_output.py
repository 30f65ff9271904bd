"""What ``mpcc predict`` writes: tables in three formats, latents, sorted images; each whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mpcc
from mpcc.core.commands import entry
from mpcc.core.contracts import ImageSet
from mpcc.core.evaluation import inference
from mpcc.core.evaluation.inference import Prediction
from mpcc.core.storage.sorted_images import SortedImages, cluster_folders
from mpcc.core.system.whole_files import new_folder
from mpcc.plugins.datasets.digits import Digits
from mpcc.plugins.datasets.options import DigitsOptions

DIGITS = Digits(DigitsOptions()).load(8, None, False).images.numpy()[:, 0]


def command(function: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        function([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def predict(*arguments: str | Path) -> int:
    return command(entry.main, "predict", *arguments)


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(clustered_run: Path) -> Path:
    """A run on the digits with twelve clusters, all of which have images."""
    return clustered_run


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders with images of the same names, an archive of one of them, arrays, a stack of pages."""
    monkeypatch.chdir(tmp_path)
    for folder, start in {"a": 0, "b": 7}.items():
        Path(folder).mkdir()
        for index in range(7):
            Image.fromarray(DIGITS[start + index]).resize((20, 24)).save(f"{folder}/{index}.png")
    with zipfile.ZipFile("a.zip", "w") as archive:
        for index in range(7):
            archive.write(f"a/{index}.png", f"../{index}.png")
    np.savez("c.npz", images=np.pad(DIGITS[:5], ((0, 0), (4, 4), (2, 2))), labels=np.array(["x", "y", "", "x", "y"]))
    pages = [Image.fromarray(digit) for digit in DIGITS[:3]]
    pages[0].save("pages.tif", save_all=True, append_images=pages[1:])
    return tmp_path


def test_the_formats_hold_the_same_table(run: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for ending in ("csv", "jsonl", "parquet"):
        assert predict(run, "a", "c.npz", "--batch", "4", "--out", f"t.{ending}") == 0
    as_csv = rows("t.csv")
    as_json = [json.loads(line) for line in Path("t.jsonl").read_text(encoding="utf-8").splitlines()]
    table = parquet.read_table("t.parquet")
    as_parquet = table.to_pylist()
    assert table.schema.names == list(as_csv[0]) == list(as_json[0])
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "int64", "float", "string"]
    assert [row["label"] for row in as_json] == [*[None] * 7, "x", "y", None, "x", "y"]
    for found, typed, plain in zip(as_csv, as_json, as_parquet, strict=True):
        assert {**typed, "confidence": float(found["confidence"])} == typed
        assert {name: "" if value is None else str(value) for name, value in typed.items() if name != "confidence"} == {
            name: value for name, value in found.items() if name != "confidence"
        }
        assert plain == {**typed, "confidence": pytest.approx(typed["confidence"], abs=1e-6)}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("table.tsv", "expected a name that ends in .csv, .jsonl, .parquet, got a name that ends in .tsv"),
        ("table", "(nearest valid choice: --out table.csv)"),
    ],
)
def test_an_ending_that_is_no_format_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, part: str
) -> None:
    assert predict(run, "a", "--out", name) == 2
    assert part in capsys.readouterr().err
    assert not Path(name).exists()


def test_without_pyarrow_the_extra_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert predict(run, "a", "--out", "t.parquet") == 2
    err = capsys.readouterr().err
    assert 'pip install "mpcc[parquet]"' in err
    assert err.count("\n") == 1
    assert not Path("t.parquet").exists()


def test_latents_and_posterior_are_the_encoders(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(run, "--out", "t.csv", "--latents", "z.npy", "--posterior", "q.npy", "--batch", "100") == 0
    latents, posterior = np.load("z.npy"), np.load("q.npy")
    assert (latents.shape, latents.dtype) == ((1797, 3), np.float32)
    assert (posterior.shape, posterior.dtype) == ((1797, 12), np.float32)
    assert [int(row["cluster"]) for row in rows("t.csv")] == posterior.argmax(axis=1).tolist()
    loaded = mpcc.load(run, device="cpu")
    np.testing.assert_allclose(latents, loaded.transform(DIGITS), atol=1e-5)
    np.testing.assert_allclose(posterior, loaded.posterior(DIGITS), atol=1e-5)
    assert predict(run, "a", "--latents", "z.npy") == 2
    assert "--latents z.npy already exists: expected a new file" in capsys.readouterr().err
    assert predict(run, "a", "--latents", "x.npy", "--posterior", "x.npy") == 2
    assert "--latents x.npy is also the file of --posterior" in capsys.readouterr().err


def sorted_files(folder: str) -> dict[str, list[str]]:
    return {path.name: sorted(file.name for file in path.iterdir()) for path in Path(folder).iterdir()}


def test_images_are_sorted_into_a_folder_a_cluster(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(run, "a", "b", "--out", "t.csv", "--sort-into", "sorted") == 0
    assert capsys.readouterr().out.splitlines()[1] == "sorted: 14 copied"
    folders = sorted_files("sorted")
    assert set(folders) == {f"cluster-{cluster:02}" for cluster in range(12)}
    assert sum(len(files) for files in folders.values()) == 14
    for row in rows("t.csv"):
        content = Path(row["path"]).read_bytes()
        place = Path("sorted", f"cluster-{int(row['cluster']):02}")
        stem = Path(row["path"]).stem
        assert content in [path.read_bytes() for path in place.glob(f"{stem}*.png")]
    assert not list(Path().glob("*.part"))


@pytest.mark.parametrize("link", ["hard", "soft"])
def test_files_are_linked_on_request_and_the_rest_is_written(
    run: Path, link: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, "a", "a.zip", "--out", "t.csv", "--sort-into", "sorted", "--link", link) == 0
    assert capsys.readouterr().out.splitlines()[1] == "sorted: 7 linked, 7 copied"
    files = list(Path("sorted").rglob("*.png"))
    assert len(files) == 14
    same = [path for path in files if any(path.samefile(original) for original in Path("a").iterdir())]
    assert len(same) == 7
    assert [path.is_symlink() for path in same] == [link == "soft"] * 7
    assert sorted(path.read_bytes() for path in files) == sorted(
        [path.read_bytes() for path in Path("a").iterdir()] * 2
    )


def test_images_of_arrays_and_pages_are_written_as_png_in_their_own_size(run: Path) -> None:
    words = ["c.npz", "pages.tif", "--data.frames", "all", "--out", "t.csv", "--sort-into", "sorted"]
    assert predict(run, *words) == 0
    names = {path.name: path for path in Path("sorted").rglob("*.png")}
    assert set(names) == {*(f"c-{index}.png" for index in range(5)), *(f"pages-{index}.png" for index in range(3))}
    images = np.load("c.npz")["images"]
    for index in range(5):
        assert np.array_equal(np.asarray(Image.open(names[f"c-{index}.png"])), images[index])
    for index in range(3):
        assert np.array_equal(np.asarray(Image.open(names[f"pages-{index}.png"])), DIGITS[index])


def test_reconstructions_are_those_of_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(run, "a", "c.npz", "--out", "t.csv", "--reconstruct", "again", "--batch", "4") == 0
    files = sorted(Path("again").iterdir())
    table = rows("t.csv")
    assert len(files) == len(table) > 10
    loaded = mpcc.load(run, device="cpu")
    expected = loaded.reconstruct(np.load("c.npz")["images"])
    for index, image in enumerate(expected):
        (file,) = [each for each in files if int(each.name.partition("-")[0]) == len(table) - len(expected) + index]
        # Batches of other sizes may round a pixel differently.
        assert np.abs(np.asarray(Image.open(file)).astype(int) - image).max() <= 1
    capsys.readouterr()
    assert predict(run, "a", "--out", "u.csv", "--reconstruct", "again") == 2
    assert (
        "--reconstruct again already exists: expected a new folder (nearest valid choice: --reconstruct again-2)"
        in (capsys.readouterr().err)
    )


def test_the_runs_own_images_are_sorted_too(run: Path) -> None:
    assert predict(run, "--out", "t.csv", "--sort-into", "sorted") == 0
    assert sum(len(files) for files in sorted_files("sorted").values()) == 1797
    found = {int(path.stem.removeprefix("digits-")): path for path in Path("sorted").rglob("*.png")}
    assert sorted(found) == list(range(1797))
    for row in rows("t.csv")[::200]:
        path = found[int(row["index"])]
        assert path.parent.name == f"cluster-{int(row['cluster']):02}"
        assert np.array_equal(np.asarray(Image.open(path)), DIGITS[int(row["index"])])


def test_a_folder_that_is_there_is_refused_with_the_nearest_free_name(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, "b", "--out", "t.csv", "--sort-into", "a") == 2
    assert "--sort-into a already exists: expected a new folder (nearest valid choice: --sort-into a-2)" in (
        capsys.readouterr().err
    )
    assert len(list(Path("a").iterdir())) == 7
    assert not Path("t.csv").exists()


def test_an_interruption_leaves_no_folder_and_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = inference.predictions

    def interrupted(*arguments: Any, **named: Any) -> Iterator[Prediction]:
        yield next(iter(real(*arguments, **named)))
        assert len(list(Path().rglob("*.png"))) > 14
        raise KeyboardInterrupt

    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(inference, "predictions", interrupted)
    for ending in ("csv", "jsonl", "parquet"):
        words = ["a", "b", "--batch", "4", "--sort-into", "sorted", "--latents", "z.npy", "--out", f"t.{ending}"]
        assert predict(run, *words) == 130
        assert sorted(Path().rglob("*")) == before


def test_names_in_a_folder_differ_without_regard_to_capitals_and_never_leave_it(tmp_path: Path) -> None:
    paths = ["a/x.png#1", "b/X.png#1", "x-1-2.png", "c\\\\..\\\\y.png", ".hidden.png", "", "/", "n" * 250 + ".png"]
    data = ImageSet(torch.arange(len(paths)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), paths=paths)
    with new_folder(tmp_path / "sorted") as folder:
        images = SortedImages(folder, data, 1)
        images.write(Prediction(torch.zeros(len(paths), 1), torch.ones(len(paths), 1)))
    files = {path.name: int(np.asarray(Image.open(path))[0, 0]) for path in (tmp_path / "sorted").rglob("*.png")}
    assert len({name.casefold() for name in files}) == len(paths)
    assert sorted(files.values()) == list(range(len(paths)))
    assert {"x-1.png", "y.png", "hidden.png", "5.png", "6.png"} < set(files)
    assert max(len(os.fsencode(name)) for name in files) < 255
    assert not list(tmp_path.rglob("[yh]*.png"))[2:]
    assert [cluster_folders(100)[cluster] for cluster in (0, 99)] == ["cluster-00", "cluster-99"]


def test_clusters_of_one_name_share_a_folder_in_which_no_image_replaces_another(run: Path, tmp_path: Path) -> None:
    assert predict(run, "--out", "before.csv", "--sort-into", "before") == 0
    named = Path(shutil.copytree(run, tmp_path / "named"))
    (named / "names.toml").write_text('[names]\n7 = "x"\n2 = "y/z"\n10 = "x"\n11 = "X"\n', encoding="utf-8")
    for folder in ("first", "second"):
        assert predict(named, "a", "b", "--out", f"{folder}.csv", "--sort-into", folder) == 0
    assert predict(named, "--out", "after.csv", "--sort-into", "after") == 0
    special = {7: "cluster-07+10-x", 10: "cluster-07+10-x", 2: "cluster-02-y_z", 11: "cluster-11-X"}
    place = {str(cluster): special.get(cluster, f"cluster-{cluster:02}") for cluster in range(12)}
    before, after = sorted_files("before"), sorted_files("after")
    assert set(after) == set(place.values())
    for cluster, folder in place.items():
        assert set(before[f"cluster-{int(cluster):02}"]) <= set(after[folder])
    assert sum(map(len, after.values())) == sum(map(len, before.values())) == 1797
    # Tables keep the numbers.
    assert [row["cluster"] for row in rows("after.csv")] == [row["cluster"] for row in rows("before.csv")]
    # The two folders of images have the same file names.
    assert sorted_files("first") == sorted_files("second")
    contents = sorted(path.read_bytes() for path in Path("first").rglob("*.png"))
    assert contents == sorted(path.read_bytes() for folder in "ab" for path in Path(folder).iterdir())


def test_images_of_one_name_get_numbers_across_the_clusters_of_a_folder(tmp_path: Path) -> None:
    paths = ["p/a.png", "q/A.png", "a.png", "a.png"]
    data = ImageSet(torch.arange(4).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), paths=paths)
    with new_folder(tmp_path / "sorted") as folder:
        images = SortedImages(folder, data, 3, names={2: "one", 0: "one"})
        images.write(Prediction(torch.zeros(4, 1), torch.eye(3)[[0, 2, 1, 2]]))
    assert sorted_files(str(tmp_path / "sorted")) == {
        "cluster-0+2-one": ["A-2.png", "a-3.png", "a.png"],
        "cluster-1": ["a.png"],
    }


@pytest.mark.parametrize("clusters", [2, 12, 1000])
def test_names_of_folders_differ_without_regard_to_capitals_and_are_short_enough(clusters: int) -> None:
    texts = ["Name", "name", "NAME", "na/me", "na:me", "cluster-1", "...", "..", "\u00e9" * 80, "\U0001f600" * 80, "+1"]
    for shared in (1, 2, 7):
        names = {cluster: texts[cluster // shared % len(texts)] for cluster in range(0, clusters, 1 + clusters % 3)}
        folders = cluster_folders(clusters, names)
        assert (
            len({name.casefold() for name in folders})
            == len(set(folders))
            == len({names.get(cluster, cluster) for cluster in range(clusters)})
        )
        assert all(len(os.fsencode(name)) <= 255 and name.startswith("cluster-") for name in folders)
        assert folders == cluster_folders(clusters, dict(reversed(names.items())))
        assert not any(set(name) & set('/\\:*?"<>|') or name[-1] in " ." for name in folders)


def test_many_images_of_one_name_are_numbered_quickly(tmp_path: Path) -> None:
    count = 3000
    data = ImageSet(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), paths=["frame.png"] * count)
    with new_folder(tmp_path / "sorted") as folder:
        SortedImages(folder, data, 1).write(Prediction(torch.zeros(count, 1), torch.ones(count, 1)))
    names = {path.name for path in (tmp_path / "sorted" / "cluster-0").iterdir()}
    assert names == {"frame.png", *(f"frame-{number}.png" for number in range(2, count + 1))}
