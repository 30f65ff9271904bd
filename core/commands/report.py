"""The command ``mpcc report``: write the page of a run anew, such as after its clusters got names."""

from __future__ import annotations

from pathlib import Path

import attrs

from mpcc.core.commands.flags import Parser, PluginFiles, argument
from mpcc.core.report.report_page import write_report
from mpcc.core.studies.count_record import chosen_run
from mpcc.core.system.resources import disk_errors

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


def report_run(words: list[str]) -> int:
    """Execute ``mpcc report`` and return the exit status."""
    flags = Parser("mpcc report", PURPOSE, "RUN [flags]").read_own(words, ReportFlags)
    folder = chosen_run(flags.run)
    with disk_errors(f"{folder} could not be written"):
        print(write_report(folder, flags.load().summaries("metric")))
    return 0
