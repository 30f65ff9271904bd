"""The tools that measure how well mpcc clusters: results are whole files, made once, and tables say what they hold."""

from __future__ import annotations

import doctest
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from mpcc.core.commands.train import run_parser
from mpcc.core.config import SECTIONS, Layer, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
MODULES = ("accuracy", "baseline_methods", "baselines", "made_sets", "measured_run", "proof_settings")
MODULES += ("result_files", "result_tables", "surroundings")
SETTINGS = """
[accuracy.quick]
title = "ours"
data = "digits"
arguments = ["--iterations", "4"]
seeds = "3-4"
budget = 90
chosen = "seeds 0-2"
chosen_images = 2
readme = true

[accuracy.timed]
title = "ours, ten minutes"
data = "digits"
arguments = ["--minutes", "10"]
seeds = "3"
budget = 600

[accuracy.stopped]
title = "ours, stopped"
data = "others"
arguments = ["--iterations", "1000000"]
seeds = "3"
budget = 2
stop = true

[baselines.digits]
arguments = ["--data", "digits"]
seeds = "0"
budget = 60
"""
# Weights of the terms that are not the paper's.
OWN_TERMS = ("balance_weight", "consistency_weight", "generator_latent_weight", "generator_membership_weight")
# Stands for mpcc-run and mpcc evaluate: writes at once what they write, trains nothing.
PROGRAM = """#!{python} -S
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
import json, os, pathlib, time
words = sys.argv[1:]
if "--dry-run" in words:
    sys.exit(0)
folder = pathlib.Path(words[words.index("--out") + 1])
iterations = int(words[words.index("--iterations") + 1]) if "--iterations" in words else 7
seed = int(words[words.index("--seed") + 1]) if "--seed" in words else 3
os.environ.get("FAIL") and sys.exit("mpcc: error: no room")
(folder / "checkpoints").mkdir(parents=True)
os.environ.get("DIVERGE") and sys.exit(3)
metrics = {{"acc": 0.5, "purity": 0.5, "nmi": 0.1, "ari": 0.1, "kept_information": 0.1 * seed}}
line = {{"iteration": iterations, "evaluated": 4, "metrics": metrics}}
(folder / "metrics.jsonl").write_text(json.dumps(line) + "\\n")
table = "index,path,cluster,confidence,label\\n0,a,1,1,x\\n1,b,1,1,x\\n2,c,0,1,x\\n3,d,0,1,y\\n"
(folder / "assignments.csv").write_text(table)
results = {{"metrics": metrics, "evaluated": {{"images": 4, "of": 4}}, "clusters": {{"total": 10, "used": 2}}}}
results |= {{"iterations": iterations, "seconds": 3.0, "evaluation_seconds": 1.0, "threads": 1}}
(folder / "results.json").write_text(json.dumps(results))
(folder / "checkpoints" / "last.pt").write_text("")
if iterations == 1000000 and words[0] != "evaluate":
    time.sleep(60)
"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The modules by name; they import each other as scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def workplace(
    tmp_path: Path, tools: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs accuracy.py in an empty folder with the settings above; the runs themselves are those of a stand-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.toml").write_text(SETTINGS)
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(tools["measured_run"], "program", lambda name: str(program))
    places = ["--settings", "settings.toml", "--results", "results", "--baselines", "baselines"]

    def call(command: str, *words: str, quick: bool = True) -> int:
        rate = ["--rate-seconds", "0.01"] if command == "run" and quick else []
        return int(tools["accuracy"].main([command, *words, *places, *rate]))

    return call


def result(path: str) -> dict[str, Any]:
    """Return the content of a result file."""
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


def test_a_run_leaves_a_result_with_all_that_a_reader_needs(workplace: Callable[..., int]) -> None:
    assert workplace("run", "quick", "--seeds", "3") == 0
    found = result("results/quick-3.json")
    assert found["command"] == "mpcc-run --iterations 4 --seed 3"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", found["date"])
    assert found["timed"] is True
    assert found["ended"] == "finished"
    assert 0 < found["wall_seconds"] < 60
    assert found["training_seconds"] == 2
    assert found["evaluation_seconds"] == 1
    assert found["first_result_seconds"] <= found["wall_seconds"]
    assert found["evaluations"][0]["iteration"] == found["iterations"] == 4
    assert found["machine"]["processor"]
    assert found["machine"]["cores"] >= 1
    assert isinstance(found["machine"]["extensions"], list)
    for when in ("before", "after"):
        assert found[when]["gflops_one_thread"] > 0
        assert found[when]["gflops_all_threads"] > 0
        assert len(found[when]["load_average"]) == 3
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    # Clusters 1 1 0 0 against x x x y: three of four match one to one.
    assert found["scores"]["acc"] == 0.75
    assert found["scores"]["kept_information"] == pytest.approx(0.3)
    # Without the first two images, which settings were chosen on: 0 0 against x y.
    assert found["rest"] == {"from": 2, "images": 2, "acc": 0.5, "purity": 0.5, "nmi": 0.0, "ari": 0.0}
    assert Path("runs/accuracy/quick-3/results.json").exists()
    assert str(Path.cwd()) not in Path("results/quick-3.json").read_text()


def test_results_that_are_there_are_skipped_and_what_is_missing_is_listed(
    workplace: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace("left") == 0
    assert capsys.readouterr().out.splitlines() == [
        "- quick: seeds 3-4",
        "- timed: seeds 3",
        "- stopped: seeds 3",
        "- baselines on digits: k-means, ward, t-sne, isomap, umap, vade, dec: seeds 0",
    ]
    assert workplace("run", "quick", "--seeds", "4") == 0
    before = Path("results/quick-4.json").stat().st_mtime_ns
    assert workplace("run") == 0
    assert Path("results/quick-4.json").stat().st_mtime_ns == before
    assert {path.name for path in Path("results").iterdir()} == {
        f"{name}.json" for name in ("quick-3", "quick-4", "timed-3", "stopped-3")
    }
    capsys.readouterr()
    workplace("left")
    assert capsys.readouterr().out.count("\n") == 1


def test_a_shared_machine_gives_scores_and_no_times(
    workplace: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace("run", "quick", "--shared", "--seeds", "3") == 0
    found = result("results/quick-3-shared.json")
    assert found["command"] == "mpcc-run --iterations 4 --threads 1 --seed 3"
    assert found["timed"] is False
    assert not {"wall_seconds", "training_seconds", "first_result_seconds"} & set(found)
    capsys.readouterr()
    assert workplace("table") == 0
    printed = capsys.readouterr().out
    assert "1 of 1 not timed" in printed
    assert "seconds" not in printed
    workplace("left")
    assert "- quick: times of seeds 3" in capsys.readouterr().out
    # The timed run of the same seed is still to be made, and the table then takes it.
    assert workplace("run", "quick", "--seeds", "3") == 0
    workplace("table")
    assert "not timed" not in capsys.readouterr().out


def test_a_run_that_depends_on_time_needs_iterations_on_a_shared_machine(
    workplace: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert workplace("run", "timed", "--shared") == 1
    assert "expected --iterations N as well" in capsys.readouterr().err
    assert not Path("results").exists()
    assert workplace("run", "timed", "--shared", "--iterations", "9") == 0
    assert result("results/timed-3-shared.json")["command"] == "mpcc-run --threads 1 --iterations 9 --seed 3"
    assert workplace("run", "timed", "--iterations", "9") == 2


def test_a_run_is_interrupted_at_its_budget_and_its_checkpoint_evaluated(workplace: Callable[..., int]) -> None:
    assert workplace("run", "stopped") == 0
    found = result("results/stopped-3.json")
    assert found["ended"] == "interrupted after 2 s"
    assert 2 <= found["wall_seconds"] < 30
    assert found["scores"]["acc"] == 0.75
    assert Path("runs/accuracy/stopped-3-evaluation").is_dir()


def test_a_run_that_fails_has_no_result_and_one_that_diverges_counts(
    workplace: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "1")
    assert workplace("run", "quick", "--seeds", "3") == 1
    assert "quick, seed 3: mpcc-run ended with status 1: mpcc: error: no room" in capsys.readouterr().err
    assert not Path("results").exists()
    monkeypatch.delenv("FAIL")
    monkeypatch.setenv("DIVERGE", "1")
    assert workplace("run", "quick", "--seeds", "3") == 0
    assert result("results/quick-3.json")["ended"] == "diverged"
    monkeypatch.delenv("DIVERGE")
    assert workplace("run", "quick") == 0
    capsys.readouterr()
    workplace("table")
    assert "| ours | 2 | 0.750 |" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_2(workplace: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["run", "quik"], "unknown setting 'quik': did you mean 'quick'?"),
        (["run", "quick", "--seeds", "4-"], "expected numbers or ranges such as 3 or 20-29, got '4-'"),
        (["run", "quick", "--seeds", "4-2"], "got '4-2'"),
    ):
        assert workplace(*words) == 2
        error = capsys.readouterr().err
        assert error.startswith("accuracy.py: ")
        assert message in error
        assert error.count("\n") == 1
    Path("results").mkdir()
    Path("results/quick-3.json").write_text("{")
    assert workplace("table") == 2
    assert "delete it to measure anew" in capsys.readouterr().err


def test_the_pages_get_their_tables_from_the_results(
    workplace: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pages/docs").mkdir(parents=True)
    readme, page = Path("pages/README.md"), Path("pages/docs/results.md")
    assert workplace("table", "--write", "--pages", "pages") == 2
    page.write_text("above\n<!-- results: all -->\nold\n<!-- end of results -->\nbelow\n")
    readme.write_text("above\n<!-- results: short -->\nnumbers by hand\n<!-- end of results -->\nbelow\n")
    assert workplace("table", "--write", "--pages", "pages") == 0
    assert "numbers by hand" in readme.read_text()
    assert "## Not measured yet" in page.read_text()
    workplace("run", "quick")
    assert workplace("table", "--write", "--pages", "pages") == 0
    assert readme.read_text().startswith("above\n<!-- results: short -->\n\n**digits**\n\n| method | seeds | acc |")
    assert readme.read_text().endswith("\n\n<!-- end of results -->\nbelow\n")
    assert "GFLOP/s" not in readme.read_text()
    assert "GFLOP/s" in page.read_text()
    assert "Spearman" in page.read_text()
    capsys.readouterr()


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_the_tools_hold(tools: dict[str, ModuleType], module: str) -> None:
    assert doctest.testmod(tools[module]).failed == 0
    assert tools[module].__doc__
    assert tools[module].__all__


def test_scores_agree_with_scikit_learn_and_with_all_matchings(tools: dict[str, ModuleType]) -> None:
    random = np.random.default_rng(0)
    clusters, labels = random.integers(0, 4, 60), random.integers(-1, 4, 60)
    found = tools["result_files"].scores(clusters, labels)
    known = labels >= 0
    first, second = clusters[known], labels[known]
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(second, first))
    assert found["ari"] == pytest.approx(adjusted_rand_score(second, first))
    matchings = itertools.permutations(range(4))
    assert found["acc"] == pytest.approx(max(np.mean(np.array(order)[first] == second) for order in matchings))
    majorities = [np.bincount(second[first == cluster]).max() for cluster in range(4)]
    assert found["purity"] == pytest.approx(sum(majorities) / known.sum())
    assert tools["result_files"].scores(clusters, np.full(60, -1)) == {}


def made_result(seed: int, acc: float, kept: float, **more: Any) -> dict[str, Any]:
    """Return a result as accuracy.py writes it."""
    activity = {"gflops_one_thread": 50.0, "gflops_all_threads": 90.0 + seed}
    common = {"setting": "s", "data": "d", "seed": seed, "timed": True, "ended": "finished", "date": "2026-01-02 03:04"}
    common |= {"budget_seconds": 90.0, "wall_seconds": 80.0 + 5 * seed, "before": activity, "after": activity}
    common |= {"machine": {"processor": "P", "cores": 2, "extensions": ["AMX"]}, "iterations": 1500, "threads": 2}
    common |= {"source": {"commit": "abc", "changed": False}, "clusters": {"total": 10, "used": 9 + seed % 2}}
    return common | {"scores": {"acc": acc, "kept_information": kept}} | more


def test_a_table_shows_means_spreads_budgets_and_remarks(tools: dict[str, ModuleType]) -> None:
    results = [made_result(seed, acc, 0.5, chosen="c") for seed, acc in ((1, 0.9), (2, 0.8), (3, 0.7))]
    results.append(made_result(4, 0.0, 0.0, ended="diverged", scores=None))
    baseline = made_result(0, 0.6, 0.0, method="ward", title="Ward", images=70000, fitted_on=10000, clusters=None)
    unfinished = made_result(0, 0.0, 0.0, method="dec", title="DEC", ended="not finished in 90 s", scores=None)
    text = tools["result_tables"].race_tables({"s": ("ours", "d")}, results, [unfinished, baseline])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    by_method = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}
    ours = by_method["ours"]
    assert ours["seeds"] == "4"
    deviation = np.std([0.9, 0.8, 0.7], ddof=1)
    assert ours["acc"] == f"0.800 ± {deviation:.3f}"
    assert ours["lowest acc"] == "0.700"
    assert ours["seconds"] == "90 ± 5"
    assert ours["GFLOP/s"] == "91 to 94"
    assert ours["clusters used"] == "9 to 10 of 10"
    assert ours["iterations"] == "1,500"
    assert ours["remarks"] == "1 of 4: diverged; 1 of 4 took longer than 90 s; settings chosen on c"
    assert by_method["Ward"]["remarks"] == "fitted on 10,000 of 70,000 images, the rest by nearest neighbour"
    assert by_method["DEC"]["remarks"] == "1 of 1: not finished in 90 s"
    assert by_method["DEC"]["acc"] == "–"
    # The order is ours, then that of the list of methods.
    assert list(by_method)[2:] == ["ours", "Ward", "DEC"]
    assert text.endswith("Measured on P, 2 cores, AMX; 2026-01-02; commit abc.")
    assert tools["result_tables"].race_tables({"s": ("ours", "d")}, [], []) == ""


def test_rank_correlations_are_those_of_the_definition(
    tools: dict[str, ModuleType], workplace: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    acc, kept = [0.9, 0.5, 0.8, 0.7, 0.6], [0.8, 0.1, 0.9, 0.3, 0.3]
    Path("results").mkdir()
    for seed, values in enumerate(zip(acc, kept, strict=True)):
        Path(f"results/s-{seed}.json").write_text(json.dumps(made_result(seed, *values)))
    assert workplace("ranks") == 0
    *_, line = capsys.readouterr().out.strip().splitlines()
    expected = np.corrcoef(rankdata(acc), rankdata(kept))[0, 1]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("d", "s", "5", f"{expected:+.2f}", "0.800", "0.700", "0.900")
    ]


def test_a_file_of_settings_says_what_is_wrong_with_it(tools: dict[str, ModuleType], tmp_path: Path) -> None:
    good = '[accuracy.a]\ntitle = "t"\ndata = "d"\narguments = []\nseeds = "0"\nbudget = 1\n'
    file = tmp_path / "s.toml"
    for text, message in (
        (good.replace("budget = 1", "budgte = 1"), "budgte"),
        (good.replace('"0"', '"x"'), "got 'x'"),
        (good.replace("accuracy", "acuracy"), "did you mean 'accuracy'?"),
        (f'{good}made = "mnist"\n', "set made"),
        (good.replace("budget = 1", 'budget = "long"'), "budget"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidInput, match=re.escape(message)):
            tools["proof_settings"].read_settings(file)
    file.write_text(good)
    assert tools["proof_settings"].read_settings(file).accuracy[0].seeds == (0,)


def test_the_settings_are_commands_of_mpcc_run(tools: dict[str, ModuleType]) -> None:
    settings = tools["proof_settings"].read_settings(tools["proof_settings"].SETTINGS)
    registry = load_registry()
    names = [setting.name for setting in settings.accuracy]
    assert names[:2] == ["digits", "mnist"]
    assert settings.named(["digits"])[0].seeds == tuple(range(20, 30))
    assert {setting.data for setting in settings.accuracy} == {setting.name for setting in settings.baselines}
    for setting in (*settings.accuracy, *settings.baselines):
        given = tools["measured_run"].replaced(setting.arguments, getattr(setting, "collapse", ()))
        for words in (given, list(setting.arguments)):
            assert ("{made}" in words) == (setting.made is not None), setting.name
            typed = run_parser().read([*words, "--seed", "1"], SECTIONS)
            assert typed.rest == [], setting.name
            resolve(registry, [Layer("flag", typed.tables)])


@pytest.mark.parametrize(
    ("setting", "off"),
    [
        ("digits", set()),
        ("digits-no-terms", {"balance_weight", "consistency_weight"}),
        ("digits-balance-only", {"consistency_weight"}),
        ("digits-consistency-only", {"balance_weight"}),
        ("digits-no-generator-terms", {"generator_latent_weight", "generator_membership_weight"}),
        ("digits-published-terms", set(OWN_TERMS)),
        ("unbalanced-no-terms", {"balance_weight", "consistency_weight"}),
    ],
)
def test_an_ablation_leaves_out_the_terms_of_its_title_and_no_other(
    tools: dict[str, ModuleType], setting: str, off: set[str]
) -> None:
    settings = tools["proof_settings"].read_settings(tools["proof_settings"].SETTINGS)
    typed = run_parser().read(list(settings.named([setting])[0].arguments), SECTIONS)
    run = resolve(load_registry(), [Layer("flag", typed.tables)]).run
    assert {name for name in OWN_TERMS if getattr(run, name) == 0} == off


def test_the_pages_show_the_results_that_are_there(tools: dict[str, ModuleType], tmp_path: Path) -> None:
    pages = [Path("README.md"), Path("docs/results.md")]
    for page in pages:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / page, tmp_path / page)
    assert tools["accuracy"].main(["table", "--write", "--pages", str(tmp_path)]) == 0
    for page in pages:
        remedy = "python benchmarks/accuracy.py table --write"
        assert (tmp_path / page).read_text() == (ROOT / page).read_text(), f"{page} is not up to date: {remedy}"


def test_every_command_on_the_page_of_results_runs(
    workplace: Callable[..., int],
    tools: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = re.findall(r"^    python benchmarks/(\w+)\.py (.*)$", (ROOT / "docs/results.md").read_text(), re.MULTILINE)
    assert len(lines) >= 7
    Path("pages/docs").mkdir(parents=True)
    for page in ("README.md", "docs/results.md"):
        shutil.copyfile(ROOT / page, Path("pages") / page)
    Path("settings.toml").write_text(SETTINGS.replace(".quick]", ".digits]"))
    monkeypatch.setattr(tools["baselines"], "limited", lambda *_: ("not finished in 60 s", 60.0, ""))
    for script, rest in lines:
        command, *words = shlex.split(rest, comments=True)
        words += ["--pages", "pages"] if "--write" in words else []
        if script == "accuracy":
            assert workplace(command, *words) == 0, rest
        else:
            words += ["--methods", "k-means", "--settings", "settings.toml", "--results", "baselines"]
            assert tools["baselines"].main([command, *words, "--rate-seconds", "0.01"]) == 0
    capsys.readouterr()


@pytest.mark.check
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_measurement_that_is_killed_leaves_no_half_written_result(tmp_path: Path, number: int) -> None:
    (tmp_path / "settings.toml").write_text(SETTINGS.replace('"4"', '"1000000"'))
    command = [sys.executable, str(BENCHMARKS / "accuracy.py"), "run", "quick", "--settings", "settings.toml"]
    command += ["--results", "results", "--rate-seconds", "0.01"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # In a group of its own, so that a run that outlives its parent can be ended.
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    run = tmp_path / "runs/accuracy/quick-3"
    try:
        while not run.exists() and process.poll() is None:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(number)
        assert process.wait(120) == (130 if number == signal.SIGTERM else -number)
        assert list(tmp_path.glob("results/*")) == []
        if number == signal.SIGTERM:
            # The run was told, has saved its state and has ended.
            assert (run / "checkpoints/last.pt").exists()
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
    finally:
        if number == signal.SIGKILL:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.check
def test_a_collapsed_run_goes_on_with_the_other_settings(
    tmp_path: Path, tools: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--iterations", "5", "--eval-every", "5", "--standing-passes", "1", "--balance-weight", "2"]
    quick = json.dumps([*words, "--threads", "1"])
    collapse = '["--iterations", "3", "--balance-weight", "0"]'
    text = SETTINGS.replace('["--iterations", "4"]', f"{quick}\ncollapse = {collapse}")
    (tmp_path / "settings.toml").write_text(text)
    command = ["run", "quick", "--seeds", "3", "--settings", "settings.toml", "--results", "results"]
    assert tools["accuracy"].main([*command, "--rate-seconds", "0.01"]) == 0
    found = result("results/quick-3.json")
    assert found["collapsed"]["iterations"] == 3
    assert found["iterations"] == 5
    assert [evaluation["iteration"] for evaluation in found["evaluations"]] == [5]
    config = Path("runs/accuracy/quick-3/config.toml").read_text()
    assert "balance_weight = 2.0" in config
    assert "iterations = 5" in config


def test_a_system_without_clusters_is_judged_by_groups_of_its_latents(
    tools: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    setting = '[accuracy.vae]\ntitle = "VAE"\ndata = "digits"\nseeds = "0"\nbudget = 9\nlatent_groups = true\n'
    arguments = ["--objective", "vae", "--iterations", "20", "--threads", "1", "--eval-images", "500"]
    Path("settings.toml").write_text(f"{setting}arguments = {json.dumps(arguments)}\n")
    places = ["--settings", "settings.toml", "--results", "results", "--baselines", "baselines"]
    assert tools["accuracy"].main(["run", *places, "--work", "work", "--rate-seconds", "0.01"]) == 0
    found = result("results/vae-0.json")
    assert found["latent_groups"] == "k-means"
    assert found["clusters"]["total"] == 10
    # One cluster for all images would have 0.1; pixels, and latents near the start, tell digits apart better.
    assert 0.2 < found["scores"]["acc"] <= found["scores"]["purity"]
    table = tools["result_tables"].race_tables({"vae": ("VAE", "digits")}, [found], [])
    assert "clusters by k-means on the latents" in table
    assert f"{found['scores']['reconstruction']:.3f}" in table


@pytest.mark.check
def test_made_sets_are_the_same_at_every_call(tools: dict[str, ModuleType], tmp_path: Path, data_root: Path) -> None:
    make = tools["made_sets"].make
    paths = [make("unbalanced-mnist", tmp_path / name) for name in ("a", "b")]
    loaded = []
    for path in paths:
        with np.load(path) as file:
            loaded.append(dict(file))
    first, second = loaded
    assert np.array_equal(first["images"], second["images"])
    counts = np.bincount(first["labels"])
    assert sorted({int(count) for count in counts}) == [270, 2700, 5400]
    assert len({image.tobytes() for image in first["images"]}) > 0.999 * len(first["images"])
    folders = [make("garments-and-digits", tmp_path / name) for name in ("a", "b")]
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*.*"))
    assert len(files) == 1500
    assert {path.suffix for path in files} == {".png", ".jpg"}
    assert len({path.parent for path in files}) == 10
    assert all((folders[0] / path).read_bytes() == (folders[1] / path).read_bytes() for path in files)
    sides = []
    for path in files:
        with Image.open(folders[0] / path) as picture:
            sides.append(picture.size[0])
    assert (min(sides), max(sides)) == (24, 52)
    assert make("garments-and-digits", tmp_path / "a") == folders[0]
    with pytest.raises(InvalidInput, match="did you mean 'unbalanced-mnist'"):
        make("unbalanced-mnits", tmp_path)


def test_surroundings_tell_commits_and_rates(tools: dict[str, ModuleType], tmp_path: Path) -> None:
    surroundings = tools["surroundings"]
    assert surroundings.source_state(tmp_path) is None
    (tmp_path / "core").mkdir()
    (tmp_path / "core/a.py").write_text("")
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    state = surroundings.source_state(tmp_path)
    assert state["changed"] is False
    (tmp_path / "README.md").write_text("pages do not count")
    assert surroundings.source_state(tmp_path) == state
    (tmp_path / "core/b.py").write_text("")
    assert surroundings.source_state(tmp_path) == {**state, "changed": True}
    before = torch.get_num_threads()
    assert surroundings.matrix_product_rate(1, seconds=0.01, size=64) > 0
    assert torch.get_num_threads() == before
