"""``mpcc-run --seeds``: seeds are compared by a score without labels, and the best one is trained to the end."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput, PluginError, TrainingDiverged
from mpcc.core.method.training import Trainer
from mpcc.core.reporting import pace
from mpcc.core.studies.seed_list import parse_seeds
from mpcc.core.studies.seed_record import SeedRecord, SeedRun
from mpcc.core.studies.spread import agreement
from mpcc.plugins.datasets.digits import Digits

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 2, "iterations": 6},
    **{"eval-every": 6, "eval-images": 60, "standing-passes": 2, "log-every": 2, "checkpoint-every": 2},
    **{"device": "cpu", "lr": 0.001, "prior-lr": 0.0016, "lr-decay": 0.5, "prior.scale-floor": 0.2},
    # Another preset could leave all images of two seeds in one cluster, with the same score.
    **{"preset": "none", "threads": 1, "prior.initial-raw-scale": -2, "ema-decay": 0.99},
    # Unlike kept_information, it tells apart seeds that have hardly been trained.
    "best-by": "silhouette",
}
LABEL_SCORES = ["acc", "purity", "nmi", "ari"]


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def run(*arguments: str, command: Callable[[list[str]], None] = entry.run_main) -> int:
    with pytest.raises(SystemExit) as caught:
        command(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def record(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "seeds.json").read_text(encoding="utf-8"))
    return loaded


def states(folder: Path) -> list[str]:
    return [run["state"] for run in record(folder)["runs"]]


def chosen(folder: Path) -> Path:
    return folder / str(record(folder)["chosen"]["folder"])


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "seeds.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return loaded


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, each in items for name, leaf in flat(each, f"{path}/{key}").items()}
    return {path: value}


def same_training(one: Path, two: Path) -> bool:
    """Whether networks, averages, optimizers, random states and data position are equal to the bit."""
    parts = "parts", "optimizers", "random", "stream", "iteration"
    first, second = (flat({part: checkpoint(run)[part] for part in parts}) for run in (one, two))
    assert first.keys() == second.keys()
    return all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds that were compared after 3 of 6 iterations."""
    folder = tmp_path_factory.mktemp("seeds") / "compared"
    assert run(*tiny(), "--seeds", "0-2", "--part", "0.5", "--out", str(folder)) == 0
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A plain run of each of these seeds."""
    folder = tmp_path_factory.mktemp("plain")
    for seed in range(3):
        assert run(*tiny(seed=seed), "--out", str(folder / str(seed))) == 0
    return {seed: folder / str(seed) for seed in range(3)}


@pytest.fixture
def copy(compared: Path, tmp_path: Path) -> Path:
    """A copy of the comparison, to be changed."""
    return Path(shutil.copytree(compared, tmp_path / "copy"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Counts the iterations of each seed."""
    iterate, count = Trainer.iterate, Counter[int]()

    def counted(self: Trainer) -> dict[str, torch.Tensor]:
        count[torch.initial_seed()] += 1
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", counted)
    return count


@pytest.fixture
def happens(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, Callable[[], None]], None]:
    """Lets something happen in an iteration of a seed, each time that the seed comes there."""

    def arrange(seed: int, iteration: int, action: Callable[[], None]) -> None:
        iterate = Trainer.iterate

        def changed(self: Trainer) -> dict[str, torch.Tensor]:
            terms = iterate(self)
            if (torch.initial_seed(), self.iteration) == (seed, iteration):
                action()
            return terms

        monkeypatch.setattr(Trainer, "iterate", changed)

    return arrange


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_the_chosen_run_has_the_bits_of_a_plain_run_of_its_seed(compared: Path, plain: dict[int, Path]) -> None:
    best = record(compared)["chosen"]["seed"]
    assert same_training(chosen(compared), plain[best])
    ends = [json.loads((run / "results.json").read_text())["metrics"] for run in (chosen(compared), plain[best])]
    assert ends[0] == ends[1]


