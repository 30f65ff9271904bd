"""The report of `mpcc bench`: tables for each preset, and one chart of all presets."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mpcc.core.bench.timing import flattened
from mpcc.core.system.whole_files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["print_report", "write_plot"]

# The curves of the posterior: by K or by batch, and what is computed.
CURVES = {
    "responsibilities_by_clusters": ("K", "q(y|z)"),
    "entropies_by_clusters": ("K", "entropies"),
    "responsibilities_by_batch": ("batch", "q(y|z)"),
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
            engines = figures["training"]["engines"]
            console.print(table("engine", {engine: training_row(row) for engine, row in engines.items()}))
            console.print(table("share of time", {engine: shares_row(row) for engine, row in engines.items()}))
        console.print("\n".join(lines(figures)), soft_wrap=True)


def table(first: str, rows: Mapping[str, Mapping[str, str]]) -> Table:
    """Return a table of rows by name; each row gives its cells by the heads of their columns."""
    made = Table(first, box=None, pad_edge=False)
    for head in next(iter(rows.values())):
        made.add_column(head, justify="right")
    for name, row in rows.items():
        made.add_row(name, *row.values())
    return made


def training_row(figures: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of an engine in words, by the heads of their columns."""
    memory = figures["memory"]
    peak = f"{mebibytes(memory, 'device_peak')} on the device" if "device_peak" in memory else mebibytes(memory, "peak")
    return {
        "s / iteration": f"{figures['median']:.4g}",
        "spread": f"{figures['spread']:.2g}",
        "x plain": "-" if figures["speedup"] is None else f"{figures['speedup']:.2f}",
        "images/s": f"{figures['images_per_second']:,.0f}",
        "nominal GFLOP/s": f"{figures['rate'] / 1e9:,.1f}",
        "of matmul": f"{figures['of_matmul']:.1%}",
        "of best": f"{figures['of_best']:.1%}",
        "peak memory": peak,
        "above set-up": mebibytes(memory, "increase"),
    }


def shares_row(figures: Mapping[str, Any]) -> dict[str, str]:
    """Return the shares of the sections of an engine in words, by section."""
    return {section: f"{share:.1%}" for section, share in figures["phases"]["shares"].items()}


def mebibytes(memory: Mapping[str, Any], key: str) -> str:
    """Return a figure of memory with its unit, or a dash if it could not be measured."""
    return f"{memory[key] / 2**20:,.0f} MiB" if key in memory else "-"


def lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines below the tables of a preset, about each part that was measured."""
    if training := figures.get("training"):
        gigaflop = training["operations_per_iteration"] / 1e9
        yield f"one iteration: {gigaflop:,.2f} GFLOP, counted before fusion; images: {training['data']}"
        rates = (f"{name} {reference['rate'] / 1e9:,.1f}" for name, reference in training["references"].items())
        yield f"measured in the same rounds, GFLOP/s: {', '.join(rates)}"
        for name, engine in training["engines"].items():
            if "error" in engine["memory"]:
                yield f"memory of {name}: {engine['memory']['error']}"
    if loading := figures.get("loading"):
        missing = f" ({loading['missing']})" if loading["missing"] else ""
        rate = f"{loading['images_per_second']:,.0f} images/s from {loading['from']}"
        yield f"loading: {rate}; data: {loading['data']}{missing}"
    if predict := figures.get("predict"):
        rates = (f"{name} {engine['images_per_second']:,.0f}" for name, engine in predict["engines"].items())
        yield f"predicting, images/s: {', '.join(rates)}; images: {predict['data']}"
        memory, peaks = predict["memory"], []
        for images, usage in memory["by_images"].items():
            error = f" ({usage['error']})" if "error" in usage else ""
            peaks.append(f"{int(images):,} images {mebibytes(usage, 'peak')}{error}")
        verdict = ""
        if "ratio" in memory:
            flat = {True: "flat", False: "not flat", None: "too few images to tell"}[memory["flat"]]
            verdict = f": {flat}, {memory['bytes_per_image']:,.0f} bytes more for each image"
        yield f"peak memory of predicting ({memory['engine']}): {', '.join(peaks)}{verdict}"
    for name, (by, label) in CURVES.items():
        if curve := figures.get("posterior", {}).get(name):
            (first, *_, last), medians, slopes = curve["sizes"], curve["median"], curve["growth"]
            yield (
                f"posterior, {label} by {by}: {medians[0] * 1e3:.3g} ms at {first:,} to {medians[-1] * 1e3:.3g} ms at "
                f"{last:,}; grows with the power {slopes['upper_half']:.2f} in the upper half of the range, "
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
    presets = report["presets"].items()
    posteriors = {name: figures["posterior"] for name, figures in presets if "posterior" in figures}
    bars = {
        f"{name}\n{engine}": of_engine
        for name, figures in presets
        for engine, of_engine in figures.get("training", {"engines": {}})["engines"].items()
    }
    panels = [partial(draw_seconds, bars), partial(draw_shares, bars)] if bars else []
    panels += [partial(draw_curves, posteriors, by) for by in ("K", "batch")] if posteriors else []
    if not panels:
        return False
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(12, 4.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for draw, axes in zip(panels, figure.subplots(rows, 2, squeeze=False).flat, strict=True):
        draw(axes)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_whole(path, content.getvalue())
    return True


def draw_seconds(bars: Mapping[str, Mapping[str, Any]], axes: Axes) -> None:
    """Draw the median of the seconds per iteration with quartiles, and every timed iteration as a dot."""
    for at, figures in enumerate(bars.values()):
        low, high = figures["quartiles"]
        axes.bar(at, figures["median"], color=f"C{at % 10}", alpha=0.6)
        around = [[figures["median"] - low], [high - figures["median"]]]
        axes.errorbar(at, figures["median"], yerr=around, color="black", capsize=4)
        seconds = flattened(figures["seconds"])
        axes.plot([at] * len(seconds), seconds, ".", color="black", alpha=0.4)
    axes.set_xticks(range(len(bars)), list(bars), fontsize="small")
    if len({label.partition("\n")[0] for label in bars}) > 1:
        axes.set_yscale("log")
    axes.set_title("seconds per iteration: median, quartiles")


def draw_shares(bars: Mapping[str, Mapping[str, Any]], axes: Axes) -> None:
    """Draw the shares of the phases as stacked bars."""
    shares = [figures["phases"]["shares"] for figures in bars.values()]
    bottom = [0.0] * len(bars)
    for phase in shares[0]:
        heights = [of_engine[phase] for of_engine in shares]
        axes.bar(list(bars), heights, bottom=bottom, label=phase)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.tick_params(axis="x", labelsize="small")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_title("share of time per phase")


def draw_curves(posteriors: Mapping[str, Any], by: str, axes: Axes) -> None:
    """Draw costs over K or the batch on logarithmic axes, with the slope of the upper half."""
    for preset, posterior in posteriors.items():
        for name, (variable, label) in CURVES.items():
            if variable == by and name in posterior:
                curve = posterior[name]
                slope = f"power {curve['growth']['upper_half']:.2f}"
                axes.loglog(curve["sizes"], curve["median"], "o-", label=f"{preset}, {label}: {slope}")
    axes.set_xlabel(by)
    axes.set_title(f"posterior: seconds by {by}")
    axes.legend(fontsize="small")
