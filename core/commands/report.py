"""The command ``mpcc report``: write the page of a run anew, such as after its clusters got names."""

from __future__ import annotations

from pathlib import Path

import attrs

from mpcc.core.commands.flags import Parser, PluginFiles, argument
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput
from mpcc.core.report.points import write_points
from mpcc.core.report.report_page import write_report
from mpcc.core.report.run_record import read_record
from mpcc.core.storage.table_formats import check_format
from mpcc.core.studies.count_record import chosen_run
from mpcc.core.system.resources import disk_errors
from mpcc.core.system.whole_files import check_new

__all__ = ["ReportFlags", "report_run"]

PURPOSE = (
    "Write report.html of a run anew from the files in its folder: after a change to names.toml, or for a run of an "
    "earlier version. Nothing is computed by the model, and no image is read."
)


@attrs.frozen(slots=False)
class ReportFlags(PluginFiles):
    """The command's own flags."""

    run: Path = argument(
        "run folder that mpcc-run has written, or folder of mpcc evaluate; of a folder of seeds, the chosen run is "
        "taken"
    )
    points: Path | None = option(
        None,
        "also write up to 5,000 images as a new Parquet table: cluster, name, confidence, label, z in the plane, a "
        "small image; such as for embedding-atlas",
    )


def report_run(words: list[str]) -> int:
    """Execute ``mpcc report`` and return the exit status."""
    flags = Parser("mpcc report", PURPOSE, "RUN [flags]").read_own(words, ReportFlags)
    folder = chosen_run(flags.run)
    if flags.points is not None:
        if flags.points.suffix.lower() != ".parquet":
            raise InvalidInput(
                f"--points {flags.points}: expected a name that ends in .parquet (nearest valid choice: --points "
                f"{flags.points.with_suffix('.parquet') if flags.points.name else 'clusters.parquet'})"
            )
        check_format(flags.points, "--points")
        check_new(flags.points, "--points", "file")
    with disk_errors(f"{folder} could not be written"):
        print(write_report(folder, flags.load().summaries("metric")))
    if flags.points is not None:
        record = read_record(folder)
        with disk_errors(f"{flags.points} could not be written"):
            count = write_points(folder, flags.points, record.names)
        print(
            f"{flags.points}: {count:,} images; to look at it, for example: embedding-atlas {flags.points} --x x --y y"
        )
    return 0
