"""The README against the project: its commands run, its tables are true."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mpcc.core.commands.entry import main, run_main
from mpcc.core.registry import load_registry

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def use_commands() -> list[list[str]]:
    """Return the commands of the section "Use", split into words, without comments."""
    block = re.search(r"## Use\n.*?```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True) for line in block[1].splitlines()]


def one_step(words: list[str]) -> list[str]:
    """Shorten a training command to one iteration and a small evaluation; of a resumed one, to one more."""
    arguments = list(words)
    steps = "2" if "--resume" in words else "1"
    for name, value in (("--iterations", steps), ("--eval-images", "60"), ("--standing-passes", "1")):
        if name == "--iterations" and "--minutes" in words:
            continue
        if name in arguments:
            arguments[arguments.index(name) + 1] = value
        elif "--resume" not in words or name == "--iterations":
            arguments += [name, value]
    return arguments


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_iterations: None) -> Path:
    """A folder with some images of one's own, in ``my-images`` and in ``scans.npz``."""
    images = tmp_path / "my-images"
    images.mkdir()
    for index, digit in enumerate(load_digits().images[:60]):
        Image.fromarray((digit * 15).astype(np.uint8)).save(images / f"{index}.png")
    np.savez(tmp_path / "scans.npz", images=(load_digits().images[:60] * 15).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str]) -> int:
    """Run one documented command in this process and return its exit status."""
    command, *arguments = words
    trains = command == "mpcc-run" or arguments[0] in ("choose-k", "sweep")
    training = trains and not {"--dry-run", "--help"} & set(arguments)
    if arguments[:1] == ["bench"]:
        # docs/performance.md has it with all parts, and a test runs them.
        arguments += ["--parts", "loading", "--rounds", "1", "--iterations", "1", "--predict-images", "100"]
    if arguments[:1] == ["refine"]:
        arguments += ["--steps", "1"]
    with pytest.raises(SystemExit) as exit_info:
        {"mpcc-run": run_main, "mpcc": main}[command](one_step(arguments) if training else arguments)
    return int(exit_info.value.code or 0)


def test_every_training_command_is_understood(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [words for words in use_commands() if words[0] == "mpcc-run" and "runs/first" not in " ".join(words[2:])]
    assert len(found) > 10
    for words in found:
        # The published sets are not here; a dry run knows that the run would fetch them.
        fetched = [] if "--data-root" not in words or "--download" in words else ["--download"]
        assert run(words if {"--dry-run", "--help"} & set(words) else [*words, *fetched, "--dry-run"]) == 0, words
        assert capsys.readouterr().out


@pytest.mark.check
def test_every_command_that_needs_no_downloaded_data_runs_for_one_step(workplace: Path) -> None:
    for words in use_commands():
        if "--data-root" not in words and words[0] != "tensorboard":
            assert run(words) == 0, words
    assert (workplace / "runs" / "first" / "samples.png").is_file()


@pytest.mark.check
def test_every_command_on_downloaded_data_runs_for_one_step(workplace: Path, data_root: Path) -> None:
    (workplace / "data").symlink_to(data_root)
    found = [words for words in use_commands() if "--data-root" in words and "--dry-run" not in words]
    assert len(found) == 3
    for words in found:
        assert run(words) == 0, words


def test_other_commands_exist() -> None:
    assert shutil.which("tensorboard") or (Path(__import__("sys").executable).parent / "tensorboard").exists()


def test_the_table_of_plugins_is_the_registry() -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| (prior|architecture|dataset|metric|objective) \| (.*) \|$", README, re.MULTILINE
    )
    assert rows == [(entry.name, entry.kind, entry.summary) for entry in load_registry(()).all_entries()]


def test_every_linked_file_exists_and_nothing_is_left_to_be_filled_in() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target.partition("#")[0]).exists(), target
    assert "PLACEHOLDER" not in README


def test_the_named_presets_are_those_of_the_registry() -> None:
    line = re.search(r"^Presets: (.*?), in\s", README, re.MULTILINE | re.DOTALL)
    assert line is not None
    assert re.findall(r"`([\w-]+)`", line[1]) == list(load_registry(()).presets)
