"""The first things that a newcomer types: a path without its data set, a small set, one picture, names that are odd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpcc.core.commands import entry

TINY = [
    *("--arch", "biggan8", "--arch.width", "1", "--iterations", "1", "--standing-passes", "1"),
    *("--eval-images", "8", "--threads", "1", "--device", "cpu"),
]
COUNT = 12


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few pictures in ``plain``, and as arrays in ``scans.npy``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPCC_DATA", raising=False)
    images = np.random.default_rng(0).integers(0, 255, (COUNT, 8, 8), np.uint8)
    Path("plain").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(f"plain/{index:02}.png")
    np.save("scans.npy", images)
    return tmp_path


def call(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        (entry.main if words[0] in ("predict", "evaluate") else entry.run_main)([str(word) for word in words])
    assert isinstance(end.value.code, int)
    return end.value.code


def config(run: str) -> dict[str, dict[str, object]]:
    return tomllib.loads(Path(run, "config.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("words", "reader", "line"),
    [
        (["--data.path", "plain"], "folder", "--data.path plain: taken as --data folder"),
        (["--data", "plain"], "folder", "--data plain: taken as --data folder"),
        (["--data=./plain/", "--data.channels=3"], "folder", "--data ./plain/: taken as --data folder"),
        (["--data.path", "scans.npy"], "arrays", "--data.path scans.npy: taken as --data arrays"),
        (["--data", "scans.npy"], "arrays", "--data scans.npy: taken as --data arrays"),
        (["--preset", "mnist", "--data", "plain"], "folder", "--data plain: taken as --data folder"),
        (["--config", "own.toml"], "arrays", "own.toml: data.path scans.npy: taken as --data arrays"),
    ],
)
def test_a_path_chooses_the_data_set_that_reads_it(
    words: list[str], reader: str, line: str, capsys: pytest.CaptureFixture[str], workplace: Path
) -> None:
    Path("own.toml").write_text('[data]\npath = "scans.npy"\n', encoding="utf-8")
    assert call(*words, *TINY, "--clusters", "3", "--out", "run") == 0
    assert capsys.readouterr().err.splitlines().count(line) == 1
    written = config("run")["data"]
    assert written["name"] == reader
    assert written["path"] == str(workplace / ("plain" if reader == "folder" else "scans.npy"))
    # The file is complete, so nothing has to be taken any more.
    assert call("--config", "run/config.toml", "--iterations", "1", "--out", "again") == 0
    assert "taken" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--data", "pictures/plain"], ["--data 'pictures/plain': no such folder or file"]),
        (
            ["--data", "./plian"],
            ["'./plian': no such folder or file: did you mean 'plain'?", "or one of arrays, cifar10"],
        ),
        (["--data", "plian"], ["--data 'plian': no such folder or file: did you mean 'plain'?", "arrays, cifar10"]),
        (["--data", "DIR"], ["--data 'DIR': no such folder or file (expected the path of your own images, or one of"]),
        (["--data", "mnits"], ["unknown dataset 'mnits': did you mean 'mnist'?"]),
        (["--data.path", "plian"], ["plian does not exist", "did you mean"]),
        (["--data.path", "plian.npy"], ["plian.npy"]),
        (["--data", "mnist", "--data.path", "plain"], ["mnist", "--data folder --data.path plain"]),
        (["--data", "digits", "--data.path", "scans.npy"], ["--data arrays --data.path scans.npy"]),
        (["--data", "arrays", "--data.path", "plain"], ["is a folder: expected a file", "--data folder --data.path"]),
        (
            ["--data", "folder", "--data.path", "scans.npy"],
            ["is a file: expected a folder", "--data arrays --data.path"],
        ),
        (["--data", "folder", "--data.path", "plain/00.png"], ["is one picture", "nearest valid choice: --data.path"]),
        (["--data", "plain/00.png"], ["is one picture: expected a folder", "plain)"]),
        (["--data", "plain", "--clusters", "13"], ["--clusters 13 is more than the 12 images"]),
        (["--data", "plain", "--clusters", "3", "--batch", "13"], ["batch 13 is larger", "--batch 12"]),
        (["--config", "named.toml", "--clusters", "3"], ["unknown dataset 'plain'"]),
        (["--config", "batch.toml", "--data", "plain", "--clusters", "3"], ["batch 50 is larger"]),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_the_command_that_is(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("named.toml").write_text('[data]\nname = "plain"\n', encoding="utf-8")
    Path("batch.toml").write_text("[run]\nbatch = 50\n", encoding="utf-8")
    assert call(*words, *TINY, "--out", "run") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "taken as" not in line]
    assert len(error) == 1
    for part in parts:
        assert part in error[0]
    assert not Path("run").exists()


def test_a_default_batch_is_lowered_to_a_small_set_and_the_run_records_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "plain", "--clusters", "3", "--seed", "1"]
    assert call(*words, *TINY, "--out", "run") == 0
    told = capsys.readouterr().err
    assert re.search(r"^batch \d+ \(.*\) is larger than the data set: lowered to its 12 images$", told, re.M)
    assert config("run")["run"]["batch"] == COUNT
    # A resumed run goes on with that batch, as if it had been given.
    assert call("--resume", "run", "--iterations", "3") == 0
    assert "lowered" not in capsys.readouterr().err
    longer = [*TINY[:4], "--iterations", "3", *TINY[6:]]
    assert call(*words, *longer, "--batch", str(COUNT), "--out", "given") == 0
    for name in ("assignments.csv", "posterior.npy"):
        assert Path("run", name).read_bytes() == Path("given", name).read_bytes()


def test_default_clusters_are_lowered_to_a_small_set(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("four.npy", np.load("scans.npy")[:4])
    assert call("--data", "four.npy", *TINY[:-6], "--threads", "1", "--device", "cpu", "--out", "run") == 0
    told = capsys.readouterr().err
    assert re.search(r"^clusters \d+ \(.*\) are more than the data set has: lowered to its 4 images$", told, re.M)
    assert (config("run")["run"]["clusters"], config("run")["run"]["batch"]) == (4, 4)


def test_one_image_is_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("one.npy", np.zeros((1, 8, 8), np.uint8))
    assert call("--data", "one.npy", "--clusters", "1", *TINY, "--out", "run") == 2
    assert "gave 1 image: expected at least 2" in capsys.readouterr().err


def test_predict_takes_a_path_for_a_data_set_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--data", "digits", "--clusters", "3", *TINY, "--out", "run") == 0
    for words in (["--data", "plain"], ["--data.path", "plain"], ["--data.path", "scans.npy"], ["--data", "scans.npy"]):
        assert call("predict", "run", *words, "--out", "table.csv") == 0
        assert f"{' '.join(words)}: taken as --data" in capsys.readouterr().err
        assert len(Path("table.csv").read_text(encoding="utf-8").splitlines()) == COUNT + 1
        Path("table.csv").unlink()
    assert call("predict", "run", "--data", "plian/x") == 2
    assert "no such folder or file" in capsys.readouterr().err


def test_the_tilde_is_the_home_folder_in_every_path(
    capsys: pytest.CaptureFixture[str], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(workplace / "home"))
    shutil.copytree("plain", "home/plain")
    shutil.copy("scans.npy", "home/scans.npy")
    np.save("home/labels.npy", np.arange(COUNT) % 2)
    Path("own.toml").write_text('[data]\npath = "~/scans.npy"\nlabels = "~/labels.npy"\n', encoding="utf-8")
    assert call("--data", "~/plain", "--clusters", "3", *TINY, "--out", "~/a") == 0
    assert call("--data.path", "~/plain", "--data-root=~", "--clusters", "3", *TINY, "--out=~/b") == 0
    assert call("--config", "own.toml", "--clusters", "3", *TINY, "--out", "~/c") == 0
    assert config("home/b")["run"]["data_root"] == str(workplace / "home")
    assert config("home/c")["data"]["labels"] == str(workplace / "home" / "labels.npy")
    assert call("predict", "~/a", "~/scans.npy", "--out", "~/t.csv", "--posterior", "~/p.npy") == 0
    assert call("predict", "~/a", "--data", "~/scans.npy", "--out", "~/u.csv") == 0
    checkpoint = "~/b/checkpoints/last.pt"
    assert call("evaluate", "~/b", "--checkpoint", checkpoint, "--out", "~/e", "--threads", "1") == 0
    assert {"a", "b", "c", "t.csv", "p.npy", "u.csv", "e"} <= {path.name for path in Path("home").iterdir()}
    assert not Path("~").exists()
    capsys.readouterr()


@pytest.mark.check
def test_names_that_are_not_utf_8_go_through_a_run_its_resumption_and_its_use(workplace: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    try:
        Path(odd).mkdir()
    except OSError:
        pytest.skip("this file system only has names of valid text")
    shutil.copytree("plain", Path(odd, "plain"))
    Path(odd, "mine.toml").write_text('[presets.mine]\nsource = "x"\nrun = { latent_dim = 3 }\n', encoding="utf-8")

    def done(*words: str) -> bytes:
        """Run a command in a process of its own, whose streams are those of a shell; return its output."""
        finished = subprocess.run([sys.executable, "-m", "mpcc", *words], capture_output=True)
        assert finished.returncode == 0, (words, finished.stderr)
        return finished.stdout

    words = ["--data.path", f"{odd}/plain", "--registry", f"{odd}/mine.toml", "--preset", "mine", "--clusters", "3"]
    done("run", *words, *TINY, "--out", f"{odd}/run")
    text = Path(odd, "run", "config.toml").read_text(encoding="utf-8")
    assert f'path = "{(workplace / odd / "plain").as_uri()}"' in text
    assert "caf%E9/mine.toml" in text
    done("run", "--resume", f"{odd}/run", "--iterations", "2")
    done("run", "--config", f"{odd}/run/config.toml", "--iterations", "1", "--out", "again")
    assert text.replace("latent_dim", "") == Path("again", "config.toml").read_text("utf-8").replace("latent_dim", "")
    done("predict", f"{odd}/run", f"{odd}/plain", "--out", f"{odd}/t.csv")
    tomllib.loads(done("run", "--config", f"{odd}/run/config.toml", "--dry-run").decode("utf-8"))
