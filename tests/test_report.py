"""``report.html``: whole and valid, nothing from the network, everything escaped, small enough; names of clusters."""

from __future__ import annotations

import csv
import html
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput
from mpcc.core.report.cluster_entries import nearest_clusters
from mpcc.core.report.report_page import page_of, write_report
from mpcc.core.report.run_record import Evaluated, read_record
from mpcc.core.storage.cluster_names import read_names

HOSTILE = '<script>alert("1")</script> & <b>"two"</b>'
MEANINGS = {"acc": "Accuracy under the best matching."}
VOID = {"meta", "link", "img", "br", "input", "hr"}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """A page as tags, checked while it is read: every element is closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def checked(path: Path) -> Page:
    """Read a page and check what holds for every page."""
    content = path.read_text(encoding="utf-8")
    page = Page(content)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(image["alt"] for image in page.of("img"))
    assert page.of("script") == []
    for _, attributes in page.tags:
        for name in ("src", "href"):
            address = attributes.get(name, "")
            assert not re.match(r"[a-z]+:|//", address) or address.startswith("data:"), address
            if address.startswith("#"):
                assert address[1:] in ids
        for name in ("aria-labelledby",):
            assert attributes.get(name, ids[0]) in ids
    assert not re.search(r"@import|url\(", content)
    assert all("scope" in head for head in page.of("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    return page


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def made_folder(folder: Path, clusters: int = 5, size: int = 8, colours: bool = False, labels: bool = True) -> Path:
    """Write the files of an evaluation as a run writes them, with classes and images that try to break a page."""
    rng = np.random.default_rng(0)
    count = 20 * clusters
    own = np.arange(count) % clusters
    posterior = rng.dirichlet(np.ones(clusters), count).astype(np.float32) * 0.1
    posterior[np.arange(count), own] += 0.9
    folder.mkdir(parents=True)
    np.save(folder / "posterior.npy", posterior)
    np.save(folder / "latents.npy", (rng.normal(size=(count, 4)) + own[:, None]).astype(np.float32))
    with (folder / "assignments.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["index", "path", "cluster", "confidence", *(["label"] if labels else [])])
        for row in range(count):
            label = [HOSTILE if row % 2 else "plain"] if labels else []
            rows.writerow([row, f"{HOSTILE}/{row}.png", own[row], posterior[row].max(), *label])
    if labels:
        counts = [[10] * clusters, [10] * clusters]
        table = [["class", *range(clusters), "matched_cluster"], [HOSTILE, *counts[0], 0], ["plain", *counts[1], ""]]
        with (folder / "confusion.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table)
    shape = (8, size, size, 3) if colours else (8, size, size)
    arrays: dict[str, Any] = {"clusters": np.arange(clusters)}
    (folder / "clusters").mkdir()
    for cluster in range(clusters):
        numbers, images = np.arange(8), rng.integers(0, 256, (3, *shape), dtype=np.uint8)
        parts = {"typical": images[0], "uncertain": images[1], "generated": images[2], "typical_rows": numbers}
        parts |= {"uncertain_rows": numbers, "confidences": np.linspace(0.3, 1, 8), "rivals": numbers % clusters}
        arrays |= {f"{cluster}-{name}": value for name, value in parts.items()}
        sheet = Image.fromarray(images[0][0])
        sheet.save(folder / "clusters" / f"{cluster:0{len(str(clusters - 1))}}.png")
    np.savez_compressed(folder / "clusters.npz", **arrays)
    results = {
        "metrics": {"acc": 0.9, "purity": 0.95, "made_up": 1.0},
        "not_computed": {"nmi": HOSTILE},
        "evaluated": {"images": count, "of": 2 * count, "skipped": 3, "data": HOSTILE},
        "clusters": {"total": clusters, "used": clusters, "sizes": [20] * clusters},
        "baseline": {"images": count, "clusters": clusters, "metrics": {"acc": 0.5}, "agreement": 0.25},
        "health": {
            "warnings": [{"name": "two_groups", "message": f"{HOSTILE}; in a new run, --clusters 7"}],
            "quantities": {"saturation": 0.1},
            "restarts": [{"iteration": 9, "from": 5, "reason": HOSTILE}],
        },
        **{"iterations": 2000, "seconds": 100.0, "evaluation_seconds": 10.0, "iterations_per_second": 5.0, "seed": 3},
        "data": {"images": [2 * count, 3 if colours else 1, size, size], "fingerprint": "0" * 64},
        **{"device": "cpu", "engine": {"name": "fast", "precision": "float32"}},
        **{"plugins": {"prior gmm": "mpcc 0.1.0"}, "versions": {"mpcc": "0.1.0"}},
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    lines = [{"iteration": at, "evaluated": count, "metrics": {"acc": at / 2000}} for at in (500, 1000, 2000)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "config.toml").write_text(
        f"[run]\nseed = 3\n[data]\nname = 'folder'\npath = '''{HOSTILE}'''\n", encoding="utf-8"
    )
    return folder


def test_the_report_is_valid_whole_and_loads_nothing(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "run")
    path = write_report(folder, MEANINGS)
    page = checked(path)
    assert sorted(tmp_path.glob("run/*.part")) == []
    assert [attributes["id"] for attributes in page.of("article")] == [f"cluster-{k}" for k in range(5)]
    assert len(page.of("img")) == 5 * 24
    assert len(page.of("svg")) == 2  # the curve of acc, and z
    # Each score beside the baseline, with what it says; curves, cures and how to repeat the run.
    assert "acc 0.900 0.500 Accuracy under the best matching." in page.words
    assert "in a new run, --clusters 7" in page.words
    assert "mpcc-run --config" in page.words
    assert "Training went back from iteration 9 to 5" in page.words


def test_names_and_texts_are_escaped_everywhere(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / f"run <i>{1}")
    (folder / "names.toml").write_text(f"[names]\n2 = '{HOSTILE}'\n", encoding="utf-8")
    page = checked(write_report(folder, {"acc": HOSTILE}))
    assert page.of("b") == page.of("i") == []
    assert f"cluster 2: {HOSTILE}" in page.words
    assert page.words.count(HOSTILE) >= 10


def test_clusters_of_one_name_are_told_with_their_share_of_the_images(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "run")
    (folder / "names.toml").write_text('[names]\n4 = "long"\n0 = "round"\n1 = "long"\n', encoding="utf-8")
    words = checked(write_report(folder, MEANINGS)).words
    # Each of the five clusters has 20 of 100 images.
    for other in (1, 4):
        told = f"The same name: cluster {other} . Together, these clusters have 40.0 % of all images."
        assert words.count(told) == 1
    assert words.count("The same name") == 2


def test_a_page_for_somebody_else_names_no_folder_and_gives_no_advice_that_needs_it(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "secret" / "run")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    (folder / "results.json").write_text(json.dumps({**results, "iterations": 7}), encoding="utf-8")
    record = read_record(folder)
    page, own = tmp_path / "sent.html", write_report(folder, MEANINGS)
    page.write_bytes(page_of(record, MEANINGS, sent_as="for you"))
    for text in ("secret", "mpcc-run --resume", "mpcc report"):
        assert (text in checked(own).words, text in checked(page).words) == (True, False)
    for text in ("Report of for you", "Too short to judge, 7 iterations", "--config config.toml"):
        assert text in checked(page).words


def test_a_run_without_labels_and_with_one_evaluation_has_a_report(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "run", labels=False)
    (folder / "metrics.jsonl").write_text('{"iteration": 5, "metrics": {"made_up": 1.0}}\n', encoding="utf-8")
    page = checked(write_report(folder, MEANINGS))
    assert "Classes" not in page.words
    assert "There is one evaluation so far" in page.words


@pytest.mark.parametrize("latents", [np.ones((100, 4)), np.ones((100, 1)), np.full((100, 2), np.nan), np.ones((3, 4))])
def test_latents_that_do_not_vary_or_do_not_fit_have_no_scatter(tmp_path: Path, latents: Any) -> None:
    folder = made_folder(tmp_path / "run")
    np.save(folder / "latents.npy", latents.astype(np.float32))
    assert "Latent space" not in checked(write_report(folder, MEANINGS)).words


def test_latents_of_one_dimension_are_drawn_on_a_line(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "run")
    np.save(folder / "latents.npy", np.linspace(0, 1, 100, dtype=np.float32)[:, None])
    assert "100 % of its variance" in checked(write_report(folder, MEANINGS)).words


@pytest.mark.parametrize(("clusters", "size"), [(50, 32), (50, 64), (120, 64)])
def test_a_report_has_at_most_five_megabytes_even_of_noise(tmp_path: Path, clusters: int, size: int) -> None:
    folder = made_folder(tmp_path / "run", clusters, size, colours=True)
    path = write_report(folder, MEANINGS)
    page = checked(path)
    assert path.stat().st_size <= 5_000_000
    assert len(page.of("article")) == clusters
    embedded = len(page.of("img")) // 12
    links = page.words.count("There was no room for its images")
    # Noise does not compress: even so, every cluster has images or a link to them.
    assert links == clusters - embedded if links else embedded >= clusters
    assert all((folder / link["href"]).exists() for link in page.of("a") if not link["href"].startswith("#"))


def test_a_folder_of_an_earlier_version_shows_its_pictures(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "run")
    (folder / "clusters.npz").unlink()
    page = checked(write_report(folder, MEANINGS))
    assert len(page.of("img")) == 5


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "run")
    first = write_report(folder, MEANINGS).read_bytes()
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    assert write_report(folder, MEANINGS).read_bytes() == first
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]


def test_the_nearest_cluster_has_the_highest_mean_posterior_of_the_images() -> None:
    posterior = np.array([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    clusters = posterior.argmax(axis=1)
    evaluated = Evaluated((0, 1, 2, 3), clusters, posterior.max(axis=1).astype(np.float64), (), None, posterior)
    # 0: means 0.2 and 0.25; 1: 0.2 and 0; 2: nothing at all.
    assert nearest_clusters(evaluated, 3) == [2, 0, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[names]\n12 = 'x'", "unknown cluster '12': expected a number from 0 to 9 (nearest valid choice: 9)"),
        (
            "[names]\ncluster-3 = 'x'",
            "unknown cluster 'cluster-3': expected a number from 0 to 9 (nearest valid choice: 3)",
        ),
        ("[names]\n3 = 7", "the name of cluster 3 is 7: expected a text of 1 to 80 letters on one line"),
        ("[names]\n3 = ' '", "the name of cluster 3 is ' '"),
        ('[names]\n3 = "a\\nb"', r"the name of cluster 3 is 'a\nb'"),
        ("[names]\n3 = 'x'\n03 = 'y'", "cluster 3 has two names"),
        ("[name]\n3 = 'x'", "unknown table 'name': did you mean 'names'?"),
        ("3 = 'x'", "'3' stands outside of a table: expected it below a line [names]"),
        ("names = 3", "names is 3: expected a table [names]"),
        ("[names\n", "names.toml"),
    ],
)
def test_a_wrong_names_file_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "names.toml").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInput) as caught:
        read_names(tmp_path, 10)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_invalid_names_file_does_not_stop_a_run(tmp_path: Path) -> None:
    folder = made_folder(tmp_path / "run")
    (folder / "names.toml").write_text("[names]\n77 = 'x'\n", encoding="utf-8")
    page = checked(write_report(folder, MEANINGS, lenient=True))
    assert "The names of the clusters could not be used" in page.words
    with pytest.raises(InvalidInput, match="unknown cluster '77'"):
        write_report(folder, MEANINGS)


@pytest.mark.parametrize("name", ["results.json", "assignments.csv", "clusters.npz", "config.toml", "metrics.jsonl"])
def test_a_damaged_file_is_an_error_of_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made_folder(tmp_path / "run")
    (folder / name).write_bytes(b"\x00{,")
    assert command(entry.main, "report", folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mpcc: error: ")
    assert not (folder / "report.html").exists()


def test_a_folder_without_a_run_is_an_error_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(entry.main, "report", tmp_path) == 2
    assert "expected the folder of a run that has been evaluated" in capsys.readouterr().err


def test_the_report_is_made_again_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "import mpcc.core.commands.report\n"
        "from mpcc.core.storage.cluster_images import read_cluster_images\n"
        f"assert read_cluster_images(Path({str(made_folder(tmp_path / 'run') / 'clusters.npz')!r}))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_runs_evaluations_and_predictions_have_the_names(
    clustered_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(clustered_run, run)
    assert "cluster 11" in checked(run / "report.html").words  # training has written it
    (run / "names.toml").write_text('[names]\n3 = "round/shapes"\n05 = "ones"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert command(entry.main, "report", run) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert "cluster 3: round/shapes" in checked(run / "report.html").words
    assert command(entry.main, "evaluate", run, "--out=evaluation") == 0
    page = checked(tmp_path / "evaluation" / "report.html")
    assert "cluster 3: round/shapes" in page.words
    assert f"mpcc evaluate {run}" in page.words
    assert command(entry.main, "report", "evaluation") == 0
    assert command(entry.main, "predict", run, "--out=table.csv", "--sort-into=sorted") == 0
    with Path("table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names: Mapping[str, str] = {"3": "round/shapes", "5": "ones"}
    assert all(row["name"] == names.get(row["cluster"], "") for row in rows)
    folders = {path.name for path in Path("sorted").iterdir()}
    assert {"cluster-03-round_shapes", "cluster-05-ones", "cluster-04"} <= folders
    (run / "names.toml").write_text("[names]\n12 = 'x'\n", encoding="utf-8")
    for words in (("report", run), ("evaluate", run), ("predict", run, "--out=other.csv")):
        capsys.readouterr()
        assert command(entry.main, *words) == 2
        assert "unknown cluster '12': expected a number from 0 to 11" in capsys.readouterr().err


@pytest.fixture(scope="module")
def drawn(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A report, in a folder of its own."""

    def make(folder: Path) -> None:
        write_report(made_folder(folder / "run", 12, 16), MEANINGS)

    return once("drawn_report", make) / "run" / "report.html"


@pytest.mark.check
@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_the_page_at_both_widths_dark_and_light(
    width: int, dark: bool, drawn: Path, tmp_path: Path
) -> None:
    assert BROWSER is not None
    # A page that is wider than its window would be cut off. Windows have a least width, frames have none.
    probe, frame = tmp_path / "probe.html", html.escape(drawn.read_text(encoding="utf-8"))
    told = "document.title = this.contentDocument.documentElement.scrollWidth + ' ' + this.contentWindow.innerWidth"
    probe.write_text(
        f'<iframe style="width: {width}px; border: 0" srcdoc="{frame}" onload="{told}"></iframe>', encoding="utf-8"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},2000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [BROWSER, *flags, "--dump-dom", probe.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    found = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert found, done.stdout[:2000]
    assert (int(found[1]), int(found[2])) == (width, width)
    picture = tmp_path / "page.png"
    subprocess.run(
        [BROWSER, *flags, f"--screenshot={picture}", drawn.as_uri()], capture_output=True, timeout=300, check=True
    )
    with Image.open(picture) as drawing:
        assert drawing.size == (width, 2000)
        paper = drawing.convert("L").getpixel((2, 2))
    assert isinstance(paper, int)
    assert paper < 60 if dark else paper > 240
