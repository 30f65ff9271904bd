"""What follows an iteration."""

from __future__ import annotations

import pytest

from mpcc.core.config import RunSettings
from mpcc.core.run.due import due_after

SETTINGS = RunSettings(iterations=12, log_every=2, eval_every=5, checkpoint_every=4)
BY_TIME = RunSettings(iterations=12, log_every=100, eval_every=100, checkpoint_every="10s")


@pytest.mark.parametrize(
    ("settings", "done", "since_saved", "asked", "expected"),
    [
        (SETTINGS, 1, 0.0, False, ""),
        (SETTINGS, 2, 0.0, False, "log"),
        (SETTINGS, 4, 0.0, False, "log save"),
        (SETTINGS, 5, 99.0, False, "evaluate"),
        (SETTINGS, 1, 0.0, True, "save stop"),
        # All of it follows the last iteration, which is the end however it came.
        (SETTINGS, 12, 0.0, False, "log evaluate save"),
        (SETTINGS, 12, 0.0, True, "log evaluate save"),
        (BY_TIME, 4, 9.9, False, ""),
        (BY_TIME, 5, 10.0, False, "save"),
    ],
)
def test_what_is_due_follows_from_the_settings(
    settings: RunSettings, done: int, since_saved: float, asked: bool, expected: str
) -> None:
    due = due_after(done, settings, since_saved, asked_to_stop=asked)
    assert [name for name in ("log", "evaluate", "save", "stop") if getattr(due, name)] == expected.split()
