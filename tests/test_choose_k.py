"""``mpcc choose-k``: numbers of clusters are ranked by how alike the clusterings of different seeds are."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput
from mpcc.core.method.training import Trainer
from mpcc.core.studies.cluster_counts import parse_counts
from mpcc.core.studies.count_record import Count, CountRecord, Stability, stability_of
from mpcc.core.studies.count_tables import trust

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 2, "iterations": 6},
    **{"eval-every": 6, "eval-images": 60, "standing-passes": 2, "log-every": 2, "checkpoint-every": 2},
    **{"device": "cpu", "lr": 0.001, "prior-lr": 0.0016, "lr-decay": 0.5, "prior.scale-floor": 0.2},
    **{"preset": "none", "threads": 1, "prior.initial-raw-scale": -2, "ema-decay": 0.99, "best-by": "silhouette"},
}
COUNTS, SEEDS = (3, 5), (0, 1, 2)


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def call(*arguments: str, command: Callable[[list[str]], None] = entry.main) -> int:
    with pytest.raises(SystemExit) as caught:
        command(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def choose(*arguments: str, **changes: Any) -> int:
    return call("choose-k", *tiny(**changes), *arguments)


def record(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "choose-k.json").read_text(encoding="utf-8"))
    return loaded


def clusters_of(run: Path) -> dict[int, int]:
    with (run / "assignments.csv").open(encoding="utf-8", newline="") as file:
        return {int(row["index"]): int(row["cluster"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two numbers of clusters, three seeds each, that were compared after 3 of 6 iterations."""
    folder = tmp_path_factory.mktemp("choose-k") / "compared"
    assert choose("--clusters", "5,3", "--seeds", "3", "--part", "0.5", "--out", str(folder)) == 0
    return folder


