"""Hooks that watch a run: when they are called, with what, and that they can't disturb it."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mpcc.core.commands import entry

TINY = [
    *("--preset", "none", "--arch.width", "2", "--latent-dim", "4", "--d-steps", "1", "--e-steps", "2"),
    *("--eval-images", "40", "--eval-every", "2", "--standing-passes", "2", "--checkpoint-every", "2"),
    *("--threads", "1", "--metrics", "acc,nmi"),
]
HEAD = "import torch\nfrom mpcc.core.hookspecs import hookimpl\nseen = []\n"
WATCHER = (
    HEAD
    + """
@hookimpl
def run_started(run):
    torch.manual_seed(99)
    seen.append(("started", run.folder, run.config["prior"]["name"], run.iteration, run.iterations))

@hookimpl
def step_ended(iteration, terms):
    seen.append(("step", iteration, sorted(terms), all(not term.requires_grad for term in terms.values())))

@hookimpl
def evaluated(iteration, scores):
    torch.randn(1000)
    seen.append(("evaluated", iteration, dict(scores)))

@hookimpl
def run_ended(iteration, results, reason):
    seen.append(("ended", iteration, results and results["metrics"], reason))
"""
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder and leave no module behind."""
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("fake_")]:
        del sys.modules[name]


def run(*arguments: str) -> int:
    """Run mpcc-run in this process and return its status."""
    with pytest.raises(SystemExit) as caught:
        entry.run_main([*arguments, *TINY])
    return int(caught.value.code or 0)


def test_the_hooks_are_called_in_order_with_what_they_are_told() -> None:
    Path("fake_watch.py").write_text(WATCHER)
    assert run("--plugin", "fake_watch.py", "--iterations", "4", "--out", "run") == 0
    seen = sys.modules["fake_watch"].seen
    terms = ["data_discriminator", "data_generator", "entropy", "label", "latent", "membership"]
    scores = [json.loads(line)["metrics"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert seen == [
        ("started", Path("run"), "gmm", 0, 4),
        ("step", 1, terms, True),
        ("step", 2, terms, True),
        ("evaluated", 2, scores[0]),
        ("step", 3, terms, True),
        ("step", 4, terms, True),
        ("evaluated", 4, scores[1]),
        ("ended", 4, scores[1], None),
    ]


def test_the_logger_on_the_page_gets_settings_terms_scores_and_pictures(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / "docs" / "plugin-hooks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r'^```python\n("""trackio_log.py.*?)^```', page, re.MULTILINE | re.DOTALL)
    Path("fake_trackio_log.py").write_text(example.replace("EVERY = 50", "EVERY = 2"), encoding="utf-8")
    logged: list[tuple[str, Any]] = []
    stub = types.ModuleType("trackio")
    vars(stub).update(
        init=lambda **named: logged.append(("init", named)),
        log=lambda values, step: logged.append((f"log {step}", values)),
        Image=lambda array: (array.dtype.name, array.shape[2]),
        finish=lambda: logged.append(("finish", None)),
    )
    monkeypatch.setitem(sys.modules, "trackio", stub)
    assert run("--plugin", "fake_trackio_log.py", "--iterations", "4", "--out", "run") == 0
    assert [name for name, _ in logged] == ["init", *["log 2"] * 3, *["log 4"] * 3, "finish"]
    assert (logged[0][1]["name"], logged[0][1]["config"]["prior.name"]) == ("run", "gmm")
    terms, scores, pictures = (values for _, values in logged[4:7])
    assert {"terms/latent", "terms/entropy"} <= terms.keys()
    assert all(isinstance(value, float) for value in terms.values())
    assert scores.keys() == {"Scores/acc", "Scores/nmi"}
    names = ("clusters", "samples", "interpolations", "reconstructions", "confusion", "kmeans")
    assert pictures == dict.fromkeys(names, ("uint8", 3))


def test_watching_changes_nothing() -> None:
    Path("fake_watch.py").write_text(WATCHER)
    assert run("--iterations", "4", "--out", "alone") == 0
    assert run("--plugin", "fake_watch.py", "--iterations", "4", "--out", "watched") == 0
    assert Path("alone/metrics.jsonl").read_text() == Path("watched/metrics.jsonl").read_text()


def test_a_run_that_fails_ends_with_the_reason() -> None:
    body = WATCHER + "\nimport mpcc.core.run.run\n"
    Path("fake_watch.py").write_text(body)
    assert run("--plugin", "fake_watch.py", "--iterations", "4", "--lr", "1e30", "--out", "run") == 3
    last = sys.modules["fake_watch"].seen[-1]
    assert last[:1] + last[2:3] == ("ended", None)
    assert "training has diverged" in last[3]


@pytest.mark.parametrize(
    "hook", ["run_started(run)", "step_ended(iteration)", "evaluated(scores)", "run_ended(reason)"]
)
def test_an_observer_that_raises_is_named_once_and_the_run_goes_on(
    hook: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fake_bad.py").write_text(f"{HEAD}\n@hookimpl\ndef {hook}:\n    raise OSError('disk full')\n")
    assert run("--plugin", "fake_bad.py", "--iterations", "4", "--out", "run") == 0
    err = capsys.readouterr().err
    place = f"{Path('fake_bad.py').absolute()}:7): {hook.partition('(')[0]}: OSError: disk full; it is not called again"
    assert err.count("disk full") == 1
    assert place in err


def test_a_strict_user_gets_an_error_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPCC_STRICT_PLUGINS", "1")
    Path("fake_bad.py").write_text(f"{HEAD}\n@hookimpl\ndef evaluated(scores):\n    raise OSError('disk full')\n")
    assert run("--plugin", "fake_bad.py", "--iterations", "4", "--out", "run") == 2
    assert "observer " in capsys.readouterr().err


def test_a_hook_with_an_argument_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("fake_bad.py").write_text(f"{HEAD}\n@hookimpl\ndef evaluated(score):\n    pass\n")
    assert run("--plugin", "fake_bad.py", "--iterations", "4", "--out", "run") == 2
    assert "score" in capsys.readouterr().err
