"""Several processes train one run: the same mathematics as one process, the same bits after a loss, one voice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from mpcc.core.errors import InvalidInput
from mpcc.core.images.augmentation import Augmentation
from mpcc.core.images.invariances import Invariances
from mpcc.core.images.stream import ImageStream
from mpcc.core.images.transforms import transformed
from mpcc.core.run.ranks.environment import begun, earlier_folder
from mpcc.core.run.ranks.launcher import check_devices, without_devices
from mpcc.core.system.ranks import Ranks, current

PROGRAM = Path(__file__).with_name("rank_program.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
SMALL = ("--data", "digits", "--metrics", "acc", "--eval-every", "1000", "--precision", "float32")
# The 32-pixel networks of the paper, at a width that a test can afford.
NETWORKS_32 = ("--preset", "mnist-paper", "--data", "digits", "--arch", "biggan32", "--arch.width", "2")
CONFIGURATIONS = {"default preset": ("--data", "digits"), "32 pixels": NETWORKS_32}
OBJECTIVES = {
    "vade": ("--data", "digits", "--objective", "vade"),
    "density": ("--data", "digits", "--density-weight", "0.1", "--augment-crop", "1", "--augment-flip"),
    "plain engine": ("--data", "digits", "--engine", "plain", "--balance-direction", "prior"),
    "trained weights": ("--data", "digits", "--prior.weights", "trainable"),
}
MORE_OBJECTIVES = {
    "aim": ("--preset", "digits", "--data", "digits", "--objective", "aim"),
    "conditional": ("--data", "digits", "--arch.projection", "posterior"),
    "fit of the prior": ("--data", "digits", "--prior-fit", "0.5", "--density-weight", "0.1"),
}


def environment(**more: str) -> dict[str, str]:
    """The environment of a process, with one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", **more}


def trained(folder: Path, flags: Sequence[str], count: int, *words: str) -> list[dict[str, Any]]:
    """What each of ``count`` processes found in a training."""
    start = [sys.executable] if count == 1 else [*TORCHRUN, "--standalone", "--nproc-per-node", str(count)]
    out = folder / f"found-{count}-{'-'.join(word.strip('-') for word in words)}"
    subprocess.run([*start, str(PROGRAM), str(out), *words, "--", *flags], check=True, env=environment())
    return [json.loads(out.with_name(f"{out.name}-{index}.json").read_text()) for index in range(count)]


