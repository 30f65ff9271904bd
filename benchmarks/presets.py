"""The paper's experiments, one line each: sizes of the networks, operations of an iteration, and a few real iterations.

    python benchmarks/presets.py --data-root DATA --presets mnist omniglot fashion-mnist cifar10 cifar20

Parameters and floating-point operations are counted, not measured (`mpcc.core.reporting.summary`). The iterations are
those of an ordinary ``mpcc-run`` with the unchanged preset, on the real data, followed by an evaluation of some of the
images. Blocks that E shares with D are counted with D.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from digit_runs import train

from mpcc.core.config import Layer, resolve
from mpcc.core.registry import load_registry
from mpcc.core.reporting.summary import Summary
from mpcc.core.run.network_summary import network_summary

PAPER = ["mnist", "omniglot", "fashion-mnist", "cifar10", "cifar20"]


def summary_of(preset: str) -> Summary:
    """Return the summary of a preset's networks."""
    config = resolve(load_registry(), [Layer("flag", {"data": {"name": preset}})])
    channels = config.data.make().channels
    assert channels is not None  # every published set has it
    return network_summary(config, channels)


def main() -> None:
    """Count, train for some iterations, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PAPER)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--eval-images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=None, help="folder of the run folders; finished runs are reused")
    flags, further = parser.parse_known_args()
    out = flags.out or Path(tempfile.mkdtemp())
    print("| preset | G | D | E without shared blocks | prior | TFLOP / iteration | s / iteration | evaluated |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for preset in flags.presets:
        summary = summary_of(preset)
        folder = out / preset
        bounds = ["--iterations", str(flags.iterations), "--eval-images", str(flags.eval_images)]
        train(folder, ["--data", preset, "--data-root", flags.data_root, *bounds, *further])
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        generator, discriminator, encoder = summary.networks
        counts = [generator.parameters, discriminator.parameters, encoder.own_parameters, summary.prior_parameters]
        cells = [f"{count:,}" for count in counts]
        seconds = 1 / results["iterations_per_second"]
        evaluated = f"{results['evaluated']['images']:,} of {results['evaluated']['of']:,}"
        cells += [f"{summary.operations_per_iteration / 1e12:.3f}", f"{seconds:.2f}", evaluated]
        print(f"| {preset} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
