"""What bad input gets: status 2, one line that names value, expectation and nearest choice, and nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mpcc.core.commands import entry

TINY = {
    **{"arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1, "iterations": 2},
    **{"eval-images": 20, "standing-passes": 1, "device": "cpu", "seed": 0},
}
Fail = Callable[..., str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an almost empty folder, without a data root."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPCC_DATA", raising=False)
    Path("full").mkdir()
    Path("full/kept.txt").write_text("mine", encoding="utf-8")
    Path("file").write_text("mine", encoding="utf-8")
    Path("dangling").symlink_to("nowhere")


def tree() -> dict[str, bytes]:
    """Every file and folder below the working folder."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in Path().rglob("*")}


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fail:
    """Run mpcc-run with tiny settings and these flags instead; return its one line after checking the rest."""

    def run(flags: str | list[str], *, started: bool = False) -> str:
        typed = flags.split(" ") if isinstance(flags, str) else flags
        named = {word.partition("=")[0] for word in typed}
        rest = [f"--{name}={value}" for name, value in TINY.items() if f"--{name}" not in named]
        before = tree()
        with pytest.raises(SystemExit) as caught:
            entry.run_main(typed if "--resume" in named else [*rest, *typed])
        out, err = capsys.readouterr()
        assert caught.value.code == 2, err
        assert out == ""
        if started:
            # The line that names data set and run folder has been printed by then, and that about the preset.
            err = "".join(line for line in err.splitlines(keepends=True)[1:] if "no preset was made for" not in line)
        assert err.startswith("mpcc-run: error: ")
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        now = tree()
        # Nothing but the user deletes a folder in which training has begun.
        begun = {name: content for name, content in now.items() if started and name.startswith("runs")}
        assert {Path(name).name for name in begun} >= ({"config.toml", ".lock"} if started else set())
        assert {name: content for name, content in now.items() if name not in begun} == before
        return err

    return run


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--prior gmn", ["'gmn'", "did you mean 'gmm'?"]),
        ("--arch bigan8", ["'bigan8'", "biggan16, biggan32, biggan64, biggan8", "did you mean 'biggan8'?"]),
        ("--data mnits", ["'mnits'", "did you mean 'mnist'?"]),
        ("--metrics acc,nmj", ["'nmj'", "did you mean 'nmi'?"]),
        ("--metrics=", ["''", "expected one of acc, all"]),
        ("--preset mnits", ["'mnits'", "did you mean 'mnist'?"]),
        ("--itertions 5", ["'--itertions'", "did you mean '--iterations'?"]),
        ("--prior.scale-flor 1", ["'--prior.scale-flor'", "did you mean '--prior.scale-floor'?"]),
        ("--no-download", ["'--no-download'", "did you mean '--download'?"]),
        ("--lr", ["--lr", "expected a finite number", "nothing"]),
        ("--prior", ["--prior", "expected text", "nothing"]),
        ("--resume", ["--resume", "expected a path", "nothing"]),
        ("--lr --batch 5", ["--lr", "expected a finite number", "nothing"]),
        ("--lr 1 --lr 2", ["--lr", "expected one value, got several"]),
        ("--download=maybe", ["--download", "true or false", "'maybe'"]),
        ("--download true", ["'true'", "expected flags"]),
        ("positional", ["'positional'", "expected flags"]),
        ("--out=", ["--out", "expected a path", "''"]),
        ("--resume=", ["--resume", "expected a path", "''"]),
        ("--config=", ["--config", "expected a path", "''"]),
        ("--preset=", ["--preset", "expected a name", "''"]),
        ("--prior=", ["--prior", "expected a name", "''"]),
        ("--data-root=", ["--data-root", "expected a path", "''"]),
        ("--data-root=~nobody-of-this-name/x", ["--data-root", "~nobody-of-this-name"]),
        ("--config none.toml", ["none.toml", "no such file"]),
        ("--config full", ["full", "cannot be read"]),
        ("--clusters 1798", ["--clusters 1798", "1797 images", "--clusters 1797"]),
        ("--batch 1798", ["batch 1798", "at most its 1797 images", "--batch 1797"]),
        ("--eval-images 0", ["--eval-images", "at least 1 or all", "0"]),
        ("--eval-images -3", ["--eval-images", "at least 1 or all", "-3"]),
        ("--eval-images most", ["--eval-images", "a whole number or all", "'most'"]),
        ("--lr -1", ["--lr", "> 0", "-1.0"]),
        ("--lr nan", ["--lr", "a finite number", "'nan'"]),
        ("--minutes 1.5h", ["--minutes", "'1.5h'", "(nearest valid choice: 90)"]),
        ("--minutes 90s", ["--minutes", "'90s'", "(nearest valid choice: 1.5)"]),
        ("--seeds 3 --part 40%", ["--part", "'40%'", "(nearest valid choice: 0.4)"]),
        ("--seeds 3 --part 140%", ["--part", "'140%'", "a finite number"]),
        ("--iterations 0", ["--iterations", ">= 1", "0"]),
        ("--iterations 1.5", ["--iterations", "a whole number", "'1.5'"]),
        ("--iterations abc", ["--iterations", "a whole number", "'abc'"]),
        ("--seed -1", ["--seed", ">= 0", "-1"]),
        (f"--seed {2**63}", ["--seed", f"< {2**63}"]),
        ("--device cdua", ["'cdua'", "auto, cpu, cuda", "did you mean 'cuda'?"]),
        ("--data mnist", ["--data-root", "MPCC_DATA"]),
        (f"--data mnist --data-root {'A' * 300}", ["dataset 'mnist'", "AAAA", "too long"]),
        (f"--data omniglot --data-root {'A' * 300}", ["dataset 'omniglot'", "AAAA", "too long"]),
        (f"--data folder --data.path {'A' * 300}", ["dataset 'folder'", "AAAA", "too long"]),
        ("--data folder", ["--data.path DIR"]),
        ("--data mnist --data-root nowhere", ["nowhere", "--download"]),
        ("--data mnist --data-root full", ["full", "--download"]),
        ("--data folder --data-root full", ["full", "no images"]),
        ("--out full", ["full", "already exists", "full-2"]),
        ("--out file", ["file", "already exists", "file-2"]),
        ("--out dangling", ["dangling", "already exists"]),
        ("--out file/x/y", ["file/x/y", "not a directory"]),
        ("--out /proc/none/x", ["/proc/none/x", "cannot be made"]),
        (f"--out new/{'x' * 300}", ["a name of 300 bytes: expected at most 255"]),
        ("--resume nowhere", ["--resume nowhere", "config.toml"]),
        ("--resume full", ["--resume full", "config.toml"]),
        ("--resume file", ["--resume file", "config.toml"]),
        ("--resume full --config x.toml", ["leave out --config"]),
        (f"--resume {'x' * 300}", ["--resume", "too long"]),
    ],
)
def test_bad_flags_are_one_line_with_value_expectation_and_nearest_choice(
    fails: Fail, flags: str, parts: list[str]
) -> None:
    line = fails(flags)
    for part in parts:
        assert part in line


