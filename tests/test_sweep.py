"""``mpcc sweep``: a grid of runs that several workers share, none of them carried out twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcc.core.commands import entry
from mpcc.core.errors import InvalidInput
from mpcc.core.method.training import Trainer
from mpcc.core.studies.sweep import one_run, study
from mpcc.core.studies.sweep.axes import Axis, folder_name, parse_axis, points

pytest.importorskip("optuna")

TINY = {
    **{"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 2, "iterations": 4},
    **{"eval-every": 4, "eval-images": 60, "standing-passes": 2, "log-every": 2, "checkpoint-every": 1},
    **{"device": "cpu", "threads": 1, "prior.scale-floor": 0.2, "preset": "none", "ema-decay": 0.99},
}


def tiny(**changes: Any) -> list[str]:
    values = {**TINY, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return [f"--{name}={value}" for name, value in values.items()]


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        entry.main([*words])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def sweep(folder: Path, *words: str, **changes: Any) -> int:
    return call("sweep", *tiny(**changes), "--out", str(folder), *words)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two numbers of clusters, two seeds each."""
    folder = tmp_path_factory.mktemp("sweeps") / "done"
    assert sweep(folder, "--over", "clusters=3,4", "--seeds", "2") == 0
    return folder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many iterations were carried out, by the number of clusters."""
    seen: Counter[str] = Counter()
    iterate = Trainer.iterate

    def counted(self: Trainer) -> Any:
        seen[str(self.model.prior.clusters)] += 1
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", counted)
    return seen


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of dead workers are put back at once."""
    monkeypatch.setattr(study, "HEARTBEAT", 1)
    monkeypatch.setattr(study, "GRACE", 2)


def test_every_point_of_the_grid_is_a_run_with_the_bits_of_mpcc_run(done: Path, tmp_path: Path) -> None:
    assert [(row["clusters"], row["seed"], row["state"]) for row in table(done)] == [
        (clusters, seed, "finished") for clusters in "34" for seed in "01"
    ]
    plain = tmp_path / "plain"
    with pytest.raises(SystemExit, match="0"):
        entry.run_main([*tiny(clusters=4, seed=1), "--out", str(plain)])
    assert np.array_equal(np.load(done / "clusters-4-seed-1" / "latents.npy"), np.load(plain / "latents.npy"))


def test_table_and_terminal_tell_mean_and_deviation(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sweep", "--resume", str(done), "--table") == 0
    text = capsys.readouterr().out
    for clusters in "34":
        scores = [float(row["nmi"]) for row in table(done) if row["clusters"] == clusters]
        (line,) = (line for line in text.splitlines() if line.startswith(f"  {clusters} "))
        assert "2 of 2" in line
        assert f"{np.mean(scores):.3f} +- {np.std(scores, ddof=1):.3f}" in line
    assert (done / "sweep.png").stat().st_size > 1000
    for row in table(done):
        results = json.loads((Path(row["folder"]) / "results.json").read_text())
        assert float(row["acc"]) == pytest.approx(results["metrics"]["acc"])


def test_nothing_is_carried_out_again(done: Path, trained: Counter[str]) -> None:
    assert call("sweep", "--resume", str(done)) == 0
    assert trained == {}


def test_a_stopped_sweep_goes_on(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate, seen = Trainer.iterate, []

    def stopping(self: Trainer) -> Any:
        seen.append(1)
        if len(seen) == 6:
            signal.raise_signal(signal.SIGINT)
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", stopping)
    folder = tmp_path / "stopped"
    assert sweep(folder, "--over", "clusters=3,4", "--seeds", "2") == 130
    assert sorted(row["state"] for row in table(folder)) == ["finished", "waiting", "waiting", "waiting"]
    assert call("sweep", "--resume", str(folder)) == 0
    assert len(seen) == 16
    for row, other in zip(table(folder), table(done), strict=True):
        assert (row["clusters"], row["seed"], row["nmi"]) == (other["clusters"], other["seed"], other["nmi"])


def test_a_stop_in_the_last_iteration_of_a_run_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate, seen = Trainer.iterate, []

    def stopping(self: Trainer) -> Any:
        seen.append(1)
        terms = iterate(self)
        if len(seen) == 4:
            signal.raise_signal(signal.SIGINT)
        return terms

    monkeypatch.setattr(Trainer, "iterate", stopping)
    folder = tmp_path / "stopped"
    assert sweep(folder, "--over", "clusters=3,4") == 130
    assert call("sweep", "--resume", str(folder)) == 0
    assert len(seen) == 8


def test_a_stop_before_training_lets_the_run_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpcc.core.run.whole_run.Run.assemble", stopped)
        assert sweep(folder, "--over", "clusters=3,4") == 130
    assert "Traceback" not in capsys.readouterr().err
    assert [row["state"] for row in table(folder)] == ["waiting", "waiting"]
    assert call("sweep", "--resume", str(folder)) == 0


def test_a_worker_that_was_held_up_and_whose_run_was_put_back_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Counter[str]
) -> None:
    from optuna.trial import TrialState

    iterate, folder = Trainer.iterate, tmp_path / "held"

    def held_up(self: Trainer) -> Any:
        if trained.total() == 1:
            # As another worker does with a run whose worker gives no sign of life.
            with study.Sweep(study.own_storage(folder), "held", new=False) as other:
                storage = other._storage
                assert storage is not None
                (trial,) = other.study.get_trials(states=[TrialState.RUNNING])
                number = storage.get_trial_id_from_study_id_trial_number(
                    storage.get_study_id_from_name("held"), trial.number
                )
                assert storage.set_trial_state_values(number, TrialState.FAIL)
                other._enqueue(trial.user_attrs)
        return iterate(self)

    monkeypatch.setattr(Trainer, "iterate", held_up)
    assert sweep(folder, "--over", "clusters=3,4") == 0
    assert trained == {"3": 4, "4": 4}
    assert [row["state"] for row in table(folder)] == ["finished", "finished"]


def test_minutes_are_those_of_each_run(tmp_path: Path) -> None:
    folder = tmp_path / "minutes"
    flags = [flag for flag in tiny() if not flag.startswith(("--iterations", "--eval-every"))]
    words = ["--over", "clusters=3,4", "--minutes", "0.15", "--out", str(folder)]
    assert call("sweep", *flags, *words) == 0
    assert [row["state"] for row in table(folder)] == ["finished", "finished"]


def test_results_count_only_if_their_checkpoint_is_on_the_disk(done: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done / "clusters-3-seed-0", tmp_path / "run"))
    assert one_run.finished(run, 4)["iterations"] == 4
    assert one_run.finished(run, 5) == {}
    shutil.copy(run / "checkpoints" / "iteration-3.pt", run / "checkpoints" / "last.pt")
    assert one_run.finished(run, 4) == {}


