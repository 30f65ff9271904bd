"""``mpcc compare``: rows of runs and of seeds, the settings in which they differ, what is unfinished, files, errors."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from mpcc.core.commands import entry

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 4},
    **{"eval-every": 2, "eval-images": 70, "standing-passes": 2, "device": "cpu", "threads": 1, "preset": "none"},
}
LABEL_SCORES = ("acc", "purity", "nmi", "ari")


def command(entry: Any, *arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        entry([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def compare(*arguments: str | Path) -> int:
    return command(entry.main, "compare", *arguments)


def train(out: Path, *arguments: str, **changes: Any) -> None:
    flags = [f"--{name}={value}" for name, value in {**TINY, **changes}.items()]
    assert command(entry.run_main, *flags, *arguments, "--out", out) == 0


@pytest.fixture(scope="module")
def trained(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A folder with three seeds of one setting, a run with another step size and one with another prior."""

    def make(folder: Path) -> None:
        train(folder / "seeds", "--seeds=0-2", "--all")
        train(folder / "quick", lr=0.001, seed=7)
        train(folder / "student", prior="student_t")

    return once("compared_runs", make)


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these runs below ``runs`` in the working folder, to be spoilt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return Path(shutil.copytree(trained, tmp_path / "runs")).relative_to(tmp_path)


