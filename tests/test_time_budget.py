"""``--minutes``: what it comes to, who wins against it, and that the run repeats and resumes as any other.

No test waits for a clock: costs are given, or a machine is imitated that moves the clock itself.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcc.core.commands import entry
from mpcc.core.config import Layer, RunConfig, RunSettings, resolve
from mpcc.core.errors import InvalidInput
from mpcc.core.registry import load_registry
from mpcc.core.reporting.pace import Pace
from mpcc.core.run import run as run_module
from mpcc.core.run.costs import Copy, Costs, measure
from mpcc.core.run.due import due_after, evaluations_left, next_evaluation
from mpcc.core.run.time_budget import Budget, budgeted

TINY = [
    *("--arch.width=1", "--batch=10", "--latent-dim=3", "--d-steps=1", "--e-steps=2", "--device=cpu", "--threads=1"),
    *("--metrics=acc,kept_information", "--eval-images=60", "--standing-passes=2"),
]
# Six iterations of a minute: what a test itself takes changes nothing.
SIX = Costs(iteration=60.0, evaluation=0.1, image=1e-4, standing_pass=1e-3, checkpoint=0.01)
SIX_MINUTES = 6.7
# A preset of its own: those of the data sets change with what is learned about them.
QUICK = {"iterations": 1500, "lr_decay": 0.2, "ema_decay": 0.99, "ema_start": 200, "eval_every": 500}
REGISTRY = load_registry(())


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        entry.run_main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def written(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return loaded


def evaluated(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["iteration"] for line in lines]


def state(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return loaded


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for key, each in items for name, leaf in leaves(each, f"{path}/{key}").items()}
    return {path: value}


def same_training(one: Path, two: Path) -> bool:
    parts = "parts", "optimizers", "random", "stream", "iteration"
    first, second = (leaves({part: state(folder)[part] for part in parts}) for folder in (one, two))
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name]
        for name, value in first.items()
    )


@pytest.fixture
def costing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Costs], None]:
    """Gives the machine certain costs; the copy of the run is measured all the same, as it must leave no trace."""

    def arrange(costs: Costs) -> None:
        def measured(copy: Copy, limit: float) -> Costs:
            found = measure(copy, 0.0)
            assert found.iteration > 0
            assert found.checkpoint > 0
            return costs

        monkeypatch.setattr(run_module, "measure", measured)

    return arrange


# What the costs come to.


def config_of(*, flags: dict[str, Any] | None = None, file: dict[str, Any] | None = None, **preset: Any) -> RunConfig:
    layers = [Layer("preset quick", {"run": {**QUICK, **preset}}, strict=False)]
    layers += [Layer("my.toml", {"run": file})] if file else []
    return resolve(REGISTRY, [*layers, Layer("flag", {"run": {"minutes": 10, **(flags or {})}})], "none")


def came_to(costs: Costs, *, before: float = 10.0, images: int = 70_000, **given: Any) -> tuple[RunSettings, Budget]:
    config, budget = budgeted(config_of(**given), costs, before=before, images=images)
    assert config.run.minutes is None
    return config.run, budget


def seconds_of(run: RunSettings, costs: Costs, images: int) -> tuple[float, float]:
    """Return the seconds of a whole training, and of its evaluations, from the settings alone."""
    number = evaluations_left(0, run)
    count = images if run.eval_images == "all" else min(int(run.eval_images), images)
    evaluations = number * costs.of_evaluation(count, run.standing_passes)
    assert isinstance(run.checkpoint_every, int)
    saved = (number + run.iterations // run.checkpoint_every) * costs.checkpoint
    return run.iterations * costs.iteration + evaluations + saved, evaluations


MNIST = Costs(iteration=0.8, start=1.0, evaluation=0.4, image=0.004, standing_pass=0.2, checkpoint=0.3)


def test_ten_minutes_are_filled_with_iterations_and_evaluations() -> None:
    run, budget = came_to(MNIST)
    whole, evaluations = seconds_of(run, MNIST, 70_000)
    assert 0.95 * 600 < 10 + MNIST.start + whole <= 600
    assert evaluations <= 0.1 * 600
    assert (run.lr_decay, evaluations_left(0, run)) == (0.2, 4)
    assert 120 <= next_evaluation(0, run) * MNIST.iteration < 150
    assert 200 <= int(run.eval_images) < 70_000
    assert int(run.eval_images) % 100 == 0
    assert 2 <= run.standing_passes <= 16
    # The average remembers a twentieth of the run.
    assert 1 / (1 - run.ema_decay) == pytest.approx(run.iterations / 20, rel=1e-3)
    assert run.ema_start == run.iterations // 10
    said = re.fullmatch(
        rf"10 minutes: {run.iterations} iterations at 0\.8 s, 4 evaluations of {run.eval_images:,} images; that is too "
        r"short, clusters need 1,000 or more: take --minutes \d+; the 1,500 of preset quick need about 21 minutes here",
        budget.line,
    )
    assert said is not None, budget.line


def test_a_budget_that_is_too_short_says_which_one_is_enough() -> None:
    _, short = came_to(MNIST)
    asked = int(re.findall(r"take --minutes (\d+)", short.line)[0])
    _, enough = came_to(MNIST, flags={"minutes": asked})
    assert enough.iterations >= 1000
    assert "too short" not in enough.line


def test_the_example_of_the_readme_is_what_a_run_says(repository: Path) -> None:
    flags = {"run": {"minutes": 10, "device": "cpu"}, "data": {"name": "folder", "path": str(repository)}}
    costs = Costs(iteration=0.2, start=1.0, evaluation=0.5, image=2e-3, standing_pass=0.04, checkpoint=0.1)
    _, budget = budgeted(resolve(REGISTRY, [Layer("flag", flags)]), costs, before=30.0, images=1500)
    assert f"\n    {budget.line}\n" in (repository / "README.md").read_text(encoding="utf-8")


def test_hours_have_an_early_evaluation_and_then_ten() -> None:
    run, _ = came_to(MNIST, flags={"minutes": 240})
    assert run.first_eval == 150
    assert next_evaluation(0, run) == 150
    assert evaluations_left(0, run) == 11
    whole, evaluations = seconds_of(run, MNIST, 70_000)
    assert 0.95 * 240 * 60 < whole <= 240 * 60
    assert evaluations <= 0.1 * 240 * 60


def test_a_short_run_is_evaluated_at_half_time() -> None:
    run, _ = came_to(attrs.evolve(MNIST, iteration=0.05), flags={"minutes": 2})
    assert (run.first_eval, evaluations_left(0, run)) == (None, 2)
    assert next_evaluation(0, run) == -(-run.iterations // 2)


def test_the_first_evaluation_waits_for_three_iterations() -> None:
    run, budget = came_to(attrs.evolve(MNIST, iteration=90.0))
    assert (run.iterations, run.first_eval, run.eval_every, run.log_every, run.ema_decay) == (5, 3, 5, 1, 0.0)
    assert budget.evaluations == 2


def test_costly_evaluations_are_fewer() -> None:
    counts = [came_to(attrs.evolve(MNIST, evaluation=seconds))[1].evaluations for seconds in (1, 35, 50, 100, 400)]
    assert counts == [4, 3, 2, 1, 1]


def test_a_small_set_is_evaluated_whole() -> None:
    run, budget = came_to(MNIST, images=1500)
    assert (run.eval_images, run.standing_passes, budget.images) == ("all", 16, 1500)


@pytest.mark.parametrize("name", [None, "balance_weight", "consistency_weight"])
def test_terms_on_real_images_rise_within_a_share_of_the_run(name: str | None) -> None:
    weights = {} if name is None else {name: 1, "invariant_to": "shift"}
    run, _ = came_to(MNIST, flags=weights)
    assert run.real_terms_rise == (200 if name is None else -(-15 * run.iterations // 100))
    longer, _ = came_to(attrs.evolve(MNIST, iteration=0.01), flags=weights)
    assert longer.real_terms_rise == 200


def test_a_shorter_run_is_fitted_after_as_many_iterations_and_a_longer_one_after_the_same_share() -> None:
    intended = config_of().run.iterations
    for iteration in (0.01, 0.3, 1.0, 10.0):
        run, _ = came_to(attrs.evolve(MNIST, iteration=iteration), flags={"prior_fit": 0.3})
        assert run.prior_fit == 0.3  # typed
        run, _ = came_to(attrs.evolve(MNIST, iteration=iteration), prior_fit=0.3)
        expected = min(max(0.3, 0.3 * intended / run.iterations), 0.6)
        assert run.prior_fit == pytest.approx(expected, abs=1e-3)
        # A fit stays well before the second one.
        run, _ = came_to(attrs.evolve(MNIST, iteration=iteration), prior_fit=0.3, prior_refit=0.5)
        assert run.prior_fit == pytest.approx(min(expected, 0.4), abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    minutes=st.floats(0.2, 3000),
    iteration=st.floats(1e-3, 100),
    evaluation=st.floats(0, 10),
    image=st.floats(0, 0.1),
    standing_pass=st.floats(0, 3),
    checkpoint=st.floats(0, 5),
    images=st.integers(2, 10**6),
    every=st.none() | st.integers(1, 10_000),
)
def test_whatever_the_costs_the_run_is_not_longer_than_the_budget(
    minutes: float,
    iteration: float,
    evaluation: float,
    image: float,
    standing_pass: float,
    checkpoint: float,
    images: int,
    every: int | None,
) -> None:
    costs = Costs(iteration, 0.0, evaluation, image, standing_pass, checkpoint)
    typed = {} if every is None else {"eval_every": every}
    try:
        run, budget = came_to(costs, before=1.0, images=images, flags={"minutes": minutes, **typed})
    except InvalidInput as error:
        nearest = float(str(error).rpartition("--minutes ")[2])
        assert minutes < nearest
        came_to(costs, before=1.0, images=images, flags={"minutes": nearest, **typed})
        return
    whole, evaluations = seconds_of(run, costs, images)
    assert 1 + whole <= 60 * minutes + 1e-6
    assert budget.evaluations == evaluations_left(0, run)
    if budget.evaluations > 1 and every is None:
        assert evaluations <= 0.2 * min(60 * minutes, 600) + 0.1 * max(60 * minutes - 600, 0) + 1e-6
        assert next_evaluation(0, run) >= 3


# What is measured.


class Machine:
    """A machine that takes known times, and moves its own clock."""

    def __init__(self, costs: Costs, settling: float = 0.0) -> None:
        self.costs, self.now, self.settling = costs, 0.0, settling

    def clock(self) -> float:
        return self.now

    def iterate(self) -> None:
        self.now += self.costs.iteration + self.settling
        self.settling = 0.0

    def evaluate(self, images: int, passes: int) -> None:
        self.now += self.costs.of_evaluation(images, passes)

    def serialise(self) -> None:
        self.now += self.costs.checkpoint / 2

    def copy(self, images: int, passes: int = 16) -> Copy:
        return Copy(self.iterate, self.evaluate, self.serialise, images, passes, built_in=2.0, settling=3)


@pytest.mark.parametrize("iteration", [0.01, 40.0])
def test_the_measured_costs_are_those_of_the_machine(iteration: float) -> None:
    machine = Machine(attrs.evolve(MNIST, iteration=iteration), settling=7.0)
    found = measure(machine.copy(70_000), 18.0, machine.clock)
    expected = attrs.evolve(MNIST, iteration=iteration, start=9.0)
    assert attrs.astuple(found) == pytest.approx(attrs.astuple(expected))
    # One iteration is timed, whatever it takes; evaluations take about as long as the iterations may.
    assert machine.now < 7 + 4 * iteration + max(18 + iteration, iteration) + 2 * 18


def test_a_set_of_few_images_is_measured_whole() -> None:
    machine = Machine(MNIST)
    found = measure(machine.copy(60, passes=1), 1.0, machine.clock)
    assert found.of_evaluation(60, 1) == pytest.approx(MNIST.of_evaluation(60, 1))


# Runs.


@pytest.mark.check
def test_the_run_repeats_from_its_configuration_and_resumes_to_the_same_bits(
    tmp_path: Path,
    costing: Callable[[Costs], None],
    before: Callable[[int, Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    costing(SIX)
    first, again, stopped = (tmp_path / name for name in ("first", "again", "stopped"))
    assert run(*TINY, "--minutes", str(SIX_MINUTES), "--out", str(first)) == 0
    usual = REGISTRY.presets["digits"]["run"]["iterations"]
    err = capsys.readouterr().err
    assert "6.7 minutes: 6 iterations at 60 s, 2 evaluations of 60 images; that is too short" in err
    assert f"; the {usual:,} of preset digits" in err
    assert written(first)["run"].keys() >= {"iterations", "eval_every", "ema_decay"}
    assert "minutes" not in written(first)["run"]
    assert (first / "config.toml").read_text().startswith("# --minutes 6.7 came to these values, at 60 s an iteration")
    assert results(first)["iterations"] == 6
    assert results(first)["budget"] == {
        **{"minutes": 6.7, "iterations": 6, "seconds_per_iteration": 60.0, "evaluations": 2},
        **{
            "seconds_before_training": pytest.approx(15, abs=15),
            "seconds_per_evaluation": 0.108,
        },
    }
    assert evaluated(first) == [3, 6]
    # It measures nothing.
    costing(Costs(iteration=1e9))
    assert run("--config", str(first / "config.toml"), "--out", str(again)) == 0
    assert same_training(first, again)
    assert written(again) == written(first)
    assert "budget" not in results(again)
    assert (again / "metrics.jsonl").read_bytes() == (first / "metrics.jsonl").read_bytes()
    costing(SIX)

    def interrupt() -> None:
        raise KeyboardInterrupt

    before(5, interrupt)
    killed = [*TINY, "--checkpoint-every", "2", "--minutes", str(SIX_MINUTES), "--out", str(stopped)]
    assert run(*killed) == 130
    assert state(stopped)["iteration"] == 4
    assert run("--resume", str(stopped)) == 0
    assert same_training(first, stopped)
    assert results(stopped)["budget"]["iterations"] == 6
    assert (stopped / "config.toml").read_text().startswith("# --minutes 6.7")


def test_resuming_for_some_minutes_adds_iterations_and_changes_nothing_else(
    tmp_path: Path, costing: Callable[[Costs], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    typed = ["--iterations=3", "--eval-every=2", "--lr-decay=0"]
    assert run(*TINY, *typed, "--out", str(folder)) == 0
    earlier = written(folder)
    costing(SIX)
    assert run("--resume", str(folder), "--minutes", str(SIX_MINUTES)) == 0
    assert "6.7 more minutes: 6 more iterations at 60 s, 4 evaluations of 60 images, to iteration 9" in (
        capsys.readouterr().err
    )
    assert evaluated(folder) == [2, 3, 4, 6, 8, 9]
    assert written(folder) == {**earlier, "run": {**earlier["run"], "iterations": 9}}
    assert results(folder)["budget"]["minutes"] == 6.7


def test_a_dry_run_prints_what_the_minutes_come_to(
    tmp_path: Path,
    costing: Callable[[Costs], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    costing(SIX)
    monkeypatch.chdir(tmp_path)
    assert run(*TINY, "--minutes", str(SIX_MINUTES), "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith("# digits: 1797 images of scikit-learn\n# --minutes 6.7 came to these values")
    shown = tomllib.loads(out)["run"]
    assert (shown["iterations"], shown["eval_every"], shown["eval_images"]) == (6, 3, 60)
    assert "minutes" not in shown
    (line,) = (line for line in out.splitlines() if line.startswith("iterations = "))
    assert line.endswith("# 6.7 minutes")
    assert "multiplications and additions" in out
    assert list(tmp_path.iterdir()) == []


# Who wins.


def test_what_the_user_typed_wins() -> None:
    typed = {"eval_every": 7, "ema_decay": 0.5, "standing_passes": 3, "log_every": 9}
    for place in ("flags", "file"):
        run, _ = came_to(MNIST, **{place: typed})
        assert {name: getattr(run, name) for name in typed} == typed
        assert run.iterations < 1500
        assert run.ema_start == run.iterations // 10
    # A preset has been typed by nobody.
    run, _ = came_to(MNIST, eval_every=7, iterations=99)
    assert run.eval_every > 7


def test_minutes_given_later_set_a_runs_own_configuration_anew() -> None:
    of_a_run = {
        **{"iterations": 6, "ema_start": 1, "ema_decay": 0.1, "real_terms_rise": 5, "eval_every": 3},
        **{"eval_images": 50, "standing_passes": 1, "checkpoint_every": 6, "log_every": 1, "first_eval": 2},
    }
    run, _ = came_to(MNIST, file=of_a_run)
    assert run.iterations > 500
    assert run.eval_every > 100
    assert run.first_eval is None
    run, _ = came_to(MNIST, file=of_a_run, flags={"eval_every": 11})
    assert run.eval_every == 11
    run, _ = came_to(attrs.evolve(MNIST, iteration=10.0), file={**of_a_run, "iterations": 6000, "prior_fit": 0.3})
    assert run.prior_fit == 0.6


def test_minutes_and_iterations_in_one_place_contradict_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra in ([], ["--dry-run"]):
        assert run("--minutes", "10", "--iterations", "500", *extra) == 2
        assert capsys.readouterr().err == (
            "mpcc-run: error: --minutes 10 sets the number of iterations, and --iterations 500 is another: expected "
            "one of the two; leave the other out\n"
        )
    file = tmp_path / "my.toml"
    file.write_text("[run]\nminutes = 10\niterations = 500\n", encoding="utf-8")
    assert run("--config", str(file), "--dry-run") == 2
    assert f"{file}: run.minutes 10 sets the number of iterations" in capsys.readouterr().err


def test_the_later_of_minutes_and_iterations_counts(
    tmp_path: Path, costing: Callable[[Costs], None], capsys: pytest.CaptureFixture[str]
) -> None:
    costing(SIX)
    file = tmp_path / "my.toml"
    file.write_text("[run]\nminutes = 6.7\n", encoding="utf-8")
    assert run(*TINY, "--config", str(file), "--dry-run") == 0
    assert tomllib.loads(capsys.readouterr().out)["run"]["iterations"] == 6
    assert run(*TINY, "--config", str(file), "--iterations", "8", "--dry-run") == 0
    output = capsys.readouterr()
    assert tomllib.loads(output.out)["run"]["iterations"] == 8
    assert "iterations 8 (flag) replace minutes 6.7" in output.err
    file.write_text("[run]\niterations = 500\n", encoding="utf-8")
    assert run(*TINY, "--config", str(file), "--minutes", "6.7", "--dry-run") == 0
    assert tomllib.loads(capsys.readouterr().out)["run"]["iterations"] == 6


# Mistakes.


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "10min", ""])
def test_a_bad_number_of_minutes_is_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"--minutes={value}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mpcc-run: error: --minutes: ")


def test_too_few_minutes_are_told_with_the_nearest_choice(
    tmp_path: Path, costing: Callable[[Costs], None], capsys: pytest.CaptureFixture[str]
) -> None:
    costing(SIX)
    assert run(*TINY, "--minutes", "0.5", "--out", str(tmp_path / "run")) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mpcc-run: error: --minutes 0.5 is too short: the start took ")
    assert "an iteration takes 60 s" in line
    assert not (tmp_path / "run").exists()
    nearest = line.rpartition("nearest valid choice: --minutes ")[2]
    assert run(*TINY, "--minutes", nearest, "--out", str(tmp_path / "run")) == 0
    assert results(tmp_path / "run")["iterations"] == 1


def test_too_few_minutes_for_several_seeds_are_told_with_a_choice_that_is_enough(
    tmp_path: Path, costing: Callable[[Costs], None], capsys: pytest.CaptureFixture[str]
) -> None:
    costing(SIX)
    arguments = [*TINY, "--seeds", "2", "--out", str(tmp_path / "run")]
    # A run of one seed would fit.
    assert run(*arguments, "--minutes", "1.3") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mpcc-run: error: --minutes 1.3 is too short: ")
    nearest = line.rpartition("nearest valid choice: --minutes ")[2]
    assert run(*arguments, "--minutes", nearest, "--dry-run") == 0
    said = capsys.readouterr()
    assert f"# --minutes {nearest} came to these values" in said.out
    assert f"# 2 seeds (0, 1) in {nearest} minutes: each for 0.4 of its iterations, then the best one" in said.out
    assert f"{nearest} minutes for the work of 1.4 runs: 1 iteration at 60 s" in said.err


def test_several_runs_share_the_minutes() -> None:
    costs = attrs.evolve(SIX, iteration=0.5)
    shared, _ = budgeted(config_of(), costs, before=30.0, images=1_000, runs=2.5)
    alone, _ = budgeted(config_of(flags={"minutes": 4.0}), costs, before=12.0, images=1_000)
    # Imports and the measurement count once.
    assert shared.run.iterations == pytest.approx(alone.run.iterations, abs=2)


# The pace.


class Hand:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_length_of_a_run_is_told_early_and_once() -> None:
    clock = Hand()
    pace = Pace(clock=clock)
    lines = []
    for done in range(1, 31):
        # The first iteration takes longer, which says nothing.
        clock.now += 60 if done == 1 else 2
        pace.iterated()
        lines.append(pace.estimate(done, 1500, evaluations=3, next_evaluation=500))
    assert [number for number, line in enumerate(lines, 1) if line] == [6]
    assert lines[5] == (
        "iteration 6/1500: 2 s an iteration, about 50 minutes to go and the evaluations; the first results in about "
        "16 minutes"
    )


def test_a_run_that_will_exceed_its_budget_says_so() -> None:
    clock = Hand()
    pace = Pace(minutes=10, began=70.0, clock=clock)
    for _ in range(11):
        clock.now += 5
        pace.iterated()
    clock.now += 10
    pace.evaluated()
    # 95 seconds have passed: 90 iterations and an evaluation take 460 more.
    assert pace.late(11, 101, 1) == ""
    assert pace.late(11, 131, 1) == "about 2 minutes over the 10 minutes: the machine is slower than when measured"
    assert Pace(clock=clock).late(11, 10**6, 1) == ""


@settings(max_examples=200, deadline=None)
@given(end=st.integers(1, 60), every=st.integers(1, 70), first=st.none() | st.integers(1, 70))
def test_the_counts_of_evaluations_are_those_of_the_loop(end: int, every: int, first: int | None) -> None:
    run = RunSettings(iterations=end, eval_every=every, first_eval=first)
    due = [done for done in range(1, end + 1) if due_after(done, run, 0.0, asked_to_stop=False).evaluate]
    for done in range(end):
        later = [each for each in due if each > done]
        assert (evaluations_left(done, run), next_evaluation(done, run)) == (len(later), later[0])
    assert evaluations_left(end, run) == 0


def test_the_first_evaluation_may_come_before_the_regular_ones(tmp_path: Path) -> None:
    arguments = [*TINY, "--iterations=5", "--eval-every=4", "--first-eval=1"]
    assert run(*arguments, "--out", str(tmp_path / "run")) == 0
    assert evaluated(tmp_path / "run") == [1, 4, 5]
