"""The page ``README.txt`` of an archive: what the files are, and how to use them with and without mpcc."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import attrs

__all__ = ["Facts", "page"]

WIDTH = 100
# What a file is, by name, or by the folder that holds it.
MEANINGS = {
    "report.html": "a page for a browser: the scores, every cluster with some of its images, every setting",
    "clusters.png": "a row for each cluster, real images at the left, generated ones at the right",
    "clusters/": "a picture for each cluster: its most typical and its least certain real images, and some between",
    "samples.png": "generated images, a row for each cluster",
    "interpolations.png": "the way from one generated image of a cluster to another, a row for each cluster",
    "kmeans.png": "for comparison: the groups that k-means finds in the pixels, paired with the clusters",
    "reconstructions.png": "real images, each with what the model makes of it at the right",
    "confusion.png": "the table confusion.csv as a picture",
    "assignments.csv": "a row for each evaluated image: number, file, cluster, and how sure that is (0 to 1)",
    "confusion.csv": "how many images of each known class are in each cluster",
    "results.json": "scores, sizes of the clusters, warnings, versions",
    "names.toml": "names of clusters",
    "config.toml": "every setting of the run, without the places of files",
    "model/": "the model, for mpcc (see below)",
    "export/": "the model for other programs (see below)",
}

# What to open first: the first of these that is there.
LOOK_FIRST = {
    "report.html": (
        "Open report.html first, in any browser: it shows every cluster with some of its images. It is one file and "
        "needs no network."
    ),
    "clusters.png": (
        "Open clusters.png first. A row is a cluster: at the left some of its real images, at the right images that "
        "the model has generated for it."
    ),
}
# What goes where the texts below have this word: the shape of two images.
SHAPE = "SHAPE"
# mpcc is no published package.
INSTALL = (
    "Install mpcc {version} first. It needs Python 3.11 or newer and the folder of its source, which holds a "
    "pyproject.toml. Ask the sender for that folder. Then open a terminal in the folder of this file:"
)
WITH_MPCC = """\
    python -m pip install path/to/mpcc        # the folder of the source
    mpcc predict model my-images              # the cluster of each of your images, as a table
    mpcc sample model --cluster 0 --count 64  # 64 new images of cluster 0

The same in Python:

    import mpcc
    run = mpcc.load("model")
    new, of_cluster = run.sample(64, cluster=0)
    clusters = run.predict("my-images")  # a folder; or an array (N, H, W), (N, H, W, C), (N, C, H, W)"""

# How to use the files with an ending.
OTHER_PROGRAMS = {
    ".safetensors": """\
export/*.safetensors hold the weights of each network and of the prior as named tensors, without
code. The package safetensors reads them. The networks that take these weights are in mpcc.

    from safetensors.torch import load_file
    weights = load_file("export/encoder.safetensors")""",
    ".pt2": """\
export/encoder.pt2 and export/generator.pt2 are programs for PyTorch. They need no mpcc:

    import torch
    images = torch.zeros(SHAPE, dtype=torch.uint8)  # yours
    encode = torch.export.load("export/encoder.pt2").module()
    z, posterior = encode(images)
    clusters = posterior.argmax(1)
    generate = torch.export.load("export/generator.pt2").module()
    again = generate(z, clusters)

PyTorch may run code that is in a .pt2 file. Load one only if you trust its sender.""",
    ".onnx": """\
export/encoder.onnx and export/generator.onnx are programs for any system that reads ONNX:

    import numpy
    import onnxruntime
    images = numpy.zeros(SHAPE, numpy.uint8)  # yours
    encode = onnxruntime.InferenceSession("export/encoder.onnx")
    z, posterior = encode.run(None, {"images": images})
    generate = onnxruntime.InferenceSession("export/generator.onnx")
    again, = generate.run(None, {"z": z, "y": posterior.argmax(1)})""",
}