def test_cuda_without_a_cuda_device_is_refused(fails: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = fails("--device cuda")
    assert "--device cuda" in line
    assert "--device cpu" in line


def test_a_parent_that_may_not_be_written_is_refused(fails: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", refuse)
        assert "Permission denied" in fails("--out new/run")
        assert "Permission denied" in fails([])
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert "not writable" in fails("--out new/run")


def test_parents_that_were_made_for_a_folder_that_cannot_be_made_go_again(
    fails: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path.mkdir

    def refuse(self: Path, *arguments: object, **named: object) -> None:
        if self.name == "run":
            raise OSError(5, "Input/output error")
        made(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "Input/output error" in fails("--out a/b/run")


def test_traceback_shows_it_and_the_status_stays(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--traceback", "--prior", "gmn"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("mpcc-run: error: unknown prior 'gmn'")


FAKE = """
import torch
from mpcc.core.contracts import Dataset, ImageSet, Metric
from mpcc.core.errors import InvalidInput
from mpcc.core.hookspecs import hookimpl


class Set(Dataset):
    def __init__(self, options):
        pass

    def load(self, image_size, root, download):
        labels = torch.arange(self.labels) % 2
        return ImageSet(torch.zeros(self.shape, dtype=self.dtype), labels=labels)

    shape, labels, dtype = (20, 1, 8, 8), 20, torch.uint8


class Size(Set):
    shape = (20, 1, 8, 9)


class Flat(Set):
    shape = (20, 64)


class Floats(Set):
    dtype = torch.float32


class Labels(Set):
    labels = 19


class Bad(Metric):
    def __init__(self, options):
        pass

    def compute(self, evaluation):
        raise InvalidInput("metric 'bad' cannot do this")


class Endless(Bad):
    def compute(self, evaluation):
        return float("nan")


class Interrupted(Set):
    def load(self, image_size, root, download):
        raise KeyboardInterrupt


@hookimpl
def register_datasets(register):
    for name in ("Set", "Size", "Flat", "Floats", "Labels", "Interrupted"):
        register(name.lower(), f"fake_bad_sets:{name}", summary="s")


@hookimpl
def register_metrics(register):
    register("bad", "fake_bad_sets:Bad", summary="s")
    register("endless", "fake_bad_sets:Endless", summary="s")
"""


@pytest.fixture
def fakes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a plugin with data sets and metrics that are wrong."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "fake_bad_sets.py").write_text(FAKE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    info = folder / "fake_bad_sets-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake_bad_sets\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[mpcc]\nfake_bad_sets = fake_bad_sets\n", encoding="utf-8")


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--data size", ["'size'", "9x8 pixels", "takes 8x8"]),
        ("--data flat", ["'flat'", "expected uint8 images (N, D, R, R)", "(20, 64)"]),
        ("--data floats", ["'floats'", "expected uint8", "float32"]),
        ("--data labels", ["'labels'", "expected 20 labels", "got 19"]),
        ("--data set --clusters 21", ["--clusters 21", "20 images"]),
    ],
)
def test_plugins_that_break_their_contract_are_named_and_leave_no_folder(
    fails: Fail, flags: str, parts: list[str]
) -> None:
    line = fails(f"{flags} --arch biggan8")
    for part in parts:
        assert part in line


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("metric", "part"), [("bad", "cannot do this"), ("endless", "nan: expected a finite number")])
def test_a_failure_before_the_first_checkpoint_keeps_the_run_folder(fails: Fail, metric: str, part: str) -> None:
    line = fails(f"--data set --metrics {metric} --best-by none --eval-every 1 --arch biggan8", started=True)
    assert part in line
    assert line.endswith(" is kept, without a checkpoint\n")


@pytest.mark.usefixtures("fakes")
def test_images_with_channels_that_an_architecture_cannot_take_are_refused(
    fails: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpcc.plugins.architectures.biggan import BigGAN8

    monkeypatch.setattr(BigGAN8, "channels", (3, 4))
    line = fails("--data set --arch biggan8")
    assert "1 channels" in line
    assert "takes 3 or 4" in line


@pytest.mark.usefixtures("fakes")
def test_an_interruption_before_training_is_one_line_and_leaves_no_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tree()
    with pytest.raises(SystemExit) as caught:
        entry.run_main(["--data", "interrupted", "--arch", "biggan8", "--out", "new/run"])
    assert caught.value.code == 130
    line = "mpcc-run: interrupted: training had not begun, and nothing of the run was written\n"
    assert capsys.readouterr().err == line
    assert tree() == before
