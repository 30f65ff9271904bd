"""``clusters.npz``: small images of each cluster that is shown, from which the report of a run is made again."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from mpcc.core.errors import InvalidInput
from mpcc.core.system.whole_files import whole_file

if TYPE_CHECKING:
    # The report of a run is made again without torch.
    from torch import Tensor

    from mpcc.core.evaluation.findings import Findings

__all__ = ["IMAGES_FILE", "ClusterImages", "read_cluster_images", "write_cluster_images"]

IMAGES_FILE = "clusters.npz"
# Images of each kind, and the most pixels at a side; larger images are averaged to it.
COUNT, LARGEST = 8, 64

Pixels: TypeAlias = NDArray[np.uint8]


@attrs.frozen(eq=False)
class ClusterImages:
    """Images of one cluster, uint8, each of shape (S, S) without or (S, S, 3) with colours; S is at most 64.

    Attributes:
        cluster: Its number.
        typical: The most typical real images, the most typical one first, at most 8.
        typical_rows: Their rows in ``assignments.csv``.
        uncertain: The least certain real images, the least certain one first, at most 8.
        uncertain_rows: Their rows in ``assignments.csv``.
        confidences: The posterior of the cluster for each image of `uncertain`.
        rivals: The most probable other cluster of each image of `uncertain`; empty if there is one cluster.
        generated: Images that the generator makes of the cluster, at most 8.
    """

    cluster: int
    typical: Pixels
    typical_rows: NDArray[np.int64]
    uncertain: Pixels
    uncertain_rows: NDArray[np.int64]
    confidences: NDArray[np.float32]
    rivals: NDArray[np.int64]
    generated: Pixels


def write_cluster_images(path: Path, findings: Findings) -> None:
    """Write ``clusters.npz``: an array for each field of `ClusterImages` and each cluster, such as ``3-typical``.

    Arguments:
        path: The file.
        findings: Of the evaluation.

    Raises:
        OSError: If it cannot be written; a file of that name is as it was.
    """
    arrays: dict[str, NDArray[Any]] = {"clusters": np.array(findings.shown.numbers, dtype=np.int64)}
    for found in findings.members:
        parts = {
            "typical": thumbnails(found.typical_images[:COUNT]),
            "typical_rows": found.typical[:COUNT].numpy(),
            "uncertain": thumbnails(found.uncertain_images[:COUNT]),
            "uncertain_rows": found.uncertain[:COUNT].numpy(),
            "confidences": found.confidences[:COUNT].float().numpy(),
            "rivals": found.rivals[:COUNT].numpy(),
            "generated": thumbnails(findings.pictures.samples[found.cluster, :COUNT]),
        }
        arrays |= {f"{found.cluster}-{name}": array for name, array in parts.items()}
    with whole_file(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def thumbnails(images: Tensor) -> Pixels:
    """Return images with 64 pixels or fewer at a side, as Pillow takes them.

    Arguments:
        images: uint8, shape (n, D, R, R).

    Returns:
        uint8, shape (n, S, S) for one channel, else (n, S, S, 3).
    """
    from torch.nn import functional as F

    from mpcc.core.images.pictures import channels_last, with_colours

    size = images.shape[-1]
    if size > LARGEST and len(images):
        images = F.interpolate(images.float(), LARGEST, mode="area").round().to(images.dtype)
    pixels: Pixels = channels_last(with_colours(images))
    return pixels


def read_cluster_images(path: Path) -> dict[int, ClusterImages] | None:
    """Read ``clusters.npz``; None if there is none, as in the folder of an earlier version.

    Raises:
        InvalidInput: If the file is damaged.
    """
    names = [field.name for field in attrs.fields(ClusterImages) if field.name != "cluster"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                number: ClusterImages(number, *(arrays[f"{number}-{name}"] for name in names))
                for number in map(int, arrays["clusters"])
            }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