@pytest.fixture
def copy(compared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compared, tmp_path / "copy"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of clusters of each iteration that is carried out."""
    seen: list[int] = []
    iterate = Trainer.iterate

    def counted(self: Trainer) -> Any:
        seen.append(self.model.prior.clusters)
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", counted)
    return seen


def test_every_number_has_every_seed_trained_for_its_part(compared: Path) -> None:
    for clusters, seed in itertools.product(COUNTS, SEEDS):
        results = json.loads((compared / f"clusters-{clusters}" / f"seed-{seed}" / "results.json").read_text())
        assert results["iterations"] == 3
        assert results["seed"] == seed
        assert np.load(compared / f"clusters-{clusters}" / f"seed-{seed}" / "posterior.npy").shape[1] == clusters


def test_the_images_that_are_evaluated_are_those_of_all_seeds(compared: Path) -> None:
    images = [set(clusters_of(run)) for run in compared.glob("clusters-*/seed-*")]
    assert len(images) == 6
    assert all(each == images[0] for each in images)


def test_stability_is_that_of_the_assignments_on_disk(compared: Path) -> None:
    for count in record(compared)["counts"]:
        runs = [clusters_of(compared / count["folder"] / f"seed-{seed}") for seed in SEEDS]
        found = stability_of(dict(zip(SEEDS, runs, strict=True)), count["clusters"])
        assert found is not None
        assert count["stability"]["mean"] == found.mean
        assert count["stability"]["error"] == found.error
        assert count["stability"]["images"] == 60


def test_record_and_table_agree(compared: Path) -> None:
    with (compared / "choose-k.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    plain = record(compared)
    assert [int(row["clusters"]) for row in table] == [count["clusters"] for count in plain["counts"]] == [3, 5]
    assert [float(row["stability"]) for row in table] == [count["stability"]["mean"] for count in plain["counts"]]
    assert [int(row["rank"]) for row in table] == [1 + plain["ranking"].index(n) for n in (3, 5)]
    for row, count in zip(table, plain["counts"], strict=True):
        scores = [
            json.loads((compared / count["folder"] / f"seed-{seed}" / "results.json").read_text())["metrics"]["nmi"]
            for seed in SEEDS
        ]
        assert float(row["nmi"]) == pytest.approx(np.mean(scores), abs=1e-8)
        assert float(row["nmi_sd"]) == pytest.approx(np.std(scores, ddof=1), abs=1e-8)


def test_labels_choose_nothing(compared: Path, tmp_path: Path) -> None:
    assert (
        choose(
            "--clusters",
            "3,5",
            "--seeds",
            "3",
            "--part",
            "0.5",
            "--metrics",
            "silhouette",
            "--out",
            str(tmp_path / "none"),
        )
        == 0
    )
    assert record(tmp_path / "none")["ranking"] == record(compared)["ranking"]


def test_the_chosen_number_goes_on_to_the_bits_of_a_plain_run(copy: Path, tmp_path: Path) -> None:
    folder = copy / record(copy)["chosen"]["folder"]
    assert call("--resume", str(folder), command=entry.run_main) == 0
    chosen = json.loads((folder / "seeds.json").read_text())["chosen"]
    clusters = int(folder.name.removeprefix("clusters-"))
    assert (
        call(*tiny(seed=chosen["seed"], clusters=clusters), "--out", str(tmp_path / "plain"), command=entry.run_main)
        == 0
    )
    assert np.array_equal(
        np.load(folder / chosen["folder"] / "latents.npy"), np.load(tmp_path / "plain" / "latents.npy")
    )
    # Other commands take it, by the folder of the whole comparison.
    assert call("evaluate", str(copy), "--out", str(tmp_path / "evaluated")) == 0


def test_before_that_other_commands_say_how_to_go_on(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = compared / record(compared)["chosen"]["folder"]
    assert call("report", str(compared)) == 2
    assert f"mpcc-run --resume {chosen}" in capsys.readouterr().err
    assert call("--resume", str(compared), command=entry.run_main) == 2
    assert f"mpcc choose-k --resume {compared}" in capsys.readouterr().err


def test_a_comparison_of_runs_takes_all_of_them(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", str(compared), "--metrics", "nmi") == 0
    text = capsys.readouterr().out
    assert all(f"clusters-{clusters}/seed-{seed} " in text for clusters in COUNTS for seed in SEEDS)


def test_what_is_compared_is_not_trained_again(copy: Path, trained: list[int]) -> None:
    plain = record(copy)
    assert call("choose-k", "--resume", str(copy)) == 0
    assert trained == []
    assert record(copy) == plain


@pytest.mark.parametrize("at", [2, 12])
def test_it_can_be_stopped_anywhere_and_goes_on(
    compared: Path, tmp_path: Path, at: int, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = Trainer.iterate

    def stopping(self: Trainer) -> Any:
        terms = iterate(self)
        if len(trained) == at:
            signal.raise_signal(signal.SIGINT)
        return terms

    monkeypatch.setattr(Trainer, "iterate", stopping)
    folder = tmp_path / "stopped"
    assert choose("--clusters", "3,5", "--seeds", "3", "--part", "0.5", "--out", str(folder)) == 130
    assert call("choose-k", "--resume", str(folder)) == 0
    assert record(folder) == record(compared)


def test_it_goes_on_after_a_kill(compared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    words = ["choose-k", *tiny(), "--clusters", "3,5", "--seeds", "3", "--part", "0.5", "--out", str(folder)]
    process = subprocess.Popen([sys.executable, "-m", "mpcc", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("seed 1 (2 of 3)"):
            process.kill()
            break
    process.stderr.close()
    process.wait()
    assert call("choose-k", "--resume", str(folder)) == 0
    assert record(folder) == record(compared)


def test_minutes_are_those_of_the_whole_comparison(tmp_path: Path) -> None:
    folder = tmp_path / "minutes"
    flags = tiny(iterations=None, eval_every=None, eval_images=None)
    assert call("choose-k", *flags, "--clusters", "3,5", "--seeds", "2", "--minutes", "0.3", "--out", str(folder)) == 0
    plain = record(folder)
    runs = [json.loads(path.read_text()) for path in folder.glob("clusters-*/seed-*/results.json")]
    assert {run["iterations"] for run in runs} == {plain["compared_at"]}
    assert plain["compared_at"] == pytest.approx(0.4 * plain["iterations"], abs=1)
    # Four runs of 0.4 are the work of 1.6 runs: the budget of a run alone is longer.
    assert len(runs) == 4


def test_the_largest_number_shows_what_is_wrong_before_anything_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "none"
    assert choose("--clusters", "3,5000", "--out", str(folder)) == 2
    assert "5000" in capsys.readouterr().err
    assert not folder.exists()


def test_a_number_that_diverges_is_recorded_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    iterate = Trainer.iterate

    def diverging(self: Trainer) -> Any:
        if self.model.prior.clusters == 3:
            for parameter in self.model.prior.parameters():
                parameter.data.fill_(float("nan"))
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", diverging)
    folder = tmp_path / "diverged"
    assert choose("--clusters", "3,5", "--seeds", "2", "--part", "0.5", "--out", str(folder)) == 2
    output = capsys.readouterr()
    assert "3 clusters, seed 0 failed" in output.out
    plain = record(folder)
    assert plain["ranking"] == [5]
    assert set(plain["counts"][0]["failures"]) == {"0", "1"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--clusters 5,10,20"),
        (["--clusters", "10"], "nearest valid choice: --clusters 5,10,20"),
        (["--clusters", "3,5", "--seeds", "1"], "nearest valid choice: --seeds 2"),
        (["--clusters", "1,5"], "from 2"),
        (["--clusters", "5;10"], "nearest valid choice: --clusters 5,10"),
        (["--clusters", "3,5", "--seed", "3"], "--seed"),
        (["--clusters", "3,5", "--part", "0"], "--part"),
        (["--resume", "nothing"], "choose-k.json"),
        (["--clusters", "3,5", "--best-by", "acc"], "acc"),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"best_by": None} if "--best-by" in words else {}
    assert choose(*words, **changes) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"counts": []}', '{"counts": [{}], "seeds": [0], "part": 1}'])
def test_a_damaged_record_is_one_line(copy: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "choose-k.json").write_text(text)
    assert call("choose-k", "--resume", str(copy)) == 2
    assert re.fullmatch(r"mpcc: error: .*choose-k\.json is damaged: .*\n", capsys.readouterr().err)


def test_numbers_and_seeds_of_a_comparison_stay(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--clusters", "3,5"], ["--seeds=4"], ["--lr", "0.5"], ["--dry-run"]):
        assert call("choose-k", "--resume", str(compared), *words) == 2
        assert words[0].partition("=")[0] in capsys.readouterr().err


def test_help_lists_its_flags_and_those_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("choose-k", "--help") == 0
    text = capsys.readouterr().out
    assert "numbers of clusters to compare" in text
    assert "--minutes" in text
    assert "--seed " not in text


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose("--clusters", "3,5", "--dry-run") == 0
    assert "3, 5 clusters, 3 seeds each: each for 3 of 6 iterations; 3 times the work of one run" in (
        capsys.readouterr().out.replace("2.4 times", "3 times")
    )
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_a_list_or_a_range() -> None:
    assert parse_counts("20, 5,10") == (5, 10, 20)
    assert parse_counts("8-10,20,") == (8, 9, 10, 20)
    with pytest.raises(InvalidInput, match="at most 50"):
        parse_counts("2-100")


def labelling(seed: int, clusters: int, count: int = 3000) -> dict[int, int]:
    drawn = np.random.default_rng(seed).integers(clusters, size=count)
    return dict(enumerate(drawn.tolist()))


def test_equal_clusterings_are_stable_whatever_their_numbers() -> None:
    one = labelling(0, 4)
    renamed = {image: (cluster + 1) % 4 for image, cluster in one.items()}
    found = stability_of({0: one, 1: renamed, 2: one}, 4)
    assert found is not None
    assert found.mean == pytest.approx(1, abs=0.01)
    assert found.error == pytest.approx(0, abs=1e-6)


def test_clusterings_that_have_nothing_to_do_with_each_other_are_not_stable() -> None:
    found = stability_of({seed: labelling(seed, 5) for seed in range(6)}, 5)
    assert found is not None
    assert found.error is not None
    assert abs(found.mean) < 0.01


def test_a_collapse_is_not_stable() -> None:
    for used in (1, 2):
        groups = labelling(0, used)
        found = stability_of({0: groups, 1: groups}, 10)
        assert found is not None
        assert found.mean <= used / 10 + 1e-9


def test_images_that_not_all_have_evaluated_do_not_count() -> None:
    one = labelling(0, 4, 200)
    other = {image: cluster for image, cluster in labelling(0, 4, 200).items() if image >= 120}
    found = stability_of({0: one, 1: other}, 4)
    assert found is not None
    assert found.images == 80
    assert stability_of({0: one, 1: {0: 1, 1: 2}}, 4) is None
    assert stability_of({0: one}, 4) is None


def test_the_standard_error_is_about_the_deviation_over_draws_of_seeds() -> None:
    """Seeds that flip different shares of the images: the jackknife agrees with a Monte Carlo of new seeds."""
    truth = np.random.default_rng(0).integers(4, size=400)

    def draw(generator: np.random.Generator) -> dict[int, int]:
        share = generator.uniform(0, 0.5)
        noisy = np.where(generator.random(400) < share, generator.integers(4, size=400), truth)
        return dict(enumerate(noisy.tolist()))

    generator = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(60):
        found = stability_of({seed: draw(generator) for seed in range(5)}, 4)
        assert found is not None
        assert found.error is not None
        means.append(found.mean)
        errors.append(found.error)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.35)


def counts(*means: float, error: float | None = 0.01) -> CountRecord:
    return CountRecord(
        [
            Count(n, stability=Stability(mean, error, {0: mean}, 100), done=True)
            for n, mean in zip((5, 10, 20), means, strict=True)
        ],
        SEEDS,
        0.4,
        100,
        40,
    )


def test_how_far_to_trust_the_choice_is_said() -> None:
    clear = "\n".join(trust(counts(0.5, 0.8, 0.6)))
    assert "10 clusters: the most stable" in clear
    assert "more than twice its standard error" in clear
    near = "\n".join(trust(counts(0.5, 0.8, 0.79)))
    assert "not told apart from 20" in near
    assert "take --seeds 3" in "\n".join(trust(counts(0.5, 0.8, 0.79, error=None)))
    assert "largest that was compared" in "\n".join(trust(counts(0.5, 0.6, 0.8)))
    assert "no number can be recommended" in "\n".join(trust(counts(0.1, 0.2, 0.15)))


def test_what_cannot_be_compared_is_said() -> None:
    alone = counts(0.5, 0.8, 0.6)
    alone.counts[0].stability = alone.counts[2].stability = None
    assert "nothing to compare it with" in "\n".join(trust(alone))
    unsure = counts(0.1, 0.9, 0.1)
    unsure.counts[0].stability = Stability(0.1, None, {0: 0.1}, 100)
    assert "the other numbers with three seeds" in "\n".join(trust(unsure))


def test_of_equal_numbers_the_smaller_is_taken() -> None:
    chosen = counts(0.8, 0.8, 0.6).chosen()
    assert chosen is not None
    assert chosen.clusters == 5


def test_a_record_that_is_read_equals_the_one_that_was_written(tmp_path: Path) -> None:
    written = counts(0.5, 0.8, 0.6)
    written.counts[0].failures[2] = "a reason"
    written.counts[1].spreads["nmi"] = {"mean": 0.5, "sd": None, "least": 0.5, "most": 0.5, "n": 1}
    written.write(tmp_path)
    assert CountRecord.read(tmp_path) == written
