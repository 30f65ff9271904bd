"""The scores of several runs over their iterations, as a picture."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpcc.core.config import flag
from mpcc.core.errors import InvalidInput
from mpcc.core.studies.comparison_table import name_of, setting_text
from mpcc.core.studies.run_groups import RunGroup, differing
from mpcc.core.system.file_names import printable
from mpcc.core.system.whole_files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_picture", "draw_curves"]

logger = logging.getLogger(__name__)

ENDINGS = (".png", ".svg", ".pdf")
# Panels beside each other, and inches of each.
COLUMNS, WIDTH, HEIGHT = 3, 5.0, 3.6
# Lines of ten groups have colours of their own; those of the next ten have another style.
STYLES = ("-", "--", ":", "-.")
# Settings that the legend names.
MOST_NAMED = 3

# The points of a run: iteration and value, for each score.
Curve = list[tuple[int, float]]


def check_picture(path: Path, flag: str) -> None:
    """Check that a picture of curves can be drawn under a name.

    Arguments:
        path: The file.
        flag: The flag that names it, for errors.

    Raises:
        InvalidInput: If its ending is not one of a picture, or matplotlib is missing.
    """
    if path.suffix.lower() not in ENDINGS:
        nearest = path.with_suffix(".png") if path.name else "curves.png"
        raise InvalidInput(
            f"{flag} {path}: expected a name that ends in {', '.join(ENDINGS)} (nearest valid choice: {flag} {nearest})"
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise InvalidInput(
            f'{flag} {path}: curves need matplotlib, which is not installed: pip install "mpcc[plots]"'
        ) from error


def draw_curves(groups: Sequence[RunGroup], scores: Sequence[str], path: Path) -> None:
    """Draw a panel for each score, with a line for each run. The runs of a group have one colour.

    An unfinished run has a line as far as it has been evaluated. Runs whose ``metrics.jsonl`` is damaged are left out,
    and a warning names them.

    Arguments:
        groups: The runs.
        scores: A panel for each; empty for all that runs have.
        path: The picture.

    Raises:
        InvalidInput: If there is nothing to draw, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = {number: curves_of(group, scores) for number, group in enumerate(groups)}
    drawn = list(dict.fromkeys(name for runs in lines.values() for curves in runs for name in curves))
    drawn.sort(key=lambda name: scores.index(name) if name in scores else len(scores))
    if not drawn:
        raise InvalidInput(f"--curves {path}: no run has an evaluation to draw")
    columns = min(COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    for axes, name in zip(panels, drawn, strict=False):
        draw_score(axes, name, lines)
    labels = {number: label_of(groups[number], groups) for number, runs in lines.items() if any(runs)}
    handles = [panels[0].plot([], [], **style_of(number))[0] for number in labels]
    figure.legend(handles, list(labels.values()), loc="outside lower center", fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower().removeprefix("."), dpi=120)
    with new_file(path) as file:
        file.write(content.getvalue())


def curves_of(group: RunGroup, scores: Sequence[str]) -> list[dict[str, Curve]]:
    """Return the points of each run of a group by score; an empty table for a run whose file cannot be read.

    Arguments:
        group: The runs.
        scores: The scores that are wanted; empty for all.
    """
    found = []
    for run in group.runs:
        curves: dict[str, Curve] = {}
        try:
            for iteration, values in run.curve():
                for name in scores or values:
                    if name in values:
                        curves.setdefault(name, []).append((iteration, values[name]))
        except FileNotFoundError:
            curves = {}
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s: no curves: metrics.jsonl: %s", printable(str(run.folder)), error)
            curves = {}
        found.append(curves)
    return found


def draw_score(axes: Axes, name: str, lines: Mapping[int, Sequence[Mapping[str, Curve]]]) -> None:
    """Draw the curves of one score."""
    for number, runs in lines.items():
        for curves in runs:
            if name in curves:
                iterations, values = zip(*curves[name], strict=True)
                axes.plot(iterations, values, marker="o", markersize=3, alpha=0.8, **style_of(number))
    axes.set_title(name, fontsize="medium", parse_math=False)
    axes.set_xlabel("iterations", fontsize="small")
    axes.tick_params(labelsize="small")


def style_of(number: int) -> dict[str, Any]:
    """Return colour and style of the lines of a group, by its number."""
    return {"color": f"C{number % 10}", "linestyle": STYLES[number // 10 % len(STYLES)]}


def label_of(group: RunGroup, groups: Sequence[RunGroup]) -> str:
    """Return the name of a group and a few of the settings in which it differs from others."""
    named = [(each, setting_text(group, each)) for each in differing(groups)]
    told = [f"{flag(*each)} {value}" for each, value in named if value is not None][:MOST_NAMED]
    # Matplotlib takes text between two $ for a formula.
    return " ".join([f"{name_of(group)}:" if told else name_of(group), *told]).replace("$", r"\$")
