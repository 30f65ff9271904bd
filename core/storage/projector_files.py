"""Files for TensorBoard's page Projector: z of evaluated images, what is known of each, and the images as points."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from mpcc.core.evaluation.evaluation import choose_images
from mpcc.core.evaluation.findings import Findings
from mpcc.core.storage.cluster_images import thumbnails
from mpcc.core.system.file_names import printable
from mpcc.core.system.whole_files import write_whole

__all__ = ["CONFIG_FILE", "write_projector"]

CONFIG_FILE = "projector_config.pbtxt"
FOLDER = "projector"
# The page takes so many points with ease, and no picture with more pixels at a side.
POINTS, LARGEST = 5000, 8192
CONFIG = """embeddings {{
  tensor_name: "z"
  tensor_path: "projector/latents.tsv"
  metadata_path: "projector/metadata.tsv"
  sprite {{ image_path: "projector/images.png" single_image_dim: {side} single_image_dim: {side} }}
}}
"""


def write_projector(folder: Path, findings: Findings, seed: int) -> None:
    """Write ``projector/`` and ``projector_config.pbtxt``, for at most 5,000 of the evaluated images.

    Arguments:
        folder: The run folder, which TensorBoard reads.
        findings: Of the evaluation.
        seed: Chooses the images. No global random state is used.

    Raises:
        InvalidInput: If an image cannot be read.
        OSError: If a file cannot be written.
    """
    evaluation, data = findings.evaluation, findings.data
    chosen = choose_images(len(findings.indices), POINTS, seed)
    content = io.BytesIO()
    np.savetxt(content, evaluation.locations[chosen].float().numpy(), fmt="%.5g", delimiter="\t")
    confidences = evaluation.posterior[chosen].max(dim=1).values.tolist()
    labels = None if evaluation.labels is None else evaluation.labels[chosen].tolist()
    lines = ["\t".join(["index", "cluster", "confidence", *(["label"] if labels else [])])]
    for place, number in enumerate(findings.indices[chosen].tolist()):
        row = [str(number), str(int(evaluation.assignments[chosen[place]])), f"{confidences[place]:.4f}"]
        if labels:
            label = labels[place]
            row.append("" if label < 0 else printable(str(data.class_names[label] if data.class_names else label)))
        lines.append("\t".join(row))
    pixels = thumbnails(findings.images.pixels(chosen))
    side, across = pixels.shape[1], math.ceil(math.sqrt(len(pixels)))
    assert side * across <= LARGEST, "5,000 images of 64 pixels fit"
    sheet = np.zeros((across * side, across * side, *pixels.shape[3:]), dtype=np.uint8)
    for place, image in enumerate(pixels):
        top, left = place // across * side, place % across * side
        sheet[top : top + side, left : left + side] = image
    picture = io.BytesIO()
    Image.fromarray(sheet).save(picture, "PNG", compress_level=3)
    (folder / FOLDER).mkdir(exist_ok=True)
    write_whole(folder / FOLDER / "latents.tsv", content.getvalue())
    write_whole(folder / FOLDER / "metadata.tsv", "".join(f"{line}\n" for line in lines).encode())
    write_whole(folder / FOLDER / "images.png", picture.getvalue())
    write_whole(folder / CONFIG_FILE, CONFIG.format(side=side).encode())
