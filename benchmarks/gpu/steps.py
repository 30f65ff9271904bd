"""The first half-hour on a GPU, in steps of at most ten minutes; results are on the disk whenever a step ends.

    python benchmarks/gpu/steps.py A --out OUT                     # the CUDA tests, then engines and kernels
    python benchmarks/gpu/steps.py B --out OUT --data-root data    # mnist-paper until the time is up
    python benchmarks/gpu/steps.py C --out OUT --data-root data    # the other presets, bench, contract kit

B and the runs of C go on from their checkpoints if OUT is the same. OUT/steps.json tells how each part ended.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

__all__ = ["Part", "main", "parts"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# How long a part may take to save its state after SIGTERM (s).
PATIENCE = 60
# The status of a run that SIGTERM has stopped after it saved its state.
STOPPED = 130
# CIFAR-10 with two batch sizes and step sizes of the prior, for pictures as in the supplement's Fig. 3.
FIGURE_3 = {
    "cifar10-50": ["--batch", "50", "--prior-lr", "6e-4"],
    "cifar10-64": ["--batch", "64", "--prior-lr", "8e-4"],
}


@attrs.frozen
class Part:
    """A command of a step.

    Attributes:
        name: The name of its log.
        seconds: When it is asked to end.
        command: Its arguments, after this Python.
    """

    name: str
    seconds: float
    command: Sequence[str]


def program(name: str, *arguments: str) -> list[str]:
    """Return a command of the package, wherever its entry points are installed."""
    code = f"import sys; from mpcc.core.commands.start import {name}; sys.exit({name}())"
    return ["-c", code, *arguments]


def training(folder: Path, data: str, preset: str, seconds: float, given: argparse.Namespace, *more: str) -> Part:
    """Return a run that goes on from its checkpoint, if it has one.

    Arguments:
        folder: The run folder.
        data: The data set.
        preset: The preset.
        seconds: When the run is asked to stop; it then saves its state.
        given: The arguments of the step.
        more: Further arguments of a new run.
    """
    if (folder / "checkpoints").exists():
        return Part(folder.name, seconds, program("run_main", "--resume", str(folder)))
    new = ["--data", data, "--preset", preset, "--device", given.device, "--out", str(folder)]
    new += ["--data-root", str(given.data_root)] if given.data_root else []
    new += ["--metrics", "acc,nmi,ari", "--eval-every", "2500", "--eval-images", "10000", "--checkpoint-every", "5min"]
    new += more
    for words in given.also:
        new += words.split()
    return Part(folder.name, seconds, program("run_main", *new))


def parts(step: str, given: argparse.Namespace) -> list[Part]:
    """Return the commands of a step; their times add up to ``given.seconds``."""
    out, most = given.out.resolve(), given.seconds
    if step == "A":
        tests = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "default", "-m", "gpu", str(ROOT / "tests")]
        engines = [str(HERE / "engines.py"), "--out", str(out), "--device", given.device]
        engines += ["--seconds", str(0.6 * most), *(["--presets", given.presets] if given.presets else [])]
        return [Part("tests", 0.25 * most, tests), Part("engines", 0.75 * most, engines)]
    if step == "B":
        preset = (given.presets or "mnist-paper").split(",")[0]
        return [training(out / preset, preset.removesuffix("-paper"), preset, most, given)]
    presets = (given.presets or "omniglot-paper,fashion-mnist-paper,cifar20-paper").split(",")
    share = most / (len(presets) + (2 if given.presets else 4))
    runs = [training(out / preset, preset.removesuffix("-paper"), preset, share, given) for preset in presets]
    if not given.presets:
        more = ("--data.split", "test")
        runs[-1] = training(out / "cifar20-paper", "cifar20", "cifar20-paper", share, given, *more)
        runs += [
            training(out / name, "cifar10", "cifar10-paper", share, given, *values) for name, values in FIGURE_3.items()
        ]
    bench = ["bench", "--presets", presets[0], "--parts", "training,predict", "--device", given.device]
    bench += ["--rounds", "3", "--iterations", "5", "--predict-images", "20000", "--out", str(out / "bench")]
    kit = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "default", "-m", "not check"]
    kit += [str(ROOT / "tests" / name) for name in ("test_contract_kit.py", "test_checkpoint.py")]
    return [*runs, Part("bench", share, program("main", *bench)), Part("kit", share, kit)]


def carried_out(part: Part, log: Path) -> dict[str, object]:
    """Run a part until it ends or its time is up; return how it ended."""
    began = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen([sys.executable, *part.command], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        stopped = False
        try:
            process.wait(part.seconds)
        except subprocess.TimeoutExpired:
            stopped = True
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return {"status": process.returncode, "stopped": stopped, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    """Carry out the parts of a step; the status is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["A", "B", "C"])
    parser.add_argument("--out", type=Path, required=True, help="folder for logs, figures and run folders")
    parser.add_argument("--data-root", type=Path, help="folder of the published data sets")
    parser.add_argument("--seconds", type=float, default=540, help="of all parts together, but for saving states")
    parser.add_argument("--presets", help="others than those of the plan")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--also", action="append", default=[], help="further arguments of every new run, as one text")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    ended: dict[str, dict[str, object]] = {}
    for part in parts(given.step, given):
        ended[part.name] = carried_out(part, given.out / f"{part.name}.txt")
        print(part.name, ended[part.name], flush=True)
        (given.out / "steps.json").write_text(json.dumps(ended, indent=1), encoding="utf-8")
    return int(any(found["status"] not in (0, STOPPED) for found in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