def test_the_others_are_trained_for_a_part(compared: Path) -> None:
    best = record(compared)["chosen"]["seed"]
    assert states(compared) == ["finished" if seed == best else "compared" for seed in range(3)]
    assert [checkpoint(compared / f"seed-{seed}")["iteration"] for seed in range(3)] == [
        6 if seed == best else 3 for seed in range(3)
    ]
    top = {"seeds.json", "seeds.csv", "config.toml", ".lock", "seed-0", "seed-1", "seed-2"}
    assert {path.name for path in compared.iterdir()} == top


def test_the_best_score_without_labels_chooses(compared: Path) -> None:
    found = record(compared)
    scores = {each["seed"]: each["evaluations"][0]["metrics"]["silhouette"] for each in found["runs"]}
    assert [each["evaluations"][0]["iteration"] for each in found["runs"]] == [3, 3, 3]
    assert len({*scores.values()}) == 3
    assert found["chosen"]["seed"] == max(scores, key=lambda seed: scores[seed])
    assert found["chosen_by"] == {"score": "silhouette", "higher_is_better": True}
    assert (found["counted_at"], found["iterations"], found["all"]) == (3, 6, False)


def test_record_and_table_tell_mean_deviation_and_rank_correlation(compared: Path) -> None:
    found, rows = record(compared), table(compared)
    assert [row["seed"] for row in rows] == [
        *("0", "1", "2", "mean", "sd", "rank correlation with silhouette"),
        str(found["chosen"]["seed"]),
    ]
    assert [row["chosen"] for row in rows].count("yes") == 2
    assert (rows[-1]["iterations"], rows[-1]["state"]) == ("6", "finished")
    for name, spread in found["spreads"].items():
        values = [float(row[name]) for row in rows[:3]]
        assert spread["mean"] == pytest.approx(np.mean(values)) == float(rows[3][name])
        assert spread["sd"] == pytest.approx(np.std(values, ddof=1)) == float(rows[4][name])
        assert (spread["least"], spread["most"], spread["n"]) == (min(values), max(values), 3)
    assert {*found["label_scores"]} == {*LABEL_SCORES} == {*found["agreement"]}
    judge = [float(row["silhouette"]) for row in rows[:3]]
    for name in LABEL_SCORES:
        told, values = found["agreement"][name]["rank_correlation"], [float(row[name]) for row in rows[:3]]
        assert rows[5][name] == ("" if told is None else str(told))
        assert (told is None) == (len({*values}) == 1)
        assert told is None or told == pytest.approx(spearmanr(judge, values).statistic)
    assert rows[5]["silhouette"] == ""


