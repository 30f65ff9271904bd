"""Several processes predict together: the files of one process, no image read twice, one voice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mpcc.core.commands import entry
from mpcc.core.images.read_ahead import in_order

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
BATCH = 10
# All of a prediction's outputs.
OUTPUTS = {"out": "t.csv", "posterior": "q.npy", "latents": "z.npy", "sort-into": "sorted", "reconstruct": "made"}
PLUGIN = '''
import os, time
from pathlib import Path
import attrs, torch
from mpcc.core.config.options import option
from mpcc.core.contracts import Dataset, ImageSet
from mpcc.core.errors import InvalidInput
from mpcc.core.hookspecs import hookimpl

@attrs.frozen
class Options:
    broken: int = option(-1, "an image that cannot be read")
    fault: int = option(-1, "an image at which reading fails as a program with a mistake does")
    lost: int = option(-1, "an image without an original")
    slow: float = option(0.0, "seconds for each read")
    uneven: bool = option(False, "whether processes find different numbers of images")

class Source:
    """Writes down which process reads which image."""

    dtype = torch.uint8

    def __init__(self, options):
        more = int(os.environ.get("RANK", "0")) if options.uneven else 0
        self.options, self.shape = options, torch.Size([47 + more, 1, 8, 8])

    def __getitem__(self, indices):
        time.sleep(self.options.slow)
        with open(f"read-by-{os.environ.get('RANK', 'one')}", "a") as file:
            file.write("".join(f"{index}\\n" for index in indices.tolist()))
        if self.options.broken in indices:
            raise InvalidInput(f"image {self.options.broken} is broken")
        if self.options.fault in indices:
            raise ZeroDivisionError("a mistake")
        return indices.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 8, 8)

class Originals:
    def __init__(self, lost):
        self.lost = lost

    def original(self, index):
        if index == self.lost:
            raise InvalidInput(f"image {index} is gone")
        return torch.zeros(1, 8, 8, dtype=torch.uint8)

    def size(self, index):
        return (8, 8)

class Recorded(Dataset):
    def __init__(self, options):
        self.options = options

    def load(self, image_size, root, download):
        source = Source(self.options)
        return ImageSet(source, originals=Originals(self.options.lost))

@hookimpl
def register_datasets(register):
    register("recorded", "fake_recorded:Recorded", summary="Synthetic.", options="fake_recorded:Options")
'''

on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--data=digits", "--arch.width=2", "--iterations=2", "--standing-passes=2", "--device=cpu", "--threads=1"]
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*flags, "--eval-images=50", f"--out={folder}"])
    assert caught.value.code == 0
    return folder


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[str, ...]:
    """Flags for 47 images whose reading is written down, or fails."""
    (tmp_path / "fake_recorded.py").write_text(PLUGIN)
    return ("--plugin", "fake_recorded.py", "--data", "recorded")


def words_of(*words: str | Path) -> list[str]:
    """The words of a prediction."""
    return ["-m", "mpcc", "predict", *map(str, words), "--batch", str(BATCH)]


def started(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """A command of Python that has been started in a folder, as the leader of a group of processes."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(words: Sequence[str], folder: Path, given: str = "") -> tuple[int, str, str]:
    """The status, the output and the errors of a command of Python."""
    with started(words, folder) as process:
        try:
            out, err = process.communicate(given, timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, out, err


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files in a folder, by name."""
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def images(folder: Path, count: int) -> Path:
    """A new folder with images of noise."""
    folder.mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    for index, level in enumerate(levels):
        Image.fromarray(level).save(folder / f"{index:02}.png")
    return folder


@pytest.mark.parametrize("count", [1, 9, 20, 23])
@pytest.mark.parametrize("of", [2, 3, 7])
def test_batches_are_shared_without_a_gap(count: int, of: int) -> None:
    class Source:
        shape, dtype = torch.Size([count, 1, 2, 2]), torch.uint8

        def __getitem__(self, indices: Tensor) -> Tensor:
            return indices.to(torch.uint8)

    everything = [batch.tolist() for batch in in_order(Source(), 5)]
    for given in (Source(), torch.arange(count).to(torch.uint8)):
        shares = [[batch.tolist() for batch in in_order(given, 5, index=index, of=of)] for index in range(of)]
        assert [shares[number % of][number // of] for number in range(len(everything))] == everything
        assert sum(map(len, shares)) == len(everything)


@pytest.mark.parametrize(
    ("several", "path", "count", "workers"),
    [
        # A list on standard input, which one process can read.
        (("--devices", "2"), "-", 43, "1"),
        pytest.param(("torchrun", "2"), "-", 43, "0", marks=pytest.mark.check),
        # More processes than batches.
        pytest.param(("torchrun", "3"), "new", 15, "2", marks=pytest.mark.check),
    ],
)
def test_several_processes_write_what_one_does(
    several: tuple[str, str], path: str, count: int, workers: str, run: Path, tmp_path: Path
) -> None:
    found = sorted(images(tmp_path / "new", count).iterdir(), reverse=True)
    listed = "".join(f"{each.relative_to(tmp_path)}\n" for each in found)
    said = {}
    for name in ("one", "more"):
        (tmp_path / name).mkdir()
        flags = [f"--{flag}={name}/{place}" for flag, place in OUTPUTS.items()]
        words = words_of(run, path, *flags, "--workers", workers)
        if name == "more":
            words = [*TORCHRUN, several[1], *words] if several[0] == "torchrun" else [*words, *several]
        status, out, err = finished(words, tmp_path, listed)
        assert status == 0, err
        assert err.count("caution: this run is too short to judge") == 1
        said[name] = [line.replace(name, "") for line in out.splitlines() if "images/s" not in line]
    assert said["one"] == said["more"]
    assert contents(tmp_path / "one") == contents(tmp_path / "more")
    assert len(contents(tmp_path / "one")) == 3 + 2 * count


def test_no_image_is_read_by_two_processes(run: Path, recorded: tuple[str, ...], tmp_path: Path) -> None:
    words = words_of(run, *recorded, "--out", "t.csv", "--workers", "1", "--devices", "2")
    status, _, err = finished(words, tmp_path)
    assert status == 0, err
    read = [[int(line) for line in (tmp_path / f"read-by-{rank}").read_text().split()] for rank in range(2)]
    # Each process looks at the first image when it opens the set.
    assert read == [[0, *(index for index in range(47) if index // BATCH % 2 == rank)] for rank in range(2)]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--data.broken", "35", "--workers", "1"], 2, "process 1 of 2: image 35 is broken"),
        pytest.param(["--data.broken", "25"], 2, "image 25 is broken", marks=pytest.mark.check),
        pytest.param(["--data.lost", "35"], 2, "image 35 is gone", marks=pytest.mark.check),
        pytest.param(["--data.fault", "15", "--workers", "0"], 2, "process 1 of 2: dataset", marks=pytest.mark.check),
        pytest.param(
            ["--data.uneven"], 2, "process 1 of 2 has found other images than process 0", marks=pytest.mark.check
        ),
    ],
)
def test_an_error_in_the_middle_is_said_once_and_leaves_nothing(
    flags: list[str], status: int, message: str, run: Path, recorded: tuple[str, ...], tmp_path: Path
) -> None:
    words = words_of(run, *recorded, *flags, "--out", "t.csv", "--sort-into", "sorted", "--devices", "2")
    found, out, err = finished(words, tmp_path)
    assert (found, out) == (status, "")
    assert err.startswith(f"mpcc: error: {message}")
    assert err.count("\n") == 1
    left = {each.name for each in tmp_path.iterdir() if not each.name.startswith(("read-by", "__"))}
    assert left == {"fake_recorded.py"}


def test_bad_input_is_said_once(run: Path, tmp_path: Path) -> None:
    wrong = {("nothing-here",): "PATH 'nothing-here': no such file", ("--devices", "4096"): "--devices 4096: this mach"}
    for flags, message in wrong.items():
        status, out, err = finished(words_of(run, *flags, *(["--devices", "2"] * (len(flags) == 1))), tmp_path)
        assert (status, out) == (2, "")
        assert err.startswith(f"mpcc: error: {message}")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices", "2"], "--devices 2: torchrun has started the processes"),
        pytest.param(["nothing-here"], "PATH 'nothing-here': no such file", marks=pytest.mark.check),
    ],
)
def test_bad_input_under_torchrun_is_said_once(flags: list[str], message: str, run: Path, tmp_path: Path) -> None:
    status, out, err = finished([*TORCHRUN, "2", *words_of(run, *flags)], tmp_path)
    assert status != 0
    assert out == ""
    assert [line for line in err.splitlines() if "mpcc: " in line] == [
        line for line in err.splitlines() if line.startswith(f"mpcc: error: {message}")
    ]
    assert err.count("mpcc: error: ") == 1


def processes_of(folder: Path) -> dict[int, int]:
    """The processes of the ranks that work in a folder, by rank."""
    found = {}
    for each in Path("/proc").iterdir():
        try:
            if not each.name.isdigit() or (each / "cwd").resolve() != folder.resolve():
                continue
            variables = dict(
                line.partition("=")[::2] for line in (each / "environ").read_text().split("\0") if "=" in line
            )
        except OSError:
            continue
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(each.name)
    return found


@pytest.mark.check
@on_linux
@pytest.mark.parametrize("end", ["kill one", "interrupt"])
def test_an_end_from_outside_is_said_once_and_leaves_no_process(
    end: str, run: Path, recorded: tuple[str, ...], tmp_path: Path
) -> None:
    flags = ("--data.slow", "2", "--workers", "0", "--out", "t.csv", "--devices", "2")
    with started(words_of(run, *recorded, *flags), tmp_path) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "read-by-1").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        if end == "kill one":
            os.kill(processes_of(tmp_path)[1], signal.SIGKILL)
        else:
            os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    told = {
        "kill one": (
            "mpcc: error: process 1 of 2 was ended by SIGKILL, and so all of them; expected the same command again; if "
            "memory was short, lower --devices 2 or --batch 10\n"
        ),
        "interrupt": "mpcc: interrupted\n",
    }
    assert (process.returncode, out, err) == ({"kill one": 5, "interrupt": 130}[end], "", told[end])
    assert not processes_of(tmp_path)
    assert not [each for each in tmp_path.iterdir() if each.suffix in {".csv", ".part"}]
