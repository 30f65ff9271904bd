"""Results of `accuracy.py` and `baselines.py` as tables of Markdown, and the blocks of pages that hold them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from baseline_methods import METHODS
from result_files import AGAINST_LABELS
from scipy.stats import spearmanr

from mpcc.core.errors import InvalidInput
from mpcc.core.system.whole_files import write_whole

__all__ = [
    *("COLUMNS", "SHORT_COLUMNS", "baseline_tables", "label_free", "markdown", "race_tables", "rank_correlations"),
    *("replace_block", "spread"),
]

Result = Mapping[str, Any]
NOTHING = "–"
SHORT_COLUMNS = ("method", "seeds", "acc", "acc on images not chosen on", "purity", "nmi", "seconds", "remarks")
COLUMNS = (
    *("method", "seeds", "acc", "lowest acc", "acc on images not chosen on", "purity", "nmi", "ari"),
    *("reconstruction", "clusters used", "iterations", "seconds", "GFLOP/s", "remarks"),
)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return mean and standard deviation of values.

    Example:
        >>> spread([0.9, 0.94]), spread([0.9]), spread([])
        ('0.920 ± 0.028', '0.900', '–')
    """
    if not values:
        return NOTHING
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; columns in which no row has anything are left out, the first one excepted."""
    rows = [list(row) for row in rows]
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] not in ("", NOTHING) for row in rows)]
    lines = [[header[i] for i in kept], ["---"] * len(kept), *([row[i] or NOTHING for i in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score(results: Sequence[Result], name: str, table: str = "scores") -> list[float]:
    """Return a score of all results that have it."""
    return [result[table][name] for result in results if name in (result.get(table) or {})]


def best_known(results: Sequence[Result]) -> list[Result]:
    """Return one result for each seed: the timed one if there is one."""
    chosen: dict[int, Result] = {}
    for result in sorted(results, key=lambda result: bool(result.get("timed", True))):
        chosen[result["seed"]] = result
    return [chosen[seed] for seed in sorted(chosen)]


def row(title: str, results: Sequence[Result]) -> list[str]:
    """Return the cells of `COLUMNS` for the results of one setting or method."""
    timed = [result for result in results if result.get("timed", True)]
    finished = [result for result in timed if result.get("scores") is not None]
    acc = score(results, "acc")
    rates = [rate(result, when) for result in timed for when in ("before", "after")]
    return [
        title,
        str(len(results)),
        spread(acc),
        f"{min(acc):.3f}" if len(acc) > 1 else NOTHING,
        spread(score(results, "acc", "rest")),
        *(spread(score(results, name)) for name in AGAINST_LABELS[1:]),
        spread(score(results, "reconstruction")),
        clusters(results),
        whole([result["iterations"] for result in results if result.get("iterations")]),
        spread([result["wall_seconds"] for result in finished], 0),
        f"{min(rates):.0f} to {max(rates):.0f}" if rates else NOTHING,
        "; ".join(remarks(results)),
    ]


def rate(result: Result, when: str) -> float:
    """Return the rate of a matrix product before or after a run, with as many threads as the run had."""
    return float(result[when]["gflops_one_thread" if result.get("threads") == 1 else "gflops_all_threads"])


def whole(values: Sequence[int]) -> str:
    """Return the one value, or the smallest and the largest.

    Example:
        >>> whole([1500, 1500]), whole([7, 1500]), whole([])
        ('1,500', '7 to 1,500', '–')
    """
    if not values:
        return NOTHING
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def clusters(results: Sequence[Result]) -> str:
    """Return how many of how many clusters have images."""
    known = [result["clusters"] for result in results if result.get("clusters")]
    if not known:
        return NOTHING
    return f"{whole([value['used'] for value in known])} of {whole([value['total'] for value in known])}"


def remarks(results: Sequence[Result]) -> list[str]:
    """Return what a reader must know of results: how runs ended, budgets that were missed, parts that were fitted."""
    lines: list[str] = []
    endings = [result["ended"] for result in results if result["ended"] != "finished"]
    lines += [f"{endings.count(ending)} of {len(results)}: {ending}" for ending in dict.fromkeys(endings)]
    untimed = [result for result in results if not result.get("timed", True)]
    lines += [f"{len(untimed)} of {len(results)} not timed"] if untimed else []
    lines += ["clusters by k-means on the latents"] if any(result.get("latent_groups") for result in results) else []
    finished = [result for result in results if result.get("timed", True) and result["ended"] == "finished"]
    over = [result for result in finished if result["wall_seconds"] > result["budget_seconds"]]
    lines += [f"{len(over)} of {len(results)} took longer than {over[0]['budget_seconds']:g} s"] if over else []
    parts = {(result["fitted_on"], result["images"]) for result in results if "fitted_on" in result}
    lines += [f"fitted on {part:,} of {of:,} images, the rest by nearest neighbour" for part, of in parts if part < of]
    epochs = {(*result["epochs"], *result["usual_epochs"]) for result in results if "epochs" in result}
    lines += [
        f"{first} + {second} epochs in place of {usual_first} + {usual_second}"
        for first, second, usual_first, usual_second in sorted(epochs)
        if (first, second) != (usual_first, usual_second)
    ]
    firsts = [result["first_result_seconds"] for result in results if result.get("first_result_seconds")]
    budgets = {result["budget_seconds"] for result in results}
    if firsts and max(budgets) >= 300:
        lines.append(f"first result after {spread([seconds / 60 for seconds in firsts], 1)} min")
    starts = [result["collapsed"] for result in results if result.get("collapsed")]
    if starts:
        used, acc = ([start[name] for start in starts] for name in ("clusters_used", "acc"))
        lines.append(f"at the start {whole(used)} clusters in use, acc {spread(acc)}")
    chosen = {result["chosen"] for result in results if result.get("chosen")}
    lines += [f"settings chosen on {text}" for text in sorted(chosen)]
    return lines


def groups(results: Iterable[Result], key: str) -> dict[str, list[Result]]:
    """Return results by one of their values, in order of appearance."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result[key], []).append(result)
    return found