@attrs.frozen
class Facts:
    """What the page says of a model.

    Attributes:
        clusters: K.
        latent_dim: J.
        shape: (D, R, R), of its images.
        iteration: How long it had been trained.
        evaluated: The iteration that lists and pictures belong to, or None if there are none.
        version: Of mpcc.
        plugins: The names of files with plugins, which are not packed.
        caution: Why its clusters are of no use yet, or nothing.
    """

    clusters: int
    latent_dim: int
    shape: tuple[int, int, int]
    iteration: int
    evaluated: int | None
    version: str
    plugins: Sequence[str] = ()
    caution: str = ""


def page(names: Sequence[str], facts: Facts) -> str:
    """Return the text.

    Arguments:
        names: All files in the archive.
        facts: The model.
    """
    first = next((text for name, text in LOOK_FIRST.items() if name in names), "")
    shown = "the pictures and in report.html" if "report.html" in names else "the pictures"
    parts = [
        prose(
            f"This archive holds a model that has sorted images into {facts.clusters} groups, the clusters, without "
            f"labels, and what it found. mpcc {facts.version} made it in {facts.iteration:,} iterations of training. "
            f"The images of the training are not in the archive, except for the examples in {shown}."
        ),
        *([prose(f"Caution: this run is {facts.caution}.")] if facts.caution else []),
        *([prose(first)] if first else []),
        heading("The files") + table(names),
    ]
    if facts.evaluated not in (None, facts.iteration):
        parts.append(
            prose(
                f"Lists and pictures were made at iteration {facts.evaluated:,}. The model is that of iteration "
                f"{facts.iteration:,}."
            )
        )
    size = facts.shape[1]
    parts += [
        heading("Use the model with mpcc") + prose(INSTALL.format(version=facts.version)),
        WITH_MPCC,
        prose(f"mpcc brings images to {size} x {size} pixels."),
    ]
    if facts.plugins:
        parts.append(
            prose(
                f"The model needs plugins that are not in the archive: {', '.join(facts.plugins)}. Ask the sender for "
                "them. Name them in the first lines of model/config.toml, Python files as in plugins = "
                f'["{facts.plugins[0]}"], files that end in .toml as in registries = ["mine.toml"]. A plugin is Python '
                "code: read it first."
            )
        )
    endings = [ending for ending in OTHER_PROGRAMS if any(name.endswith(ending) for name in names)]
    two = str((2, *facts.shape))
    without_mpcc = [OTHER_PROGRAMS[ending].replace(SHAPE, two) for ending in endings]
    parts += [heading("Use the model without mpcc") + without_mpcc[0], *without_mpcc[1:]]
    if {".pt2", ".onnx"} & set(endings):
        parts.append(prose(shapes(facts)))
    return "\n\n".join(parts) + "\n"


def prose(text: str) -> str:
    """Return a paragraph with lines of one width."""
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


def heading(text: str) -> str:
    """Return a line with a line under it."""
    return f"{text}\n{'-' * len(text)}\n"


def table(names: Sequence[str]) -> str:
    """Return a line for each file that is there, with what it is."""
    present = {
        name: text
        for name, text in MEANINGS.items()
        if any(each == name or (name.endswith("/") and each.startswith(name)) for each in names)
    }
    width = max(map(len, present))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in present.items())


def shapes(facts: Facts) -> str:
    """Return what goes in and out of programs."""
    channels, size, _ = facts.shape
    kind = {1: "grey", 3: "red, green, blue"}.get(channels, f"{channels} channels")
    return (
        f"images are {kind}, uint8 (0 to 255), shape (N, {channels}, {size}, {size}), for any N. Bring yours to this "
        "size in the way in which those of the training were (config.toml, section data). z, float32, shape (N, "
        f"{facts.latent_dim}), says where an image lies in the space of the model. posterior, float32, shape (N, "
        f"{facts.clusters}), is the probability of each cluster. The generator takes z and the numbers of clusters, "
        "int64, shape (N,), and gives images of the same form."
    )