def test_the_terminal_tells_the_scores_the_choice_and_the_next_command(
    compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--resume", str(compared)) == 0
    said, best = capsys.readouterr().out, record(compared)["chosen"]["seed"]
    assert re.search(r"^  score +seed 0 +seed 1 +seed 2 +mean +sd$", said, re.MULTILINE)
    assert re.search(r"^  acc( +\d\.\d{3}){5}$", said, re.MULTILINE)
    assert "rank correlation of silhouette" in said
    assert f"chosen by silhouette, without labels: seed {best}\n" in said
    assert f"mpcc evaluate {compared}/seed-{best}, mpcc predict {compared}/seed-{best}\n" in said


@pytest.mark.check
def test_labels_choose_nothing(compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Digits.load

    def with_other_labels(self: Digits, *arguments: Any, **named: Any) -> Any:
        data = load(self, *arguments, **named)
        assert data.labels is not None
        data.labels[:] = data.labels[torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(3))]
        return data

    monkeypatch.setattr(Digits, "load", with_other_labels)
    other = tmp_path / "other"
    assert run(*tiny(), "--seeds", "0-2", "--part", "0.5", "--out", str(other)) == 0
    assert record(other)["chosen"] == record(compared)["chosen"]
    assert record(other)["spreads"]["acc"] != record(compared)["spreads"]["acc"]
    for seed in range(3):
        assert same_training(other / f"seed-{seed}", compared / f"seed-{seed}")


def test_a_score_that_needs_labels_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*tiny(best_by="acc"), "--seeds", "3", "--out", str(tmp_path / "out")) == 2
    assert "--best-by acc: it needs labels" in capsys.readouterr().err
    assert run(*tiny(best_by="none"), "--seeds", "3", "--out", str(tmp_path / "out")) == 2
    assert "--seeds needs a score without labels" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seed", "iteration"),
    [
        *(pytest.param(*each, marks=pytest.mark.check) for each in [(0, 1), (1, 2), (2, 3), ("best", 4), ("best", 6)]),
        (1, 3),
    ],
)
def test_it_can_be_stopped_anywhere_and_goes_on(
    compared: Path,
    tmp_path: Path,
    happens: Callable[..., None],
    trained: Counter[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seed: int | str,
    iteration: int,
) -> None:
    at, sent = record(compared)["chosen"]["seed"] if seed == "best" else seed, []

    def stop() -> None:
        # Once only.
        if not sent:
            sent.append(1)
            signal.raise_signal(signal.SIGINT)

    happens(at, iteration, stop)
    folder = tmp_path / "stopped"
    assert run(*tiny(), "--seeds", "0-2", "--part", "0.5", "--out", str(folder)) == 130
    said = capsys.readouterr().err
    assert f"stopped at iteration {iteration}; continue with: mpcc-run --resume {folder}\n" in said
    assert run("--resume", str(folder)) == 0
    best = record(compared)["chosen"]["seed"]
    # No iteration is done twice.
    assert trained == {number: 6 if number == best else 3 for number in range(3)}
    ours, theirs = record(folder), record(compared)
    assert ours == theirs
    for number in range(3):
        assert same_training(folder / f"seed-{number}", compared / f"seed-{number}")


def test_a_process_that_is_interrupted_before_it_trains_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Digits, *arguments: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Digits, "load", interrupted)
    assert run(*tiny(), "--seeds", "2", "--out", str(tmp_path / "out")) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_seed_that_was_trained_but_not_recorded_is_not_trained_again(copy: Path, trained: Counter[int]) -> None:
    """As after a SIGKILL between the last checkpoint of a seed and the record."""
    before = record(copy)
    spoilt = json.loads(json.dumps(before))
    for each in spoilt["runs"]:
        each["evaluations"] = []
    (copy / "seeds.json").write_text(json.dumps(spoilt), encoding="utf-8")
    assert run("--resume", str(copy)) == 0
    assert not trained
    assert record(copy) == before


@pytest.mark.check
def test_it_goes_on_after_a_kill(compared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    program = "import sys; from mpcc.core.commands.entry import run_main; run_main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *tiny(), "--seeds", "0-2", "--part", "0.5", "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "seed-1" / "config.toml").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert run("--resume", str(folder)) == 0
    assert record(folder) == record(compared)
    assert same_training(chosen(folder), chosen(compared))


