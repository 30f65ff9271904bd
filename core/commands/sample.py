"""The command ``mpcc sample``: new images of the clusters of a trained run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from mpcc.core.choice_fields import check_choices
from mpcc.core.commands.flags import Parser, RunFiles
from mpcc.core.config.options import option
from mpcc.core.errors import InvalidInput
from mpcc.core.run.saved_run import run_layer
from mpcc.core.system.whole_files import check_new, free

if TYPE_CHECKING:
    from mpcc.core.api.loaded_run import LoadedRun
    from mpcc.core.evaluation.generation import Samples

__all__ = ["SampleFlags", "sample_run"]

PURPOSE = "Generate images of the clusters of a trained run: a file for each, one sheet, or an array."
EVERY = "all"
COLUMNS = 10  # of a sheet


@attrs.frozen(slots=False, field_transformer=check_choices)
class SampleFlags(RunFiles):
    """The command's own flags."""

    cluster: str | None = option(
        None, "cluster, or several such as 3,5, or all, each with --count images; by default the prior draws clusters"
    )
    count: int = option(64, "images to generate, of each cluster that is named", least=1, most=10**7)
    seed: int = option(0, "the same seed gives the same images", least=0, below=2**63)
    truncation: float = option(
        1.0,
        "share of the drawn latents that is kept, those of the highest density in their cluster: less gives more "
        "typical images of less variety",
        least=0.01,
        most=1,
    )
    interpolate: int | None = option(
        None,
        "images on the way from one sample to another: --count lines of so many images, a row each; needs --cluster",
        least=2,
        most=10**4,
    )
    out: Path | None = option(
        None,
        "what to write: a new folder with a PNG file for each image, or a new file, .png for one sheet or .npy for an "
        "array; by default the folder samples in the run folder",
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device to compute on; auto takes CUDA if there is one")


def sample_run(words: list[str]) -> int:
    """Execute ``mpcc sample`` and return the exit status."""
    flags = Parser("mpcc sample", PURPOSE, "RUN [flags]").read_own(words, SampleFlags)
    run, source = flags.folder, flags.checkpoint
    run_layer(run)
    if flags.interpolate is not None and flags.cluster is None:
        raise InvalidInput("--interpolate needs clusters: expected --cluster as well, such as --cluster all")
    kind = "files" if flags.out is None else {".png": "sheet", ".npy": "array"}.get(flags.out.suffix.lower(), "files")
    if flags.out is not None:
        check_new(flags.out, "--out", "folder" if kind == "files" else "file")
        if kind != "files" and not flags.out.absolute().parent.is_dir():
            raise InvalidInput(f"--out {flags.out} cannot be written: {flags.out.absolute().parent} is not a folder")
    out = flags.out or free(run / "samples")
    # The checks above do not need torch; the imports below load it.
    from mpcc.core.api.loaded_run import load
    from mpcc.core.reporting.verdict import caution
    from mpcc.core.system.resources import disk_errors, memory_errors

    with memory_errors("generating images", f"lower --count {flags.count}, or choose --device cpu"):
        loaded = load(run, source, device=flags.device)
        samples = generated(loaded, flags)
        with disk_errors(f"{out} could not be written"):
            write(out, kind, samples, flags.interpolate or COLUMNS)
    clusters = "" if flags.cluster is None else f" of cluster {flags.cluster}"
    print(f"{out}: {len(samples.images)} images{clusters}, iteration {loaded.iteration}, seed {flags.seed}")
    if judged := caution(run, warm="init_from" in run_layer(run).tables.get("run", {})):
        print(f"caution: this run is {judged.line}", file=sys.stderr)
    return 0


def generated(loaded: LoadedRun, flags: SampleFlags) -> Samples:
    """Generate what the flags ask for.

    Raises:
        InvalidInput: If a cluster does not exist.
    """
    import numpy as np

    if flags.cluster is None:
        return loaded.generated(flags.count, seed=flags.seed, truncation=flags.truncation)
    clusters = np.repeat(cluster_numbers(flags.cluster, loaded.n_clusters), flags.count)
    count, seed, truncation = len(clusters), flags.seed, flags.truncation
    if flags.interpolate is None:
        return loaded.generated(count, clusters, seed=seed, truncation=truncation)
    return loaded.interpolate(clusters, flags.interpolate, count, seed=seed, truncation=truncation)


def cluster_numbers(text: str, count: int) -> list[int]:
    """Read the clusters of ``--cluster``.

    Arguments:
        text: Numbers separated by commas, or ``all``.
        count: K.

    Raises:
        InvalidInput: If a word is not the number of a cluster.

    Example:
        >>> cluster_numbers("3,5", 10), cluster_numbers("all", 3)
        ([3, 5], [0, 1, 2])
    """
    if text.strip() == EVERY:
        return list(range(count))
    numbers = []
    for word in text.split(","):
        if not word.strip().isdecimal() or int(word) >= count:
            raise InvalidInput(f"--cluster {text}: expected numbers from 0 to {count - 1}, or {EVERY}, got {word!r}")
        numbers.append(int(word))
    return numbers


def write(out: Path, kind: str, samples: Samples, columns: int) -> None:
    """Write samples; if that fails, nothing is left.

    Arguments:
        out: A new file or folder.
        kind: ``files``, in a folder, ``sheet`` or ``array``.
        samples: The images.
        columns: Images in a row of a sheet.
    """
    import numpy as np
    from torchvision.transforms.functional import to_pil_image

    from mpcc.core.evaluation.sheets import generated_sheet
    from mpcc.core.images.pictures import channels_last, with_colours
    from mpcc.core.system.whole_files import new_file, new_folder

    if kind == "files":
        digits = len(str(len(samples.images) - 1))
        with new_folder(out) as folder:
            rows = zip(with_colours(samples.images), samples.clusters.tolist(), strict=True)
            for index, (image, cluster) in enumerate(rows):
                to_pil_image(image).save(folder / f"cluster-{cluster}-{index:0{digits}}.png")
        return
    with new_file(out) as file:
        if kind == "sheet":
            order = samples.clusters.argsort(stable=True)
            title = f"{len(order)} generated images"
            sheet = generated_sheet(title, samples.images[order], samples.clusters[order].tolist(), columns)
            to_pil_image(sheet).save(file, "PNG")
        else:
            np.save(file, channels_last(samples.images), allow_pickle=False)