def baseline_rows(results: Sequence[Result]) -> list[list[str]]:
    """Return a row for each method of one set, in the order of the list of methods."""
    by_method = groups(results, "method")
    ordered = [name for name in METHODS if name in by_method]
    return [row(by_method[name][0]["title"], by_method[name]) for name in ordered]


def baseline_tables(results: Sequence[Result]) -> str:
    """Return a table of the baselines for each set."""
    by_data = groups(results, "data")
    parts = [f"**{data}**\n\n{markdown(COLUMNS, baseline_rows(found))}" for data, found in by_data.items()]
    return "\n\n".join([*parts, *measured_on(results)])


def race_tables(
    order: Mapping[str, tuple[str, str]],
    results: Sequence[Result],
    baselines: Sequence[Result],
    columns: Sequence[str] = COLUMNS,
) -> str:
    """Return a table for each set: our settings, then the baselines on the same images.

    Arguments:
        order: Title and data of each setting by its name, in the order of the rows; others are left out.
        results: Of `accuracy.py`.
        baselines: Of `baselines.py`.
        columns: The columns to show, of `COLUMNS`.

    Returns:
        Nothing without a result.
    """
    shown_cells = [COLUMNS.index(name) for name in columns]
    by_setting, by_data, parts, shown = groups(results, "setting"), groups(baselines, "data"), [], []
    for data in dict.fromkeys(data for _, data in order.values()):
        rows = []
        for name, (title, of) in order.items():
            if of == data and name in by_setting:
                known = best_known(by_setting[name])
                shown += known
                rows.append(row(title, known))
        rows += baseline_rows(by_data.get(data, []))
        shown += by_data.get(data, [])
        if rows:
            table = markdown(columns, [[cells[i] for i in shown_cells] for cells in rows])
            parts.append(f"**{data}**\n\n{table}")
    return "\n\n".join([*parts, *measured_on(shown)])