def test_a_seed_that_diverges_is_recorded_and_the_others_go_on(
    plain: dict[int, Path],
    tmp_path: Path,
    happens: Callable[..., None],
    trained: Counter[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    happens(1, 2, failing(TrainingDiverged("the loss is not finite")))
    folder = tmp_path / "out"
    assert run(*tiny(), "--seeds", "0-2", "--part", "0.5", "--out", str(folder)) == 3
    said = capsys.readouterr()
    assert "mpcc-run: error: 1 of 3 seeds failed (1), see above\n" in said.err
    assert "seed 1 failed: the loss is not finite" in said.out
    failure = record(folder)["runs"][1]["failure"]
    assert (failure["status"], failure["final"]) == (3, True)
    assert states(folder)[1] == "failed"
    assert "finished" in states(folder)
    best = record(folder)["chosen"]["seed"]
    assert same_training(chosen(folder), plain[best])
    assert record(folder)["spreads"]["acc"]["n"] == 2
    # The same numbers would diverge again.
    trained.clear()
    assert run("--resume", str(folder)) == 3
    assert not trained


@pytest.mark.check
def test_a_seed_whose_plugin_fails_is_tried_again(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happens: Callable[..., None]
) -> None:
    folder = tmp_path / "out"
    with monkeypatch.context():
        happens(1, 2, failing(PluginError("prior x: broken")))
        assert run(*tiny(), "--seeds", "0-2", "--part", "0.5", "--out", str(folder)) == 2
        assert record(folder)["runs"][1]["failure"]["reason"].startswith("prior x: broken")
        monkeypatch.undo()
    assert run("--resume", str(folder)) == 0
    found, expected = record(folder), record(compared)
    assert found["chosen"] == expected["chosen"]
    assert found["spreads"] == expected["spreads"]
    assert same_training(chosen(folder), chosen(compared))


@pytest.mark.check
def test_if_the_chosen_seed_fails_the_next_best_one_is_chosen(
    compared: Path, plain: dict[int, Path], tmp_path: Path, happens: Callable[..., None]
) -> None:
    scores = {each["seed"]: each["evaluations"][0]["metrics"]["silhouette"] for each in record(compared)["runs"]}
    best, second, _ = sorted(scores, key=lambda seed: -scores[seed])
    happens(best, 5, failing(TrainingDiverged("not finite")))
    folder = tmp_path / "out"
    assert run(*tiny(), "--seeds", "0-2", "--part", "0.5", "--out", str(folder)) == 3
    assert record(folder)["chosen"]["seed"] == second
    assert states(folder)[best] == "failed"
    assert same_training(folder / f"seed-{second}", plain[second])
    # What was compared stays in the spreads.
    assert record(folder)["spreads"]["acc"]["n"] == 3


def test_if_all_seeds_fail_nothing_is_chosen(
    tmp_path: Path, happens: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        happens(seed, 1, failing(TrainingDiverged("not finite")))
    folder = tmp_path / "out"
    assert run(*tiny(), "--seeds", "2", "--out", str(folder)) == 3
    assert record(folder)["chosen"] is None
    assert "2 of 2 seeds failed (0, 1)" in capsys.readouterr().err
    assert run("evaluate", str(folder), command=entry.main) == 2
    assert f"go on with mpcc-run --resume {folder}" in capsys.readouterr().err


def test_a_first_seed_that_cannot_begin_is_an_error_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(tmp_path / "none")
    assert run("--data", "folder", "--data.path", where, "--seeds", "2", "--out", str(tmp_path / "out")) == 2
    assert where in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.check
def test_all_trains_every_seed_to_the_end(plain: dict[int, Path], tmp_path: Path) -> None:
    folder = tmp_path / "all"
    assert run(*tiny(), "--seeds", "3", "--all", "--out", str(folder)) == 0
    found = record(folder)
    assert states(folder) == ["finished"] * 3
    ends = {seed: json.loads((plain[seed] / "results.json").read_text())["metrics"] for seed in plain}
    for seed in range(3):
        assert same_training(folder / f"seed-{seed}", plain[seed])
        assert [each["iteration"] for each in found["runs"][seed]["evaluations"]] == [6]
        assert found["runs"][seed]["evaluations"][0]["metrics"] == ends[seed]
    for name in LABEL_SCORES:
        values = [ends[seed][name] for seed in ends]
        assert found["spreads"][name]["mean"] == pytest.approx(np.mean(values))
        assert found["spreads"][name]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert found["chosen"]["seed"] == max(ends, key=lambda seed: ends[seed]["silhouette"])
    assert [row["seed"] for row in table(folder)][-1] == "rank correlation with silhouette"


def test_images_that_are_gone_are_one_error_and_can_be_named_anew(
    tmp_path: Path, happens: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "scans.npz", images=np.arange(40 * 64, dtype=np.uint32).reshape(40, 8, 8).astype(np.uint8))
    folder, moved = tmp_path / "out", tmp_path / "moved.npz"
    happens(1, 1, lambda: signal.raise_signal(signal.SIGTERM))
    data = "--data", str(tmp_path / "scans.npz"), "--clusters", "3"
    assert run(*tiny(iterations=4), *data, "--seeds", "3", "--out", str(folder)) == 130
    (tmp_path / "scans.npz").rename(moved)
    before = (folder / "seeds.json").read_bytes()
    capsys.readouterr()
    assert run("--resume", str(folder)) == 2
    assert capsys.readouterr().err.count("scans.npz") == 1
    assert (folder / "seeds.json").read_bytes() == before
    assert run("--resume", str(folder), "--data.path", str(moved)) == 0
    assert "failed" not in states(folder)
    # Without labels there is nothing to agree with.
    assert record(folder)["agreement"] == {}
    assert "rank correlation" not in capsys.readouterr().out


def test_a_seed_that_the_user_took_past_the_comparison_is_recorded_as_failed(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = record(copy)
    best = changed["chosen"]["seed"]
    changed["runs"][best]["evaluations"] = []
    (copy / "seeds.json").write_text(json.dumps(changed), encoding="utf-8")
    lines = (copy / f"seed-{best}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (copy / f"seed-{best}" / "metrics.jsonl").write_text(lines[1] + "\n", encoding="utf-8")
    assert run("--resume", str(copy)) == 2
    assert (
        f"has been trained to iteration 6 and has no scores of iteration 3, where seeds are compared: delete it, "
        f"then: mpcc-run --resume {copy}" in capsys.readouterr().out
    )
    assert (states(copy)[best], record(copy)["chosen"]["seed"] != best) == ("failed", True)
    shutil.rmtree(copy / f"seed-{best}")
    assert run("--resume", str(copy)) == 0
    assert record(copy)["chosen"]["seed"] == best


def test_all_needs_no_score_to_choose_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "all"
    assert run(*tiny(best_by="none", iterations=1), "--seeds", "2", "--all", "--out", str(folder)) == 0
    assert record(folder)["chosen"] is None
    assert "chosen" not in capsys.readouterr().out


@pytest.mark.check
def test_a_comparison_can_go_on_with_all_seeds_and_to_a_later_end(
    copy: Path, plain: dict[int, Path], trained: Counter[int]
) -> None:
    assert run("--resume", str(copy), "--all") == 0
    best = record(copy)["chosen"]["seed"]
    assert states(copy) == ["finished"] * 3
    assert sum(trained.values()) == 6
    for seed in range(3):
        assert same_training(copy / f"seed-{seed}", plain[seed])
    assert record(copy)["counted_at"] == 6
    assert run("--resume", str(copy), "--iterations", "7") == 0
    assert [checkpoint(copy / f"seed-{seed}")["iteration"] for seed in range(3)] == [7, 7, 7]
    assert best in range(3)


def test_what_would_change_the_scores_cannot_change(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, said in {
        ("--eval-images", "70"): "--eval-images cannot change",
        ("--best-by", "kept_information"): "--best-by cannot change",
        ("--seed", "7"): "--seed cannot change",
        ("--iterations", "5"): "nearest valid choice: --iterations 6",
        ("--seeds", "4"): "leave out --seeds",
        ("--part", "0.4"): "leave out --part",
        ("--out", "x"): "leave out --out",
    }.items():
        assert run("--resume", str(compared), *flags) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "predict", "export"])
def test_other_commands_take_the_chosen_run(copy: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, str(copy), command=entry.main) == 0
    assert capsys.readouterr().out.startswith(str(chosen(copy)))


def test_without_a_finished_one_other_commands_say_which_can_be_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = record(copy)
    best = changed["chosen"]["seed"]
    del changed["runs"][best]["evaluations"][1]
    (copy / "seeds.json").write_text(json.dumps(changed), encoding="utf-8")
    assert run("predict", str(copy), command=entry.main) == 2
    said = capsys.readouterr().err
    assert f"go on with mpcc-run --resume {copy}, or name the folder of a seed, such as {copy}/seed-{best}" in said


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"runs": []}', "[" * 100_000])
def test_a_damaged_record_is_one_line(copy: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "seeds.json").write_text(text, encoding="utf-8")
    for arguments, command in ((("--resume", str(copy)), entry.run_main), (("evaluate", str(copy)), entry.main)):
        assert run(*arguments, command=command) == 2
        said = capsys.readouterr().err
        assert "seeds.json is damaged: expected the record of a comparison of seeds" in said
        assert said.count("\n") == 1


def test_each_seed_has_its_own_curves(compared: Path) -> None:
    for seed in range(3):
        events = EventAccumulator(str(compared / f"seed-{seed}"))
        events.Reload()
        assert any("silhouette" in name for name in events.Tags()["scalars"])


def test_a_dry_run_says_what_would_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*tiny(), "--seeds", "3,7", "--part", "0.5", "--out", str(tmp_path / "out"), "--dry-run") == 0
    said = capsys.readouterr().out
    plan = "2 seeds (3, 7): each for 3 of 6 iterations, then the best one to the end; 1.5 times the work of one run"
    assert said.endswith(f"# {plan}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_time_to_go_is_that_until_seeds_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pace, "ESTIMATED_AFTER", 0)
    assert run(*tiny(), "--seeds", "0,", "--part", "0.6", "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr().err
    assert "iteration 3/4: " in said
    assert "iteration 3/6: " not in said


@pytest.mark.check
def test_minutes_are_those_of_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    arguments = [each for each in tiny() if not each.startswith(("--iterations", "--eval-every"))]
    assert run(*arguments, "--seeds", "2", "--part", "0.5", "--minutes", "0.4", "--out", str(folder)) == 0
    assert (
        "2 seeds (0, 1) in 0.4 minutes: each for 0.5 of its iterations, then the best one to the end"
        in capsys.readouterr().err
    )
    found = record(folder)
    assert found["compared_at"] == -(-found["iterations"] // 2)
    assert sorted(states(folder)) == ["compared", "finished"]
    settings = [
        tomllib.loads((place / "config.toml").read_text(encoding="utf-8"))["run"]
        for place in (folder, folder / "seed-0", folder / "seed-1")
    ]
    assert {each["iterations"] for each in settings} == {found["iterations"]}
    assert not any("minutes" in each for each in settings)
    assert run("--resume", str(folder), "--minutes", "1") == 2
    assert "--minutes cannot change" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", (0, 1, 2, 3, 4)),
        ("0-4", (0, 1, 2, 3, 4)),
        ("3,7,9", (3, 7, 9)),
        ("7,", (7,)),
        ("7-7", (7,)),
        ("0-2, 9", (0, 1, 2, 9)),
        ("9,0-2", (9, 0, 1, 2)),
        (str(2**63 - 1) + ",", (2**63 - 1,)),
    ],
)
def test_seeds_are_a_number_a_range_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seeds", "4-0"), "--seeds '4-0': a range rises; nearest valid choice: --seeds 0-4"),
        (("--seeds", "0"), "expected at least one seed; nearest valid choice: --seeds 1"),
        (("--seeds", "3,3"), "seed 3 is named twice; nearest valid choice: --seeds 3,"),
        (("--seeds", "0-3,2"), "seed 2 is named twice; nearest valid choice: --seeds 0-3"),
        (("--seeds", "5,3,5"), "seed 5 is named twice; nearest valid choice: --seeds 5,3"),
        (("--seeds", "1..4"), "got '1..4'; nearest valid choice: --seeds 1-4"),
        (("--seeds", "some"), "expected a number of seeds such as 5, a range such as 0-4, or a list such as 3,7,9"),
        (("--seeds=-1",), "got '-1'; nearest valid choice: --seeds 1"),
        (("--seeds", "1.5"), "got '1.5'"),
        (("--seeds", ""), "got ''"),
        (("--seeds", "0-"), "got '0-'; nearest valid choice: --seeds 0,"),
        (("--seeds", "5000x"), "got '5000x'; nearest valid choice: --seeds 5000,"),
        (("--seeds", "1,,2"), "got ''; nearest valid choice: --seeds 1,2"),
        (("--seeds", "0-2,x7,9y"), "got 'x7'; nearest valid choice: --seeds 0-2,7,9"),
        (("--seeds", "0-2,9-7"), "a range rises; nearest valid choice: --seeds 0-2,7-9"),
        (("--seeds", "0-9,100-5000"), "expected at most 1000 seeds; nearest valid choice: --seeds 0-9,100-1089"),
        (("--seeds", "٣,"), "got '٣'"),
        (("--seeds", "100000000000000000000000"), "nearest valid choice: --seeds"),
        (("--seeds", "2000"), "expected at most 1000 seeds; nearest valid choice: --seeds 0-999"),
        (("--seeds", f"{2**63},"), f"nearest valid choice: --seeds {2**63 - 1},"),
        (("--seeds", "0-4", "--seed", "3"), "--seeds 0-4 and --seed 3 contradict each other: leave one of them out"),
        (("--seed", "0-4"), "to compare several seeds: --seeds 0-4"),
        (("--seeds", "3", "--part", "0"), "--part: the value must be > 0"),
        (("--seeds", "3", "--part", "1.5"), "--part: the value must be <= 1"),
        (("--seeds", "3", "--part", "0.5", "--all"), "--all trains every seed to the end: leave out --part"),
        (("--part", "0.5"), "--part 0.5 belongs to --seeds: expected both, such as --seeds 5 --part 0.5"),
        (("--all",), "--all belongs to --seeds: expected both, such as --seeds 5 --all"),
        (("--sedes", "3"), "did you mean '--seeds'?"),
    ],
)
def test_an_error_is_one_line_with_the_nearest_valid_choice(
    arguments: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_agreement_is_one_if_both_scores_order_the_runs_alike() -> None:
    scores = [{"error": 0.4, "acc": 0.1}, {"error": 0.3, "acc": 0.5}, {"error": 0.1, "acc": 0.6}, {"error": 0.2}]
    found = agreement(scores, "error", {"acc": True, "absent": True}, higher=False)
    assert found == {"acc": {"rank_correlation": 1.0, "n": 3, "by_chance": pytest.approx(2**-0.5, abs=1e-6)}}
    generator = np.random.default_rng(0)
    values = generator.normal(size=(50, 2)) @ [[1.0, 0.6], [0.0, 1.0]]
    scores = [{"a": one, "b": two} for one, two in values]
    (told,) = agreement(scores, "a", {"b": True}, higher=True).values()
    # Without ties: 1 - 6 sum d^2 / (n (n^2 - 1)).
    ranks = values.argsort(axis=0).argsort(axis=0)
    assert told["rank_correlation"] == pytest.approx(1 - 6 * ((ranks[:, 0] - ranks[:, 1]) ** 2).sum() / (50 * 2499))


def test_the_spread_of_chance_is_that_of_scores_that_have_nothing_to_do_with_each_other() -> None:
    generator = np.random.default_rng(0)
    drawn = [
        agreement([{"a": x, "b": y} for x, y in generator.normal(size=(6, 2))], "a", {"b": True}, higher=True)["b"]
        for _ in range(400)
    ]
    values = np.array([each["rank_correlation"] for each in drawn])
    # Its own standard error is about sd / sqrt(2 n).
    assert values.std() == pytest.approx(drawn[0]["by_chance"], abs=4 * drawn[0]["by_chance"] / 800**0.5)


def test_a_score_that_is_missing_chooses_nothing() -> None:
    runs = [SeedRun(0, {3: {"other": 1.0}}), SeedRun(1, {3: {"judge": 0.2}}), SeedRun(2, {3: {"judge": 0.1}})]
    found = SeedRecord(runs, 6, 3, False, "judge", False, {})
    assert found.chosen() is runs[2]
    found.higher = True
    assert found.chosen() is runs[1]
    runs[1].error = "failed"
    assert found.chosen() is runs[2]


@pytest.mark.parametrize("higher", [True, False])
def test_of_seeds_with_equal_scores_the_first_is_taken(higher: bool) -> None:
    sign = 1 if higher else -1
    values = [0.1, 0.3, 0.3, 0.2]
    runs = [SeedRun(seed, {3: {"judge": sign * value}}) for seed, value in enumerate(values)]
    found = SeedRecord(runs, 6, 3, False, "judge", higher, {})
    assert found.best() == runs[1:3]
    assert found.chosen() is runs[1]


def test_the_terminal_tells_that_seeds_cannot_be_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # With so little training, all images are in one cluster, and the score is 0.
    flags = tiny(iterations=1, best_by="kept_information", metrics="kept_information")
    assert run(*flags, "--seeds", "2", "--all", "--out", str(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "chosen by kept_information, without labels: seed 0\n2 seeds share the best kept_information: " in said


def test_a_record_that_is_read_equals_the_one_that_was_written(tmp_path: Path) -> None:
    runs = [SeedRun(4, {3: {"a": 0.1}, 6: {"a": 0.2}}), SeedRun(2, {}, "broken", 3, True)]
    written = SeedRecord(runs, 6, 3, False, "a", True, {"acc": True})
    written.write(tmp_path)
    assert SeedRecord.read(tmp_path) == written
    (tmp_path / "seeds.json").unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        SeedRecord.read(tmp_path)