def largest_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a logged term in any iteration."""
    pairs = zip(one["terms"], other["terms"], strict=True)
    return max(abs(terms[name] - others[name]) for terms, others in pairs for name in terms | others)


@pytest.mark.parametrize(
    "name", [*CONFIGURATIONS, *OBJECTIVES, *(pytest.param(name, marks=pytest.mark.check) for name in MORE_OBJECTIVES)]
)
def test_two_processes_compute_what_one_does(name: str, tmp_path: Path) -> None:
    flags = (CONFIGURATIONS | OBJECTIVES | MORE_OBJECTIVES)[name]
    (one,) = trained(tmp_path, flags, 1, "--iterations", "5")
    two = trained(tmp_path, flags, 2, "--iterations", "5")
    assert largest_difference(one, two[0]) < 1e-10
    assert two[0]["terms"] == two[1]["terms"]
    assert two[0]["parameters"] == two[1]["parameters"]
    assert two[0]["random"] == two[1]["random"] == one["random"]
    assert two[0]["bytes"] == two[1]["bytes"]


@pytest.mark.check
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_in_fifty_iterations_they_differ_as_little_as_batches_in_another_order(name: str, tmp_path: Path) -> None:
    flags = CONFIGURATIONS[name]
    (one,) = trained(tmp_path, flags, 1, "--iterations", "50")
    (permuted,) = trained(tmp_path, flags, 1, "--iterations", "50", "--permute")
    two = trained(tmp_path, flags, 2, "--iterations", "50")
    assert two[0]["parameters"] == two[1]["parameters"]
    assert largest_difference(one, two[0]) < 10 * largest_difference(one, permuted)


class Reads:
    """Images that note which of them are read."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.read = images, list[int]()
        self.shape, self.dtype = images.shape, images.dtype

    def __getitem__(self, indices: Tensor) -> Tensor:
        self.read += indices.tolist()
        return self.images[indices]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_of_an_epoch_is_read_by_one_process(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.arange(103 * 4, dtype=torch.int32).remainder(251).to(torch.uint8).view(103, 1, 2, 2)
    invariances, augmentation = Invariances.parse("shift,brightness"), Augmentation(crop=1, flip=True)

    def epoch(together: Ranks) -> tuple[Tensor, list[int]]:
        monkeypatch.setattr("mpcc.core.system.ranks._current", together)
        source = Reads(images)
        stream = ImageStream(
            cast(Any, source), 20, 7, augmentation=augmentation, invariances=invariances, workers=workers
        )
        taken = torch.cat([stream.take(1, transformed=True) for _ in range(5)], dim=1)
        stream.close()
        return taken, source.read

    whole, read = epoch(Ranks())
    parts = [epoch(Ranks(2, index)) for index in range(2)]
    by_batch = [taken.view(2, 5, 10, 1, 2, 2) for taken, _ in parts]
    assert torch.equal(torch.cat(by_batch, dim=2), whole.view(2, 5, 20, 1, 2, 2))
    if not workers:  # they read in processes of their own
        assert sorted(parts[0][1] + parts[1][1]) == sorted(read)
        assert len({*read}) == len(read) == 100


def test_what_is_reduced_can_be_counted(tmp_path: Path) -> None:
    # One update of each kind; a share of 50 images has moments of its own.
    flags = ("--data", "digits", "--batch", "100", "--d-steps", "1", "--e-steps", "2")
    two = trained(tmp_path, flags, 2, "--iterations", "1")
    counted, sizes = two[0]["bytes"], two[0]["sizes"]
    assert "moments" not in counted
    # Gradients and, in the same reduction, the loss, the size of latents and the terms, in double precision.
    assert counted["discriminator"] == 8 * (sizes["discriminator"] + 2 + 1)
    assert counted["generator and prior"] == 8 * (sizes["generator"] + sizes["prior"] + 2 + 3)
    assert counted["encoder and prior"] == 8 * (sizes["encoder"] + sizes["prior"] + 2 + 6)
    assert counted["encoder"] == 8 * (sizes["encoder"] + 2 + 3)
    # Two updates of the encoder with a row of K for each process.
    assert counted["mean responsibilities"] == 2 * 2 * 8 * 2 * 10


@pytest.mark.parametrize("changes", ["shift,rotation,colour", "crop,flip,brightness,contrast"])
def test_a_part_of_a_batch_is_changed_as_in_the_whole_batch(changes: str) -> None:
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    invariances = Invariances.parse(changes)
    whole = transformed(images, invariances, torch.Generator().manual_seed(3))
    rows = torch.tensor([1, 4, 5])
    part = transformed(images[rows], invariances, torch.Generator().manual_seed(3), rows, of=6)
    assert torch.equal(part, whole[rows])


def test_a_part_of_a_batch_is_augmented_as_in_the_whole_batch() -> None:
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    augmentation, part = Augmentation(crop=2, flip=True), slice(2, 4)
    whole = augmentation(images, torch.Generator().manual_seed(3))
    assert torch.equal(augmentation(images[part], torch.Generator().manual_seed(3), part, of=6), whole[part])


def test_a_process_that_trains_alone_communicates_nothing() -> None:
    alone = current()
    values = torch.ones(3, requires_grad=True)
    assert alone.alone
    assert alone.first
    assert alone.summed(values) is values
    assert alone.told("a") == "a"
    assert alone.gathered(1) == alone.collected(1) == [1]
    alone.average([values], "nothing")
    assert not alone.bytes


def test_parts_cover_a_batch_once() -> None:
    rows = list(range(12))
    assert [row for index in range(4) for row in rows[Ranks(4, index).part(12)]] == rows


# From here on, whole commands.


def command(*words: str, devices: int | None = 2, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``mpcc-run`` in several processes."""
    several = [] if devices is None else ["--devices", str(devices)]
    start = [sys.executable, "-m", "mpcc", "run", *words, *several]
    return subprocess.run(start, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False)


def parts(run: Path) -> dict[str, Tensor]:
    """The weights of the last checkpoint by part and name."""
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return {f"{part} {name}": value for part, values in state["parts"].items() for name, value in values.items()}


def same_bits(run: Path, other: Path) -> bool:
    """Whether two runs have ended with the same weights."""
    one, two = parts(run), parts(other)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@contextlib.contextmanager
def started(words: Sequence[str], cwd: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed when a ``with`` block ends."""
    process = subprocess.Popen(
        words, cwd=cwd, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, seconds: float = 120) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.1)


def process_of_rank(rank: int, folder: Path) -> int:
    """The process of a rank that trains in a folder."""
    for each in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            here = (each / "cwd").resolve() == folder.resolve() if each.name.isdigit() else False
            if here and f"RANK={rank}" in (each / "environ").read_text().split("\0"):
                return int(each.name)
    raise AssertionError(f"no process of rank {rank}")


on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")


@on_linux
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_with_one_message_and_the_run_goes_on_with_the_same_bits(
    rank: int, tmp_path: Path
) -> None:
    # With step sizes that do not depend on the number of iterations, a run can be compared with a longer one.
    train = (*SMALL, "--checkpoint-every", "5", "--lr-decay", "0")
    whole = command(*train, "--iterations", "15", "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    words = [sys.executable, "-m", "mpcc", "run", *train, "--iterations", "1000", "--out", "killed", "--devices", "2"]
    with started(words, tmp_path) as process:
        wait_for(tmp_path / "killed" / "checkpoints" / "iteration-5.pt")
        os.kill(process_of_rank(rank, tmp_path), signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 5
    errors = [line for line in output.splitlines() if "error" in line]
    assert errors == [
        f"mpcc-run: error: process {rank} of 2 was ended by SIGKILL, and so all of them; continue with: mpcc-run "
        "--resume killed --devices 2"
    ]
    assert "Traceback" not in output
    done = torch.load(tmp_path / "killed" / "checkpoints" / "last.pt", weights_only=True)["iteration"]
    assert done >= 10
    for run in ("killed", "whole"):
        longer = command("--resume", run, "--iterations", str(max(done, 15) + 5), cwd=tmp_path)
        assert longer.returncode == 0, longer.stderr
    assert same_bits(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.check
def test_a_stop_of_all_processes_saves_the_run(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mpcc", "run", *SMALL, "--iterations", "1000", "--checkpoint-every", "5"]
    with started([*words, "--out", "stopped", "--devices", "2"], tmp_path) as process:
        wait_for(tmp_path / "stopped" / "checkpoints" / "last.pt")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "continue with: mpcc-run --resume stopped" in output
    assert "Traceback" not in output
    assert "error" not in output


def test_a_run_moves_between_numbers_of_processes(tmp_path: Path) -> None:
    out = tmp_path / "moved"
    alone = command(*SMALL, "--iterations", "9", "--out", "alone", devices=None, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    for devices, iterations in ((None, 3), (2, 6), (None, 9)):
        start = ("--resume", str(out)) if out.exists() else (*SMALL, "--out", str(out))
        part = command(*start, "--iterations", str(iterations), devices=devices, cwd=tmp_path)
        assert part.returncode == 0, part.stderr
    one, moved = parts(tmp_path / "alone"), parts(out)
    assert one.keys() == moved.keys()
    # Sums of float32 in another order; Adam makes whole steps of them where a gradient is nearly 0.
    away = sum(float((moved[name] - value).double().square().sum()) for name, value in one.items())
    assert away < 1e-4 * sum(float(value.double().square().sum()) for value in one.values())
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["iteration"] == 9


@pytest.mark.check
@on_linux
def test_a_killed_node_of_two_is_restarted_by_torchrun_with_the_same_bits(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # torch 2.15 gives an agent that comes later no address of the store that it shares (docs/scaling.md).
    more = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    train = ("-m", "mpcc", "run", *SMALL, "--iterations", "40", "--checkpoint-every", "5", "--out", "killed")
    agent = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3", "--local-addr", "localhost"]
    agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "job"]
    agent += ["--rdzv-conf", "keep_alive_interval=1,keep_alive_max_attempt=2", *train]
    (tmp_path / "other").mkdir()
    with started(agent, tmp_path, **more) as first:
        time.sleep(2)
        # Another folder, to tell the processes apart.
        with started(agent, tmp_path / "other", **more) as second:
            wait_for(tmp_path / "killed" / "checkpoints" / "iteration-5.pt")
            os.kill(second.pid, signal.SIGKILL)
            with contextlib.suppress(AssertionError):
                os.kill(process_of_rank(1, tmp_path / "other"), signal.SIGKILL)
        time.sleep(6)
        with started(agent, tmp_path / "other", **more) as third:
            assert third.wait(timeout=240) == 0
            output, _ = first.communicate(timeout=60)
    assert first.returncode == 0
    assert output.count("has lost the others: one of them has ended, or cannot be reached (") == 1
    assert output.count("); the last checkpoint") == 1
    assert "going on after iteration" in output
    whole = command(*SMALL, "--iterations", "40", "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert same_bits(tmp_path / "killed", tmp_path / "whole")


def test_minutes_and_evaluations_are_shared(tmp_path: Path) -> None:
    flags = ("--data", "digits", "--minutes", "0.7", "--eval-images", "600", "--out", "brief")
    brief = command(*flags, cwd=tmp_path)
    assert brief.returncode == 0, brief.stderr
    results = json.loads((tmp_path / "brief" / "results.json").read_text())
    assert results["iterations"] > 5
    assert results["evaluated"]["images"] > 0


def test_evaluations_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    for name, devices in (("two", 2), ("one", None)):
        made = command("--data", "digits", "--iterations", "2", "--out", name, devices=devices, cwd=tmp_path)
        assert made.returncode == 0, made.stderr
    one, two = ((tmp_path / name / "assignments.csv").read_text().splitlines() for name in ("one", "two"))
    assert len(one) == len(two) == 1798
    again = subprocess.run(
        [sys.executable, "-m", "mpcc", "predict", "two", "--out", "again.csv"],
        cwd=tmp_path,
        check=True,
        env=environment(),
    )
    assert again.returncode == 0
    clusters = [line.split(",")[1] for line in two]
    predicted = [line.split(",")[1] for line in (tmp_path / "again.csv").read_text().splitlines()]
    assert clusters[1:] == predicted[1:]


def test_wrong_numbers_of_processes_are_refused(tmp_path: Path) -> None:
    refused = {
        ("--batch", "51"): "--batch 51 cannot be divided among 2 processes: expected a multiple of 2 (nearest valid",
        ("--seeds", "3"): "--seeds trains in one process: expected one device",
        ("--clusters", "0"): "--clusters: the value must be >= 1: 0",
    }
    for words, text in refused.items():
        failed = command("--data", "digits", *words, cwd=tmp_path)
        assert failed.returncode == 2
        assert text in failed.stderr
        assert failed.stderr.count("error:") == 1
    with pytest.raises(InvalidInput, match=r"--devices 4096: this machine has \d+ .*nearest valid choice: --devices"):
        check_devices(4096, "cpu")
    assert not list(tmp_path.iterdir())


def test_an_error_of_one_process_is_said_once(tmp_path: Path) -> None:
    failed = command("--data", "folder", "--data.path", "nothing-here", cwd=tmp_path)
    assert failed.returncode == 2
    assert failed.stderr.count("error:") == 1
    assert "Traceback" not in failed.stderr


@pytest.mark.check
def test_an_error_of_one_process_alone_is_said_with_its_number(tmp_path: Path) -> None:
    plugin = "import os\n\nif os.environ.get('RANK') == '1':\n    raise ValueError('not on this machine')\n"
    (tmp_path / "mine.py").write_text(plugin, encoding="utf-8")
    failed = command("--data", "digits", "--plugin", "mine.py", cwd=tmp_path)
    assert failed.returncode == 2
    assert "mpcc-run: error: process 1 of 2: " in failed.stderr
    assert "not on this machine" in failed.stderr
    assert failed.stderr.count("error:") == 1


def test_the_words_of_a_process() -> None:
    assert without_devices(["--seed", "1", "--devices", "2"]) == ["--seed", "1"]


def test_a_restarted_job_finds_its_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "job"}.items():
        monkeypatch.setenv(name, value)
    run = tmp_path / "runs" / "digits"
    run.mkdir(parents=True)
    assert earlier_folder(None) is None
    begun(run)
    assert earlier_folder(None) == Path("runs/digits")
    assert earlier_folder(run) == run
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert earlier_folder(None) is None
    assert earlier_folder(run) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setattr(sys, "argv", ["mpcc", "--other", "flags"])
    assert earlier_folder(run) is None
    # Jobs without a name are told apart by the folder that the user has named.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    begun(run)
    assert earlier_folder(run) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert earlier_folder(run) == run
    assert earlier_folder(None) is None
