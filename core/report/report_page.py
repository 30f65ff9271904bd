"""The report of a run: one page with what was run, what it came to, and every cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mpcc.core.report.charts import Panel, hue, panel, scatter
from mpcc.core.report.cluster_entries import cluster_entries
from mpcc.core.report.pages import rendered
from mpcc.core.report.points import name_points
from mpcc.core.report.run_record import Confusion, RunRecord, read_record
from mpcc.core.reporting.pace import spoken
from mpcc.core.reporting.verdict import Verdict, verdict
from mpcc.core.system.output_streams import quoted
from mpcc.core.system.whole_files import write_whole

__all__ = ["REPORT_FILE", "ScoreRow", "page_of", "write_report"]

REPORT_FILE = "report.html"
# The most cells of a table of classes against clusters; a larger one is a link.
MOST_CELLS = 2500
# The number whose colour a curve has that is alone in its panel: blue.
SINGLE = 7
# The name of a run folder that says little without that of the folder around it.
PART_OF_STUDY = re.compile(r"(seed|clusters)-\d+")
# What repeats a run where somebody else has its configuration beside the page.
SENT_COMMAND = "mpcc-run --config config.toml --out again"


@attrs.frozen
class ScoreRow:
    """A row of the table of scores.

    Attributes:
        name: Of the score.
        value: As text.
        baseline: The same score of the baseline, as text, or nothing.
        meaning: What it says, in a phrase.
    """

    name: str
    value: str
    baseline: str
    meaning: str


def write_report(folder: Path, meanings: Mapping[str, str], *, lenient: bool = False) -> Path:
    """Write ``report.html`` into the folder of a run, or of an evaluation, from the files in it; return its path.

    The page is whole at any time: it replaces an earlier one at once. The points of TensorBoard's page Projector get
    the names of their clusters, too.

    Arguments:
        folder: The folder.
        meanings: What each metric says, in a phrase, by its name.
        lenient: Whether an invalid ``names.toml`` only becomes a part of the report.

    Raises:
        InvalidInput: If the folder has no evaluation, a file in it is damaged, or ``names.toml`` is not valid.
        OSError: If the page cannot be written.
    """
    record = read_record(folder, lenient=lenient)
    path = folder / REPORT_FILE
    write_whole(path, page_of(record, meanings))
    name_points(folder, record.names)
    return path


def page_of(record: RunRecord, meanings: Mapping[str, str], *, sent_as: str = "") -> bytes:
    """Return the page of a record.

    A page for somebody else has no name of a folder, and no advice that needs the run folder. Its links lead to files
    of the same names beside it.

    Arguments:
        record: What the folder says.
        meanings: What each metric says, in a phrase, by its name.
        sent_as: The title of a page for somebody else; a page for the user has the name of the folder.
    """
    results, evaluated = record.results, record.evaluated
    hues = [hue(number) for number in range(record.clusters)]
    seed = int(results.get("seed", 0))
    cloud = None if evaluated.latents is None else scatter(evaluated.latents, evaluated.clusters, seed)
    return rendered(
        "report.html",
        title=sent_as or title_of(record.folder.absolute()),
        sent=bool(sent_as),
        record=record,
        results=results,
        judged=judged(record, advise=not sent_as),
        facts=facts(record),
        scores=score_rows(results, meanings),
        panels=panels(record),
        scatter=cloud,
        clusters=cluster_entries(record, hues),
        confusion=None if record.confusion is None else heat(record.confusion),
        confusion_fits=record.confusion is not None and record.confusion.counts.size <= MOST_CELLS,
        health=results.get("health"),
        files={name: (record.folder / name).exists() for name in ("samples.png", "confusion.png", "kmeans.png")},
        command=SENT_COMMAND if sent_as and record.config else command(record),
    )


def title_of(folder: Path) -> str:
    """Return the name of a run folder, after those of the folders in which seeds and numbers of clusters are compared.

    Example:
        >>> title_of(Path("/runs/digits")), title_of(Path("/runs/garments/clusters-10/seed-1"))
        ('digits', 'garments/clusters-10/seed-1')
    """
    names = [folder.name]
    for parent in folder.parents:
        if not PART_OF_STUDY.fullmatch(names[0]) or not parent.name:
            break
        names.insert(0, parent.name)
    return "/".join(names)


def judged(record: RunRecord, *, advise: bool = True) -> Verdict | None:
    """Return what the run came to; None for an evaluation of ``mpcc evaluate`` or an earlier version.

    Arguments:
        record: What the folder says.
        advise: Whether it comes with advice, which names the folder.
    """
    warm = record.settings.get("run", {}).get("init_from") is not None
    try:
        found = verdict(record.results, quoted(record.folder), warm=warm)
    except (KeyError, TypeError, ValueError):
        return None
    return found if advise else Verdict(found.text)


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return what was run: names and values."""
    results, settings = record.results, record.settings
    evaluated, data = results["evaluated"], results.get("data", {})
    told = []
    if record.folder != record.run:
        told.append(("run", str(record.run)))
        told.append(("checkpoint", str(results.get("checkpoint", "not known"))))
        if "refinement" in results:
            told.append(
                ("clusters refined", "by classifiers on the features of the run; its own q(y|x) is another one")
            )
        if not results.get("own_images", True):
            told.append(("images of", "another data set than the run's: its scores say nothing about the training"))
    told.append(("images", evaluated.get("data") or "not described"))
    if shape := data.get("images", [])[1:]:
        channels = f"{shape[0]} channel{'s' * (shape[0] != 1)}"
        told.append(("size for the networks", f"{shape[1]} x {shape[2]} pixels, {channels}"))
    told.append(("evaluated", f"{evaluated['images']:,} of {evaluated['of']:,} images"))
    if evaluated.get("skipped"):
        told.append(("left out", f"{evaluated['skipped']:,} images that cannot be read: skipped.txt"))
    told.append(("clusters", f"{results['clusters']['total']}, {results['clusters']['used']} with images"))
    for section, noun in {"prior": "prior", "arch": "architecture", "objective": "objective"}.items():
        if "name" in settings.get(section, {}):
            told.append((noun, str(settings[section]["name"])))
    if "latent_dim" in settings.get("run", {}):
        told.append(("dimensions of z", str(settings["run"]["latent_dim"])))
    planned = settings.get("run", {}).get("iterations")
    done = f"{results['iterations']:,}"
    told.append(("iterations", done if planned in (None, results["iterations"]) else f"{done} of {planned:,}"))
    if "seconds" in results:
        training = results["seconds"] - results.get("evaluation_seconds", 0)
        told.append(("training", f"{spoken(training)}, and {spoken(results['evaluation_seconds'])} of evaluations"))
    engine = results.get("engine", {})
    parts = [results.get("device"), *(engine.get(name) for name in ("name", "precision"))]
    told.append(("computed on", ", ".join(str(part) for part in parts if part)))
    told.append(("seed", str(results.get("seed", "not known"))))
    return told


