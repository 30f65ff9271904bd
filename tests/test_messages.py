"""What the library says: through the logger ``mpcc``, which only commands show."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

import pytest

from mpcc.core.config import Layer, resolve
from mpcc.core.registry import load_registry
from mpcc.core.reporting.messages import messages_shown
from mpcc.core.run.execution import execute
from mpcc.core.run.run import Run
from mpcc.core.storage.kept_checkpoints import KeptCheckpoints
from mpcc.core.storage.run_folder import RunFolder

TINY = {
    **{"clusters": 3, "latent_dim": 3, "batch": 10, "d_steps": 1, "e_steps": 1, "iterations": 2, "eval_images": 60},
    **{"standing_passes": 2, "metrics": "acc", "device": "cpu"},
}


def test_a_run_from_python_prints_nothing_and_replaces_no_hook(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    registry, hook, handlers = load_registry(), threading.excepthook, list(logging.getLogger("mpcc").handlers)
    layers = [Layer("flag", {"run": TINY, "arch": {"name": "biggan8", "width": 1}, "data": {"name": "digits"}})]
    run = Run.assemble(registry, resolve(registry, layers, "none"))
    folder = RunFolder(tmp_path / "run")
    folder.create()
    with caplog.at_level(logging.INFO, logger="mpcc"):
        results = execute(run, folder, KeptCheckpoints(folder.checkpoints), resumed=False)
    assert results["iterations"] == 2
    progress = r"iteration 2/2: \d+ of 3 clusters in use, mean confidence [01]\.\d\d, acc 0\."
    assert any(re.match(progress, record.message) for record in caplog.records)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"mpcc"}
    assert capfd.readouterr() == ("", "")
    assert threading.excepthook is hook
    assert logging.getLogger("mpcc").handlers == handlers


def test_commands_show_each_message_once_as_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mpcc.core.anything")
    root = logging.StreamHandler()
    logging.getLogger().addHandler(root)
    try:
        with messages_shown():
            logger.info("engine %s: %d%% [less]", "fast", 5)
            logger.warning(":cat: and\ttabs stay")
            logger.debug("not this")
        assert capsys.readouterr() == ("", "engine fast: 5% [less]\nwarning: :cat: and\ttabs stay\n")
    finally:
        logging.getLogger().removeHandler(root)
    logger.info("nor this")
    assert capsys.readouterr() == ("", "")
