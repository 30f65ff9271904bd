"""Other clusterings of the same images in the same time: k-means, Ward, t-SNE, Isomap, UMAP, VaDE and DEC.

    python benchmarks/baselines.py run --data digits --seeds 20-29 --budget 90
    python benchmarks/baselines.py run --data mnist --pixels 28 --methods k-means,umap --budget 1800 --threads 2
    python benchmarks/baselines.py run
    python benchmarks/baselines.py table

The images come from the loader of ``mpcc-run``, and all flags that are not below are flags of ``mpcc-run``: ``--data``,
``--data.path``, ``--arch``, ``--clusters``, ``--threads``. Without ``--data``, all sets in settings.toml are run. Each
method runs in a process of its own, which is ended after the budget; imports and reading count. A method that did not
finish has a result that says so. One file is written for each method, set and seed; what is there is skipped. UMAP,
VaDE and DEC need the extra: pip install -e '.[baselines]'.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from baseline_methods import METHODS, cluster
from proof_settings import SETTINGS, BaselineSetting, filled, read_settings
from result_files import RESULTS, read_results, scores, seeds_of, write_result
from result_tables import baseline_tables
from surroundings import activity, machine, now, source_state, versions

from mpcc.core.commands.train import run_parser
from mpcc.core.config import SECTIONS, Layer, RunConfig, environment_layer, resolve
from mpcc.core.contracts import ImageSet
from mpcc.core.errors import InvalidInput, unknown_name
from mpcc.core.registry import load_registry

__all__ = ["main"]

FOLDER = RESULTS / "baselines"
PACKAGES = ("mpcc", "torch", "numpy", "scipy", "scikit-learn", "umap-learn", "clustpy")


def configuration(words: Sequence[str]) -> RunConfig:
    """Return the configuration that these flags of ``mpcc-run`` ask for.

    Raises:
        InvalidInput: If one of them is not valid.
    """
    registry = load_registry()
    parser = run_parser(registry, resolve(registry, []))
    typed = run_parser().read(list(words), SECTIONS)
    if typed.rest:
        parser.refuse(typed.rest)
    return resolve(registry, [environment_layer(), Layer("flag", typed.tables)])


def load(config: RunConfig, pixels: int | None) -> ImageSet:
    """Return the images of a configuration.

    Arguments:
        config: Names the data set and the architecture.
        pixels: The side of the images, by default that of the architecture.

    Raises:
        InvalidInput: If they cannot be read.
    """
    side = pixels or config.arch.make().image_size
    data: ImageSet = config.data.make().load(side, config.run.data_root, config.run.download)
    return data


def fit(flags: argparse.Namespace, words: Sequence[str]) -> None:
    """Run one method in this process, and write what it found; `run_one` starts the process."""
    deadline = time.monotonic() + flags.budget
    config = configuration(words)
    data = load(config, flags.pixels)
    images = data.images[:] if not hasattr(data.images, "numpy") else data.images
    pixels = images.numpy().reshape(len(images), -1).astype(np.float32) / 255
    left = deadline - time.monotonic()
    found = cluster(METHODS[flags.method], pixels, config.run.clusters, flags.seed, left, flags.most)
    result: dict[str, Any] = {
        "images": len(data),
        "pixels": int(images.shape[-1]),
        "fitted_on": found.fitted_on,
        "fit_seconds": round(found.seconds, 3),
        "clusters": {"total": config.run.clusters, "used": len(np.unique(found.clusters))},
        **found.details,
    }
    if data.labels is not None:
        labels = data.labels.numpy()
        result["scores"] = scores(found.clusters, labels)
        if 0 < flags.chosen_images < len(data):
            rest = slice(flags.chosen_images, None)
            result["rest"] = {"from": flags.chosen_images, **scores(found.clusters[rest], labels[rest])}
    write_result(flags.out, result)


def run_one(setting: BaselineSetting, method: str, seed: int, words: Sequence[str], folder: Path, rate: float) -> bool:
    """Measure a method with a seed and write the result, unless it is there; return whether all went well.

    Arguments:
        setting: Which images, how, and how long.
        method: One of `METHODS`.
        seed: Of the method.
        words: Flags of ``mpcc-run``.
        folder: Of the results.
        rate: How long (s) the rate of a matrix product is measured.
    """
    path = folder / f"{setting.name}-{method}-{seed}.json"
    if path.exists():
        print(f"{path.name}: is there", flush=True)
        return True
    result: dict[str, Any] = {"data": setting.name, "method": method, "title": METHODS[method].title, "seed": seed}
    result |= {"command": repeating(setting, method, seed, words), "date": now()}
    result |= {"budget_seconds": setting.budget, "machine": machine(), "before": activity(rate)}
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "found.json"
        command = [sys.executable, __file__, "fit", "--method", method, "--seed", str(seed), "--out", str(out)]
        command += ["--budget", str(setting.budget), "--chosen-images", str(setting.chosen_images)]
        command += ["--pixels", str(setting.pixels)] if setting.pixels else []
        command += ["--most", str(setting.most)] if setting.most else []
        ended, seconds, error = limited([*command, *words], setting.budget, threads_of(words))
        if ended == "failed":
            print(f"{path.name}: failed: {error}", file=sys.stderr, flush=True)
            return False
        result |= {"ended": ended, "wall_seconds": round(seconds, 1)}
        if ended == "finished":
            result |= read_results(out.parent)[0]
    result |= {"after": activity(rate), "source": source_state(), "versions": versions(PACKAGES)}
    write_result(path, result)
    print(f"{path.name}: {ended}, {seconds:.0f} s, {result.get('scores', {})}", flush=True)
    return True


def repeating(setting: BaselineSetting, method: str, seed: int, words: Sequence[str]) -> str:
    """Return the command that makes one result anew."""
    given = {"--budget": f"{setting.budget:g}", "--pixels": setting.pixels, "--most": setting.most}
    given |= {"--chosen-images": setting.chosen_images, "--name": setting.name}
    flags = [f"{name} {value}" for name, value in given.items() if value is not None]
    return " ".join(["baselines.py run", *words, f"--methods {method} --seeds {seed}", *flags])


def limited(command: Sequence[str], seconds: float, threads: int | None) -> tuple[str, float, str]:
    """Run a command in a process of its own, and end it with all that it has started once its time is over.

    Returns:
        How it ended, its time (s), and the last line that it wrote to standard error.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        environment |= {"NUMBA_NUM_THREADS": str(threads)}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=environment, start_new_session=True
        )
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        errors.seek(0)
        last = next((line.strip() for line in reversed(errors.read().splitlines()) if line.strip()), "")
    taken = time.monotonic() - start
    if status is None:
        return f"not finished in {seconds:g} s", taken, last
    if status == -signal.SIGKILL:
        return "ended by the system, probably out of memory", taken, last
    return "finished" if status == 0 else "failed", taken, last


