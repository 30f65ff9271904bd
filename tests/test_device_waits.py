"""Where the host waits for a CUDA device, tried on a CPU: torch's mode and its warnings are imitated."""

from __future__ import annotations

import re
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mpcc.core.engines.cuda_graph import default_generator, first_cause, index_of
from mpcc.core.system.device_waits import device_waits, waiting

NAMES = {"default": 0, "warn": 1, "error": 2}


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Torch's mode: set with a warning, as torch does it; it is 0 at first."""
    state = SimpleNamespace(now=0)

    def put(mode: int | str) -> None:
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=2)
        state.now = NAMES[mode] if isinstance(mode, str) else mode

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", put)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: state.now)
    return state


def wait() -> None:
    warnings.warn("called a synchronizing CUDA operation (Triggered internally at x.cpp:1.)", stacklevel=1)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_former_mode_is_restored_without_a_warning_even_after_an_error(mode: SimpleNamespace, before: int) -> None:
    mode.now, seen = before, []

    def fail() -> None:
        seen.append(mode.now)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), waiting("error"):
        fail()
    assert mode.now == before
    with pytest.raises(ZeroDivisionError), device_waits():
        fail()
    assert mode.now == before
    assert seen == [2, 1]


def test_each_line_that_waits_is_found_once_and_warns_of_nothing(mode: SimpleNamespace) -> None:
    with device_waits() as found:
        for _ in range(3):
            wait()
    assert found == [f"{__file__}:{line_of('called a synchronizing')}"]


def test_other_warnings_take_their_usual_way(mode: SimpleNamespace) -> None:
    with pytest.warns(UserWarning, match="of another kind"), device_waits() as found:
        warnings.warn("of another kind", stacklevel=1)
    assert found == []
    # Here they are errors.
    with pytest.raises(UserWarning, match="of another kind"), device_waits():
        warnings.warn("of another kind", stacklevel=1)


def test_what_another_thread_waits_for_is_not_counted(mode: SimpleNamespace) -> None:
    begin, end = threading.Event(), threading.Event()

    def read_ahead() -> None:
        begin.wait()
        wait()
        end.set()

    thread = threading.Thread(target=read_ahead)
    thread.start()
    with device_waits() as found:
        begin.set()
        end.wait()
    thread.join()
    assert found == []


def test_a_wait_inside_a_library_is_found_at_the_line_that_calls_it(mode: SimpleNamespace) -> None:
    library: dict[str, Any] = {"__name__": "torch.imitated", "wait": wait}
    exec("def check():\n    import warnings\n    warnings.warn('called a synchronizing CUDA operation')", library)
    with device_waits() as found:
        library["check"]()
    line = line_of('["check"]()')
    assert found == [f"{__file__}:{line} (in torch.imitated:3)"]


def line_of(code: str) -> int:
    """The number of the first line of this file that has this code."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if code in line)


def test_the_first_cause_of_a_failed_recording_has_file_and_line() -> None:
    try:
        try:
            torch.distributions.Categorical(probs=torch.tensor([-1.0, 2.0]), validate_args=True)
        finally:
            raise RuntimeError("the capture failed")
    except RuntimeError as error:
        text = first_cause(error)
    line = line_of("Categorical(probs")
    assert text.startswith("Expected parameter probs ")
    assert re.search(rf"test_device_waits\.py:{line} \(in torch\.distributions\.\w+:\d+\)$", text), text


@pytest.mark.parametrize(("device", "index"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_device_without_an_index_is_the_current_one(monkeypatch: pytest.MonkeyPatch, device: str, index: int) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "default_generators", ["of the first", "of the second"])
    assert index_of(torch.device(device)) == index
    assert default_generator(torch.device(device)) == ["of the first", "of the second"][index]  # type: ignore[comparison-overlap]
