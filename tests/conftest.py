"""Fixtures and rules for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from mpcc.core.method.training import Trainer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder MPCC_DATA with real data sets, in torchvision's layout.

    Without MPCC_DATA, tests that use this fixture are skipped. With it, none may be: missing files are failures.
    """
    given = os.environ.get("MPCC_DATA")
    if not given:
        pytest.skip("MPCC_DATA is not set")
    root = Path(given)
    if not root.is_dir():
        pytest.fail(f"MPCC_DATA is set to {given!r}, which is not a folder", pytrace=False)
    return root


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped data-set test into a failed one when MPCC_DATA is set."""
    report = yield
    uses_data = "data_root" in getattr(item, "fixturenames", ())
    if report.skipped and uses_data and os.environ.get("MPCC_DATA") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"no test of data sets may skip when MPCC_DATA is set ({reason})"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Hide the terminal, and GPUs without the mark gpu, from a test, its fixtures and the commands that it starts.

    What such a test compares, often bit by bit, then means the same on every machine.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not item.get_closest_marker("gpu"):
            if torch := sys.modules.get("torch"):
                # CUDA reads the variable once in a process: it must have done so before the variable hides a GPU.
                torch.cuda.is_available()
                patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        # The width of the terminal that the tests run on.
        patch.delenv("COLUMNS", raising=False)
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked gpu where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def once(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fills a folder once for all processes of pytest-xdist: the first one fills it, the others wait for it.

    No test may change such a folder.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base

    def fill(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def clean_copy(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A copy of the tree without build outputs: tracked files, and untracked ones that git doesn't ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    def make(folder: Path) -> None:
        for name in filter(None, listed.stdout.split("\0")):
            # Tracked files that were deleted but not yet committed are still listed.
            if (ROOT / name).is_file():
                (folder / "mpcc" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / "mpcc" / name)

    return once("source", make) / "mpcc"


@pytest.fixture(scope="session")
def distributions(clean_copy: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> dict[str, Path]:
    """The sdist and, built from it, the wheel: {"sdist": path, "wheel": path}."""

    def make(folder: Path) -> None:
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(clean_copy)]
        done = subprocess.run(build, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    out = once("dist", make)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.fixture(scope="session")
def installed(distributions: dict[str, Path], once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A folder into which the wheel is installed, without its dependencies."""

    def make(folder: Path) -> None:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        install += ["--disable-pip-version-check", "--target", str(folder), str(distributions["wheel"])]
        done = subprocess.run(install, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return once("installed", make)


@pytest.fixture(scope="session")
def clustered_run(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A run on the digits with twelve clusters that all have images, though it trained for two iterations only.

    The clusters are moved to the latent codes of twelve images, and the evaluation is repeated: ``assignments.csv`` is
    that of the moved clusters.
    """

    def make(folder: Path) -> None:
        import numpy as np
        import torch

        from mpcc.core.commands import entry
        from mpcc.core.storage.checkpoint import load_checkpoint, save_checkpoint

        def done(function: Callable[[list[str]], None], *words: str) -> None:
            with pytest.raises(SystemExit) as caught:
                function(list(words))
            assert caught.value.code == 0

        run, newest = folder / "run", folder / "run" / "checkpoints" / "last.pt"
        tiny = {"arch": "biggan8", "arch.width": 1, "batch": 10, "latent-dim": 3, "d-steps": 1, "e-steps": 1}
        tiny |= {"iterations": 2, "standing-passes": 2, "seed": 3, "device": "cpu", "clusters": 12, "threads": 1}
        done(entry.run_main, *(f"--{name}={value}" for name, value in tiny.items()), f"--out={run}")
        done(entry.main, "predict", f"{run}", f"--out={folder / 'first.csv'}", f"--latents={folder / 'first.npy'}")
        state = load_checkpoint(newest)
        prior = state["parts"]["prior"]
        # With equal scales, the nearest location wins.
        codes = torch.from_numpy(np.load(folder / "first.npy")[::150][:12])
        for name, value in prior.items():
            if value.shape == (12, 3):
                prior[name] = codes if name.startswith("loc") else torch.full_like(value, value.mean())
        save_checkpoint(newest, state)
        done(entry.main, "evaluate", f"{run}", f"--out={folder / 'evaluation'}")
        for file in ("assignments.csv", "posterior.npy", "results.json"):
            shutil.move(folder / "evaluation" / file, run / file)

    return once("clustered", make) / "run"


@pytest.fixture
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``--minutes`` come to one iteration or a few, however quick the machine is."""
    from mpcc.core.run import run
    from mpcc.core.run.costs import Copy, Costs, measure
    from mpcc.core.run.time_budget import measuring_seconds

    def measured(copy: Copy, limit: float) -> Costs:
        measure(copy, 0.0)
        # At least half of the time for which the iterations of ten minutes are timed.
        return Costs(iteration=360 * limit / measuring_seconds(10))

    monkeypatch.setattr(run, "measure", measured)


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Lets something happen once, before an iteration."""
    from mpcc.core.method.training import Trainer

    def arrange(number: int, action: Callable[[], None]) -> None:
        iterate, due = Trainer.iterate, [action]

        def prepared(self: Trainer) -> Any:
            if self.iteration == number - 1 and due:
                due.pop()()
            return iterate(self)

        monkeypatch.setattr(Trainer, "iterate", prepared)

    return arrange