def threads_of(words: Sequence[str]) -> int | None:
    """Return the threads that the flags of ``mpcc-run`` ask for."""
    return configuration(words).run.threads


def wanted(flags: argparse.Namespace, words: Sequence[str]) -> list[tuple[BaselineSetting, list[str]]]:
    """Return what the command line asks for: a set with flags of ``mpcc-run``, or all of the settings.

    Raises:
        InvalidInput: If something is not valid.
    """
    if not words:
        named = read_settings(flags.settings).baselines
        return [(changed(setting, flags), filled(setting, flags.work / "made")) for setting in named]
    config = configuration(words)
    path = getattr(config.data.options, "path", None)
    name = flags.name or (config.data.name if path is None else Path(path).stem)
    name += f"-{flags.pixels}-pixels" if flags.pixels and not flags.name else ""
    chosen = 0 if config.data.name in ("digits", "folder", "arrays") else 10_000
    setting = BaselineSetting(name=name, arguments=tuple(words), budget=1800.0, seeds=(0, 1, 2), chosen_images=chosen)
    return [(changed(setting, flags), list(words))]


def changed(setting: BaselineSetting, flags: argparse.Namespace) -> BaselineSetting:
    """Return a setting with the values that the command line gives."""
    given = {"pixels": flags.pixels, "budget": flags.budget, "most": flags.most, "chosen_images": flags.chosen_images}
    given |= {"seeds": tuple(seeds_of(flags.seeds)) if flags.seeds else None}
    return attrs.evolve(setting, **{name: value for name, value in given.items() if value is not None})


def methods_of(text: str | None) -> list[str]:
    """Return the methods of a list separated by commas, all of them by default.

    Raises:
        InvalidInput: If one does not exist, or its package is missing.
    """
    names = list(METHODS) if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in METHODS:
            raise unknown_name("--methods", name, METHODS)
        METHODS[name].check()
    return names


def run(flags: argparse.Namespace, words: Sequence[str]) -> int:
    """Run all methods on all sets with all seeds, and return the exit status."""
    methods = methods_of(flags.methods)
    results = [
        run_one(setting, method, seed, arguments, flags.results, flags.rate_seconds)
        for setting, arguments in wanted(flags, words)
        for method in methods
        for seed in setting.seeds
    ]
    return 0 if all(results) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", allow_abbrev=False, help="measure what has no result yet")
    running.add_argument("--methods", help=f"separated by commas, of {', '.join(METHODS)}")
    running.add_argument("--seeds", nargs="+", help="numbers and ranges such as 20-29")
    running.add_argument("--budget", type=float, help="seconds for each method [1800, or of the settings]")
    running.add_argument("--name", help="name of the set in the results [data set, and pixels if given]")
    running.add_argument("--rate-seconds", type=float, default=1.0, help="time to measure the machine's rate [1]")
    running.add_argument("--work", type=Path, default=Path("runs/accuracy"), help="folder of made sets")
    running.add_argument("--settings", type=Path, default=SETTINGS, help="sets to run without --data")
    one = commands.add_parser("fit", allow_abbrev=False, help="one method in this process; run starts it")
    one.add_argument("--method", choices=METHODS, required=True)
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--budget", type=float, required=True)
    one.add_argument("--out", type=Path, required=True)
    for command in (running, one):
        command.add_argument("--pixels", type=int, help="side of the images [that of the architecture]")
        command.add_argument("--most", type=int, help="most images to fit on; the rest goes to the nearest neighbour")
        command.add_argument("--chosen-images", type=int, help="leave out so many images for the score of the rest")
    table = commands.add_parser("table", allow_abbrev=False, help="print the results in Markdown")
    for command in (running, table):
        command.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    flags, words = parser.parse_known_args(arguments)
    try:
        if flags.command == "run":
            return run(flags, words)
        if flags.command == "fit":
            fit(flags, words)
        elif words:
            raise InvalidInput(f"table takes no {words[0]}: expected --results FOLDER or nothing")
        else:
            print(baseline_tables(read_results(flags.results)))
    except InvalidInput as error:
        print(f"baselines.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    # A request to end leaves no method behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
