"""Pictures on the disk: PNG files that are written whole, and a folder with one of them for each cluster."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from mpcc.core.system.whole_files import write_whole

__all__ = ["png", "replace_pictures", "write_picture"]

# Of zlib, 0 to 9: from 3 to the usual 6 a file loses a twentieth of its size, and writing it takes twice as long.
COMPRESSION = 3
OURS = re.compile(r"\d+\.png(\.part)?")


def png(picture: Tensor) -> bytes:
    """Return a picture, uint8, shape (3, height, width), in the format PNG."""
    content = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(content, "PNG", compress_level=COMPRESSION)
    return content.getvalue()


def write_picture(path: Path, picture: Tensor) -> None:
    """Write a picture, uint8, shape (3, height, width), as PNG.

    Raises:
        OSError: If it cannot be written; a file of that name is as it was.
    """
    write_whole(path, png(picture))


def replace_pictures(folder: Path, clusters: int, shown: Sequence[int], pictures: Iterable[Tensor]) -> None:
    """Write a picture of each cluster that is shown: ``3.png``, or ``03.png`` so that names sort like numbers.

    The folder is made if it is missing. Pictures of clusters that are not shown any more are removed first, so that
    none is left whatever happens afterwards. Files with other names stay. Each picture is drawn when its turn comes and
    then forgotten.

    Arguments:
        folder: Holds only these pictures and what others have put there.
        clusters: K.
        shown: Their numbers.
        pictures: uint8, shape (3, height, width), one for each of the numbers.

    Raises:
        OSError: If a file cannot be written.
    """
    digits = len(str(clusters - 1))
    names = [f"{number:0{digits}}.png" for number in shown]
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path.name not in set(names):
            path.unlink()
    for name, picture in zip(names, pictures, strict=True):
        write_picture(folder / name, picture)
