"""The report of `mpcc bench`: tables for each preset, and one chart of all presets."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mpcc.core.bench.timing import flattened
from mpcc.core.system.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["print_report", "write_plot"]

MIB = 2**20
HEADS = (
    *("s / iteration", "spread", "x plain", "images/s", "nominal GFLOP/s"),
    *("of matmul", "of best", "peak memory", "above set-up"),
)
CURVES = {
    "responsibilities_by_clusters": "q(y|z)",
    "entropies_by_clusters": "entropies",
    "responsibilities_by_batch": "q(y|z)",
}


def print_report(report: Mapping[str, Any]) -> None:
    """Print the tables.

    Arguments:
        report: Contents of ``bench.json``.
    """
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)
    for name, figures in report["presets"].items():
        shape = "x".join(map(str, figures["image_shape"]))
        console.print(
            f"{name}: images {shape}, threads {figures['threads']}, {report['machine']['device']}", soft_wrap=True
        )
        if "training" in figures:
            training = figures["training"]
            console.print(training_table(training))
            console.print(phase_table(training))
            console.print("\n".join(training_lines(training)), soft_wrap=True)
        console.print("\n".join(other_lines(figures)), soft_wrap=True)


def training_table(training: Mapping[str, Any]) -> Table:
    """Return a table with a row for each engine."""
    table = Table(box=None, pad_edge=False)
    table.add_column("engine")
    for head in HEADS:
        table.add_column(head, justify="right")
    for name, figures in training["engines"].items():
        memory = figures["memory"]
        peaks = ["-", "-"]
        if "error" not in memory:
            peaks = [f"{memory[key] / MIB:,.0f} MiB" for key in ("peak", "increase")]
        if "device_peak" in memory:
            peaks = [f"{memory['device_peak'] / MIB:,.0f} MiB on the device", peaks[1]]
        table.add_row(
            name,
            f"{figures['median']:.4g}",
            f"{figures['spread']:.2g}",
            "-" if figures["speedup"] is None else f"{figures['speedup']:.2f}",
            f"{figures['images_per_second']:,.0f}",
            f"{figures['rate'] / 1e9:,.1f}",
            f"{figures['of_matmul']:.1%}",
            f"{figures['of_best']:.1%}",
            *peaks,
        )
    return table


def phase_table(training: Mapping[str, Any]) -> Table:
    """Return a table of the shares of the phases, with a row for each engine."""
    engines = training["engines"]
    phases = list(next(iter(engines.values()))["phases"]["shares"])
    table = Table("share of time", *phases, box=None, pad_edge=False)
    for name, figures in engines.items():
        table.add_row(name, *(f"{figures['phases']['shares'][phase]:.1%}" for phase in phases))
    return table


def training_lines(training: Mapping[str, Any]) -> list[str]:
    """Return the lines that explain the tables of training."""
    rates = ", ".join(f"{name} {figures['rate'] / 1e9:,.1f}" for name, figures in training["references"].items())
    errors = [
        f"memory of {name}: {figures['memory']['error']}"
        for name, figures in training["engines"].items()
        if "error" in figures["memory"]
    ]
    return [
        f"one iteration: {training['operations_per_iteration'] / 1e9:,.2f} GFLOP, counted before fusion; "
        f"images: {training['data']}",
        f"measured in the same rounds, GFLOP/s: {rates}",
        *errors,
    ]


def other_lines(figures: Mapping[str, Any]) -> list[str]:
    """Return the lines about loading, prediction and the posterior."""
    lines = []
    if "loading" in figures:
        loading = figures["loading"]
        missing = f" ({loading['missing']})" if loading["missing"] else ""
        rate = f"{loading['images_per_second']:,.0f} images/s from {loading['from']}"
        lines.append(f"loading: {rate}; data: {loading['data']}{missing}")
    if "predict" in figures:
        predict = figures["predict"]
        rates = ", ".join(f"{name} {engine['images_per_second']:,.0f}" for name, engine in predict["engines"].items())
        lines.append(f"predicting, images/s: {rates}; images: {predict['data']}")
        memory = predict["memory"]
        by_images = {
            images: f"{usage['peak'] / MIB:,.0f} MiB" if "peak" in usage else f"- ({usage['error']})"
            for images, usage in memory["by_images"].items()
        }
        peaks = ", ".join(f"{int(images):,} images {peak}" for images, peak in by_images.items())
        verdict = ""
        if "ratio" in memory:
            flat = {True: "flat", False: "not flat", None: "too few images to tell"}[memory["flat"]]
            verdict = f": {flat}, {memory['bytes_per_image']:,.0f} bytes more for each image"
        lines.append(f"peak memory of predicting ({memory['engine']}): {peaks}{verdict}")
    if "posterior" in figures:
        for name, label in CURVES.items():
            if name in figures["posterior"]:
                lines.append(f"posterior, {label} {words(name)}: {curve_words(figures['posterior'][name])}")
    return lines


def words(name: str) -> str:
    """Return the variable of a curve in words."""
    return "by K" if name.endswith("clusters") else "by batch"


def curve_words(curve: Mapping[str, Any]) -> str:
    """Return a curve in words: its ends and how it grows."""
    sizes, medians, slopes = curve["sizes"], curve["median"], curve["growth"]
    ends = f"{medians[0] * 1e3:.3g} ms at {sizes[0]:,} to {medians[-1] * 1e3:.3g} ms at {sizes[-1]:,}"
    return (
        f"{ends}; grows with the power {slopes['upper_half']:.2f} in the upper half of the range, "
        f"{slopes['last_decade']:.2f} in its last decade, {slopes['whole']:.2f} over all of it"
    )


def write_plot(report: Mapping[str, Any], path: Path) -> bool:
    """Draw seconds per iteration, shares of phases and costs of the posterior into a PNG.

    Arguments:
        report: Contents of ``bench.json``.
        path: The file.

    Returns:
        Whether the chart was drawn: it needs matplotlib and measurements.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no chart: matplotlib is not installed; pip install 'mpcc[plots]'", file=sys.stderr)
        return False
    presets = report["presets"]
    trained = {name: figures["training"] for name, figures in presets.items() if "training" in figures}
    posteriors = {name: figures["posterior"] for name, figures in presets.items() if "posterior" in figures}
    panels = [draw_seconds, draw_shares] * bool(trained) + [draw_by_clusters, draw_by_batch] * bool(posteriors)
    if not panels:
        return False
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(12, 4.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, draw in zip(figure.subplots(rows, 2, squeeze=False).flat, panels, strict=True):
        draw(axes, trained if draw in (draw_seconds, draw_shares) else posteriors)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_whole(path, content.getvalue())
    return True


def labelled(trained: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the figures of each preset and engine with a label."""
    return [
        (f"{preset}\n{engine}", figures)
        for preset, training in trained.items()
        for engine, figures in training["engines"].items()
    ]


def draw_seconds(axes: Axes, trained: Mapping[str, Any]) -> None:
    """Draw the median of the seconds per iteration with quartiles, and every timed iteration as a dot."""
    for at, (_, figures) in enumerate(labelled(trained)):
        low, high = figures["quartiles"]
        axes.bar(at, figures["median"], color=f"C{at % 10}", alpha=0.6)
        around = [[figures["median"] - low], [high - figures["median"]]]
        axes.errorbar(at, figures["median"], yerr=around, color="black", capsize=4)
        seconds = flattened(figures["seconds"])
        axes.plot([at] * len(seconds), seconds, ".", color="black", alpha=0.4)
    ticks(axes, [label for label, _ in labelled(trained)])
    if len(trained) > 1:
        axes.set_yscale("log")
    axes.set_title("seconds per iteration: median, quartiles")


def draw_shares(axes: Axes, trained: Mapping[str, Any]) -> None:
    """Draw the shares of the phases as stacked bars."""
    bars = labelled(trained)
    bottom = [0.0] * len(bars)
    for phase in bars[0][1]["phases"]["shares"]:
        heights = [figures["phases"]["shares"][phase] for _, figures in bars]
        axes.bar(range(len(bars)), heights, bottom=bottom, label=phase)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    ticks(axes, [label for label, _ in bars])
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("share of time per phase")


def draw_by_clusters(axes: Axes, posteriors: Mapping[str, Any]) -> None:
    """Draw the costs of the posterior and of the entropies over K."""
    draw_curves(axes, posteriors, "clusters")


def draw_by_batch(axes: Axes, posteriors: Mapping[str, Any]) -> None:
    """Draw the cost of the posterior over the batch."""
    draw_curves(axes, posteriors, "batch")


def draw_curves(axes: Axes, posteriors: Mapping[str, Any], by: str) -> None:
    """Draw costs over K or the batch on logarithmic axes, with the slope of the upper half."""
    for preset, posterior in posteriors.items():
        for name, label in CURVES.items():
            if name.endswith(by) and name in posterior:
                curve = posterior[name]
                slope = f"power {curve['growth']['upper_half']:.2f}"
                axes.loglog(curve["sizes"], curve["median"], "o-", label=f"{preset}, {label}: {slope}")
    axes.set_xlabel("K" if by == "clusters" else "batch")
    axes.set_title(f"posterior: seconds by {'K' if by == 'clusters' else 'batch'}")
    axes.legend(fontsize="small")


def ticks(axes: Axes, labels: Sequence[str]) -> None:
    """Label the bars."""
    axes.set_xticks(range(len(labels)), labels, fontsize="small")
