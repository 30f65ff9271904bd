"""A sheet of samples for a notebook."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mpcc.core.evaluation.sheets import generated_sheet

if TYPE_CHECKING:
    from mpcc.core.api.loaded_run import LoadedRun

__all__ = ["sheet_html"]

COLUMNS, MOST_ROWS = 10, 30


def sheet_html(run: LoadedRun) -> str:
    """Return an HTML image of samples, one row for each cluster, the first 30 of them."""
    rows = min(run.n_clusters, MOST_ROWS)
    samples = run.generated(rows * COLUMNS, np.repeat(np.arange(rows), COLUMNS))
    sheet = generated_sheet("generated images of each cluster", samples.images, samples.clusters.tolist(), COLUMNS)
    content = io.BytesIO()
    Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="samples">'
