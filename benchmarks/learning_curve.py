"""Draw the scores of a run over iterations and over minutes of training, from its TensorBoard events.

    mpcc-run --preset mnist-paper --data-root DATA --precision bf16 --eval-every 200 --eval-images 10000 \\
        --out runs/mnist
    python benchmarks/learning_curve.py runs/mnist --out docs/results/mnist-cpu.png

Minutes are wall-clock time since the log began, evaluations included. This needs matplotlib (extra ``plots``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCORES = ["acc", "purity", "nmi", "ari"]


def curves(run: Path) -> tuple[float, dict[str, list[tuple[int, float, float]]]]:
    """Return when the log of a run starts, and for each score its iterations, times (s) and values."""
    events = EventAccumulator(str(run))
    events.Reload()
    tags = events.Tags()["scalars"]
    start = events.FirstEventTimestamp()
    points = {}
    for score in SCORES:
        tag = next((tag for tag in tags if tag.split("/")[-1] == score), None)
        if tag is not None:
            points[score] = [(event.step, event.wall_time, event.value) for event in events.Scalars(tag)]
    return start, points


def main() -> None:
    """Read, draw, and print the last values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--title", default="")
    flags = parser.parse_args()
    start, points_by_score = curves(flags.run)
    figure, (by_iteration, by_minute) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for score, points in points_by_score.items():
        steps, times, values = zip(*points, strict=True)
        by_iteration.plot(steps, values, marker=".", label=score)
        by_minute.plot([(time - start) / 60 for time in times], values, marker=".", label=score)
        print(f"{score}: {values[-1]:.4f} at iteration {steps[-1]}, minute {(times[-1] - start) / 60:.1f}")
    by_iteration.set(xlabel="iteration", ylabel="score", ylim=(0, 1))
    by_minute.set(xlabel="minutes")
    by_iteration.legend()
    for axes in (by_iteration, by_minute):
        axes.grid(alpha=0.3)
    figure.suptitle(flags.title)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(flags.out, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