def score_rows(results: Mapping[str, Any], meanings: Mapping[str, str]) -> list[ScoreRow]:
    """Return the scores beside those of the baseline."""
    baseline = results.get("baseline", {}).get("metrics", {})
    return [
        ScoreRow(name, f"{value:.3f}", f"{baseline[name]:.3f}" if name in baseline else "", meaning_of(name, meanings))
        for name, value in results["metrics"].items()
    ]


def meaning_of(score: str, meanings: Mapping[str, str]) -> str:
    """Return what a score says: a metric with several scores gives them names that begin with its own.

    Example:
        >>> meaning_of("occupancy_used", {"occupancy": "Number of clusters.", "acc": "Accuracy."})
        'Number of clusters.'
    """
    metrics = (name for name in meanings if score == name or score.startswith((f"{name}_", f"{name}[")))
    return meanings.get(max(metrics, key=len, default=""), "")


def panels(record: RunRecord) -> list[Panel]:
    """Return a panel for each score, over the evaluations of the run."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in record.evaluations:
        for name, value in line["metrics"].items():
            points.setdefault(name, []).append((line["iteration"], value))
    baseline = record.results.get("baseline", {}).get("metrics", {})
    return [
        panel(name, [(SINGLE, found)], baseline.get(name), "k-means on the pixels") for name, found in points.items()
    ]


def heat(confusion: Confusion) -> list[tuple[str, list[tuple[int, int, bool]]]]:
    """Return rows of classes against clusters: name, and for each cluster count, shade and whether it is matched.

    The shade is in percent.
    """
    rows = []
    for name, counts, matched in zip(confusion.classes, confusion.counts.tolist(), confusion.matched, strict=True):
        total = max(sum(counts), 1)
        # The square root shows a few images, too.
        cells = [(count, round(100 * (count / total) ** 0.5), k == matched) for k, count in enumerate(counts)]
        rows.append((name, cells))
    return rows


def command(record: RunRecord) -> str:
    """Return the command that repeats the run, or the evaluation; nothing if the configuration is gone."""
    if not record.config:
        return ""
    if refinement := record.results.get("refinement"):
        flags = " ".join(
            f"--{name.replace('_', '-')} {refinement[name]}" for name in ("steps", "heads", "invariant_to")
        )
        return f"mpcc refine {quoted(record.run)} --checkpoint {quoted(Path(record.results['checkpoint']))} {flags}"
    if record.folder != record.run:
        return f"mpcc evaluate {quoted(record.run)} --checkpoint {quoted(Path(record.results['checkpoint']))}"
    return f"mpcc-run --config {quoted(record.folder / 'config.toml')} --out again"