def measured_on(results: Sequence[Result]) -> list[str]:
    """Return a line for each machine: what it is, between which days it measured, and with which sources."""
    lines = []
    by_machine: dict[str, list[Result]] = {}
    for result in results:
        machine = result["machine"]
        extensions = f", {', '.join(machine['extensions'])}" if machine["extensions"] else ""
        gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
        by_machine.setdefault(f"{machine['processor']}, {machine['cores']} cores{extensions}{gpu}", []).append(result)
    for name, found in by_machine.items():
        days = sorted({result["date"][:10] for result in found})
        sources = [result["source"] for result in found if result["source"]]
        commits = sorted({source["commit"] + " (changed)" * source["changed"] for source in sources})
        span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        lines.append(f"Measured on {name}; {span}; commit {', '.join(commits) or 'unknown'}.")
    return lines


def label_free(results: Sequence[Result]) -> list[str]:
    """Return the scores that need no labels, of all results."""
    names = dict.fromkeys(name for result in results for name in result.get("scores") or {})
    return [name for name in names if name not in AGAINST_LABELS]


def rank_correlations(results: Sequence[Result]) -> str:
    """Return how scores without labels agree with acc across seeds: Spearman's coefficient for each setting and set.

    The last columns show what `kept_information` would choose: acc of the seed that it prefers, beside the mean and the
    best acc of all seeds.
    """
    scored = [result for result in results if "acc" in (result.get("scores") or {})]
    names = label_free(scored)
    rows = []
    for data, of_data in groups(scored, "data").items():
        by_setting = {name: best_known(found) for name, found in groups(of_data, "setting").items()}
        pooled = [("all settings", [result for found in by_setting.values() for result in found])]
        for title, found in [*by_setting.items(), *(pooled if len(by_setting) > 1 else [])]:
            acc = [result["scores"]["acc"] for result in found]
            cells = [correlation([result["scores"].get(name) for result in found], acc) for name in names]
            rows.append([data, title, str(len(found)), *cells, *chosen(found)])
    last = ["acc of the seed that kept_information prefers", "mean acc", "best acc"]
    return markdown(["images", "setting", "n", *names, *last], rows)


def correlation(first: Sequence[float | None], second: Sequence[float]) -> str:
    """Return Spearman's rank correlation; nothing for fewer than three pairs or where all values are equal."""
    pairs = np.array([(a, b) for a, b in zip(first, second, strict=True) if a is not None])
    if len(pairs) < 3 or any(len(set(column)) == 1 for column in pairs.T):
        return NOTHING
    return f"{spearmanr(*pairs.T).statistic:+.2f}"


def chosen(results: Sequence[Result]) -> list[str]:
    """Return acc of the seed with the highest kept information, mean and best acc."""
    judged = [result["scores"] for result in results if "kept_information" in result["scores"]]
    if not judged:
        return [NOTHING] * 3
    preferred = max(judged, key=lambda scores: float(scores["kept_information"]))
    acc = [scores["acc"] for scores in judged]
    return [f"{preferred['acc']:.3f}", f"{statistics.mean(acc):.3f}", f"{max(acc):.3f}"]


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace the block of a page between ``<!-- results: NAME -->`` and ``<!-- end of results -->``.

    Raises:
        InvalidInput: If there is no such page, or it has no such block.
    """
    if not page.is_file():
        raise InvalidInput(f"{page}: no such page: expected one with a line <!-- results: {name} -->")
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- results: {name} -->\n")
    _, end, after = rest.partition("<!-- end of results -->")
    if not begin or not end:
        raise InvalidInput(
            f"{page.name}: expected a line <!-- results: {name} --> and, below it, <!-- end of results -->"
        )
    write_whole(page, f"{before}{begin}\n{text}\n\n{end}{after}".encode())
