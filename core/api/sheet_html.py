"""A sheet of samples for a notebook."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mpcc.core.evaluation.image_grid import image_grid

if TYPE_CHECKING:
    from mpcc.core.api.loaded_run import LoadedRun

__all__ = ["sheet_html"]

COLUMNS, MOST_ROWS = 10, 30


def sheet_html(run: LoadedRun) -> str:
    """Return an HTML image of samples, one row for each cluster, the first 30 of them."""
    rows = min(run.n_clusters, MOST_ROWS)
    samples = run.generated(rows * COLUMNS, np.repeat(np.arange(rows), COLUMNS))
    content = io.BytesIO()
    Image.fromarray(image_grid(samples.images, COLUMNS).permute(1, 2, 0).numpy()).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    return f'<p>Generated images, one row a cluster:</p><img src="data:image/png;base64,{data}" alt="samples">'