@pytest.mark.check
def test_a_scheduler_stops_all_workers(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    words = [*tiny(iterations=10_000, eval_every=10_000), "--over", "clusters=3,4", "--processes", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mpcc", "sweep", *words, "--out", str(folder)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 200
    while len(list(folder.glob("*/checkpoints/last.pt"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 130, said
    assert [row["state"] for row in table(folder)] == ["waiting", "waiting"]


def test_two_workers_that_are_killed_and_resumed_carry_out_six_runs_and_none_twice(
    tmp_path: Path, impatient: None
) -> None:
    folder = tmp_path / "killed"
    words = [*tiny(iterations=12), "--over", "prior=gmm,laplace", "--seeds", "3", "--processes", "2"]
    command = [sys.executable, "-m", "mpcc", "sweep", *words, "--out", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 200
    while len(list(folder.glob("*/results.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = {path.parent.name for path in folder.glob("*/config.toml")}
    assert call("sweep", "--resume", str(folder)) == 0
    rows = table(folder)
    assert [(row["prior"], row["seed"], row["state"]) for row in rows] == [
        (prior, seed, "finished") for prior in ("gmm", "laplace") for seed in "012"
    ]
    for row in rows:
        run = Path(row["folder"])
        # A run that was killed went on in its folder; no other one was begun twice.
        starts = len(list(run.glob("events.out.tfevents.*")))
        assert starts <= 1 + (run.name in begun)
        lines = [json.loads(line)["iteration"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert lines == [4, 8, 12]
    with study.Sweep(study.own_storage(folder), "killed", new=False) as opened:
        runs = opened.runs()
    assert len(runs) == 6
    complete = Counter(tuple(run.point.values()) for run in runs if run.state == "finished")
    assert set(complete.values()) == {1}


def test_a_second_machine_joins_by_the_storage(tmp_path: Path, trained: Counter[str]) -> None:
    address = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = ["--storage", address, "--study", "both"]
    iterate = Trainer.iterate
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.MonkeyPatch.context() as patch:

        def stopping(self: Trainer) -> Any:
            if trained.total() == 5:
                signal.raise_signal(signal.SIGINT)
            return iterate(self)

        patch.setattr(Trainer, "iterate", stopping)
        assert sweep(first, "--over", "clusters=3,4", "--seeds", "2", *shared) == 130
    assert call("sweep", "--join", *shared, "--out", str(second)) == 0
    assert {Path(row["folder"]).parent.name for row in table(second)} == {"first", "second"}
    assert {row["state"] for row in table(second)} == {"finished"}
    assert call("sweep", "--resume", str(first), "--table", "--storage", address) == 0
    assert address not in (first / "sweep.json").read_text()


def test_failed_runs_are_kept_with_their_reason_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    iterate = Trainer.iterate

    def diverging(self: Trainer) -> Any:
        if self.model.prior.clusters == 3:
            for parameter in self.model.prior.parameters():
                parameter.data.fill_(float("nan"))
        return iterate(self)

    folder = tmp_path / "failed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "iterate", diverging)
        assert sweep(folder, "--over", "clusters=3,4", "--seeds", "1") == 3
    assert "failed: clusters 3, seed 0: " in capsys.readouterr().out
    assert [row["state"] for row in table(folder)] == ["failed", "finished"]
    assert call("sweep", "--resume", str(folder)) == 3
    shutil.rmtree(folder / "clusters-3-seed-0")
    assert call("sweep", "--resume", str(folder), "--retry") == 0
    assert [row["state"] for row in table(folder)] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--over prior=gmm,student_t"),
        (["--over", "prior"], "such as --over prior=gmm,student_t"),
        (["--over", "prior=gmm,gmm"], "nearest valid choice: --over prior=gmm"),
        (["--over", "prior=gmm,gnn"], "gmm"),
        (["--over", "clusters=3,many"], "clusters"),
        (["--over", "iterations=3,4"], "--iterations is given to all runs"),
        (["--over", "out=a,b"], "cannot differ"),
        (["--over", "clusters=3", "--over", "clusters=4"], "named twice"),
        (["--over", "clusters=3,4", "--seeds", "0"], "at least one seed"),
        (["--over", "clusters=3,4", "--seed", "1"], "--seed"),
        (["--over", "prior=gmm,student_t", "--over", "prior.df=3"], "the run --prior gmm --prior.df 3"),
        (["--over", "clusters=3,4", "--retry"], "--resume"),
        (["--over", "part=0.3,0.5"], "--over part"),
        (["--over", "lr=1e-4,0.0001"], "the same settings"),
        (["--over", "data-root=a/b,a_b"], "the same folder"),
    ],
)
def test_a_wrong_word_is_one_line_and_nothing_is_made(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path / "none", *words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "none").exists()


def test_what_would_make_other_runs_is_refused_when_it_goes_on(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--lr", "0.5"], ["--prior", "cauchy"], ["--seeds", "3"], ["--over", "seed=5"]):
        assert call("sweep", "--resume", str(done), *words) == 2
        assert words[0] in capsys.readouterr().err
    assert call("sweep", "--resume", str(tmp_path)) == 2
    assert "sweep.json" in capsys.readouterr().err
    assert (
        call("sweep", "--join", "--storage", "nodb://x:secret@y/z", "--study", "s", "--out", str(tmp_path / "o")) == 2
    )
    said = capsys.readouterr().err
    assert "storage of the sweep cannot be used" in said
    assert "secret" not in said
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["what?x", "a{b}", "a{0}"])
def test_a_folder_that_no_address_can_hold_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(tmp_path / name, "--over", "clusters=3,4") == 2
    assert "--storage" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_another_program_cannot_be_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import optuna

    address = f"sqlite:///{tmp_path / 'other.db'}"
    with study.quiet():
        optuna.create_study(storage=address, study_name="other")
    assert call("sweep", "--join", "--storage", address, "--study", "other", "--out", str(tmp_path / "o")) == 2
    assert "not a sweep of mpcc" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_settings_that_are_yes_or_no_can_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sweep", *tiny(), "--over", "augment-flip=true,false", "--dry-run") == 0
    assert "# 2 runs" in capsys.readouterr().out


def test_a_dry_run_lists_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sweep", *tiny(), "--over", "prior=gmm,cauchy", "--seeds", "2", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[1] == "--prior gmm --seed 1"


def test_help_lists_its_flags_and_those_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sweep", "--help") == 0
    text = capsys.readouterr().out
    assert "--processes" in text
    assert "--minutes" in text


def test_a_grid_is_the_product_of_its_axes() -> None:
    axes = [Axis("prior", ("gmm", "cauchy")), Axis("clusters", ("5", "10")), Axis("seed", ("0", "1", "2"))]
    grid = points(axes)
    assert len({tuple(point.values()) for point in grid}) == 12
    assert len({folder_name(point) for point in grid}) == 12
    with pytest.raises(InvalidInput, match="at most 10,000"):
        points([Axis("seed", tuple(map(str, range(101)))), Axis("batch", tuple(map(str, range(1, 101))))])
    assert parse_axis("--prior.df=3, 5").values == ("3", "5")


POSTGRESQL = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@pytest.mark.check
@pytest.mark.skipif(POSTGRESQL is None or os.name != "posix", reason="PostgreSQL is not installed")
def test_two_workers_share_a_postgresql_database(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    assert POSTGRESQL is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = Path(tempfile.mkdtemp())
    # The server does not run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(place, "postgres")

    def server(*words: str) -> None:
        subprocess.run([*user, *words], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60)

    data, control = str(place / "data"), str(POSTGRESQL / "pg_ctl")
    server(str(POSTGRESQL / "initdb"), "-D", data, "-A", "trust", "-U", "sweeps", "--no-sync")
    server(control, "-D", data, "-w", "-l", str(place / "log"), "-o", f"-p {port} -k {place} -h 127.0.0.1", "start")
    try:
        address = f"postgresql+psycopg2://sweeps@127.0.0.1:{port}/postgres"
        folder = tmp_path / "shared"
        words = ["--over", "clusters=3,4", "--seeds", "2", "--processes", "2", "--storage", address]
        assert sweep(folder, *words) == 0
        assert [row["state"] for row in table(folder)] == ["finished"] * 4
        assert all(len(list(Path(row["folder"]).glob("events.out.tfevents.*"))) == 1 for row in table(folder))
    finally:
        server(control, "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)