def results(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return loaded


def change(run: Path, **values: Any) -> None:
    (run / "results.json").write_text(json.dumps({**results(run), **values}), encoding="utf-8")


def cells(text: str) -> list[list[str]]:
    """The rows of a printed table: its columns lie at least two blanks apart."""
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert err.startswith("mpcc: error: ")
    assert err.count("\n") == 1
    assert out == ""
    return err


def test_seeds_share_a_row_with_mean_and_deviation_and_only_settings_that_differ_are_shown(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(runs / "seeds", runs / "quick", "--metrics", "acc,nmi") == 0
    head, seeds, quick, *_ = cells(capsys.readouterr().out)
    assert head == ["run", "--lr", "seeds", "iterations", "minutes", "clusters used", "acc", "nmi", "remarks"]
    found = [results(runs / "seeds" / f"seed-{seed}")["metrics"]["acc"] for seed in range(3)]
    assert seeds[:4] == ["runs/seeds", "0.0002", "0-2", "4"]
    assert seeds[6] == f"{statistics.fmean(found):.3f} +- {statistics.stdev(found):.3f}"
    assert quick[:4] == ["runs/quick", "0.001", "7", "4"]
    assert quick[6] == f"{results(runs / 'quick')['metrics']['acc']:.3f}"
    used = results(runs / "quick")["clusters"]["used"]
    assert quick[5] == f"{used} of 10"


def test_runs_of_different_folders_that_differ_by_the_seed_share_a_row_and_each_counts_once(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "seeds" / "seed-1", runs / "moved")
    shutil.rmtree(runs / "seeds" / "seed-1")
    assert compare(runs / "moved", runs / "seeds", runs / "seeds" / "seed-0", "--metrics", "acc") == 0
    _, row, *rest = cells(capsys.readouterr().out)
    assert row[:2] == ["runs/moved and 2 more", "0-2"]
    assert [line[0] for line in rest if line[0].startswith("runs/")] == []


def test_a_pattern_that_no_shell_has_expanded_stands_for_the_runs_that_match(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "notes").mkdir()
    (runs / "notes.txt").touch()
    assert compare(f"{runs}/*", "--metrics=acc") == 0
    names = [row[0] for row in cells(capsys.readouterr().out)]
    assert names[:4] == ["run", "runs/quick", "runs/seeds", "runs/student"]


def test_an_option_of_one_plugin_only_is_no_difference_between_plugins(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(runs / "seeds" / "seed-0", runs / "student") == 0
    head = cells(capsys.readouterr().out)[0]
    assert "--prior" in head
    assert "--prior.df" not in head
    train(runs / "df", **{"prior": "student_t", "prior.df": 7})
    capsys.readouterr()
    assert compare(runs / "df", runs / "student") == 0
    assert cells(capsys.readouterr().out)[0][:2] == ["run", "--prior.df"]


def test_the_same_minutes_make_a_group_though_each_run_has_other_iterations(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, iterations in ((0, 6), (1, 8)):
        run = runs / "seeds" / f"seed-{seed}"
        config = (run / "config.toml").read_text(encoding="utf-8")
        (run / "config.toml").write_text(config.replace("iterations = 4", f"iterations = {iterations}"))
        change(run, iterations=iterations, budget={"minutes": 10, "iterations": iterations})
    assert compare(runs / "seeds", "--metrics=acc") == 0
    head, minutes, rest, *_ = cells(capsys.readouterr().out)
    assert head[:4] == ["run", "--minutes", "seeds", "iterations"]
    assert minutes[:4] == ["runs/seeds", "10", "0-1", "7 +- 1"]
    assert rest[:3] == ["runs/seeds/seed-2", "2", "4"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda run: (run / "results.json").unlink(), "unfinished: not evaluated yet"),
        (lambda run: (run / "results.json").write_text("{"), "damaged: results.json: Expecting property name"),
        (lambda run: change(run, metrics={"acc": "high"}), "damaged: results.json: expected a number, got 'high'"),
        (lambda run: change(run, metrics={"acc": float("nan")}), "damaged: results.json: expected a number, got nan"),
        (lambda run: change(run, clusters={}), "damaged: results.json: 'used' is missing"),
        (lambda run: (run / "config.toml").write_text("[run"), "damaged: config.toml: not valid TOML"),
        (
            lambda run: (run / "config.toml").write_text('[run]\nseed = "x"'),
            "damaged: expected a whole number, got 'x'",
        ),
    ],
)
def test_an_unevaluated_or_damaged_run_is_listed_with_the_reason_and_does_not_stop_the_others(
    runs: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(runs / "seeds" / "seed-1")
    assert compare(runs / "seeds", runs / "quick", "--metrics=acc", "--out=t.csv") == 0
    table = cells(capsys.readouterr().out)
    (row,) = [row for row in table if row[0] == "runs/seeds/seed-1"]
    assert reason in row[-1]
    (others,) = [row for row in table if row[0] == "runs/seeds"]
    assert "0,2" in others
    written = {row["run"]: row for row in rows(Path("t.csv"))}
    assert reason in written["runs/seeds/seed-1"]["problem"]
    assert written["runs/seeds/seed-1"]["acc"] == ""
    assert written["runs/seeds"]["runs"] == "2"
    assert written["runs/quick"]["problem"] == ""


def test_a_stopped_run_has_a_row_with_the_scores_of_its_last_evaluation(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "seeds" / "seed-1"
    change(run, iterations=2, health={"warnings": [{"name": "few", "message": "x"}]})
    assert compare(runs / "seeds", runs / "quick", "--metrics=acc", "--out=t.csv") == 0
    table = cells(capsys.readouterr().out)
    (row,) = [row for row in table if row[0] == "runs/seeds/seed-1"]
    acc = results(run)["metrics"]["acc"]
    assert row[2:4] == ["1", "2"]
    assert row[-2:] == [f"{acc:.3f}", "stopped or running: scores of iteration 2 of 4; few"]
    # Its scores are not in the mean of the finished ones.
    (others,) = [row for row in table if row[0] == "runs/seeds"]
    assert "0,2" in others
    written = {row["run"]: row for row in rows(Path("t.csv"))}["runs/seeds/seed-1"]
    assert (float(written["acc"]), written["iterations"]) == (pytest.approx(acc, abs=1e-6), "2.0")
    assert written["problem"] == "stopped or running: scores of iteration 2 of 4"


def test_what_minutes_have_set_is_one_column_unless_all_settings_are_wanted(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of finished, stopped, resumed and unevaluated runs."""
    names = ["whole", "longer", "stopped", "resumed", "new"]
    for number, name in enumerate(names):
        run = runs / name
        shutil.copytree(runs / "quick", run)
        config, last = (run / "config.toml").read_text(encoding="utf-8"), 100 * (number + 1)
        for old, new in {
            "iterations": last,
            "eval_images": 50 + number,
            "ema_start": number,
            "log_every": last,
        }.items():
            config = re.sub(rf"^{old} = .*$", f"{old} = {new}", config, flags=re.MULTILINE)
        (run / "config.toml").write_text(config, encoding="utf-8")
        budget = {"minutes": 10 if name == "longer" else 5, "iterations": 50 if name == "resumed" else last}
        change(run, iterations=20 if name == "stopped" else last, budget=budget)
    (runs / "new" / "results.json").unlink()
    folders = [runs / name for name in names]
    assert compare(*folders, "--metrics=acc", "--out=t.csv") == 0
    table = cells(capsys.readouterr().out)
    assert table[0][:4] == ["run", "--minutes", "seeds", "iterations"]
    assert [row[1] for row in table[1:6]] == ["5", "10", "5", "5 (resumed)", "7"]
    assert table[6] == ["--all-settings shows --ema-start, --eval-images, --log-every, too"]
    assert [row["--minutes"] for row in rows(Path("t.csv"))] == ["5", "10", "5", "5 (resumed)", ""]
    assert compare(*folders, "--metrics=acc", "--all-settings", "--out=all.csv") == 0
    assert "--all-settings" not in capsys.readouterr().out
    everything = rows(Path("all.csv"))
    for number, row in enumerate(everything):
        assert (row["--eval-images"], row["--ema-start"], row["--log-every"]) == (
            *(str(50 + number), str(number), str(100 * (number + 1))),
        )
    assert everything[0]["--minutes"] == "5"
    assert compare(runs / "quick", runs / "whole", "--metrics=acc", "--all-settings") == 0
    assert "--checkpoint-every" not in capsys.readouterr().out


def test_a_seed_that_failed_says_why(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((runs / "seeds" / "seeds.json").read_text(encoding="utf-8"))
    record["runs"][2]["failure"] = {"reason": "training has diverged", "status": 3, "final": True}
    (runs / "seeds" / "seeds.json").write_text(json.dumps(record), encoding="utf-8")
    assert compare(runs / "seeds") == 0
    assert "failed: training has diverged: scores of iteration 4 of 4" in capsys.readouterr().out
    (runs / "seeds" / "seeds.json").write_text("{", encoding="utf-8")
    assert compare(runs / "seeds") == 0
    out, err = capsys.readouterr()
    assert "0-2" in out
    assert "seeds.json is damaged" in err


def test_warnings_are_named_with_the_number_of_runs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        change(runs / "seeds" / f"seed-{seed}", health={"warnings": [{"name": "few", "message": "x"}][:seed]})
    assert compare(runs / "seeds", "--metrics=acc") == 0
    assert cells(capsys.readouterr().out)[1][-1] == "few (2 of 3)"


def test_the_table_is_written_with_means_and_deviations(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(runs / "seeds", runs / "student", "--out", "t.csv") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "t.csv"
    seeds, student = rows(Path("t.csv"))
    assert (seeds["run"], seeds["runs"], seeds["seeds"], seeds["--prior"]) == ("runs/seeds", "3", "0-2", "gmm")
    for name in ("acc", "reconstruction"):
        found = [results(runs / "seeds" / f"seed-{seed}")["metrics"][name] for seed in range(3)]
        assert float(seeds[name]) == pytest.approx(statistics.fmean(found), abs=1e-8)
        assert float(seeds[f"{name}_sd"]) == pytest.approx(statistics.stdev(found), abs=1e-8)
    assert student["acc_sd"] == ""
    seconds = results(runs / "student")
    assert float(student["minutes"]) == pytest.approx((seconds["seconds"] - seconds["evaluation_seconds"]) / 60)
    assert compare(runs / "seeds", runs / "student", "--out", "t.jsonl", "--metrics", "occupancy,acc") == 0
    lines = [json.loads(line) for line in Path("t.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["acc_sd"] is None for line in lines] == [False, True]
    assert [name for name in lines[0] if name.endswith("_sd")] == [
        "occupancy_used_sd",
        "occupancy_entropy_sd",
        "acc_sd",
    ]


def test_a_page_has_the_table_the_curves_and_links_to_the_reports(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pages").mkdir()
    hostile = runs / "<b>quick"
    (runs / "quick").rename(hostile)
    (runs / "student" / "report.html").unlink()
    assert compare(runs / "seeds", runs / "student", hostile, "--html", "pages/c.html", "--metrics=acc,nmi") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "pages/c.html"
    page = Path("pages/c.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert page.count("<polyline") == 2 * 5
    assert "&lt;b&gt;quick" in page
    assert "<b>" not in page
    assert "Accuracy under the best one-to-one matching" in page
    links = re.findall(r'href="([^"#]*report.html)"', page)
    assert len(links) == 4
    assert all((Path("pages") / unquote(link)).is_file() for link in links)
    assert "no report yet" in page
    assert not re.search(r'(src|href)="[a-z]+://', page)


def test_curves_are_drawn_and_a_damaged_file_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "student" / "metrics.jsonl").write_text("{", encoding="utf-8")
    (runs / "quick" / "results.json").unlink()
    assert compare(runs / "seeds", runs / "student", runs / "quick", "--curves", "c.png", "--metrics=acc,nmi") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "c.png"
    assert "runs/student: no curves: metrics.jsonl: " in err
    with Image.open("c.png") as picture:
        assert picture.width > picture.height > 100
    assert compare(runs / "student", "--curves", "d.svg") == 2
    assert "--curves d.svg: no run has an evaluation to draw" in capsys.readouterr().err
    assert not Path("d.svg").exists()


def test_without_matplotlib_the_error_names_the_extra(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert compare(runs / "quick", "--curves", "c.png") == 2
    assert 'not installed: pip install "mpcc[plots]"' in one_line(capsys)
    assert compare(runs / "quick") == 0


def test_runs_that_saw_other_images_are_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(runs / "quick", runs / "student") == 0
    assert "different images" not in capsys.readouterr().out
    change(runs / "student", data={"images": [1797, 1, 8, 8], "fingerprint": "f"})
    assert compare(runs / "quick", runs / "student") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "different images" in line)
    assert "scores cannot be compared: runs/quick: digits: 1797 images" in line
    # Results of an earlier version have a description only.
    change(runs / "student", data={})
    assert compare(runs / "quick", runs / "student") == 0
    assert "different images" not in capsys.readouterr().out
    change(runs / "student", evaluated={"data": "others", "of": 5})
    assert compare(runs / "quick", runs / "student") == 0
    assert "runs/student: others" in capsys.readouterr().out


def test_a_narrow_terminal_gets_fewer_scores_or_paragraphs_and_loses_nothing_unsaid(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "130")
    assert compare(runs / "seeds", runs / "quick") == 0
    out = capsys.readouterr().out
    assert "too wide for" in out
    assert "reconstruction" in out.splitlines()[-1] or "reconstruction" in out
    table = out.partition("too wide")[0]
    assert max(map(len, table.splitlines())) <= 130
    monkeypatch.setenv("COLUMNS", "50")
    assert compare(runs / "seeds", runs / "quick") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "runs/seeds"
    assert "runs/quick" in lines
    assert any("reconstruction" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "RUN: expected run folders, such as 'runs/*', got nothing"),
        (["runs"], "RUN 'runs': this folder does not hold a run: expected a run folder, with config.toml"),
        (["runs"], "(nearest valid choice: 'runs/*')"),
        (["runs/quik"], "RUN 'runs/quik': no such folder: did you mean 'runs/quick'?"),
        (["runs/quick/config.toml"], "RUN 'runs/quick/config.toml': this is a file: expected a run folder"),
        (["runs/quick", "runs/seeds/seeds.csv"], "in quotes, the pattern 'runs/seeds/*' stands for the runs only"),
        (["runs/x*"], "RUN 'runs/x*': nothing matches"),
        (["runs/*.png"], "nothing matches; expected run folders"),
        (["runs/quick/*"], "what matches holds no run"),
        (["runs/quick", "--metrics", "ac"], "unknown score in --metrics 'ac': did you mean 'acc'?"),
        (["runs/quick", "--metrics", ","], "unknown score in --metrics ','"),
        (["runs/quick", "--out", "t.txt"], "--out t.txt: expected a name that ends in .csv"),
        (["runs/quick", "--out", "gone/t.csv"], "--out gone/t.csv cannot be written"),
        (["runs/quick", "--out", "runs"], "--out runs already exists: expected a new file"),
        (["runs/quick", "--html", "t.txt"], "nearest valid choice: --html t.html"),
        (["runs/quick", "--curves", "t.gif"], "nearest valid choice: --curves t.png"),
        (["runs/quick", "--seeds", "3"], "unknown option '--seeds'"),
    ],
)
def test_what_cannot_be_is_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert compare(*arguments) == 2
    assert part in one_line(capsys)


def test_torch_is_not_loaded(runs: Path) -> None:
    program = (
        "import sys\nfrom mpcc.core.commands import entry\n"
        "try:\n    entry.main(['compare', *sys.argv[1:]])\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    words = ["runs/*", "--out", "t.csv", "--curves", "c.png"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr


def test_the_baseline_stands_below_the_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, acc in enumerate((0.5, 0.6, 0.7)):
        change(runs / "seeds" / f"seed-{seed}", baseline={"metrics": {"acc": acc}, "agreement": 0.25})
    assert compare(runs / "seeds", "--metrics=acc") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    told = "acc 0.600 +- 0.100, agreement with runs/seeds 0.250 +- 0.000"
    assert last == f"k-means on the pixels, 10 clusters: {told}"
    change(runs / "quick", baseline={})
    assert compare(runs / "quick", "--metrics=acc") == 0
    assert "k-means" not in capsys.readouterr().out


def test_seeds_that_were_not_chosen_are_not_called_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "few", "--seeds=0-1", "--part=0.5", "--metrics=acc,kept_information")
    printed = capsys.readouterr().out
    assert "too short to judge, 4 iterations" in printed
    assert compare(tmp_path / "few", "--metrics=acc") == 0
    shown = capsys.readouterr().out
    assert shown.count("trained for a part, not chosen: scores of iteration 2 of 4") == 1
    assert "stopped or running" not in shown
