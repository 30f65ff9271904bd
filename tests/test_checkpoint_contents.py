"""What a checkpoint holds: what is missing or of another kind is named in one line."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from mpcc.core.errors import InvalidInput
from mpcc.core.storage.checkpoint_contents import check_contents

SCORE = {"name": "silhouette", "higher": True, "value": 0.5, "iteration": 3}
RESTART = {"iteration": 5, "from": 4, "reason": "not finite"}
WHOLE: dict[str, Any] = {
    "format_version": 2,
    "iteration": 3,
    "stream": {"position": 0},
    "parts": {"prior": OrderedDict(weight=torch.zeros(2))},
    "optimizers": {"prior": {"state": {0: torch.zeros(1)}, 1: [None]}},
    "random": {"cpu": torch.zeros(3)},
    "images": [10, 1, 8, 8],
    "fingerprint": "abc",
    "plugins": {"prior gmm": "mpcc 1"},
    "versions": {},
    "threads": 1,
    "executed": {"device": "cpu"},
    "config": "[run]",
    "seconds": 1,
    "evaluation_seconds": 0.5,
    "best": None,
    "restarts": [],
    "hinges": [0.5, 1],
    "told": [],
}
SOURCE = Path("last.pt")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"best": SCORE},
        {"best": {**SCORE, "value": None, "iteration": None}},
        {"restarts": [RESTART, RESTART]},
        {"told": ["a", "b"]},
        {"of another version": torch.zeros(1)},
    ],
)
def test_the_full_state_of_a_run_is_taken(change: dict[str, Any]) -> None:
    check_contents(WHOLE | change, SOURCE)


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "format_version"])
def test_what_is_missing_or_a_tensor_is_named(name: str) -> None:
    with pytest.raises(
        InvalidInput, match=rf"^checkpoint last\.pt: '{name}' is missing: expected a checkpoint of a run$"
    ):
        check_contents({key: value for key, value in WHOLE.items() if key != name}, SOURCE)
    for wrong in (torch.zeros(0), torch.zeros(2)):
        with pytest.raises(InvalidInput, match=rf"^checkpoint last\.pt: '{name}': expected (a|four) .*, got tensor"):
            check_contents(WHOLE | {name: wrong}, SOURCE)


@pytest.mark.parametrize(
    ("name", "wrong", "expected", "got"),
    [
        *(("iteration", wrong, "a whole number, 0 or more", repr(wrong)) for wrong in (-1, True, 1.0, "1", None)),
        *(("threads", wrong, "a whole number", repr(wrong)) for wrong in (-1, False, 2.5)),
        *(("stream", wrong, "a table of whole numbers", repr(wrong)) for wrong in ([], {"position": -1}, {"x": "1"})),
        *(("parts", wrong, "a table of tables", repr(wrong)) for wrong in ({"prior": 1}, [], [{}], None)),
        ("optimizers", {"prior": []}, "a table of tables", "{'prior': []}"),
        ("random", [], "a table", "[]"),
        *(("images", wrong, "four whole numbers", repr(wrong)) for wrong in ([1, 2, 3], [1, 2, 3, -4], (1, 2, 3, 4))),
        *(("config", wrong, "a text", repr(wrong)) for wrong in (b"x", 1, None)),
        *(("plugins", wrong, "a table of texts", repr(wrong)) for wrong in ({"a": 1}, {1: "a"}, "text", [])),
        *(("seconds", wrong, "a number, 0 or more", repr(wrong)) for wrong in (-0.5, True, "1", float("nan"))),
        ("evaluation_seconds", float("inf"), "a number, 0 or more", "inf"),
        *(("best", wrong, "a score", repr(wrong)) for wrong in ({}, [], 0.5, {"name": "acc"})),
        *(
            ("best", SCORE | wrong, "a score", "dict")
            for wrong in (
                *({"name": 12345}, {"higher": 1}, {"value": None}, {"iteration": None}, {"value": float("nan")}),
                *({"value": "0.5"}, {"iteration": -1}, {"iteration": 1.5}, {"more": 1}),
            )
        ),
        *(("restarts", wrong, "a list of restarts", repr(wrong)) for wrong in ({}, [1], [{}], "", None)),
        *(
            ("restarts", [RESTART, RESTART | wrong], "a list of restarts", "list")
            for wrong in ({"iteration": -1}, {"from": "x"}, {"reason": None}, {"more": 1})
        ),
        *(("hinges", wrong, "a list of numbers", repr(wrong)) for wrong in (["1"], [True], [float("nan")], (), {})),
        ("hinges", [10**400], "a list of numbers", "list"),
        *(("told", wrong, "a list of texts", repr(wrong)) for wrong in ("text", [1], {}, ())),
    ],
)
def test_what_is_of_another_kind_is_named_with_what_was_expected(
    name: str, wrong: Any, expected: str, got: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_contents(WHOLE | {name: wrong}, SOURCE)
    assert str(caught.value) == f"checkpoint last.pt: {name!r}: expected {expected}, got {got}"
