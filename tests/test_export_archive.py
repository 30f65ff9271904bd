"""``mpcc export --zip``: all for a colleague in one file, the same model, and nothing about the user's machine."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from mpcc.core.api.loaded_run import load
from mpcc.core.commands import entry
from mpcc.core.storage.checkpoint import load_checkpoint, save_checkpoint

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"standing-passes": 2, "eval-images": 40, "seed": 3, "device": "cpu", "threads": 1, "clusters": 4},
}
PLUGIN = """
from mpcc.core.hookspecs import hookimpl
from mpcc.plugins.priors.gmm import GaussianMixture

class Mine(GaussianMixture):
    pass

@hookimpl
def register_priors(register):
    register("mine", "own_prior:Mine", summary="x.", options="mpcc.plugins.priors.options:GaussianMixtureOptions")
"""
LISTS = {"README.txt", "report.html", "config.toml", "results.json", "assignments.csv"}
PICTURES = {
    "clusters.png",
    "samples.png",
    "interpolations.png",
    "reconstructions.png",
    "kmeans.png",
    *(f"clusters/{cluster}.png" for cluster in range(4)),
}
CONFUSION = {"confusion.csv", "confusion.png"}
MODEL = {"model/config.toml", "model/checkpoints/last.pt"}
PARTS = ("prior", "generator", "discriminator", "encoder", "averaged_generator")
WEIGHTS = {f"export/{part}.safetensors" for part in PARTS}


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def export(*arguments: str | Path) -> int:
    return command(entry.main, "export", *arguments)


def train(run: Path, *more: str) -> Path:
    assert command(entry.run_main, *[f"--{name}={value}" for name, value in TINY.items()], *more, f"--out={run}") == 0
    return run


def unpacked(run: Path, folder: Path, *more: str) -> Path:
    """Export a run and unpack the archive elsewhere."""
    folder.mkdir()
    assert export(run, "--zip", folder / "for-you.zip", *more) == 0
    with zipfile.ZipFile(folder / "for-you.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(folder / "there")
    assert [path.name for path in (folder / "there").iterdir()] == ["for-you"]
    return folder / "there" / "for-you"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def assert_private(folder: Path, *secrets: str | Path) -> None:
    """No file has one of these texts in its content, not even one that is compressed inside of it."""
    for path in folder.rglob("*"):
        if path.is_file():
            contents = [path.read_bytes()]
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    contents += [archive.read(name) for name in archive.namelist()]
            for secret in secrets:
                assert all(str(secret).encode() not in content for content in contents), (path, secret)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name nobody may know, with images of two classes and an array of them."""
    place = tmp_path_factory.mktemp("hidden-customer")
    images = (load_digits().images[:60] * 15).astype(np.uint8)
    for index, image in enumerate(images):
        path = place / "scans" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    np.savez(place / "scans.npz", images=images)
    (place / "kinds.csv").write_text("kind\n" + "cat\ndog\n" * 30, encoding="utf-8")
    (place / "own_prior.py").write_text(PLUGIN, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run on the folder of images, with one of a user's own plugins loaded."""
    return train(place / "run", f"--data={place / 'scans'}")


@pytest.fixture(scope="module")
def sent(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the run, unpacked."""
    return unpacked(run, tmp_path_factory.mktemp("sent") / "new")


def test_the_archive_holds_lists_pictures_model_and_weights_and_no_training_images(run: Path, sent: Path) -> None:
    assert names(sent) == LISTS | PICTURES | CONFUSION | MODEL | WEIGHTS
    for name in PICTURES | {"confusion.png", "confusion.csv"}:
        assert (sent / name).read_bytes() == (run / name).read_bytes()
    saved = load_checkpoint(run / "checkpoints" / "last.pt")["parts"]
    for part in PARTS:
        assert load_file(sent / f"export/{part}.safetensors").keys() == saved[part].keys()


def test_the_unpacked_model_predicts_and_generates_the_same(run: Path, sent: Path) -> None:
    images = load_digits().images
    here, there = load(run), load(sent / "model")
    np.testing.assert_array_equal(there.posterior(images), here.posterior(images))
    np.testing.assert_array_equal(there.transform(images), here.transform(images))
    for new, expected in zip(there.sample(12, seed=7), here.sample(12, seed=7), strict=True):
        np.testing.assert_array_equal(new, expected)


def test_the_unpacked_model_serves_the_commands(place: Path, run: Path, sent: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    assert command(entry.main, "predict", sent / "model", place / "scans", "--out", table) == 0
    assert command(entry.main, "sample", sent / "model", "--count", "3", "--out", tmp_path / "samples") == 0
    found, expected = (rows(path) for path in (table, run / "assignments.csv"))
    clusters = {Path(row["path"]).name: row["cluster"] for row in found}
    assert all(clusters[Path(row["path"]).name] == row["cluster"] for row in expected)


def test_no_path_of_the_users_machine_is_in_it_and_assignments_name_files_in_the_folder(
    place: Path, run: Path, sent: Path
) -> None:
    assert str(place) in (run / "config.toml").read_text()
    assert str(place) in (run / "results.json").read_text()
    assert_private(sent, place, place.name)
    assert (sent / "assignments.csv").read_bytes() == (run / "assignments.csv").read_bytes()
    assert {row["path"][:2] for row in rows(sent / "assignments.csv")} == {"a/", "b/"}
    assert json.loads((sent / "results.json").read_text())["evaluated"]["data"].startswith("folder scans: 60 grey")


def test_settings_other_than_paths_are_as_they_were(run: Path, sent: Path) -> None:
    before = tomllib.loads((run / "config.toml").read_text())
    del before["data"]["path"]
    before["run"].pop("data_root", None)  # of $MPCC_DATA
    for name in ("config.toml", "model/config.toml"):
        assert tomllib.loads((sent / name).read_text()) == before


def test_the_page_explains_each_file_and_how_to_use_the_model(sent: Path) -> None:
    page = (sent / "README.txt").read_text()
    for name in names(sent) - {"README.txt"}:
        assert name in page or f"{name.partition('/')[0]}/" in page, name
    for text in ('mpcc.load("model")', "mpcc predict model", "8 x 8 pixels", "python -m pip install path/to/mpcc"):
        assert text in page
    assert page.index("Open report.html first") < page.index("The files")
    assert ".pt2" not in page
    assert all(len(line) <= 120 for line in page.splitlines())


def test_the_report_is_that_of_the_run_without_its_places_and_all_its_links_lead_to_files_of_the_archive(
    run: Path, sent: Path
) -> None:
    page, own = ((folder / "report.html").read_text(encoding="utf-8") for folder in (sent, run))
    assert images(page) == images(own)
    assert len(images(page)) > 4
    links = set(re.findall(r'href="([^"#]+)"', page)) - {"data:,"}
    assert {"kmeans.png"} | {f"clusters/{path.name}" for path in used(run)} <= links <= names(sent)
    assert ("<h1>Report of run</h1>" in own, "<h1>Report of for-you</h1>" in page) == (True, True)
    assert "mpcc-run --config config.toml --out again" in page
    # The folder of the run is not there to go on with.
    for text in ("mpcc-run --resume", "mpcc report"):
        assert (text in own, text in page) == (True, False)


def images(page: str) -> list[str]:
    """The images inside a page."""
    return re.findall(r'src="(data:[^"]+)"', page)


def used(run: Path) -> list[Path]:
    """The pictures of the clusters that have images."""
    sizes = json.loads((run / "results.json").read_text())["clusters"]["sizes"]
    return [run / "clusters" / f"{cluster}.png" for cluster, size in enumerate(sizes) if size]


def test_the_commands_of_the_report_repeat_the_run_where_it_is_unpacked(
    place: Path, run: Path, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(sent, tmp_path / "here"))
    (line,) = re.findall("<code>mpcc-run (--config .*)</code>", Path("report.html").read_text(encoding="utf-8"))
    assert command(entry.run_main, *shlex.split(line), "--data", place / "scans") == 0
    assert (Path("again") / "assignments.csv").read_bytes() == (run / "assignments.csv").read_bytes()


@pytest.mark.parametrize("missing", ["results.json", "assignments.csv"])
def test_a_run_without_an_evaluation_is_sent_without_a_report(run: Path, tmp_path: Path, missing: str) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for name in (missing, *(PICTURES if missing == "results.json" else ())):
        (copy / name).unlink()
    folder = unpacked(copy, tmp_path / "new")
    assert not {"report.html", missing} & names(folder)
    page = (folder / "README.txt").read_text()
    assert "report.html" not in page
    assert ("Open clusters.png first" in page) == (missing != "results.json")


def test_names_of_clusters_come_with_it_and_a_wrong_one_is_an_error(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "names.toml").write_text('[names]\n3 = "sevens"\n', encoding="utf-8")
    folder = unpacked(copy, tmp_path / "new")
    assert (folder / "model" / "names.toml").read_bytes() == (folder / "names.toml").read_bytes()
    assert "cluster 3: sevens" in (folder / "report.html").read_text(encoding="utf-8")
    (copy / "names.toml").write_text('[names]\n4 = "sevens"\n', encoding="utf-8")
    assert export(copy, "--zip", tmp_path / "b.zip") == 2
    assert "unknown cluster '4': expected a number from 0 to 3" in capsys.readouterr().err


def programs(page: str) -> list[str]:
    """The blocks of Python on a page, as a reader copies them."""
    blocks = re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    return [text for text in map(textwrap.dedent, blocks) if text.startswith(("import ", "from "))]


def test_its_lines_of_python_run_where_it_is_unpacked(
    place: Path, run: Path, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(sent, tmp_path / "here"))
    Path("my-images").symlink_to(place / "scans")
    with_mpcc, without = programs(Path("README.txt").read_text())
    names: dict[str, Any] = {}
    exec(with_mpcc, names)
    assert np.array_equal(names["clusters"], load(run).predict(place / "scans"))
    assert names["new"].shape == (64, 8, 8)
    exec(without, names)
    assert names["weights"].keys() == load_file("export/encoder.safetensors").keys()


def test_its_commands_run_where_it_is_unpacked(
    place: Path, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(sent, tmp_path / "here"))
    Path("my-images").symlink_to(place / "scans")
    lines = [line.strip() for line in Path("README.txt").read_text().splitlines() if line.startswith("    mpcc ")]
    assert len(lines) == 2
    for line in lines:
        assert command(entry.main, *shlex.split(line, comments=True)[1:]) == 0
    assert len(rows(Path("predictions-my-images.csv"))) == 60


def test_paths_of_arrays_labels_and_data_root_go_too(place: Path, tmp_path: Path) -> None:
    data = [f"--data={place / 'scans.npz'}", f"--data.labels={place / 'kinds.csv'}", f"--data-root={place}"]
    folder = unpacked(train(tmp_path / "run", *data), tmp_path / "new")
    assert_private(folder, place, place.name)
    config = tomllib.loads((folder / "config.toml").read_text())
    assert not {"path", "labels"} & set(config["data"])
    assert "data_root" not in config["run"]
    assert rows(folder / "assignments.csv")[0]["path"].startswith("scans.npz#")
    assert load(folder / "model").predict(load_digits().images[:5]).shape == (5,)


def test_a_plugin_file_is_named_but_not_packed(place: Path, tmp_path: Path) -> None:
    plugin = place / "own_prior.py"
    folder = unpacked(train(tmp_path / "run", f"--plugin={plugin}", "--prior=mine"), tmp_path / "new")
    assert_private(folder, place, place.name)
    assert "own_prior.py" in (folder / "README.txt").read_text()
    assert not [name for name in names(folder) if name.endswith(".py")]
    config = folder / "model" / "config.toml"
    config.write_text(f'plugins = ["{plugin}"]\n{config.read_text()}')
    images = load_digits().images[:20]
    np.testing.assert_array_equal(load(folder / "model").posterior(images), load(tmp_path / "run").posterior(images))


def test_programs_may_come_with_it_and_the_page_says_how_to_use_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpacked(run, tmp_path / "new", "--format", "torch,onnx")
    made = {f"export/{part}.{ending}" for part in ("encoder", "generator") for ending in ("pt2", "onnx")}
    assert names(folder) == LISTS | PICTURES | CONFUSION | MODEL | made
    assert_private(folder, "hidden-customer", Path(__file__).resolve().parents[1])
    page = (folder / "README.txt").read_text()
    assert 'torch.export.load("export/encoder.pt2")' in page
    assert "shape (N, 1, 8, 8)" in page
    assert ".safetensors" not in page
    assert "encoder.pt2: largest difference from mpcc" in capsys.readouterr().out
    monkeypatch.chdir(folder)
    _, with_torch, with_onnx = programs(page)
    found: dict[str, dict[str, Any]] = {"torch": {}, "onnx": {}}
    exec(with_torch, found["torch"])
    exec(with_onnx, found["onnx"])
    for made in found.values():
        assert tuple(made["again"].shape) == (2, 1, 8, 8)
    assert found["torch"]["posterior"].numpy() == pytest.approx(found["onnx"]["posterior"], abs=1e-4)


def test_the_page_tells_when_lists_and_model_are_of_different_iterations(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "earlier.pt"
    save_checkpoint(path, {**load_checkpoint(run / "checkpoints" / "last.pt"), "iteration": 1})
    page = (unpacked(run, tmp_path / "new", "--checkpoint", str(path)) / "README.txt").read_text()
    assert "Lists and pictures were made at iteration 2. The model is that of iteration 1." in page


def test_names_that_cannot_be_written_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken.zip"
    taken.write_text("mine", encoding="utf-8")
    for words, message in (
        (["--zip", taken], f"--zip {taken} already exists: expected a new file"),
        (["--zip", tmp_path / "a"], f"--zip {tmp_path / 'a'}: expected a name that ends in .zip (nearest valid choice"),
        (["--zip", tmp_path / "no" / "a.zip"], f"{tmp_path / 'no'} is not a folder"),
        (["--zip", tmp_path / "a.zip", "--out", tmp_path / "b"], "expected one of them"),
    ):
        assert export(run, *words) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
    assert list(tmp_path.iterdir()) == [taken]
    assert taken.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("content", ["{", "[]"])
def test_an_export_that_fails_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    results = run / "results.json"
    before = results.read_bytes()
    try:
        results.write_text(content, encoding="utf-8")
        assert export(run, "--zip", tmp_path / "a.zip") == 2
    finally:
        results.write_bytes(before)
    assert f"{results} is damaged: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_the_archive_is_written_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupted)
    assert export(run, "--zip", tmp_path / "a.zip") == 130
    assert list(tmp_path.iterdir()) == []
