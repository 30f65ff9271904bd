"""Image files of many kinds, decoded to squares of 8-bit grey or colour."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mpcc.core.errors import InvalidInput
from mpcc.core.system.file_names import printable
from mpcc.plugins.datasets.resizing import central_square

__all__ = ["FileImages", "UnreadableImage", "decode", "mode_of", "square"]


class UnreadableImage(InvalidInput):
    """An image file that cannot be read.

    Attributes:
        reason: Why, without the name of the file.
    """

    def __init__(self, file: Path, reason: str) -> None:
        self.reason = " ".join(reason.split()).rstrip(".")[:300]
        super().__init__(
            f"cannot read {printable(str(file))}: {self.reason}; repair or remove it, or pass --data.unreadable skip "
            "to go without"
        )

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[str]]:
        # Worker processes send this error to the run.
        return InvalidInput, (str(self),)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open an image; any error until it is closed becomes an error that names the file."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # opening a pipe would wait
            raise UnreadableImage(file, "expected an image file, got something that is not a file")
        with warnings.catch_warnings():
            # Pillow warns of a bomb at half the size that it refuses. No picture to be clustered is that large.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                yield image
    except UnreadableImage:
        raise
    except FileNotFoundError as error:
        what = "a link to a file that does not exist" if file.is_symlink() else "nothing"
        raise UnreadableImage(file, f"expected an image file, got {what}") from error
    except UnidentifiedImageError as error:
        what = "an empty one" if file.stat().st_size == 0 else "one of no known format"
        raise UnreadableImage(file, f"expected an image file, got {what}") from error
    except Exception as error:  # broken files make Pillow's decoders raise anything
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnreadableImage(file, reason or type(error).__name__) from error


def mode_of(file: Path, mode: str | None) -> str:
    """Return the mode that `decode` would give, ``L`` or ``RGB``, from the header of the file alone.

    Raises:
        UnreadableImage: If the header cannot be read. The rest of the file is not checked.
    """
    with _opened(file) as image:
        if image.mode == "F":
            _eight_bits(image)
        return mode or ("L" if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I") else "RGB")


def decode(file: Path, background: int, mode: str | None) -> Image.Image:
    """Read one image: upright, 8 bits, transparent parts filled in.

    Arguments:
        file: The file.
        background: The grey level behind the image where it is transparent.
        mode: ``L`` or ``RGB``; None keeps the mode of the file; a palette is colour.

    Raises:
        UnreadableImage: If it cannot be read.
    """
    with _opened(file) as opened:
        return _opaque(_eight_bits(ImageOps.exif_transpose(opened)), background, mode)


def square(image: Image.Image, image_size: int) -> Tensor:
    """Return the central square of an image, resized to R x R: uint8, shape (D, R, R)."""
    pixels = np.array(central_square(image, image_size)).reshape(image_size, image_size, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion would clip it, and nearly all of it would be white."""
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("expected grey levels of 8 or 16 bits, got 32 bits")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("expected grey levels of 8 or 16 bits, got floating point, whose range is not known")
    return image


def _opaque(image: Image.Image, background: int, mode: str | None) -> Image.Image:
    """Convert to L or RGB, with the background where the image is transparent."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(under, over).convert("RGB")
    return image.convert(mode or ("L" if grey else "RGB"))


@attrs.frozen(eq=False)
class FileImages:
    """Images of one file each, read on demand: an `mpcc.core.contracts.ImageSource`.

    Arguments:
        files: The files.
        mode: ``L`` or ``RGB``.
        background: The grey level behind an image where it is transparent.
        image_size: R, in pixels.
    """

    files: tuple[str, ...]
    mode: str
    background: int
    image_size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D, R, R)."""
        return len(self.files), 1 if self.mode == "L" else 3, self.image_size, self.image_size

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Read images, uint8, shape (n, D, R, R), for indices of shape (n,).

        Raises:
            UnreadableImage: If one cannot be read.
        """
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = square(decode(Path(self.files[index]), self.background, self.mode), self.image_size)
        return images
